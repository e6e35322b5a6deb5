"""A TVB simulation stepped window by window, with regions that a spiking program computes.

Time: state s is the one at ``s * dt``; a run starts at step 0; step ``s -> s + 1`` is integrated with the coupling of
the states at ``s - idelay``, as in TVB. Every step interval is half-open, ``[first_step, end_step)``.
"""

from __future__ import annotations

import copy
import difflib
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..bridges.errors import ExperimentError, LockstepError
from .history import FAR, FullHistory, History, Rows
from .library import PlainAccess, Simulator, coupling, monitors

Region = str | int
Column = tuple[str, str]  # (region label, state variable)
BATCH_VALUES = 100_000  # delayed states gathered at once; more leaves the cache


@dataclass(frozen=True)
class Edge:
    """A connection of the connectome, by region labels."""

    source: str
    target: str
    tract_length_mm: float
    delay_ms: float
    delay_steps: int

    def __str__(self) -> str:
        return (f"{self.source} -> {self.target} ({self.tract_length_mm:g} mm, {self.delay_ms:g} ms, "
                f"{self.delay_steps} steps)")  # fmt: skip


class RegionSimulation:
    """A TVB Simulator, window by window, whose proxied regions take part with what a spiking program delivers.

    All nodes are integrated, the proxied ones too, so that every other node gets the random numbers of a plain run;
    but what a proxied region's own TVB model computes reaches nobody in the delivered variables. Given the states of a
    plain run, the other regions equal it bit for bit, whatever the window.

    Parameters
    ----------
    simulator: a region-level tvb.simulator.simulator.Simulator, configured or not. It is owned from here on: the
        weights of its connectivity are edited, and it is configured (again).
    proxied: per region (label or index) the state variables that the spiking side delivers. With none, the spiking
        network only listens, and TVB goes on computing that region.
    groups: the regions of each spiking program.
    exclusive: remove TVB's edges among the regions of one group, which the network makes itself. Edges across groups
        stay: these regions meet through TVB. The self-connections of proxied regions are removed in any case.
    undelivered: what happens when a region delivers some coupling variables, and TVB's equations also read another
        (found by trying: WilsonCowan has E and I as coupling variables but reads the coupling of E only).
        "refuse" (default) raises ExperimentError: any other choice lets a number into the rest of the brain that no
        spiking neuron has to do with, and the result looks as good as a right one. "hold_initial" keeps its value of
        t = 0; "free" lets TVB's own model of the region, which knows nothing of the spiking network, compute it;
        "follow" lets TVB's own model compute every variable of the region that is not delivered from those that are:
        they are put into its state before each step, which gets the region's coupling, noise and stimulus as in a plain
        run. Step s -> s + 1 of these variables is integrated as soon as all states at s and the coupling of that step
        are known, at the latest when the delivery of the window comes in; like what is delivered they reach others
        over delays of a window or more, so that the numbers do not depend on the window.
    n_steps: TVB steps of the whole run; needed when the simulator has a stimulus.

    Attributes
    ----------
    notes: what was removed, for people. region_labels, dt_ms. weights, tract_lengths_mm, delays_ms, delay_steps: as
    integrated, (target, source); original_weights: before the removal. columns: (region label, variable) of
    everything delivered, by region as in `proxied`, variables in the model's order.
    current_step: integrated so far. monitors: per monitor a dict, ready for JSON, of name (its class), period_ms,
    voi (labels along the first axis of a sample), shape (n_voi, n_regions or n_sensors, n_modes) and regions (their
    labels, None when the samples are of something else). horizon_steps: steps of initial history;
    initial_history: (horizon_steps, n_variables, n_regions, n_modes) float64, the states at steps 1 - horizon to 0.
    min_delay_steps and shortest_edge: over the edges that matter, those from a region TVB computes to a proxied one,
    from a region that delivers to one TVB computes, and from a region that delivers to a proxied one; the three kinds
    apart are into_proxies_steps, out_of_proxies_steps, between_proxies_steps. None when there is no such edge.

    Raises ExperimentError for a surface, unknown regions or variables, several modes, and `undelivered`.
    """

    def __init__(
        self,
        simulator: Any,
        proxied: Mapping[Region, Collection[str]],
        groups: Sequence[Sequence[Region]] = (),
        exclusive: bool = True,
        *,
        undelivered: Literal["refuse", "hold_initial", "free", "follow"] = "refuse",
        n_steps: int | None = None,
    ) -> None:
        self._sim = sim = simulator
        self._refuse_what_cannot_be()
        sim.connectivity.configure()
        self.region_labels = [str(label) for label in sim.connectivity.region_labels]
        self._variables = list(sim.model.state_variables)
        self._cvars = [self._variables[i] for i in sim.model.cvar]
        by_region: dict[int, list[str]] = {}
        for region, variables in proxied.items():
            unknown = set(variables) - set(self._variables)
            if unknown:
                raise ExperimentError(
                    f"Region {region!r} is to deliver {sorted(unknown)}: {type(sim.model).__name__} has the state "
                    f"variables {', '.join(self._variables)}."
                )
            by_region[self.region_index(region)] = [name for name in self._variables if name in variables]
        self.notes: list[str] = []
        self.original_weights = sim.connectivity.weights.copy()
        self._remove_edges(sorted(by_region), groups, exclusive)
        full, shift = self._configure()

        conn = sim.connectivity
        self.dt_ms = float(sim.integrator.dt)
        self.weights, self.tract_lengths_mm = conn.weights, conn.tract_lengths
        self.delays_ms, self.delay_steps = conn.delays, conn.idelays
        self.horizon_steps = len(full)
        self._survey(by_region)

        # all states: float64; coupling variables besides in float32, as TVB's history has them
        n_kept = self._lookback() + 2048
        shape = full.shape[1:]
        self._states = np.full((n_kept, *shape), np.nan)
        self._offset = self.horizon_steps - 1
        initial = self._states[: self.horizon_steps]
        initial[:] = full[(np.arange(1 - self.horizon_steps, 1) + shift) % self.horizon_steps]
        buffer = np.full((n_kept, len(self._cvars), *shape[1:]), np.nan, np.float32)
        self._history = History(sim.history, buffer, self._offset)
        buffer[: self.horizon_steps] = initial[:, sim.model.cvar]
        self.initial_history = initial.copy()

        self._own = sim.current_state.copy()  # of all nodes, the proxied ones' as their TVB model computes it
        self._integrate = sim.integrate_next_step
        self.current_step = 0
        self._recorded = 0
        self._x_dependent = self._history.reads_target(sim.coupling)
        self._enters = self._history.reads_variables(sim.coupling)
        self._vectorised = not self._x_dependent and self._history.vectorises(sim.coupling)
        self._prepare_delivery(by_region, undelivered)
        self._last_terms: tuple[int, int, Any] = (-1, 0, None)
        self._coupling_rows: dict[str, int] = {}
        self._which: dict[tuple[Column, ...], np.ndarray] = {}
        self._rows: dict[tuple[Region, ...], tuple[Rows, int, np.ndarray]] = {}
        # a replaced region's own TVB state reaches nobody: it goes on without input, so that nobody waits for one
        self._idle = np.array([], dtype=np.intp)
        if undelivered != "free":
            self._idle = np.array([region for region, names in by_region.items() if names], dtype=np.intp)
        driven = np.setdiff1d(np.arange(len(self.region_labels)), self._idle)
        self._driven_delays = self._needs(Rows(self._history, driven.tolist()))[2]
        self._batch = self._batch_steps()
        self._prepare_stimulus(n_steps)
        self._follower: _Follower | None = None
        if undelivered == "follow" and len(self._known) > len(self.columns):
            self._follower = _Follower(sim)
            self._follower_rows = Rows(self._history, sorted(self._idle.tolist()))
        parts = [sim, sim.model, sim.integrator, getattr(sim.integrator, "noise", None), sim.coupling]
        parts += self._follower.parts if self._follower else ()
        self._plain_access = PlainAccess(part for part in parts if part is not None)
        self.monitors = self._describe_monitors()
        self._recorders = [(monitor.record, isinstance(monitor, monitors.AfferentCoupling)) for monitor in sim.monitors]
        self._records_coupling = any(reads_term for _, reads_term in self._recorders)

    # ---- setting up

    def _refuse_what_cannot_be(self) -> None:
        sim = self._sim
        if not isinstance(sim, Simulator):
            raise ExperimentError(f"A tvb.simulator.simulator.Simulator is needed, found {type(sim).__name__}.")
        if type(sim).__call__ is not Simulator.__call__:
            raise ExperimentError(f"{type(sim).__name__} has a loop of its own; only TVB's plain Simulator can be "
                                  f"stepped from outside.")  # fmt: skip
        if sim.surface is not None:
            raise ExperimentError("The simulator has a surface. Only region-level simulations can be coupled: leave "
                                  "Simulator.surface out.")  # fmt: skip
        if sim.model.number_of_modes != 1:
            raise ExperimentError(f"{type(sim.model).__name__} has {sim.model.number_of_modes} modes; a coupled region "
                                  f"needs a model with a single one.")  # fmt: skip

    def _remove_edges(self, proxied: list[int], groups: Sequence[Sequence[Region]], exclusive: bool) -> None:
        conn = self._sim.connectivity
        weights = conn.weights.copy()
        own = np.zeros(weights.shape, dtype=bool)
        own[proxied, proxied] = True
        n_own = np.count_nonzero(weights[own])
        weights[own] = 0
        if n_own:
            self.notes.append(f"Removed the self-connections of {n_own} of the {len(proxied)} proxied regions "
                              f"({self._name(proxied)}): their networks have connections of their own.")  # fmt: skip
        for group in groups if exclusive else ():
            members = [self.region_index(region) for region in group]
            among = np.ix_(members, members)
            n_among = np.count_nonzero(weights[among])
            weights[among] = 0
            if n_among:
                self.notes.append(f"Removed {n_among} edges of TVB among the regions {self._name(members)}: they "
                                  f"belong to one spiking program (exclusive nodes).")  # fmt: skip
        short = np.count_nonzero((np.diag(weights) != 0) & (np.diag(conn.tract_lengths) == 0))
        if short:
            self.notes.append(f"{short} self-connections of regions that TVB computes have no length; they stay within "
                              f"TVB and do not limit the window.")  # fmt: skip
        conn.weights = weights

    def _name(self, regions: Sequence[int]) -> str:
        names = [self.region_labels[i] for i in regions]
        return ", ".join(names if len(names) < 5 else [*names[:3], f"… {names[-1]}"])

    def _configure(self) -> tuple[np.ndarray, int]:
        """Configure the simulator; returns its whole initial history as TVB's ring and the ring's current step."""
        sim = self._sim
        sim.current_step = 0
        for cached in ("_cached_lri", "_cached_nzr"):  # of the weights of an earlier run
            sim.coupling.__dict__.pop(cached, None)
        noise = getattr(sim.integrator, "noise", None)
        if noise is not None and noise.nsig.ndim == 3:
            noise.nsig = noise.nsig.squeeze()[None] if noise.nsig.size == 1 else noise.nsig.squeeze()
        if sim.initial_conditions is not None:
            # TVB starts at the wrong one of them when there are more than it needs
            sim.connectivity.set_idelays(sim.integrator.dt)
            sim.initial_conditions = sim.initial_conditions[-sim.connectivity.horizon :]

        def configure_history(initial_conditions: Any = None) -> None:
            sim.history = FullHistory.from_simulator(sim, initial_conditions)

        sim._configure_history = configure_history
        try:
            sim.configure()
        finally:
            del sim._configure_history
        # configure may change sim.coupling's caches no further; the history has what was drawn
        return sim.history.full, int(sim.current_step)

    def _survey(self, by_region: dict[int, list[str]]) -> None:
        """The edges that matter and their shortest delays."""
        target = np.zeros(len(self.region_labels), dtype=bool)
        source = target.copy()
        target[list(by_region)] = True
        source[[region for region, variables in by_region.items() if variables]] = True
        edges = (self.weights != 0) & ~np.eye(len(target), dtype=bool)
        self._matter = edges & (target[:, None] | source)
        self.into_proxies_steps = self._shortest(edges & target[:, None] & ~source)
        self.out_of_proxies_steps = self._shortest(edges & ~target[:, None] & source)
        self.between_proxies_steps = self._shortest(edges & target[:, None] & source)
        self.min_delay_steps = self._shortest(self._matter)
        self.shortest_edge: Edge | None = None
        if self.min_delay_steps is not None:
            to, source_index = np.argwhere(self._matter & (self.delay_steps == self.min_delay_steps))[0]
            self.shortest_edge = self.edge(int(to), int(source_index))

    def _shortest(self, edges: np.ndarray) -> int | None:
        return int(self.delay_steps[edges].min()) if edges.any() else None

    def edge(self, target: Region, source: Region) -> Edge:
        """The edge between two regions (labels or indices), whether its weight is zero or not."""
        at = self.region_index(target), self.region_index(source)
        return Edge(self.region_labels[at[1]], self.region_labels[at[0]], float(self.tract_lengths_mm[at]),
                    float(self.delays_ms[at]), int(self.delay_steps[at]))  # fmt: skip

    def _lookback(self) -> int:
        """How many steps behind the current one states are kept for sure (further, until recorded)."""
        return 2 * self.horizon_steps + 1024

    def _prepare_delivery(self, by_region: dict[int, list[str]], undelivered: str) -> None:
        n_node = len(self.region_labels)
        self.columns = [(self.region_labels[r], v) for r, names in by_region.items() for v in names]
        replaced = [region for region, names in by_region.items() if names]
        missing = [(r, v) for r in replaced for v in self._variables if v not in by_region[r]]
        pairs = [(r, v) for r, names in by_region.items() for v in names] + missing
        # those whose values come from outside of `advance`: the delivered ones first, then those that follow them
        known = pairs if undelivered == "follow" else pairs[: len(self.columns)]
        self._known_columns = [(self.region_labels[r], v) for r, v in known]
        self._column = {column: i for i, column in enumerate(self._known_columns)}
        self._known = np.zeros(len(known), dtype=np.int64)  # last step known, per column
        # flat positions in a row of states, and in one of the history: first what is delivered, then what is not
        self._in_states = np.array([self._variables.index(v) * n_node + r for r, v in pairs], dtype=np.intp)
        coupled = [(i, self._cvars.index(v) * n_node + r) for i, (r, v) in enumerate(pairs) if v in self._cvars]
        self._history_columns = np.array([i for i, _ in coupled if i < len(known)], dtype=np.intp)
        self._in_history = np.array([at for i, at in coupled if i < len(known)], dtype=np.intp)
        self._delivered = np.full((len(self._states), len(pairs)), np.nan)
        self._column_region = np.array([r for r, _ in known], dtype=np.intp)
        self._column_coupled = np.array([v in self._cvars for _, v in known], dtype=bool)

        read = self._variables_read() if any(v in self._cvars for _, v in missing) else set()
        gaps = [(r, v) for r, v in missing if v in read]
        if gaps and undelivered == "refuse":
            region, variable = gaps[0]
            raise ExperimentError(
                f"Region {self.region_labels[region]} delivers {', '.join(by_region[region])}, but the other regions "
                f"also read its {variable} ({type(self._sim.model).__name__} with {type(self._sim.coupling).__name__} "
                f"coupling), which nobody delivers. Add a row to interfaces.spikenet_to_tvb with "
                f"voi = [\"{variable}\"]; or let TVB's model of the region compute it from what is delivered, with "
                f"interfaces.undelivered = \"follow\"; or choose a model or coupling that does not read it."
            )
        rest = [(r, v) for r, v in missing if v in self._cvars and not (undelivered == "free" and v in read)]
        rest = [] if undelivered == "follow" else rest
        self._rest_in_history = np.array([self._cvars.index(v) * n_node + r for r, v in rest], dtype=np.intp)
        hold = {at: undelivered == "hold_initial" and v in read for at, (_, v) in zip(self._rest_in_history, rest, strict=True)}  # noqa: E501
        now = self._history.buffer[self._offset].reshape(-1)
        self._rest_values = np.array([now[at] if hold[at] else np.nan for at in self._rest_in_history], np.float32)
        self._unknown_cvars = {v for _, v in rest if not (undelivered == "hold_initial" and v in read)}
        # of a replaced region only what reaches others has to be finite
        self._ghost = np.zeros(self._own.shape, dtype=bool)
        self._ghost[:, replaced] = True
        if undelivered == "free":
            for r, v in gaps:
                self._ghost[self._variables.index(v), r] = False

    def _variables_read(self) -> set[str]:
        """The coupling variables that the model's equations read: those that enter a row of the coupling which, when
        NaN, makes a derivative NaN."""
        sim = self._sim
        model = copy.copy(sim.model)  # some models remember the last call
        mask = model.state_variable_mask
        shape = (len(self._enters), *self._own.shape[1:])
        read = set()
        for row, enters in enumerate(self._enters):
            term = np.full(shape, 0.1)
            term[row] = np.nan
            state = self._own.copy()
            with np.errstate(all="ignore"):
                if model.has_nonint_vars:
                    updated = model.update_state_variables_before_integration(state, term, 0.0, 0.0)
                    state = state if updated is None else updated
                derivative = model.dfun(state[mask], term, 0.0)
            if np.isnan(state).any() or np.isnan(derivative).any():
                read |= {name for name, enters_row in zip(self._cvars, enters, strict=True) if enters_row}
        return read

    def _batch_steps(self) -> int:
        """For how many steps the coupling of all nodes is determined by what is known before the first of them."""
        if not self._vectorised:
            return 1
        h = self._history
        per_step = h.n_cvar * h.n_nnzw
        if not isinstance(self._sim.coupling, coupling.SparseCoupling):
            per_step = h.n_cvar * h.n_node**2
        shortest = int(h.nnz_idelays.min()) if h.n_nnzw else h.n_time
        return max(1, min(shortest + 1, BATCH_VALUES // per_step if per_step else 1024))

    def _prepare_stimulus(self, n_steps: int | None) -> None:
        sim = self._sim
        self._n_steps = n_steps
        self._stimulus: Any = 0.0
        if sim.stimulus is not None:
            if n_steps is None:
                raise ExperimentError("The simulator has a stimulus: n_steps, the length of the whole run, is needed.")
            sim.stimulus.configure_time((np.arange(n_steps) * self.dt_ms).reshape((1, -1)))
            # TVB's own is one row per state variable, and does not fit a model that does not integrate all of them
            integrated = np.flatnonzero(sim.model.state_variable_mask)
            self._stimulus = np.zeros((len(integrated), sim.number_of_nodes, 1))
            self._stimulated = np.flatnonzero(np.isin(integrated, sim.model.stvar))

    def _stimulus_at(self, step: int) -> Any:
        """What the stimulus adds to the derivatives of the integrated variables in the step from `step` on."""
        if self._sim.stimulus is not None:
            self._stimulus[self._stimulated] = self._sim.stimulus(step).reshape((1, -1, 1))
        return self._stimulus

    def _describe_monitors(self) -> list[dict[str, Any]]:
        sim = self._sim
        described = []
        for monitor in sim.monitors:
            labels = self._cvars if isinstance(monitor, monitors.AfferentCoupling) else sim.model.variables_of_interest
            voi = [str(labels[int(v)]) for v in (() if monitor.voi is None else monitor.voi)]
            regions: list[str] | None = self.region_labels
            width = len(self.region_labels)
            if isinstance(monitor, monitors.Projection):
                width, regions = monitor.gain.shape[0], None
            elif isinstance(monitor, monitors.SpatialAverage):
                width, regions = monitor.spatial_mean.shape[0], None
            elif isinstance(monitor, monitors.GlobalAverage):
                width, regions = 1, None
            described.append({"name": type(monitor).__name__, "period_ms": float(monitor.period), "voi": voi,
                              "shape": [len(voi), width, 1], "regions": regions})  # fmt: skip
        return described

    # ---- names

    def region_index(self, region: Region) -> int:
        """Index of a region given by label or index. Raises ExperimentError with close labels."""
        if isinstance(region, int | np.integer):
            if 0 <= region < len(self.region_labels):
                return int(region)
            raise ExperimentError(f"Region {region}: the connectivity has regions 0 to {len(self.region_labels) - 1}.")
        if self.region_labels.count(region) > 1:
            raise ExperimentError(f"Region {region!r}: several regions have this label; give its index instead.")
        if region in self.region_labels:
            return self.region_labels.index(region)
        close = difflib.get_close_matches(region, self.region_labels, n=3, cutoff=0.4)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise ExperimentError(f"Region {region!r}: the connectivity has no such region.{hint} "
                              f"It has {', '.join(self.region_labels)}.")  # fmt: skip

    # ---- before the first step

    def check_window(self, window_steps: int) -> None:
        """Raises ExperimentError naming the edge when `window_steps` is longer than the delays that matter allow."""
        if self.min_delay_steps is None or window_steps <= self.min_delay_steps:
            return
        longest = self.min_delay_steps * self.dt_ms
        advice = (
            f"The longest window these delays allow is {longest:g} ms."
            if longest
            else "No window is short enough for an edge without delay: remove the edge, give it a length, or let the "
            "same spiking program have both regions (exclusive_nodes)."
        )
        raise ExperimentError(
            f"The window of {window_steps * self.dt_ms:g} ms ({window_steps} steps) is longer than the delay of "
            f"{self.shortest_edge}. {advice}"
        )

    def check_coupling(self, variable: str, key: str = "") -> int:
        """The row of TVB's coupling that belongs to the coupling variable `variable`. key: of the experiment, for the
        message.

        Raises ExperimentError when it is no coupling variable, when the coupling function depends on the state of the
        receiving region, and when a region that enters it does not deliver it.
        """
        model, function = type(self._sim.model).__name__, type(self._sim.coupling).__name__
        key = f"{key}: " if key else ""
        if variable not in self._cvars:
            raise ExperimentError(f"{key}{variable!r} is no coupling variable of {model}; it has "
                                  f"{', '.join(self._cvars)}.")  # fmt: skip
        if self._x_dependent:
            raise ExperimentError(
                f"{key}{function} coupling cannot be sent to a spiking region: it depends on the state of the "
                f"receiving region at that very moment, which TVB does not know a window ahead. Use coupling_mode = "
                f"\"spikeNet\", where the states of TVB's regions are sent and the network makes the connections, or "
                f"another coupling."
            )
        row = self._cvars.index(variable)
        if row >= len(self._enters):
            raise ExperimentError(f"{key}{function} coupling gives {len(self._enters)} terms, none for {variable}.")
        enters = {name for name, yes in zip(self._cvars, self._enters[row], strict=True) if yes}
        if unknown := sorted(enters & self._unknown_cvars):
            raise ExperimentError(
                f"{key}the coupling of {variable} reads {', '.join(unknown)} of all regions, but not every spiking "
                f"region delivers it. Add a row to interfaces.spikenet_to_tvb with voi = {unknown}."
            )
        return row

    def set_initial(self, region: Region, variable: str, value: float | np.ndarray) -> None:
        """What a spiking region sent before the start: a delivered variable at steps 1 - horizon to 0, one value or
        (horizon_steps,). Without it TVB's own initial history holds."""
        if self.current_step or self._recorded:
            raise RuntimeError("set_initial after the first step")
        at = self.region_index(region)
        if (self.region_labels[at], variable) not in self.columns:
            raise ExperimentError(f"{variable} of region {region!r} is not delivered; there is {self.columns}.")
        row = self._variables.index(variable)
        self._last_terms = (-1, 0, None)
        self._states[: self.horizon_steps, row, at, 0] = value
        self.initial_history[:, row, at, 0] = value
        if variable in self._cvars:
            self._history.buffer[: self.horizon_steps, self._cvars.index(variable), at, 0] = value

    # ---- the run

    def coupling(self, first_step: int, end_step: int, regions: Sequence[Region], variable: str) -> np.ndarray:
        """TVB's coupling term at `regions`: (n_steps, n_regions) float64, row j for the step from first_step + j to
        first_step + j + 1. The same bits as TVB's coupling function gives.

        Raises ExperimentError as `check_coupling`; RuntimeError when it needs states that are not known yet.
        """
        row = self._coupling_rows.get(variable)
        if row is None:
            row = self._coupling_rows[variable] = self.check_coupling(variable)
        rows, own_delay, delays = self._needs_of(regions)
        self._require(first_step, end_step, own_delay, delays)
        n = end_step - first_step
        if self._vectorised:
            if first_step == self.current_step and n <= self._batch and self._is_known(end_step, self._driven_delays):
                # all that the next `advance` needs is there too: once for both
                return self._terms_of_all(first_step, n)[row][:, rows.regions, 0].astype(float)
            return self._history.coupling_window(self._sim.coupling, first_step, n, rows)[row, :, :, 0].astype(float)
        out = np.empty((n, len(rows.regions)))
        for j in range(n):
            out[j] = self._history.coupling_at(self._sim.coupling, first_step + j)[row, rows.regions, 0]
        return out

    def states(self, first_step: int, end_step: int, regions: Sequence[Region], variable: str) -> np.ndarray:
        """A state variable at steps first_step … end_step - 1, which may be negative down to the initial history:
        (n_steps, n_regions) float64, as integrated or delivered (TVB's history has them in float32).

        Raises ExperimentError for an unknown variable or one that is not delivered; RuntimeError for steps not known.
        """
        if variable not in self._variables:
            raise ExperimentError(f"{variable!r} is no state variable of {type(self._sim.model).__name__}; it has "
                                  f"{', '.join(self._variables)}.")  # fmt: skip
        row = self._variables.index(variable)
        indices = self._needs_of(regions)[0].regions
        for region in indices:
            if end_step - 1 > (last := self._last_known(region, variable)):
                raise RuntimeError(f"{variable} of {self.region_labels[region]} is not known at step {end_step - 1}, "
                                   f"only up to {last}")  # fmt: skip
        self._require_kept(first_step)
        return self._states[first_step + self._offset : end_step + self._offset, row, indices, 0]

    def _terms_of_all(self, first: int, n: int) -> np.ndarray:
        """The coupling of all nodes for n steps, (n_cvar, n, n_node, n_mode); the last one is kept."""
        if self._last_terms[:2] != (first, n):
            history = self._history
            self._last_terms = (first, n, history.coupling_window(self._sim.coupling, first, n, history.every))
        return self._last_terms[2]

    def advance(self, end_step: int) -> None:
        """Integrate from `current_step` to `end_step`.

        Raises RuntimeError when a delivered value is needed that is not there; LockstepError for a state not finite.
        """
        if self._sim.stimulus is not None and end_step > (self._n_steps or 0):
            raise RuntimeError(f"step {end_step} is beyond the {self._n_steps} steps that the stimulus was made for")
        self._require(self.current_step, end_step, None, self._driven_delays)
        self._reserve(end_step)
        with self._plain_access:
            self._advance(end_step)
        self._follow()

    def _advance(self, end_step: int) -> None:
        history, function, model = self._history, self._sim.coupling, self._sim.model
        integrate, state = self._integrate, self._own
        while self.current_step < end_step:
            first = self.current_step
            n = min(end_step - first, self._batch)
            if self._vectorised:
                # one contiguous (n_cvar, n_node, n_mode) per step
                terms = self._terms_of_all(first, n).swapaxes(0, 1).copy()
            else:
                # x_i of a replaced region is its TVB model's: the true one may not be known yet
                history.current = state[model.cvar].astype(np.float32)
                terms = history.coupling_at(function, first)[None].copy()
                history.current = None
            if len(self._idle):
                terms[:, :, self._idle] = 0.0
            at = first + 1 + self._offset
            for j in range(n):
                state = integrate(state, model, terms[j], 0.0, self._stimulus_at(first + j))
                self._states[at + j] = state
            self._own = state
            self._close(first + 1, n)
            self.current_step = first + n

    def _close(self, first: int, n: int) -> None:
        """Check the states just integrated, put in what is delivered, and append them to the history."""
        i0, i1 = first + self._offset, first + self._offset + n
        block = self._states[i0:i1]
        if not np.isfinite(block).all():
            self._raise_if_not_finite(block, first)
        self._history.buffer[i0:i1] = block[:, self._sim.model.cvar]
        if len(self._in_states):
            block.reshape(n, -1)[:, self._in_states] = self._delivered[i0:i1]
            past = self._history.buffer.reshape(len(self._states), -1)
            past[i0:i1, self._in_history] = self._delivered[i0:i1, self._history_columns]
            if len(self._rest_in_history):
                past[i0:i1, self._rest_in_history] = self._rest_values

    def _raise_if_not_finite(self, block: np.ndarray, first: int) -> None:
        bad = np.argwhere(~np.isfinite(block) & ~self._ghost)
        if len(bad):
            j, row, region, _ = bad[0]
            raise LockstepError(
                f"TVB's integration diverged: {self._variables[row]} of region {self.region_labels[region]} is "
                f"{block[j, row, region, 0]} at {(first + j) * self.dt_ms:g} ms. Choose a shorter tvb.dt, weaker "
                f"coupling, or check what the spiking side delivers (its scale_factor)."
            )

    def deliver(self, first_step: int, values: np.ndarray, columns: Sequence[Column] | None = None) -> None:
        """What the spiking side computed: `values` (n_steps, n_columns), row j the states at step first_step + j + 1,
        column i those of ``columns[i]``, (region label, variable); of all of `self.columns` when left out.

        In order and without gaps per column; before or after `advance` has passed these steps, and at most a horizon
        ahead of it. Raises RuntimeError otherwise, LockstepError for values that are not finite.
        """
        n = len(values)
        key = tuple(self.columns if columns is None else columns)
        which = self._which.get(key)
        if which is None:
            if unknown := set(key) - set(self.columns):
                raise RuntimeError(f"delivery of {sorted(unknown)}, which is not among {self.columns}")
            which = self._which[key] = np.array([self._column[column] for column in key], dtype=np.intp)
        known = self._known[which]
        if np.shape(values) != (n, len(known)):
            raise RuntimeError(f"delivered values have the shape {np.shape(values)}, expected (n_steps, {len(known)})")
        if (known != first_step).any():
            raise RuntimeError(f"delivery from step {first_step} on, but the columns are known up to {known.tolist()}")
        if first_step + n > self.current_step + self.horizon_steps + 256:
            raise RuntimeError(f"delivery up to step {first_step + n} is too far ahead of step {self.current_step}")
        if not np.isfinite(values).all():
            j, i = np.argwhere(~np.isfinite(values))[0]
            region, variable = key[i]
            raise LockstepError(f"The spiking side delivered {values[j, i]} for {variable} of region {region} at "
                                f"{(first_step + j + 1) * self.dt_ms:g} ms.")  # fmt: skip
        self._reserve(first_step + n)
        i0 = first_step + 1 + self._offset
        self._delivered[i0 : i0 + n, which] = values
        self._known[which] = first_step + n
        passed = min(n, self.current_step - first_step)
        if passed > 0:  # advance went by; otherwise it will put them in
            i1 = i0 + passed
            flat = self._states.reshape(len(self._states), -1)
            flat[i0:i1, self._in_states] = self._delivered[i0:i1]
            past = self._history.buffer.reshape(len(flat), -1)
            past[i0:i1, self._in_history] = self._delivered[i0:i1, self._history_columns]
            self._follow()

    def _follow(self) -> None:
        """Integrate the variables that nobody delivers ("follow") as far as everything that they depend on is known.

        That is the step of a plain run, repeated for all nodes with the states that are now complete; of its result
        only the variables that follow are taken.
        """
        if self._follower is None:
            return
        n_delivered = len(self.columns)
        following = self._in_states[n_delivered:]
        to = min(int(self._known[:n_delivered].min()), self.current_step)
        while (first := int(self._known[n_delivered])) < to:
            # what follows may couple to what follows: no further than the shortest delay allows
            end = min(to, first + self._batch)
            i0, i1 = first + 1 + self._offset, end + 1 + self._offset
            with self._plain_access:
                terms = self._terms_of_followers(first, end - first)
                for j in range(end - first):
                    state = self._follower.step(self._states[i0 + j - 1], terms[j], self._stimulus_at(first + j))
                    self._states[i0 + j].reshape(-1)[following] = state.reshape(-1)[following]
            values = self._states.reshape(len(self._states), -1)[i0:i1, following]
            if not np.isfinite(values).all():
                j, i = np.argwhere(~np.isfinite(values))[0]
                region, variable = self._known_columns[n_delivered + i]
                raise LockstepError(
                    f"{variable} of region {region}, which follows what the spiking side delivers, is {values[j, i]} "
                    f"at {(first + 1 + j) * self.dt_ms:g} ms. Check what is delivered (its scale_factor), or choose a "
                    f"shorter tvb.dt."
                )
            self._delivered[i0:i1, n_delivered:] = values
            past = self._history.buffer.reshape(len(self._states), -1)
            past[i0:i1, self._in_history] = self._delivered[i0:i1, self._history_columns]
            self._known[n_delivered:] = end

    def _terms_of_followers(self, first: int, n: int) -> np.ndarray:
        """The coupling of n steps from `first`, (n, n_cvar, n_node, n_mode); 0 but for the regions that follow."""
        function, history, regions = self._sim.coupling, self._history, self._follower_rows.regions
        if self._vectorised:
            part = history.coupling_window(function, first, n, self._follower_rows)
            terms = np.zeros((n, len(part), *self._own.shape[1:]), part.dtype)
            terms[:, :, regions] = part.swapaxes(0, 1)
            return terms
        return history.coupling_at(function, first)[None].copy()

    @property
    def delivered_step(self) -> int:
        """The last step for which every column is delivered, and what follows from it computed; the current step when
        nothing is to be delivered."""
        return int(self._known.min()) if len(self._known) else self.current_step

    def record(self, end_step: int | None = None) -> list[list[tuple[float, np.ndarray]]]:
        """The samples of every monitor up to the state `end_step`, those not yet returned: [(time_ms, (n_voi,
        n_regions, n_modes)), …] per monitor. Proxied regions show what was delivered, and NaN in the other variables.

        By default up to where everything is delivered; beyond it raises RuntimeError.
        """
        sim, last = self._sim, min(self.current_step, self.delivered_step)
        end_step = last if end_step is None else end_step
        if end_step > last:
            raise RuntimeError(f"recording up to step {end_step}, but the states are complete up to {last} only")
        samples: list[list[tuple[float, np.ndarray]]] = [[] for _ in sim.monitors]
        observe, term, recorders = sim.model.observe, None, list(zip(self._recorders, samples, strict=True))
        for step in range(self._recorded + 1, end_step + 1):
            observed = observe(self._states[step + self._offset])
            if self._records_coupling:
                term = self._history.coupling_at(sim.coupling, step)
            for (record, reads_term), kept in recorders:
                sample = record(step, term if reads_term else observed)
                if sample is not None:
                    kept.append((float(sample[0]), sample[1]))
            self._recorded = step
        return samples

    # ---- what is known

    def _needs(self, rows: Rows) -> tuple[Rows, int, np.ndarray]:
        """With the rows: the shortest delay to them of the regions that TVB computes, and of each delivered column."""
        replaced = np.zeros(len(self.region_labels), dtype=bool)
        replaced[self._column_region] = True
        own = rows.delays[~replaced[rows.sources]]
        delays = np.full(len(self._known), FAR, dtype=np.int64)
        for i, (region, coupled) in enumerate(zip(self._column_region, self._column_coupled, strict=True)):
            edges = rows.delays[rows.sources == region]
            if coupled and len(edges):
                delays[i] = edges.min()
        return rows, int(own.min()) if len(own) else FAR, delays

    def _needs_of(self, regions: Sequence[Region]) -> tuple[Rows, int, np.ndarray]:
        key = tuple(regions)
        if key not in self._rows:
            self._rows[key] = self._needs(Rows(self._history, [self.region_index(region) for region in key]))
        return self._rows[key]

    def _last_known(self, region: int, variable: str) -> int:
        column = self._column.get((self.region_labels[region], variable))
        if column is not None:
            return int(self._known[column])
        if region in self._column_region:
            raise ExperimentError(f"{variable} of the spiking region {self.region_labels[region]} is unknown: nobody "
                                  f"delivers it.")  # fmt: skip
        return self.current_step

    def states_known(self, end_step: int, regions: Sequence[Region], variable: str) -> bool:
        """Whether `states` of `regions` up to `end_step` are integrated or delivered."""
        return all(end_step - 1 <= self._last_known(r, variable) for r in self._needs_of(regions)[0].regions)

    def coupling_known(self, end_step: int, regions: Sequence[Region]) -> bool:
        """Whether everything that `coupling` reads for `regions` up to `end_step` is integrated and delivered."""
        _, own, delays = self._needs_of(regions)
        return end_step - 1 - own <= self.current_step and self._is_known(end_step, delays)

    def _is_known(self, end_step: int, delays: np.ndarray) -> bool:
        return not len(delays) or bool((self._known + delays).min() >= end_step - 1)

    def _require(self, first_step: int, end_step: int, own_delay: int | None, delays: np.ndarray) -> None:
        """The states that the coupling of [first_step, end_step) reads are known and still kept."""
        if own_delay is not None and end_step - 1 - own_delay > self.current_step:
            raise RuntimeError(f"the coupling of step {end_step - 1} needs the states of step "
                               f"{end_step - 1 - own_delay}, TVB is at step {self.current_step}")  # fmt: skip
        if not self._is_known(end_step, delays):
            i = int(np.argmin(self._known + delays))
            raise RuntimeError(f"the coupling of step {end_step - 1} needs {self._known_columns[i]} at step "
                               f"{end_step - 1 - delays[i]}, it was delivered up to step {self._known[i]}")  # fmt: skip
        self._require_kept(first_step - self.horizon_steps + 1)

    def _require_kept(self, step: int) -> None:
        oldest = max(1 - self.horizon_steps, self.current_step - self._lookback())
        if step < oldest:
            raise RuntimeError(f"the states of step {step} are no longer kept, only from step {oldest} on")

    def _reserve(self, last_step: int) -> None:
        """Make room up to `last_step`, forgetting what lies further back than the look-back."""
        if last_step + self._offset < len(self._states):
            return
        keep_from = self.current_step - self._lookback()
        if self._sim.monitors:
            keep_from = min(keep_from, self._recorded - self.horizon_steps)
        drop = keep_from + self._offset
        if drop <= 0 or last_step + self._offset - drop >= len(self._states):
            grow = last_step + self._offset + 1
            for name in ("_states", "_delivered"):
                old = getattr(self, name)
                setattr(self, name, np.concatenate([old, np.full((grow, *old.shape[1:]), np.nan)]))
            old = self._history.buffer
            self._history.buffer = np.concatenate([old, np.full((grow, *old.shape[1:]), np.nan, np.float32)])
            return self._reserve(last_step)
        for kept in (self._states, self._delivered, self._history.buffer):
            kept[:-drop] = kept[drop:]
            kept[-drop:] = np.nan
        self._offset -= drop
        self._history.offset = self._offset



class _Follower:
    """Repeats steps of a simulator with other states, and with the random numbers that the simulator has drawn.

    It notes what the simulator's noise generates, once per step, and gives it to a second integrator in that order.
    """

    def __init__(self, simulator: Any) -> None:
        sim = simulator
        if hasattr(sim.integrator, "_ode"):  # its steps depend on those before, and on all regions together
            raise ExperimentError(
                f'undelivered = "follow": {type(sim.integrator).__name__} chooses its steps for all regions together '
                f"and cannot repeat one. Choose an integrator with a fixed step, for example HeunStochastic."
            )
        self.model, self.integrator = copy.copy(sim.model), copy.copy(sim.integrator)  # some remember the last call
        method = "integrate_with_update" if sim.model.has_nonint_vars else "integrate"
        self._integrate = getattr(self.integrator, method)
        self.parts = [self.model, self.integrator]
        noise = getattr(sim.integrator, "noise", None)
        if noise is not None:
            drawn: deque[np.ndarray] = deque()
            generate = noise.generate

            def note(*args: Any, **kwargs: Any) -> np.ndarray:
                values = generate(*args, **kwargs)
                drawn.append(values.copy())  # integrators scale it in place
                return values

            noise.generate = note
            again = self.integrator.noise = copy.copy(noise)
            again.generate = lambda *args, **kwargs: drawn.popleft()
            self.parts.append(again)

    def step(self, state: np.ndarray, term: np.ndarray, stimulus: Any) -> np.ndarray:
        """The states after one step from `state`, (n_variables, n_regions, n_modes)."""
        return self._integrate(state.copy(), self.model, term, 0.0, stimulus)
