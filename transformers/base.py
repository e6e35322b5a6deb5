"""What a transformer is: a function of the windows of one channel, called in order, the same wherever it runs.

A transformer is made by ``transformers.make(channel, grid, seed)`` and called once per window with the raw payload and
the window's first and last (exclusive) TVB step. Its result must not depend on how time is cut in windows: state is
carried from call to call, random numbers are counter-based (see `random.py`).
"""

from __future__ import annotations

from typing import Protocol, TypeVar

Raw = TypeVar("Raw", contravariant=True)
Out = TypeVar("Out", covariant=True)


class Transformer(Protocol[Raw, Out]):
    def __call__(self, payload: Raw, first_step: int, end_step: int) -> Out: ...
