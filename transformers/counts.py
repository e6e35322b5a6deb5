"""Counting spikes: what every transformer from spikes to rates begins with."""

from __future__ import annotations

import numpy as np

from .base import Clock, SignalLike, SpikesLike, TransformerError


class SpikeCounts:
    """n_g(s): the spikes of the N_g neurons of group g in TVB step s, ``[s dt, (s + 1) dt)``.

    Spikes (`.times` in ticks, `.senders`) -> (n_steps, n_groups) int64. A neuron's group follows from the sizes of the
    raw signal: the first sizes[0] senders are group 0, and so on. No state but `total`, the spikes counted so far.

    hz_per_spike: 1 / (N_g dt) in Hz, (n_groups,): n_g(s) times this is the population rate (spike-count rate averaged
    over neurons; Dayan & Abbott 2001, Theoretical Neuroscience, ch. 1.2).

    Raises TransformerError for a group without neurons, a spike outside its window, a sender that does not exist.
    """

    def __init__(self, name: str, raw: SignalLike, clock: Clock) -> None:
        if raw.sizes and min(raw.sizes) < 1:
            empty = raw.labels[raw.sizes.index(min(raw.sizes))]
            raise TransformerError(f"transformer {name}: {empty} has no neurons; it has no rate.")
        self.total = 0
        self.sizes = tuple(raw.sizes)
        self.hz_per_spike = 1000.0 / (np.array(raw.sizes, np.float64) * clock.dt_ms)
        self._name = name
        self._dt_ticks = clock.dt_ticks
        self._n_groups = len(raw.sizes)
        self._group_of = np.repeat(np.arange(len(raw.sizes)), raw.sizes)

    def __call__(self, payload: SpikesLike, first_step: int, end_step: int) -> np.ndarray:
        n_steps, n_groups = end_step - first_step, self._n_groups
        times, senders = payload.times, payload.senders
        if not len(times):
            return np.zeros((n_steps, n_groups), np.int64)
        steps = times // self._dt_ticks - first_step
        if steps.min() < 0 or steps.max() >= n_steps:
            bad = times[(steps < 0) | (steps >= n_steps)][0]
            raise TransformerError(
                f"transformer {self._name}: a spike at tick {bad} lies outside the window "
                f"[{first_step * self._dt_ticks}, {end_step * self._dt_ticks})."
            )
        if senders.min() < 0 or senders.max() >= len(self._group_of):
            bad = senders[(senders < 0) | (senders >= len(self._group_of))][0]
            raise TransformerError(
                f"transformer {self._name}: a spike of sender {bad}; there are {len(self._group_of)} neurons."
            )
        self.total += len(times)
        steps *= n_groups
        steps += self._group_of[senders]
        return np.bincount(steps, minlength=n_steps * n_groups).reshape(n_steps, n_groups)
