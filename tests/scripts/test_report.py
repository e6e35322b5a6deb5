"""The report shows the numbers of the run, needs nothing but itself, and is made of any run that has a directory."""

from __future__ import annotations

import html
import os
import re
import stat
from html.parser import HTMLParser

import h5py
import numpy as np
import pytest
from elephant.statistics import cv, isi
from make_run import Recipe, make_run
from tvb_lockstep.bridges import results
from tvb_lockstep.bridges.errors import RunDirectoryError
from tvb_lockstep.bridges.frame import Spikes
from tvb_lockstep.bridges.peers import hold_place
from tvb_lockstep.scripts import report
from tvb_lockstep.scripts.main import main


class Page(HTMLParser):
    """Headings, table rows and images of a page, and whether every tag is closed."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.images, self.tags, self.headings, self.outside = [], [], [], [], []
        self._open, self._cell = [], None
        self.feed(text)
        assert self._open == [], f"not closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append(tag)
        links = [value for key, value in attrs if key in ("src", "href")]
        self.outside += [link for link in links if not link.startswith(("data:", "#"))]
        if tag == "img":
            self.images.append(attributes["alt"])
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th", "h2"):
            self._cell = ""
        if tag not in ("img", "meta", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag
        if tag in ("td", "th"):
            self.rows[-1].append(self._cell)
        if tag == "h2":
            self.headings.append(self._cell)

    def handle_data(self, data):
        if self._cell is not None:
            self._cell += data


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    make_run(run_dir, Recipe(neighbours={"L_b": [("R_b", 0.9), ("L_a", 0.5)]}))
    return report.write_report(run_dir)


def test_the_report_is_one_file_without_scripts_or_external_resources(finished):
    text = finished.read_text()
    page = Page(text)
    assert finished.name == "report.html" and stat.S_IMODE(finished.stat().st_mode) == 0o600
    assert page.outside == [] and "script" not in page.tags and "link" not in page.tags
    assert not re.search(r"https?://|url\(|@import", re.sub(r"base64,[A-Za-z0-9+/=]+", "", text))


def test_the_report_has_every_plot_and_table(finished):
    page = Page(finished.read_text())
    assert page.images == [
        "TVB time series, monitor TemporalAverage",
        "Spikes and rates of L_b, R_b",
        "Channel tvb_to_nest.0 before and after the transformer",
        "Channel nest_to_tvb.0 before and after the transformer",
        "Time line of the programs",
        "Shares of simulate, transform, exchange and wait over the run",
    ]
    assert page.headings == ["Notes", "TVB", "Spiking populations", "What crossed the bridge", "Where the time went",
                             "Programs", "Contract", "Counters"]  # fmt: skip


def test_the_tables_have_the_numbers_of_the_run(finished):
    rows = Page(finished.read_text()).rows
    # 7 spikes of 3 neurons in 1 ms; 4 of 2; 5 of 3; 4 of 2; nobody fires four times
    assert ["L_b", "E", "3", "7", "2333", "–", "0"] in rows
    assert ["L_b", "I", "2", "4", "2000", "–", "0"] in rows
    assert ["R_b", "E", "3", "5", "1667", "–", "0"] in rows
    assert ["nest_to_tvb.0", "3", "3", "3", "12", "12", "–", "yes"] in rows
    # elapsed: two windows of 10 ms and the 8 ms that the last one is busy
    assert ["tvb", "3", "0.028", "0.015 (53.6 %)", "0.003 (10.7 %)", "0.002 (5.4 %)", "0.005 (16.1 %)", "8"] in rows
    assert ["nest", "finished", "3", "2.00", "1.50", "123", os.uname().nodename, "3.11.2",
            "nest-simulator 3.10.0, numpy 2.4.6"] in rows  # fmt: skip
    assert ["windows", "3 of 0.4 ms = 4 steps of 0.1 ms"] in rows
    signal, equation = "2 × kHz → 2 × Hz", "y = 1000·x + 0"
    assert ["tvb_to_nest.0", "tvb → nest", "RATE TVB", "E ↔ E", signal, equation, "–", "–"] in rows


def test_the_report_is_made_again_by_the_command(finished, capsys):
    finished.unlink()
    assert main(["plot", str(finished.parent)]) == 0
    assert capsys.readouterr().out.strip() == str(finished) and finished.exists()


def test_an_interrupted_run_says_first_who_ended_it_and_all_text_is_escaped(tmp_path):
    run_dir = tmp_path / "run"
    why = "nest: interrupted by <b>Ctrl-C</b> & co in window 1."
    ended = {"tvb": "failed", "nest": "interrupted"}
    make_run(run_dir, Recipe(ended=ended, errors={"nest": why, "tvb": "x"}, windows=2,
                             regions=("L_a", "<i>L_b</i>", "R_a", "R_b"), coupled=("<i>L_b</i>", "R_b"),
                             title="<script>alert(1)</script>"))  # fmt: skip
    text = report.write_report(run_dir).read_text()
    page = Page(text)
    assert "script" not in page.tags and "b" not in page.tags and "i" not in page.tags
    assert f"nest was interrupted in window 1: {html.escape(why)}" in text and "tvb failed in window 1: x" in text
    assert "0.8 of 1 ms" in text and '<span class="state incomplete">' in text
    assert ["<i>L_b</i>", "I", "2", "4", "2500", "–", "0"] in page.rows  # 4 spikes of 2 neurons in 0.8 ms


def test_a_dead_run_gets_its_results_and_a_report_of_what_is_there(tmp_path):
    run_dir = tmp_path / "run"
    make_run(run_dir, Recipe(ended={"tvb": None, "nest": None}))
    for name in ("nest.spikes", "tvb.monitor0", "tvb_to_nest.0.raw"):
        (run_dir / "record" / f"{name}.frames").unlink()
    text = report.write_report(run_dir).read_text()
    assert "tvb died without a word in window 2." in text and "E@L_b fired no spike." in text
    assert "nest.spikes was not recorded: record/nest.spikes.frames is missing." in text
    assert (run_dir / "spikes.h5").exists()


@pytest.mark.parametrize("missing", ["contract.json", "record", "timing"])
def test_a_run_without_some_of_its_parts_still_gets_a_report(tmp_path, missing):
    run_dir = tmp_path / "run"
    make_run(run_dir, Recipe(ended={"tvb": "failed", "nest": None}, errors={"tvb": "no network"}))
    (run_dir / missing).rename(tmp_path / "away")
    page = Page(report.write_report(run_dir).read_text())
    assert "Programs" in page.headings and "Notes" in page.headings


def test_a_run_that_ended_before_its_first_window_gets_a_report_without_plots(tmp_path):
    run_dir = tmp_path / "run"
    make_run(run_dir, Recipe(ended={"tvb": "failed", "nest": None}, windows=0))
    page = Page(report.write_report(run_dir).read_text())
    assert page.images == [] and "Contract" in page.headings


def test_the_report_of_a_running_run_leaves_no_results_behind(tmp_path):
    run_dir = tmp_path / "run"
    make_run(run_dir, Recipe(ended={"tvb": None, "nest": None}, windows=2))
    places = [hold_place(run_dir, name) for name in ("tvb", "nest")]
    text = report.write_report(run_dir).read_text()
    assert '<span class="state running">' in text and "0.8 of 1 ms" in text
    assert not any((run_dir / name).exists() for name in results.RESULTS)
    for place in places:
        os.close(place)


def test_a_folder_that_is_no_run_directory_is_refused(tmp_path):
    with pytest.raises(RunDirectoryError, match="is not a run directory: it has no folder peers"):
        report.write_report(tmp_path)


def test_a_long_run_shows_its_end_and_stays_small(tmp_path):
    """10 s of 68 regions and 2 × 100 neurons at 10 Hz; the plots of activity show the last 2 s."""
    rng = np.random.default_rng(1)

    def spikes(t0, t1, n):
        ticks, neurons = np.nonzero(rng.random((t1 - t0, n)) < 10 * 0.05e-3)
        return Spikes((t0 + ticks).astype(np.int64), neurons.astype(np.int32))

    run_dir = tmp_path / "run"
    regions = tuple(f"region {i}" for i in range(68))
    make_run(run_dir, Recipe(regions=regions, coupled=regions[:2], populations=(("E", 80), ("I", 20)), n_steps=100_000,
                             window_steps=400, period_steps=10, spikes=spikes))  # fmt: skip
    path = report.write_report(run_dir)
    text = path.read_text()
    assert path.stat().st_size < 3_000_000
    assert text.count("Shown are the last 2000 ms of the run.") == 3 and "10000 of 10000 ms" in text


# ---- the numbers behind the plots --------------------------------------------------------------------------------


def population_group(times, nodes, size):
    file = h5py.File("in memory", "w", driver="core", backing_store=False)
    file.attrs["size"], file.attrs["region"], file.attrs["population"] = size, "L", "E"
    file["timestamps"], file["node_ids"] = np.array(times, float), np.array(nodes, np.uint64)
    return file


def test_rates_in_bins_count_a_spike_at_an_edge_in_the_bin_that_it_begins():
    group = population_group([0.0, 4.9, 5.0, 9.9, 10.0, 11.9], [0, 1, 0, 1, 0, 1], 2)
    population = report.read_population(group, 12.0)
    assert population.bins_ms.tolist() == [0.0, 5.0, 10.0, 12.0]
    # 2 spikes of 2 neurons in 5 ms, in 5 ms, and in the 2 ms that are left
    assert population.rates_hz.tolist() == pytest.approx([200.0, 200.0, 500.0])
    assert population.rate_hz == pytest.approx(6 / 2 / 0.012)
    assert report.read_population(group, 12.0, 5.0).rates_hz.tolist() == pytest.approx([200.0, 2 / 2 / 0.002])


def test_every_edge_of_a_rate_bin_is_met_in_spite_of_rounding():
    times = np.arange(20_000) * 50_000 / 1e6  # 1 s in ticks of 0.05 ms, 100 of them in each bin
    population = report.read_population(population_group(times, np.zeros(20_000), 1), 1000.0)
    assert population.rates_hz.tolist() == [20_000.0] * 200


def test_the_cv_of_intervals_is_that_of_elephant_for_neurons_with_enough_spikes():
    rng = np.random.default_rng(3)
    trains = [np.sort(rng.uniform(0, 1000, n)) for n in (0, 3, 4, 20, 50)]
    times, nodes = np.concatenate(trains), np.repeat(np.arange(5), [len(train) for train in trains])
    order = np.argsort(times)
    population = report.read_population(population_group(times[order], nodes[order], 5), 1000.0)
    assert population.n_cv == 3
    assert population.cv == pytest.approx(np.mean([cv(isi(train)) for train in trains[2:]]), rel=1e-12)


def test_the_raster_of_a_large_population_shows_whole_trains_of_evenly_chosen_neurons():
    size = 1000
    nodes = np.tile(np.arange(size), 3)
    times = np.repeat([1.0, 2.0, 3.0], size)
    population = report.read_population(population_group(times, nodes, size), 10.0)
    shown_times, rows = population.raster
    assert population.shown == 120 and len(rows) == 360
    assert np.bincount(rows).tolist() == [3] * 120 and set(shown_times) == {1.0, 2.0, 3.0}


def test_a_binned_series_has_the_mean_and_spread_of_each_bin_and_of_the_last_shorter_one():
    file = h5py.File("in memory", "w", driver="core", backing_store=False)
    file["t"], file["x"] = np.arange(7.0), np.array([[1.0, 0], [3, 0], [5, 0], [9, 0], [2, 4], [2, 6], [8, 1]])
    series = report.binned(file["t"], file["x"], max_bins=4)
    assert series.per_bin == 2 and series.time_ms.tolist() == [0.5, 2.5, 4.5, 6.0]
    assert series.mean.tolist() == [[2, 0], [7, 0], [2, 5], [8, 1]]
    assert series.sd.tolist() == [[1, 0], [2, 0], [0, 1], [0, 0]]
    assert report.binned(file["t"], file["x"], begin=5).mean.tolist() == [[2, 6], [8, 1]]


def test_the_time_that_two_programs_compute_at_once_is_that_of_their_overlapping_windows():
    one = np.array([[0.0, 2.0], [3.0, 2.0], [6.0, 1.0]])  # [0, 2), [3, 5), [6, 7)
    other = np.array([[1.0, 3.0], [4.5, 0.25]])  # [1, 4), [4.5, 4.75)
    assert report.overlap(one, other) == pytest.approx(1.0 + 1.0 + 0.25)
    assert report.overlap(one, other[:0]) == 0.0
    assert report.overlap(one, one + np.array([7.0, 0.0])) == 0.0


def test_a_window_is_laid_out_around_the_measured_time_of_its_simulation():
    # 3 s before the simulation: all of the wait, all of the exchange, a part of the transform; the rest after it
    row = np.array([10.0, 13.0, 5.0, 1.5, 0.5, 2.0])
    assert report.segments(row) == [
        ("wait", 10.0, 2.0), ("exchange", 12.0, 0.5), ("transform", 12.5, 0.5), ("simulate", 13.0, 5.0),
        ("transform", 18.0, 1.0),
    ]  # fmt: skip
    # nothing before it
    assert report.segments(np.array([10.0, 10.0, 5.0, 0.0, 0.5, 2.0])) == [
        ("simulate", 10.0, 5.0), ("wait", 15.0, 2.0), ("exchange", 17.0, 0.5)
    ]  # fmt: skip
    # an unexplained second before it stays empty
    assert report.segments(np.array([10.0, 13.0, 5.0, 0.0, 0.0, 2.0])) == [("wait", 10.0, 2.0), ("simulate", 13.0, 5.0)]
