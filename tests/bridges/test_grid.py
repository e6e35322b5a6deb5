"""Integer time: exact decimals, half-open intervals, and messages with both numbers."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tvb_lockstep.bridges.errors import ExperimentError
from tvb_lockstep.bridges.grid import Grid, to_ns


@pytest.mark.parametrize(
    ("value_ms", "ns"), [(0.1, 100_000), (0.05, 50_000), (1 / 1024, None), (2.0, 2_000_000), (1e-6, 1), (0.3, 300_000),
                         (0.1 + 0.2, None), (1e9, 10**15), (1, 1_000_000), (0.015625, 15_625)],
)  # fmt: skip
def test_a_time_is_its_decimal_value_in_whole_nanoseconds(value_ms, ns):
    if ns is None:
        with pytest.raises(ExperimentError, match=f"dt = {value_ms} ms: it must be a whole number of nanoseconds"):
            to_ns(value_ms, "dt")
    else:
        assert to_ns(value_ms, "dt") == ns


@pytest.mark.parametrize("value_ms", [0.0, -0.1, math.nan, math.inf])
def test_a_time_that_is_not_positive_and_finite_is_refused(value_ms):
    with pytest.raises(ExperimentError, match=rf"tvb\.dt = {value_ms} ms: it must be a positive, finite time"):
        to_ns(value_ms, "tvb.dt")


def test_the_tick_divides_dt_and_every_resolution():
    # gcd(0.6, 0.2, 0.15) ms = 0.05 ms
    grid = Grid.of(0.6, {"nest": 0.2, "hippocampus": 0.15}, 6.0, window_steps=2)
    assert (grid.tick_ns, grid.dt_ticks, grid.n_steps, grid.n_windows) == (50_000, 12, 10, 5)
    assert (grid.tick_ms, grid.dt_ms, grid.window_ms, grid.duration_ms) == (0.05, 0.6, 1.2, 6.0)


def test_without_a_spiking_program_the_tick_is_dt():
    assert Grid.of(0.1, {}, 1.0) == Grid(100_000, 1, 1, 10)


def test_the_last_window_is_shorter_when_windows_do_not_divide_the_run():
    grid = Grid.of(0.1, {"nest": 0.05}, 2.5, window_steps=10)
    assert grid.n_windows == 3
    assert [grid.steps(k) for k in range(3)] == [(0, 10), (10, 20), (20, 25)]
    assert [grid.ticks(k) for k in range(3)] == [(0, 20), (20, 40), (40, 50)]


def test_a_dt_that_is_no_multiple_of_a_resolution_is_refused_with_both_and_the_program():
    with pytest.raises(ExperimentError, match=r"dt = 0\.1 ms is not a multiple of the resolution of nest = 0\.03 ms"):
        Grid.of(0.1, {"nest": 0.03}, 1.0)
    with pytest.raises(ExperimentError, match=r"resolution of nest = 0\.2 ms.*for example 0\.1 or 0\.05"):
        Grid.of(0.1, {"nest": 0.2}, 1.0)


def test_a_duration_that_is_no_multiple_of_dt_is_refused_with_the_nearest_that_is():
    with pytest.raises(ExperimentError, match=r"duration = 10\.04 ms is not a multiple of .* 0\.1 ms\. .*: 10\.$"):
        Grid.of(0.1, {}, 10.04)


def test_ticks_in_ms_are_the_nearest_floats_however_long_the_run():
    grid = Grid.of(0.1, {}, 1.0)
    assert grid.ms(3) == 0.3  # and not 0.30000000000000004, which 3 * 0.1 is
    assert grid.ms(10**9 + 1) == 100000000.1


def test_a_window_is_described_as_people_write_it():
    assert Grid.of(0.1, {"nest": 0.05}, 10.0, window_steps=20).describe(2) == "window 2 [4, 6) ms"


@given(
    tick_ns=st.integers(1, 10**6), dt_ticks=st.integers(1, 100), window=st.integers(1, 50), n_steps=st.integers(1, 2000)
)
def test_windows_cover_every_tick_once(tick_ns, dt_ticks, window, n_steps):
    grid = Grid(tick_ns, dt_ticks, window, n_steps)
    edges = [grid.ticks(k) for k in range(grid.n_windows)]
    assert edges[0][0] == 0 and edges[-1][1] == n_steps * dt_ticks
    assert all(before[1] == after[0] for before, after in pairwise(edges))
    assert all(0 < t1 - t0 <= window * dt_ticks for t0, t1 in edges)
    assert Fraction(grid.ms(edges[-1][1])) == Fraction(grid.duration_ms)
