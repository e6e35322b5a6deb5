"""The conformance suite: certifies that an adapter keeps the conventions of `SpikingSimulator`, by numbers.

    # test_my_simulator.py, run by pytest
    from tvb_lockstep.spikenet_side.conformance import Conformance

    class TestMySimulator(Conformance):
        def make(self): return MySimulator()
        def build(self, request): ...          # the network described at `Conformance`

Every expected number is worked out from what was given, never taken from the adapter. What the subject declares that it
cannot do is skipped, and named in a warning. pytest is needed when it runs, not to import it.
"""

from __future__ import annotations

import sys
import tracemalloc
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from time import process_time
from typing import Any

import numpy as np

from ..bridges.contract import Channel, Edge, Signal
from ..bridges.errors import ExperimentError, LockstepError
from ..bridges.experiment import SpikenetSection
from ..bridges.frame import Payload, Spikes
from ..bridges.grid import NS_PER_MS, Grid
from .adapter import BuildRequest, Connectome, SpikingSimulator

REGIONS = ("A", "B")
DT_STEPS_A, DT_STEPS_B, DT_STEPS_LATE = 3, 5, 8  # delays of the edges, in steps of TVB's dt
NUMBER_OF_NEURONS = 10  # behind every channel of rates
TRAINS = (3, 2)  # in each group of the channel of spikes
CAPACITANCE_PF = 100.0
THRESHOLD_MV = -55.0


class NotCertified(UserWarning):
    """Names what the suite could not certify, because the subject does not offer it."""


@dataclass(frozen=True)
class Outcome:
    """What came out of a run: the adapter, all spikes [ticks, neurons], potentials (n_steps, 2) [mV], counters."""

    simulator: SpikingSimulator
    spikes: Spikes
    potentials: np.ndarray
    counters: dict[str, int]
    step_ticks: int

    @classmethod
    def of_windows(cls, run: _Run, parts: list[tuple[Spikes, np.ndarray]], step_ticks: int = 1) -> Outcome:
        """Of a run that is still open, from what its windows gave."""
        spikes = Spikes(*(np.concatenate([getattr(part[0], field) for part in parts]) for field in Spikes._fields))
        potentials = np.concatenate([part[1] for part in parts])
        return cls(run.simulator, spikes, potentials, dict(run.simulator.counters), step_ticks)

    def of(self, population: str, region: str) -> list[tuple[int, int]]:
        """The spikes of a population as (step of the resolution, neuron within the population), in their order."""
        first = 0
        for each in self.simulator.populations:
            if (each.name, each.region) == (population, region):
                own = (self.spikes.senders >= first) & (self.spikes.senders < first + each.size)
                steps = self.spikes.times[own] // self.step_ticks
                return list(zip(steps.tolist(), (self.spikes.senders[own] - first).tolist(), strict=True))
            first += each.size
        raise AssertionError(f"there is no population {population}@{region} in {self.simulator.populations}")

    def pairs(self) -> list[tuple[int, int]]:
        return list(zip(self.spikes.times.tolist(), self.spikes.senders.tolist(), strict=True))


class Conformance:
    """Derive from it, say how to make the adapter and the network, and pytest runs the suite.

    `build(request)` returns what a user's build function returns in this simulator, with three populations at every
    region of `request.regions`, none of them connected to anything, of the sizes ``request.params[NAME]``:

    - ``relay``: a neuron that fires once when a spike reaches it, ``fires_after["relay"]`` steps of the resolution
      after the step of its arrival, and can do so in every step. (A parrot; or integrate-and-fire, the threshold below
      the weight.)
    - ``pair``: fires once, ``fires_after["pair"]`` steps later, when two or more spikes reach it in one step; one alone
      does not make it fire and is forgotten within 5 ms. (Integrate-and-fire, tau 1 ms, threshold 1.5 weights.)
    - ``cell``: integrates current without leak, dV/dt = I / C with C = 100 pF, from ``starts_mV[i]`` for its neuron i;
      fires in the step in which V reaches -55 mV; what happens after that does not matter.

    Overridden where the simulator needs it:

    models: what the adapter takes, of RATE, SPIKES, CURRENT. potential: whether it sends POTENTIAL.
    fires_after: see above; a property of the neurons, found with the simulator alone. relay_repeats: whether relays
    fire as often as they are hit in one step, as parrots do, or once. weights: of the edges onto each population.
    jump_mV: by how much one spike moves a cell's V at once, or None when cells take no spikes.
    starts_mV: V of the neurons of ``cell`` at t = 0. tolerance_mV: of its V.
    section: further keys of `SpikenetSection`, such as a fixed internal slice. proxy_params: by model, further ones.
    dt_ms: TVB's; the resolution is the same, and half of it where `finer` is true.
    """

    models: frozenset[str] = frozenset({"RATE", "SPIKES", "CURRENT"})
    potential: bool = True
    fires_after: Mapping[str, int] = {"relay": 0, "pair": 0}
    relay_repeats: bool = False
    weights: Mapping[str, float] = {"relay": 1.0, "pair": 1.0, "cell": 1.0}
    jump_mV: float | None = None  # noqa: N815
    starts_mV: tuple[float, ...] = (-70.0, -74.0, -78.0)  # noqa: N815
    tolerance_mV: float = 1e-3  # noqa: N815
    section: Mapping[str, Any] = {}
    proxy_params: Mapping[str, Mapping[str, Any]] = {}
    dt_ms: float = 0.1
    finer: bool = True

    def make(self) -> SpikingSimulator:
        """A new adapter, not yet opened."""
        raise NotImplementedError("make() must return an adapter, not yet opened")

    def build(self, request: BuildRequest) -> Any:
        """The network, as a user's build function makes it."""
        raise NotImplementedError("build(request) must make the network that Conformance describes")

    # ------------------------------------------------------------------------------------------- spikes going in

    def test_populations_are_those_of_the_network_in_the_order_of_its_neurons(self) -> None:
        with self._opened() as run:
            found = [(each.region, each.name, each.size) for each in run.simulator.populations]
            sizes = self._sizes()
            assert sorted(found) == sorted((region, name, n) for region in REGIONS for name, n in sizes.items())
            assert all(isinstance(text, str) and text for text in (run.simulator.name, run.simulator.version))

    def test_a_spike_at_every_edge_of_a_window_arrives_once_in_its_step(self) -> None:
        """First and last tick of a window, both sides of an edge, two trains in one step, windows with none."""
        self._needs("SPIKES")
        given = [(0, 0), (3, 1), (4, 0), (7, 3), (8, 4), (12, 0), (12, 1), (20, 2), (23, 2), (24, 2), (36, 0), (37, 0)]
        for window in (1, 4, 7):
            outcome = self._simulate(40, window, trains=given)
            self._check_relays(outcome, given, 40)
            assert outcome.counters["trains"] == len(given)

    def test_two_spikes_of_one_sender_in_one_step_count_as_two(self) -> None:
        """At the first and at the last step of a window, beside two senders in one step, and single spikes."""
        self._needs("SPIKES")
        events = {0: [0], 60: [0, 0], 123: [1, 1], 184: [0, 2], 240: [1], 303: [2, 2, 2]}
        shifted = {step + 1: [3 for _ in senders] for step, senders in events.items()}
        given = sorted((step, sender) for each in (events, shifted) for step in each for sender in each[step])
        for window in (1, 4):
            outcome = self._simulate(320, window, trains=given)
            for region, delay, own in (("A", DT_STEPS_A, events), ("B", DT_STEPS_B, shifted)):
                steps = [s + delay + self.fires_after["pair"] for s, senders in own.items() if len(senders) > 1]
                expected = [(step, i) for step in steps for i in range(self._sizes()["pair"])]
                assert outcome.of("pair", region) == expected, f"windows of {window} steps, pair@{region}"
            self._check_relays(outcome, given, 320)

    def test_a_spike_moves_the_potential_in_the_step_in_which_it_arrives(self) -> None:
        self._needs("SPIKES", "POTENTIAL")
        if self.jump_mV is None:
            self._not_certified("the potential's step when a spike arrives (jump_mV is None)")
        given = [(0, 0), (5, 1), (5, 1), (7, 2), (8, 0), (12, 0)]
        arriving = np.bincount([step + DT_STEPS_A for step, _ in given], minlength=16)
        expected = np.mean(self.starts_mV) + self.jump_mV * np.concatenate([[0], np.cumsum(arriving)[:15]])
        for window in (1, 4):
            found = self._simulate(16, window, trains=given).potentials[:, 1]
            np.testing.assert_allclose(found, expected, rtol=0, atol=self.tolerance_mV)

    def test_a_spike_inside_a_step_of_the_resolution_acts_in_that_step(self) -> None:
        """Ticks are half a step when another program's resolution is; then a spike of tick 3 acts in step 1."""
        self._needs("SPIKES")
        given = [(2, 0), (3, 0), (7, 0), (8, 0), (15, 0), (16, 0)]
        outcome = self._simulate(20, 4, trains=given, step_ticks=2, in_ticks=True)
        self._check_relays(outcome, [(tick // 2, sender) for tick, sender in given], 20)
        assert (outcome.spikes.times % 2 == 0).all(), "a step of two ticks is named by its first"

    # ------------------------------------------------------------------------------------------- rates going in

    def test_a_rate_acts_in_exactly_its_steps(self) -> None:
        """0.4 spikes per step in each of 100 relays: a step in which none of them fires would be a miracle."""
        self._needs("RATE")
        rates = np.zeros((40, 2))
        rates[[0, 3, 4, 11, 12, 30], 0] = 4000.0 / NUMBER_OF_NEURONS * (0.1 / self.dt_ms)
        rates[[8, 20], 1] = 4000.0 / NUMBER_OF_NEURONS * (0.1 / self.dt_ms)
        for window in (1, 4, 7):
            outcome = self._simulate(40, window, rates=rates)
            for region, column, delay in (("A", 0, DT_STEPS_A), ("B", 1, DT_STEPS_B)):
                expected = np.flatnonzero(rates[:, column]) + delay + self.fires_after["relay"]
                found = sorted({step for step, _ in outcome.of("relay", region)})
                assert found == expected.tolist(), f"windows of {window} steps, relay@{region}"
            assert outcome.counters["rates"] == rates.size

    def test_a_rate_makes_as_many_spikes_as_it_says_independently_in_each_neuron(self) -> None:
        """500 Hz in each of 100 neurons for 500 steps of 0.1 ms: 2500 spikes, within five standard deviations."""
        self._needs("RATE")
        n_steps, on = 600, slice(50, 550)
        rates = np.zeros((n_steps, 2))
        rates[on, 0] = 500.0 / NUMBER_OF_NEURONS
        outcome = self._simulate(n_steps, 20, rates=rates)
        found = np.array(outcome.of("relay", "A"))
        assert len(outcome.of("relay", "B")) == 0, "the other group's rate is zero"
        n, mean = self._sizes()["relay"], 500.0 * self.dt_ms / 1000.0  # per neuron and step
        # a relay that fires once however often it is hit, in a simulator that may hit it twice, loses the repeats
        least = mean if self.relay_repeats else 1 - np.exp(-mean)
        tolerance = 5 * np.sqrt(n * 500 * mean)
        assert n * 500 * least - tolerance < len(found) < n * 500 * mean + tolerance
        per_step = np.bincount(found[:, 0] - 50 - DT_STEPS_A - self.fires_after["relay"], minlength=500)
        per_neuron = np.bincount(found[:, 1], minlength=n)
        assert len(per_step) == 500
        # variance over mean is 1 for Poisson counts; 100 if all neurons shared one train
        assert 0.6 < per_step.var() / per_step.mean() < 1.4
        assert 0.3 < per_neuron.var() / per_neuron.mean() < 1.8

    # ------------------------------------------------------------------------------------------ currents going in

    def test_a_current_moves_the_potential_in_exactly_its_steps(self) -> None:
        """dV = I dt / C in each step in which the sum of the currents I acts; V is that at the start of the step."""
        self._needs("CURRENT", "POTENTIAL")
        currents = self._some_currents(24)
        for window in (1, 4, 7):
            outcome = self._simulate(24, window, currents=currents)
            np.testing.assert_allclose(
                outcome.potentials, self._potentials(currents), rtol=0, atol=self.tolerance_mV,
                err_msg=f"windows of {window} steps; columns are cell@B and cell@A",
            )  # fmt: skip
            assert outcome.counters["currents"] == currents.size

    def test_a_neuron_fires_in_the_step_in_which_its_current_takes_it_to_threshold(self) -> None:
        """4 mV per step from -70, -74, -78 mV to -55 mV: in the 4th, 5th and 6th step of the current."""
        self._needs("CURRENT")
        start = 6
        currents = np.zeros((24, 2))
        currents[start:14, 1] = 4.0 * CAPACITANCE_PF / self.dt_ms  # to cell@B with weight 1
        expected = sorted(
            (start + DT_STEPS_B + int((THRESHOLD_MV - v) // 4.0), i) for i, v in enumerate(self.starts_mV)
        )
        for window in (1, 4, 7):
            outcome = self._simulate(24, window, currents=currents)
            found = outcome.of("cell", "B")
            first = [pair for n, pair in enumerate(found) if pair[1] not in [i for _, i in found[:n]]]
            assert first == expected, f"windows of {window} steps"
            assert outcome.of("cell", "A") == [], "no current was given to cell@A"

    def test_a_row_holds_for_the_whole_step_of_tvb_when_the_resolution_is_finer(self) -> None:
        if not self.finer:
            self._not_certified("a resolution finer than TVB's dt")
        n, rates, currents, given = 24, np.zeros((24, 2)), np.zeros((24, 2)), []
        if "RATE" in self.models:
            rates[[5, 8], 1] = 8000.0 / NUMBER_OF_NEURONS * (0.1 / self.dt_ms)  # again 0.4 per step in each relay
        if "CURRENT" in self.models:
            currents = self._some_currents(n)
        if "SPIKES" in self.models:
            given = [(0, 0), (1, 1), (7, 0), (8, 0), (15, 2), (30, 0)]  # in half steps; to relay@A only
        for window in (1, 4):
            outcome = self._simulate(n, window, rates, given, currents, per_dt=2, in_ticks=True)
            shift = self.fires_after["relay"]
            from_rates = [2 * (step + DT_STEPS_B) + j + shift for step in (5, 8) for j in (0, 1)]
            expected = from_rates if "RATE" in self.models else []
            assert sorted({step for step, _ in outcome.of("relay", "B")}) == expected
            self._check_relays(outcome, given, n, per_dt=2, only="A")
            if "CURRENT" in self.models and self.potential:
                spiked = np.bincount([t // 2 + DT_STEPS_A for t, _ in given], minlength=n)  # whole steps, as sampled
                expected_v = self._potentials(currents)
                if self.jump_mV is not None:
                    expected_v[:, 1] += self.jump_mV * np.concatenate([[0], np.cumsum(spiked)[: n - 1]])
                np.testing.assert_allclose(outcome.potentials, expected_v, rtol=0, atol=self.tolerance_mV)

    # -------------------------------------------------------------------------------------------- what comes out

    def test_recorded_spikes_are_complete_in_order_and_inside_their_window(self) -> None:
        """Relays of both regions fire in nearly every step, for windows of every kind."""
        self._needs("SPIKES")
        given = [(step, sender) for step in range(50) for sender in (0, 3) if (step + sender) % 5]
        for window in (1, 3, 50):
            outcome = self._simulate(50, window, trains=given)  # order and windows are checked in every run
            self._check_relays(outcome, given, 50)
            assert outcome.counters["recorded"] == len(outcome.spikes)

    def test_all_spikes_are_recorded_whatever_is_sent_to_tvb(self) -> None:
        """The spiking program keeps them all, in spikes.h5."""
        self._needs("SPIKES")
        given = [(0, 0), (1, 3), (4, 0)]
        with self._open(16, 4, outputs=[]) as run:
            parts = []
            for first in range(0, 16, 4):
                inputs = [(c, self._slice(c, first, first + 4, trains=given)) for c in run.inputs]
                parts.append(run.window(inputs, first, first + 4))
            outcome = Outcome.of_windows(run, parts)
        self._check_relays(outcome, given, 16)

    def test_the_potential_is_the_mean_of_each_population_from_the_start_of_the_run(self) -> None:
        self._needs("POTENTIAL")
        if len(set(self.starts_mV)) == 1:
            self._not_certified("that a POTENTIAL is the mean over the population (starts_mV are all equal)")
        found = self._simulate(5, 2).potentials
        np.testing.assert_allclose(found, np.mean(self.starts_mV), rtol=0, atol=self.tolerance_mV)

    # ------------------------------------------------------------------------------------- the same numbers again

    def test_numbers_do_not_depend_on_how_time_is_cut_into_windows(self) -> None:
        reference = self._simulate(**self._everything(), window=1)
        assert len(reference.spikes) > 100
        for window in (3, 20, 31, 121):  # of 121 steps: last windows of 1, 1 and 28 steps, and all in one
            self._check_equal(reference, self._simulate(**self._everything(), window=window), f"windows of {window}")

    def test_the_same_seed_gives_the_same_numbers_also_when_opened_again_in_one_process(self) -> None:
        first = self._simulate(**self._everything(), window=5, seed=4)
        try:
            again = self._simulate(**self._everything(), window=5, seed=4)
        except LockstepError as refusal:
            self._not_certified(f"a second open() in one process, which is refused: {refusal}")
        self._check_equal(first, again, "opened again")

    def test_another_seed_gives_other_spikes(self) -> None:
        self._needs("RATE")
        first, other = (self._simulate(**self._everything(), window=5, seed=seed).pairs() for seed in (4, 5))
        assert first != other, "the seed does not reach the simulator's random numbers"

    def test_a_window_costs_the_same_early_and_late_in_a_run(self) -> None:
        """Calls, memory, and the least CPU time that a window takes, with the same input in every window.

        The least, since a window costs more whenever other programs have emptied the caches; never less.
        """
        given = [(0, 0), (0, 3)] if "SPIKES" in self.models else []  # 200 spikes of relays in every window
        early, late = range(60, 160), range(1200, 1300)
        counted = (*range(160, 190), *range(1300, 1330))
        durations, calls = np.zeros(1330), {}
        try:
            with self._opened(len(durations), 1) as run:
                for k in range(len(durations)):
                    inputs = [(channel, self._slice(channel, k, k + 1, trains=[(k + s, i) for s, i in given]))
                              for channel in run.inputs]  # fmt: skip
                    if k == 300:
                        tracemalloc.start()
                    elif k == 400:
                        before = tracemalloc.get_traced_memory()[0]
                    elif k == 1000:
                        grown = tracemalloc.get_traced_memory()[0] - before
                        tracemalloc.stop()
                    if k in counted:
                        sys.setprofile(counter := _CallCounter())
                    begin = process_time()
                    run.window(inputs, k, k + 1)
                    durations[k] = process_time() - begin
                    if k in counted:
                        sys.setprofile(None)
                        calls[k] = counter.calls
        finally:
            sys.setprofile(None)
            tracemalloc.stop()
        at_first, at_last = (sum(calls[k] for k in calls if (k > 1000) == after) for after in (False, True))
        assert at_last < 1.3 * at_first, f"30 windows make {at_first} calls early in a run, {at_last} late"
        ratio = durations[late].min() / durations[early].min()
        assert ratio < 3, f"a window takes {ratio:.1f} times the CPU time late in a run that it takes early"
        # spikes that were kept would be 12 bytes each at the least: 120 000 of them, 1.4 MB
        assert grown < 500_000, f"600 windows leave {grown} bytes behind"

    # ------------------------------------------------------------------------------------------- what is refused

    def test_input_that_is_not_of_the_next_window_is_refused_and_nothing_of_it_acts(self) -> None:
        everything = self._everything()
        reference = self._simulate(**everything, window=4)
        refused: list[str] = []

        def try_all(run: _Run, first: int, end: int) -> None:
            if first not in (0, 40):
                return
            for channel in run.inputs:
                for what, payload, at in self._wrong_payloads(channel, first, end):
                    message = _refusal(lambda c=channel, p=payload, a=at: run.simulator.feed(c, p, *a))  # type: ignore[misc]
                    assert channel.name in message, f"{what}: the message does not name the channel: {message}"
                    refused.append(what)
            if run.inputs:
                message = _refusal(lambda: run.simulator.run(first, end))
                assert run.inputs[0].name in message, f"input that is missing: {message}"
            message = _refusal(lambda: run.simulator.run(end, end + 4))
            assert str(end) in message, f"not the next window: {message}"

        outcome = self._simulate(**everything, window=4, before_each_window=try_all)
        assert len(refused) >= 2 * 4 * len(self.models)
        self._check_equal(reference, outcome, "with refusals in between")

    def test_a_window_whose_input_is_missing_is_not_run_with_the_last_one(self) -> None:
        with self._opened(8, 4) as run:
            if not run.inputs:
                self._not_certified("missing input (there are no input channels)")
            inputs = [(channel, self._slice(channel, 0, 4)) for channel in run.inputs]
            run.window(inputs, 0, 4)
            for channel in run.inputs[1:]:
                run.simulator.feed(channel, self._slice(channel, 4, 8), 4, 8)
            assert run.inputs[0].name in _refusal(lambda: run.simulator.run(4, 8))
            run.simulator.feed(run.inputs[0], self._slice(run.inputs[0], 4, 8), 4, 8)
            run.simulator.run(4, 8)

    def test_input_given_twice_for_one_window_is_refused_and_acts_once(self) -> None:
        with self._opened(8, 4) as run:
            if not run.inputs:
                self._not_certified("input given twice (there are no input channels)")
            given = {"rates": np.full((4, 2), 1.0), "trains": [(0, 0)], "currents": np.full((4, 2), 1.0)}
            for channel in run.inputs:
                payload = self._slice(channel, 0, 4, **given)  # type: ignore[arg-type]
                run.simulator.feed(channel, payload, 0, 4)
                counted = dict(run.simulator.counters)
                message = _refusal(lambda c=channel, p=payload: run.simulator.feed(c, p, 0, 4))  # type: ignore[misc]
                assert channel.name in message and run.simulator.counters == counted
            parts = [run.window([], 0, 4)]
            parts.append(run.window([(channel, self._slice(channel, 4, 8)) for channel in run.inputs], 4, 8))
            outcome = Outcome.of_windows(run, parts)
        assert outcome.of("pair", "A") == [], "a single spike makes no pair fire"

    def test_an_edge_that_cannot_be_made_exactly_is_refused_before_the_run_and_named(self) -> None:
        model = sorted(self.models)[0]
        for region, population, delay, named in (
            ("A", "nobody", 1.0, "nobody@A"),
            ("C", "relay", 1.0, "relay@C"),
            ("A", self._target(model), 3.5 * self.dt_ms, f"{self._target(model)}@A"),
            ("A", self._target(model), -self.dt_ms, f"{self._target(model)}@A"),
            ("A", self._target(model), float("nan"), f"{self._target(model)}@A"),
        ):
            channel = self._channel(model, model.lower(), [Edge(0, region, population, 1.0, delay)])
            message = _refusal(lambda c=channel: self._open(8, 4, inputs=[c]).close(), ExperimentError)  # type: ignore[misc]
            assert named in message, f"the message does not name the edge to {named}: {message}"

    def test_an_output_of_a_population_that_is_not_there_is_refused_and_named(self) -> None:
        signal = Signal("spikes", "", ("nobody@A",), (1,))
        message = _refusal(lambda: self._open(8, 4, inputs=[], outputs=[self._output("SPIKES", signal)]).close(),
                           ExperimentError)  # fmt: skip
        assert "nobody@A" in message

    # ---------------------------------------------------------------------------------------- how a run is made

    def _sizes(self) -> dict[str, int]:
        return {"relay": 100, "pair": 2, "cell": len(self.starts_mV)}

    def _target(self, model: str) -> str:
        return "cell" if model == "CURRENT" else "relay"

    def _inputs(self) -> list[Channel]:
        """One channel for each model that the adapter takes, always the same ones: the network is always the same."""

        def edge(group: int, population: str, region: str, steps: int, weight: float = 1.0) -> Edge:
            return Edge(group, region, population, weight * self.weights[population], round(steps * self.dt_ms, 9))

        edges = {
            "RATE": [edge(0, "relay", "A", DT_STEPS_A), edge(1, "relay", "B", DT_STEPS_B)],
            "SPIKES": [
                *(edge(0, population, "A", DT_STEPS_A) for population in ("relay", "pair")),
                *(edge(1, population, "B", DT_STEPS_B) for population in ("relay", "pair")),
                edge(1, "relay", "A", DT_STEPS_LATE),
                *([edge(0, "cell", "A", DT_STEPS_A)] if self.jump_mV is not None else []),
            ],
            "CURRENT": [
                edge(0, "cell", "A", DT_STEPS_A, 2.0), edge(1, "cell", "B", DT_STEPS_B),
                edge(0, "cell", "B", DT_STEPS_LATE, -1.0),
            ],
        }  # fmt: skip
        names = {"RATE": "rates", "SPIKES": "trains", "CURRENT": "currents"}
        return [self._channel(model, names[model], edges[model]) for model in names if model in self.models]

    def _channel(self, model: str, name: str, edges: list[Edge]) -> Channel:
        labels = ("x@A", "x@B")
        signal = Signal("spikes", "", labels, TRAINS) if model == "SPIKES" else Signal.dense(
            {"RATE": "Hz", "CURRENT": "pA"}[model], list(labels)
        )  # fmt: skip
        params = {"number_of_neurons": NUMBER_OF_NEURONS} if model == "RATE" else {}
        return Channel(
            ["RATE", "SPIKES", "CURRENT"].index(model), name, "tvb", "spikenet", model, "TVB", ("x",), ("relay",),
            REGIONS, (), (), {**params, **self.proxy_params.get(model, {})}, signal, signal, tuple(edges), key=name,
        )  # fmt: skip

    def _output(self, model: str, signal: Signal) -> Channel:
        return Channel(3 + (model == "POTENTIAL"), model.lower(), "spikenet", "tvb", model, "TVB", ("x",), ("cell",),
                       REGIONS, (), (), {}, signal, signal, key=model)  # fmt: skip

    def _outputs(self) -> list[Channel]:
        everything = [(f"{name}@{region}", n) for region in REGIONS for name, n in self._sizes().items()]
        labels, sizes = zip(*everything, strict=True)
        outputs = [self._output("SPIKES", Signal("spikes", "", labels, sizes))]
        if self.potential:
            outputs.append(self._output("POTENTIAL", Signal.dense("mV", ["cell@B", "cell@A"])))
        return outputs

    def _open(
        self, n_steps: int, window: int, seed: int = 1, per_dt: int = 1, step_ticks: int = 1,
        inputs: list[Channel] | None = None, outputs: list[Channel] | None = None,
    ) -> _Run:  # fmt: skip
        """An adapter, opened and connected. per_dt: its steps in TVB's dt. step_ticks: ticks in one of its steps."""
        dt_ns = round(self.dt_ms * NS_PER_MS)
        grid = Grid(dt_ns // (per_dt * step_ticks), per_dt * step_ticks, window, n_steps)
        simulator = self.make()
        keys = {
            "simulator": simulator.name, "regions": list(REGIONS), "resolution": dt_ns / per_dt / NS_PER_MS,
            "params": self._sizes() | {"starts_mV": list(self.starts_mV)}, "build": "conformance:build", **self.section,
        }  # fmt: skip
        section = SpikenetSection.model_construct(**keys)  # not validated: that knows the toolkit's own simulators only
        connectome = Connectome(REGIONS, np.zeros((2, 2)), np.zeros((2, 2)))
        inputs = self._inputs() if inputs is None else inputs
        outputs = self._outputs() if outputs is None else outputs
        try:
            simulator.open(section, grid, connectome, seed, self.build)
            simulator.connect(inputs, outputs)
        except BaseException:
            simulator.close()
            raise
        return _Run(simulator, grid, inputs, outputs)

    def _opened(self, n_steps: int = 4, window: int = 4) -> _Run:
        return self._open(n_steps, window)

    def _simulate(
        self, n_steps: int, window: int, rates: np.ndarray | None = None, trains: list[tuple[int, int]] | None = None,
        currents: np.ndarray | None = None, seed: int = 1, per_dt: int = 1, step_ticks: int = 1, in_ticks: bool = False,
        before_each_window: Callable[[_Run, int, int], None] = lambda run, first, end: None,
    ) -> Outcome:  # fmt: skip
        """A whole run with the given input: dense (n_steps, 2), spikes as (step of dt, or tick; sender)."""
        with self._open(n_steps, window, seed, per_dt, step_ticks) as run:
            parts = []
            scale = 1 if in_ticks else per_dt * step_ticks
            given = [(at * scale, sender) for at, sender in trains or []]
            for k in range(run.grid.n_windows):
                first, end = run.grid.steps(k)
                before_each_window(run, first, end)
                inputs = [(c, self._slice(c, first, end, rates, given, currents, run.grid)) for c in run.inputs]
                parts.append(run.window(inputs, first, end))
            return Outcome.of_windows(run, parts, step_ticks)

    def _slice(
        self, channel: Channel, first: int, end: int, rates: np.ndarray | None = None,
        trains: list[tuple[int, int]] | None = None, currents: np.ndarray | None = None, grid: Grid | None = None,
    ) -> Payload:  # fmt: skip
        """The part of the input that belongs to the window ``[first, end)``."""
        if channel.model == "SPIKES":
            ticks = grid.dt_ticks if grid else 1
            own = sorted((t, sender) for t, sender in trains or [] if first * ticks <= t < end * ticks)
            return Spikes(_frozen([t for t, _ in own], np.int64), _frozen([s for _, s in own], np.int32))
        values = rates if channel.model == "RATE" else currents
        return _frozen(np.zeros((end - first, 2)) if values is None else values[first:end], np.float64)

    def _everything(self) -> dict[str, Any]:
        """Input for all models at once: 121 steps."""
        n, draw = 121, np.random.default_rng(7)
        rates = np.where(draw.random((n, 2)) < 0.5, 500.0 * draw.random((n, 2)), 0.0)
        trains = sorted((int(step), int(sender)) for step, sender in zip(
            draw.integers(0, n, 40), draw.integers(0, sum(TRAINS), 40), strict=True))  # fmt: skip
        currents = 100.0 * draw.standard_normal((n, 2))
        return {
            "n_steps": n, "rates": rates if "RATE" in self.models else None,
            "trains": trains if "SPIKES" in self.models else None,
            "currents": currents if "CURRENT" in self.models else None,
        }  # fmt: skip

    def _some_currents(self, n_steps: int) -> np.ndarray:
        """pA; small enough that no cell comes near its threshold."""
        currents = np.zeros((n_steps, 2))
        currents[[0, 3, 4, 11], 0] = [500.0, 200.0, -700.0, 300.0]
        currents[[0, 7, 8, 9], 1] = [400.0, -300.0, 600.0, 200.0]
        return currents

    def _potentials(self, currents: np.ndarray) -> np.ndarray:
        """V of cell@B and cell@A [mV] at the start of each step of dt: the sum of I dt / C of all steps before."""
        n = len(currents)
        acting = np.zeros((n, 2))
        for column, group, delay, weight in ((0, 1, DT_STEPS_B, 1.0), (0, 0, DT_STEPS_LATE, -1.0),
                                             (1, 0, DT_STEPS_A, 2.0)):  # fmt: skip
            acting[delay:, column] += weight * currents[: n - delay, group]
        gained = np.cumsum(acting, axis=0) * self.dt_ms / CAPACITANCE_PF
        return np.mean(self.starts_mV) + np.concatenate([np.zeros((1, 2)), gained[:-1]])

    def _check_relays(
        self, outcome: Outcome, given: list[tuple[int, int]], n_steps: int, per_dt: int = 1, only: str = "AB"
    ) -> None:
        """Every given spike (step of the resolution, sender) came out of all relays that it reaches, and no other."""
        group_0 = [step for step, sender in given if sender < TRAINS[0]]
        group_1 = [step for step, sender in given if sender >= TRAINS[0]]
        arriving = {
            "A": [s + DT_STEPS_A * per_dt for s in group_0] + [s + DT_STEPS_LATE * per_dt for s in group_1],
            "B": [s + DT_STEPS_B * per_dt for s in group_1],
        }
        for region in only:
            steps = [s + self.fires_after["relay"] for s in arriving[region]]
            steps = sorted(s for s in steps if s < n_steps * per_dt)
            if not self.relay_repeats:
                steps = sorted(set(steps))
            found = outcome.of("relay", region)
            expected = Counter((step, i) for step in steps for i in range(self._sizes()["relay"]))
            lost, added = expected - Counter(found), Counter(found) - expected
            assert not lost and not added, (
                f"relay@{region}: (step, neuron) missing: {sorted(lost.elements())[:5]}, "
                f"not expected: {sorted(added.elements())[:5]}"
            )

    def _check_equal(self, reference: Outcome, other: Outcome, what: str) -> None:
        """Bit for bit."""
        first = next((pair for pair in zip(reference.pairs(), other.pairs(), strict=False) if pair[0] != pair[1]), None)
        assert reference.pairs() == other.pairs(), (
            f"{what}: {len(other.spikes)} spikes against {len(reference.spikes)}; first difference: {first}"
        )
        assert reference.potentials.tobytes() == other.potentials.tobytes(), f"{what}: potentials differ"
        assert reference.counters == other.counters, what

    def _wrong_payloads(self, channel: Channel, first: int, end: int) -> Iterator[tuple[str, Payload, tuple[int, int]]]:
        """What `feed` has to refuse, with its name and the window it is given for."""
        right = self._slice(channel, first, end)
        yield "another window", self._slice(channel, end, end + 4), (end, end + 4)
        yield "an empty window", self._slice(channel, first, first), (first, first)
        if channel.model == "SPIKES":

            def one(tick: int, sender: int) -> Spikes:
                return Spikes(np.array([first, tick]), np.array([0, sender], np.int32))

            yield "a spike at t1", one(end, 0), (first, end)
            yield "a spike before t0", Spikes(np.array([first - 1]), np.array([0], np.int32)), (first, end)
            yield "a sender too many", one(first, sum(TRAINS)), (first, end)
            yield "a negative sender", one(first, -1), (first, end)
            yield "values for spikes", np.zeros((end - first, 2)), (first, end)
            return
        assert isinstance(right, np.ndarray)
        yield "a row too few", right[1:], (first, end)
        yield "a column too many", np.zeros((end - first, 3)), (first, end)
        yield "spikes for values", Spikes.none(), (first, end)
        for value in (np.nan, np.inf, -np.inf, *([-1.0] if channel.model == "RATE" else [])):
            wrong = right + 100.0
            wrong[-1, 1] = value
            yield f"a value of {value}", wrong, (first, end)

    def _needs(self, *wanted: str) -> None:
        """Skip, aloud, what the subject does not offer."""
        offered = self.models | ({"POTENTIAL"} if self.potential else set())
        missing = [each for each in wanted if each not in offered]
        if missing:
            self._not_certified(f"{', '.join(missing)}, which the adapter does not offer")

    def _not_certified(self, what: str) -> None:
        import pytest

        text = f"{type(self).__name__}: not certified: {what}"
        warnings.warn(NotCertified(text), stacklevel=3)
        pytest.skip(text)


class _Run:
    """An opened adapter, closed at the end."""

    def __init__(self, simulator: Any, grid: Grid, inputs: list[Channel], outputs: list[Channel]) -> None:
        self.simulator, self.grid, self.inputs = simulator, grid, inputs
        self._potential = [channel for channel in outputs if channel.model == "POTENTIAL"]
        self._neurons = sum(population.size for population in simulator.populations)

    def window(self, inputs: list[tuple[Channel, Payload]], first: int, end: int) -> tuple[Spikes, np.ndarray]:
        """One window as the spiking program makes it, with the checks that hold for every window."""
        for channel, payload in inputs:
            self.simulator.feed(channel, payload, first, end)
        self.simulator.run(first, end)
        spikes = self.simulator.spikes()
        times, senders = spikes
        assert isinstance(spikes, Spikes) and (times.dtype, senders.dtype) == (np.int64, np.int32)
        if len(spikes):
            t0, t1 = first * self.grid.dt_ticks, end * self.grid.dt_ticks
            assert t0 <= times.min() and times.max() < t1, f"spikes from {times.min()} to {times.max()} in [{t0}, {t1})"
            assert senders.min() >= 0 and senders.max() < self._neurons
            order = times * self._neurons + senders
            assert (order[1:] >= order[:-1]).all(), f"spikes are not sorted by time, then neuron, in [{t0}, {t1})"
        if not self._potential:
            return spikes, np.zeros((end - first, 0))
        potential = self.simulator.potential(self._potential[0])
        assert potential.shape == (end - first, 2)
        # copies: an adapter may reuse its buffers from window to window
        return Spikes(times.copy(), senders.copy()), potential.copy()

    def close(self) -> None:
        self.simulator.close()

    def __enter__(self) -> _Run:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _CallCounter:
    """Counts calls of Python and of C functions."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, frame: Any, event: str, argument: Any) -> None:
        self.calls += event in ("call", "c_call")


def _frozen(values: Any, dtype: type) -> np.ndarray:
    """An array that cannot be written to, as those that come out of a frame."""
    array: np.ndarray = np.array(values, dtype)
    array.flags.writeable = False
    return array


def _refusal(call: Callable[[], Any], kind: type[LockstepError] = LockstepError) -> str:
    """The message with which `call` is refused."""
    try:
        call()
    except kind as error:
        return str(error)
    raise AssertionError(f"this had to be refused with a {kind.__name__}, and was not")
