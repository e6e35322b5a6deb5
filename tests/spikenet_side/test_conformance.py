"""The conformance suite certifies Null, and notices every adapter that breaks a convention."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from tvb_lockstep.bridges.errors import LockstepError
from tvb_lockstep.bridges.frame import Spikes
from tvb_lockstep.spikenet_side.conformance import Conformance, NotCertified
from tvb_lockstep.spikenet_side.null import Neurons, Null

NEURONS = {
    "relay": Neurons(100, threshold_mV=-69.5),
    "pair": Neurons(2, threshold_mV=-68.5, tau_ms=1.0),
    "cell": Neurons(3, starts_mV=(-70.0, -74.0, -78.0)),
}


class TestNull(Conformance):
    jump_mV = 1.0  # noqa: N815

    def make(self) -> Null:
        return Null(neurons=NEURONS)

    def build(self, request):
        raise AssertionError("Null makes its neurons itself")


# ------------------------------------------------------------------------------------- adapters that break a convention


class LateInput(Null):
    """Everything acts one step after its time."""

    def connect(self, inputs, outputs):
        super().connect(inputs, outputs)
        for edges in self._edges.values():
            edges[:] = [replace(e, delay=e.delay + 1, arriving=np.pad(e.arriving, ((0, 1), (0, 0)))) for e in edges]


class DropsSpikesAtT0(Null):
    """As NEST's spike generators do with a time that is not after its clock."""

    def feed(self, channel, payload, first_step, end_step):
        super().feed(channel, payload, first_step, end_step)
        if isinstance(payload, Spikes):
            for edge in self._edges[channel.name]:
                edge.arriving[(first_step * self._dt_steps + edge.delay) % len(edge.arriving)] = 0


class DropsRepeats(Null):
    """Two spikes of a step become one."""

    def feed(self, channel, payload, first_step, end_step):
        super().feed(channel, payload, first_step, end_step)
        if isinstance(payload, Spikes):
            for edge in self._edges[channel.name]:
                np.minimum(edge.arriving, 1, out=edge.arriving)


class DropsTheEndOfTheWindow(Null):
    """What is still under way at the end of a window is lost."""

    def run(self, first_step, end_step):
        super().run(first_step, end_step)
        for edges in self._edges.values():
            for edge in edges:
                edge.arriving[:] = 0


class StampsTheEndOfTheStep(Null):
    def spikes(self):
        times, senders = super().spikes()
        return Spikes(times + self._step_ticks, senders)


class RecordsInTheOrderOfNeurons(Null):
    def spikes(self):
        spikes = super().spikes()
        order = np.lexsort((spikes.times, spikes.senders))
        return Spikes(spikes.times[order], spikes.senders[order])


class LosesTheLastStep(Null):
    def spikes(self):
        times, senders = super().spikes()
        kept = times < self._window[1] * self._grid.dt_ticks - self._step_ticks
        return Spikes(times[kept], senders[kept])


class ForgetsNumberOfNeurons(Null):
    def feed(self, channel, payload, first_step, end_step):
        super().feed(replace(channel, proxy_params={}), payload, first_step, end_step)


class OneTrainForAll(Null):
    def feed(self, channel, payload, first_step, end_step):
        super().feed(channel, payload, first_step, end_step)
        if channel.model == "RATE":
            for edge in self._edges[channel.name]:
                edge.arriving[:] = edge.arriving[:, :1]


class RatesGoOn(Null):
    """The first row of a window holds throughout."""

    def feed(self, channel, payload, first_step, end_step):
        held = payload if isinstance(payload, Spikes) else np.repeat(payload[:1], len(payload), axis=0)
        super().feed(channel, held if np.shape(held) == np.shape(payload) else payload, first_step, end_step)


class DrawsByNeuron(Null):
    """Random numbers run through the neurons first, then through the steps: they depend on the window."""

    def feed(self, channel, payload, first_step, end_step):
        super().feed(channel, payload, first_step, end_step)
        if channel.model == "RATE":
            for edge in self._edges[channel.name]:
                rows = (np.arange(first_step, end_step) + edge.delay) % len(edge.arriving)
                mean = payload[:, edge.group] * 10 * self._resolution_ms / 1000
                edge.arriving[rows] = edge.draw.poisson(mean, (edge.arriving.shape[1], len(rows))).T


class AlwaysTheSameSeed(Null):
    def open(self, section, grid, connectome, seed, build=None):
        super().open(section, grid, connectome, 1, build)


class AnotherSeedEachTime(Null):
    opened = 0

    def open(self, section, grid, connectome, seed, build=None):
        type(self).opened += 1
        super().open(section, grid, connectome, seed + 1000 * self.opened, build)


class SwapsGroups(Null):
    def connect(self, inputs, outputs):
        super().connect(inputs, outputs)
        for edges in self._edges.values():
            edges[:] = [replace(edge, group=1 - edge.group) for edge in edges]


class ForgetsWeights(Null):
    def connect(self, inputs, outputs):
        super().connect(inputs, outputs)
        for edges in self._edges.values():
            edges[:] = [replace(edge, weight=1.0) for edge in edges]


class NumbersPopulationsOtherwise(Null):
    def spikes(self):
        times, senders = super().spikes()
        key = times * self._n_neurons + (senders + 100) % self._n_neurons
        key.sort()
        return Spikes(key // self._n_neurons, (key % self._n_neurons).astype(np.int32))


class SamplesAtTheEndOfTheStep(Null):
    def potential(self, channel):
        v = np.vstack([self._dynamics.before[1:], self._dynamics._v])[:: self._dt_steps]
        return np.stack([v[:, self._slices[label]].mean(axis=1) for label in channel.raw.labels], axis=1)


class SamplesTheFirstNeuron(Null):
    def potential(self, channel):
        v = self._dynamics.before[:: self._dt_steps]
        return np.stack([v[:, self._slices[label].start] for label in channel.raw.labels], axis=1)


class SwapsLabels(Null):
    def potential(self, channel):
        return super().potential(channel)[:, ::-1]


class HalfOfARow(Null):
    """With a finer resolution, a row acts in the first step only."""

    def feed(self, channel, payload, first_step, end_step):
        super().feed(channel, payload, first_step, end_step)
        if self._dt_steps > 1 and not isinstance(payload, Spikes):
            for edge in self._edges[channel.name]:
                steps = np.arange(first_step * self._dt_steps, end_step * self._dt_steps)
                off = (steps[steps % self._dt_steps != 0] + edge.delay) % len(edge.arriving)
                edge.arriving[off] = 0


class RoundsSpikesUp(Null):
    """A spike inside a step acts in the next one."""

    def feed(self, channel, payload, first_step, end_step):
        super().feed(channel, payload, first_step, end_step)
        if isinstance(payload, Spikes) and (payload.times % self._step_ticks).any():
            for edge in self._edges[channel.name]:
                edge.arriving[:] = np.roll(edge.arriving, 1, axis=0)


class ReadsAllAgain(Null):
    """Keeps every spike and looks through all of them in each window."""

    def open(self, *arguments):
        super().open(*arguments)
        self._all = Spikes.none()

    def spikes(self):
        now = super().spikes()
        self._all = Spikes(*(np.concatenate(pair) for pair in zip(self._all, now, strict=True)))
        own = self._all.times >= self._window[0] * self._grid.dt_ticks
        return Spikes(self._all.times[own], self._all.senders[own])


class KeepsEverySpike(Null):
    def open(self, *arguments):
        super().open(*arguments)
        self._all = []

    def spikes(self):
        self._all.append(super().spikes())
        return self._all[-1]


class LooksAtEveryWindowSoFar(Null):
    def spikes(self):
        for window in range(self._window[0]):
            self._grid.steps(window)
        return super().spikes()


class GivesBeforeItChecks(Null):
    """A refused payload has acted already."""

    def feed(self, channel, payload, first_step, end_step):
        if isinstance(payload, Spikes) and (first_step, end_step) != self._fed[channel.name]:
            for edge in self._edges[channel.name]:
                if first_step == self._now and len(payload):
                    edge.arriving[(first_step + edge.delay) % len(edge.arriving)] += 1
        try:
            super().feed(channel, payload, first_step, end_step)
        except LockstepError:
            raise
        else:
            for edge in self._edges[channel.name] if isinstance(payload, Spikes) and len(payload) else ():
                edge.arriving[(first_step + edge.delay) % len(edge.arriving)] -= 1


class TakesAnything(Null):
    def feed(self, channel, payload, first_step, end_step):
        with contextlib.suppress(LockstepError):
            super().feed(channel, payload, first_step, end_step)


class RunsWithoutInput(Null):
    def run(self, first_step, end_step):
        self._fed = dict.fromkeys(self._fed, (first_step, end_step))
        super().run(first_step, end_step)


class RunsAnyWindow(Null):
    def run(self, first_step, end_step):
        self._now = first_step
        super().run(first_step, end_step)


class TakesInputTwice(Null):
    def feed(self, channel, payload, first_step, end_step):
        self._fed[channel.name] = (0, 0)
        super().feed(channel, payload, first_step, end_step)


class RoundsDelays(Null):
    def connect(self, inputs, outputs):
        def rounded(edge):
            return replace(edge, delay_ms=max(1, round(edge.delay_ms / 0.1)) * 0.1 if edge.delay_ms > 0 else 0.1)

        super().connect([replace(c, edges=tuple(map(rounded, c.edges))) for c in inputs], outputs)


class IgnoresOutputs(Null):
    def connect(self, inputs, outputs):
        super().connect(inputs, [])


class RecordsWhatIsSent(Null):
    def connect(self, inputs, outputs):
        super().connect(inputs, outputs)
        self._sends = any(channel.model == "SPIKES" for channel in outputs)

    def spikes(self):
        return super().spikes() if self._sends else Spikes.none()


class ChangesWhatItIsGiven(Null):
    def feed(self, channel, payload, first_step, end_step):
        if isinstance(payload, np.ndarray):
            payload *= 1.0
        super().feed(channel, payload, first_step, end_step)


class CountsWindows(Null):
    def feed(self, channel, payload, first_step, end_step):
        before = self.counters[channel.name]
        super().feed(channel, payload, first_step, end_step)
        self.counters[channel.name] = before + 1


class CountsNothingRecorded(Null):
    def run(self, first_step, end_step):
        super().run(first_step, end_step)
        self.counters["recorded"] = 0


class FiresLate(Null):
    """Says one step late that a neuron has fired."""

    carried: np.ndarray | None = None

    def run(self, first_step, end_step):
        super().run(first_step, end_step)
        fired = self._dynamics.fired
        before = np.zeros_like(fired[:1]) if self.carried is None else self.carried
        self.carried = fired[-1:].copy()
        self._dynamics.fired = np.vstack([before, fired[:-1]])


EDGES = "test_a_spike_at_every_edge_of_a_window_arrives_once_in_its_step"
TWO = "test_two_spikes_of_one_sender_in_one_step_count_as_two"
JUMP = "test_a_spike_moves_the_potential_in_the_step_in_which_it_arrives"
INSIDE = "test_a_spike_inside_a_step_of_the_resolution_acts_in_that_step"
RATE_STEPS = "test_a_rate_acts_in_exactly_its_steps"
RATE_COUNT = "test_a_rate_makes_as_many_spikes_as_it_says_independently_in_each_neuron"
CURRENT = "test_a_current_moves_the_potential_in_exactly_its_steps"
THRESHOLD = "test_a_neuron_fires_in_the_step_in_which_its_current_takes_it_to_threshold"
FINER = "test_a_row_holds_for_the_whole_step_of_tvb_when_the_resolution_is_finer"
COMPLETE = "test_recorded_spikes_are_complete_in_order_and_inside_their_window"
ALL = "test_all_spikes_are_recorded_whatever_is_sent_to_tvb"
MEAN = "test_the_potential_is_the_mean_of_each_population_from_the_start_of_the_run"
WINDOWS = "test_numbers_do_not_depend_on_how_time_is_cut_into_windows"
SAME = "test_the_same_seed_gives_the_same_numbers_also_when_opened_again_in_one_process"
OTHER = "test_another_seed_gives_other_spikes"
COST = "test_a_window_costs_the_same_early_and_late_in_a_run"
REFUSED = "test_input_that_is_not_of_the_next_window_is_refused_and_nothing_of_it_acts"
MISSING = "test_a_window_whose_input_is_missing_is_not_run_with_the_last_one"
TWICE = "test_input_given_twice_for_one_window_is_refused_and_acts_once"
EDGE = "test_an_edge_that_cannot_be_made_exactly_is_refused_before_the_run_and_named"
OUTPUT = "test_an_output_of_a_population_that_is_not_there_is_refused_and_named"

BROKEN = [
    (LateInput, [EDGES, TWO, JUMP, INSIDE, RATE_STEPS, CURRENT, THRESHOLD, FINER]),
    (DropsSpikesAtT0, [EDGES, TWO, JUMP, WINDOWS]),
    (DropsRepeats, [TWO, JUMP]),
    (DropsTheEndOfTheWindow, [EDGES, RATE_STEPS, CURRENT, WINDOWS]),
    (StampsTheEndOfTheStep, [EDGES, COMPLETE, RATE_STEPS, THRESHOLD]),
    (RecordsInTheOrderOfNeurons, [COMPLETE]),
    (LosesTheLastStep, [EDGES, COMPLETE, WINDOWS]),
    (ForgetsNumberOfNeurons, [RATE_COUNT]),
    (OneTrainForAll, [RATE_COUNT]),
    (RatesGoOn, [RATE_STEPS, CURRENT, WINDOWS]),
    (DrawsByNeuron, [WINDOWS]),
    (AlwaysTheSameSeed, [OTHER]),
    (AnotherSeedEachTime, [SAME, WINDOWS]),
    (SwapsGroups, [EDGES, RATE_STEPS, CURRENT]),
    (ForgetsWeights, [CURRENT]),
    (NumbersPopulationsOtherwise, [EDGES, COMPLETE]),
    (SamplesAtTheEndOfTheStep, [JUMP, CURRENT]),
    (SamplesTheFirstNeuron, [MEAN]),
    (SwapsLabels, [CURRENT]),
    (HalfOfARow, [FINER]),
    (RoundsSpikesUp, [INSIDE]),
    (ReadsAllAgain, [COST]),
    (KeepsEverySpike, [COST]),
    (LooksAtEveryWindowSoFar, [COST]),
    (GivesBeforeItChecks, [REFUSED]),
    (TakesAnything, [REFUSED, TWICE]),
    (RunsWithoutInput, [REFUSED, MISSING]),
    (RunsAnyWindow, [REFUSED]),
    (TakesInputTwice, [TWICE]),
    (RoundsDelays, [EDGE]),
    (IgnoresOutputs, [OUTPUT]),
    (RecordsWhatIsSent, [ALL]),
    (ChangesWhatItIsGiven, [CURRENT]),
    (CountsWindows, [EDGES, RATE_STEPS, CURRENT]),
    (CountsNothingRecorded, [COMPLETE]),
    (FiresLate, [EDGES, THRESHOLD]),
]


@pytest.mark.parametrize(
    ("broken", "test"), [pytest.param(b, t, id=f"{b.__name__}-{t[5:45]}") for b, tests in BROKEN for t in tests]
)
def test_an_adapter_that_breaks_a_convention_is_not_certified(broken: type[Null], test: str):
    class Subject(TestNull):
        def make(self) -> Null:
            return broken(neurons=NEURONS)

    with pytest.raises((AssertionError, LockstepError, ValueError)):
        getattr(Subject(), test)()


def test_every_test_of_the_suite_can_fail():
    tests = {name for name in dir(Conformance) if name.startswith("test_")}
    assert tests - {test for _, tests in BROKEN for test in tests} == {
        "test_populations_are_those_of_the_network_in_the_order_of_its_neurons",
    }


@pytest.mark.parametrize(
    ("declared", "test", "named"),
    [
        ({"models": frozenset({"RATE"})}, EDGES, "SPIKES, which the adapter does not offer"),
        ({"potential": False}, CURRENT, "POTENTIAL, which"),
        ({"jump_mV": None}, JUMP, "when a spike arrives"),
        ({"starts_mV": (-70.0, -70.0)}, MEAN, "mean over the population"),
        ({"finer": False}, FINER, "a resolution finer"),
    ],
)
def test_what_the_subject_does_not_offer_is_skipped_aloud(declared, test, named):
    subject = type("Subject", (TestNull,), declared)()
    with pytest.warns(NotCertified, match=f"Subject: not certified: .*{named}"), pytest.raises(pytest.skip.Exception):
        getattr(subject, test)()


def test_what_cannot_be_certified_is_said_in_the_output_of_pytest(tmp_path):
    """As a user runs it: a file of a few lines, for an adapter that takes rates only."""
    (tmp_path / "test_mine.py").write_text(
        "from tvb_lockstep.spikenet_side.conformance import Conformance\n"
        "from tvb_lockstep.spikenet_side.null import Neurons, Null\n"
        f"NEURONS = {NEURONS}\n".replace("inf", "float('inf')")
        + "class TestMine(Conformance):\n"
        "    models = frozenset({'RATE'})\n"
        "    potential = False\n"
        "    def make(self): return Null(neurons=NEURONS)\n"
        "    def build(self, request): pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_mine.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "TestMine: not certified: SPIKES, which the adapter does not offer" in done.stdout
    assert "TestMine: not certified: CURRENT, POTENTIAL, which the adapter does not offer" in done.stdout
    passed, skipped = (int(re.search(rf"(\d+) {word}", done.stdout)[1]) for word in ("passed", "skipped"))
    assert (passed, skipped) == (13, 9)


def test_the_suite_is_imported_without_pytest():
    code = (
        "import sys; sys.modules['pytest'] = None\n"
        "from tvb_lockstep.spikenet_side.conformance import Conformance\n"
        "print(len([name for name in dir(Conformance) if name.startswith('test_')]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "22\n"), done.stderr
