"""States of the past, and the coupling computed from them, for TVB's own coupling functions.

The equations are TVB's: its coupling object is called, or its `pre` and `post` around the same sums in the same order.
What differs from tvb.simulator.history is the book-keeping: states lie in one growing stretch of memory instead of a
ring, so that the coupling of many steps is one gather without index arithmetic.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from .library import SparseHistory, coupling

FAR = 1 << 40  # a delay in steps that no run ever reaches: "no such edge"


class FullHistory(SparseHistory):
    """TVB's history, which also keeps what it was initialised with: all state variables, in float64."""

    full: np.ndarray | None = None

    def initialize(self, init: np.ndarray) -> None:
        self.full = np.array(init, dtype=float)
        super().initialize(init)


class Rows:
    """What the coupling of some regions (rows of the weights) needs: their edges, index tables per window length."""

    def __init__(self, history: History, regions: Sequence[int]) -> None:
        h = history
        self.regions = np.asarray(regions, dtype=np.intp)
        edges = [np.flatnonzero(h.nnz_row_el_idx == region) for region in self.regions]
        self.counts = counts = np.array([len(row) for row in edges], dtype=np.intp)
        self.edges = np.concatenate([*edges, np.empty(0, np.intp)]).astype(np.intp)
        self.with_input = np.flatnonzero(counts)
        self.starts = (np.cumsum(counts) - counts)[self.with_input]
        self.weights = h.nnz_weights[self.edges].reshape(-1, 1)
        self.sources = h.nnz_col_el_idx[self.edges]
        self.delays = h.nnz_idelays[self.edges]
        self._tables: dict[tuple[str, int], Any] = {}

    def sparse(self, history: History, n: int) -> tuple[np.ndarray, ...]:
        """Gather indices (n_cvar, n * n_edges, n_mode), weights, starts of the sums, positions of the sums, and zeros
        for x_i; for n steps beginning at the step whose oldest possible source lies at index 0."""
        table = self._tables.get(("sparse", n))
        if table is None:
            h = history
            first = (h.n_time - 1 - self.delays.astype(np.intp)) * h.stride + self.sources * h.n_mode
            first = np.arange(h.n_cvar)[:, None, None, None] * h.n_node * h.n_mode + first[:, None]
            index = first + (np.arange(n) * h.stride)[:, None, None] + np.arange(h.n_mode)
            steps = np.arange(n)[:, None]
            table = (
                index.reshape(h.n_cvar, n * len(self.edges), h.n_mode),
                np.tile(self.weights, (n, 1)),
                (steps * len(self.edges) + self.starts).ravel(),
                (steps * len(self.regions) + self.with_input).ravel(),
                np.zeros((h.n_cvar, n * len(self.edges), h.n_mode), np.float32),
            )
            self._tables["sparse", n] = table
        return table

    def dense(self, history: History, n: int) -> tuple[np.ndarray, ...]:
        """As `sparse`: gather indices, the delayed states (n * n_rows, n_cvar, n_node, n_mode), zero where there is no
        edge, flat positions in them of what is gathered, weights of the rows, and zeros for x_i."""
        table = self._tables.get(("dense", n))
        if table is None:
            h = history
            n_rows = len(self.regions)
            index = self.sparse(h, n)[0].reshape(h.n_cvar, n, len(self.edges), h.n_mode)
            row_of_edge = np.repeat(np.arange(n_rows), self.counts)
            row = np.arange(n)[:, None] * n_rows + row_of_edge
            at = (row * h.n_cvar + np.arange(h.n_cvar)[:, None, None]) * h.n_node + self.sources
            at = at[..., None] * h.n_mode + np.arange(h.n_mode)
            x_j = np.zeros((n * n_rows, h.n_cvar, h.n_node, h.n_mode), np.float32)
            x_i = np.zeros((n * n_rows, h.n_cvar, 1, h.n_mode), np.float32)
            table = (index.ravel(), x_j, at.ravel(), h.es_weights[self.regions], x_i)
            self._tables["dense", n] = table
        return table


class History:
    """Coupling variables of the past, float32 as in TVB: `buffer` (n_kept, n_cvar, n_node, n_mode), step s at index
    ``s + offset``. It has what TVB's coupling functions read of a SparseHistory."""

    def __init__(self, source: FullHistory, buffer: np.ndarray, offset: int) -> None:
        self.n_time, self.n_cvar = int(source.n_time), int(source.n_cvar)
        self.n_node, self.n_mode = int(source.n_node), int(source.n_mode)
        self.n_nnzw = int(source.n_nnzw)
        # plain attributes: TVB's descriptors cost more than the sums made with them
        self.nnz_mask: np.ndarray = source.nnz_mask
        self.nnz_idelays: np.ndarray = source.nnz_idelays
        self.nnz_row_el_idx: np.ndarray = source.nnz_row_el_idx
        self.nnz_col_el_idx: np.ndarray = source.nnz_col_el_idx
        self.nnz_weights: np.ndarray = source.nnz_weights
        self.es_weights: np.ndarray = source.es_weights
        self.stride = self.n_cvar * self.n_node * self.n_mode
        self.buffer, self.offset = buffer, offset
        self.current: np.ndarray | None = None  # what couplings read as the target's own state; None: the buffer's
        self._delayed = np.zeros((self.n_node, self.n_cvar, self.n_node, self.n_mode), np.float32)
        self.every = Rows(self, range(self.n_node))

    def with_buffer(self, buffer: np.ndarray, offset: int) -> History:
        other = copy.copy(self)
        other.buffer, other.offset, other.current = buffer, offset, None
        other._delayed = np.zeros_like(self._delayed)
        return other

    def _past(self, step: int) -> np.ndarray:
        """The flat buffer from the oldest possible source of `step` on."""
        return self.buffer.reshape(-1)[(step - self.n_time + 1 + self.offset) * self.stride :]

    def query_sparse(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """As TVB's: the states at ``step - 1`` and, per edge, at ``step - 1 - idelay``."""
        delayed = self._past(step - 1).take(self.every.sparse(self, 1)[0])
        return self._current(step - 1), delayed

    def query(self, step: int, out: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """As `query_sparse`, the delayed states as (to, n_cvar, from, n_mode), zero where there is no edge."""
        current, delayed = self.query_sparse(step)
        self._delayed.transpose((1, 0, 2, 3))[:, self.nnz_mask] = delayed
        return current, self._delayed

    def _current(self, step: int) -> np.ndarray:
        return self.buffer[step + self.offset] if self.current is None else self.current

    def coupling_at(self, function: Any, step: int) -> np.ndarray:
        """TVB's coupling for the integration ``step -> step + 1``, (n_cvar, n_node, n_mode)."""
        return function(step + 1, self)

    def coupling_window(self, function: Any, first: int, n: int, rows: Rows) -> np.ndarray:
        """The same for n steps from `first` and some rows, in one go: (n_cvar, n, n_rows, n_mode). Only for functions
        that passed `vectorises`."""
        n_rows = len(rows.regions)
        if isinstance(function, coupling.SparseCoupling):
            index, weights, starts, positions, x_i = rows.sparse(self, n)
            x_j = self._past(first).take(index)
            total = np.zeros((self.n_cvar, n * n_rows, self.n_mode), np.float32)
            total[:, positions] = np.add.reduceat(weights * function.pre(x_i, x_j), starts, axis=1)
            return function.post(total).reshape(-1, n, n_rows, self.n_mode)
        index, x_j, at, dense_weights, x_i = rows.dense(self, n)
        x_j.reshape(-1)[at] = self._past(first).take(index)
        pre = function.pre(x_i, x_j)
        total = (dense_weights * pre.reshape(n, n_rows, *pre.shape[1:])).sum(axis=3)
        post = function.post(total.reshape(n * n_rows, *total.shape[2:])).transpose((1, 0, 2))
        return post.reshape(-1, n, n_rows, self.n_mode)

    # what a coupling function reads, found by putting NaN in: NaN passes through every arithmetic

    def _sample(self) -> History:
        """A short history of random states in [0, 1), for trying a coupling function out; its step 0 is the last but
        two."""
        shape = (self.n_time + 2, self.n_cvar, self.n_node, self.n_mode)
        return self.with_buffer(np.random.default_rng(1).random(shape, dtype=np.float32), self.n_time - 1)

    def reads_target(self, function: Any) -> bool:
        """Whether the coupling depends on x_i, the state of the region that receives it at that very moment."""
        sample = self._sample()
        sample.current = np.full(sample.buffer.shape[1:], np.nan, np.float32)
        return bool(np.isnan(self._quietly(sample.coupling_at, function, 0)).any())

    def reads_variables(self, function: Any) -> np.ndarray:
        """Which coupling variable enters which row of the coupling: bool (n rows of the coupling, n_cvar)."""
        columns = []
        for variable in range(self.n_cvar):
            sample = self._sample()
            sample.buffer[:, variable] = np.nan
            columns.append(np.isnan(self._quietly(sample.coupling_at, function, 0)).any(axis=(1, 2)))
        return np.stack(columns, axis=1)

    def vectorises(self, function: Any) -> bool:
        """Whether `coupling_window` gives the same bits as calling the function step by step (it does not for one with
        a `__call__` of its own or with a parameter per region)."""
        if type(function).__call__ not in (coupling.Coupling.__call__, coupling.SparseCoupling.__call__):
            return False
        sample = self._sample()
        steps = [sample.coupling_at(function, step) for step in range(3)]
        for rows in (self.every, Rows(self, range(0, self.n_node, 3))):
            try:
                window = sample.coupling_window(function, 0, 3, rows)
            except (ValueError, IndexError):  # shapes that do not go together
                return False
            if not all(np.array_equal(steps[j][:, rows.regions], window[:, j]) for j in range(3)):
                return False
        return True

    @staticmethod
    def _quietly(function: Any, *args: Any) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.asarray(function(*args))
