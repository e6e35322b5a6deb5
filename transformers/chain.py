"""Several transformers, one after the other, as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


class Chain:
    """What each of `stages` makes is what the next one takes; `raw` is that of the first, `out` that of the last."""

    def __init__(self, stages: Sequence[Any]) -> None:
        self._stages = list(stages)

    @property
    def clipped(self) -> int:
        return sum(stage.clipped for stage in self._stages)

    @property
    def counted(self) -> int:
        """Spikes that went into rates, which the first stage alone can count."""
        return self._stages[0].counted

    @property
    def delay_ms(self) -> np.ndarray | float:
        """By how much what comes out is late, where a stage has to wait for what follows a spike."""
        return sum(getattr(stage, "delay_ms", 0.0) for stage in self._stages)

    def __call__(self, payload: Any, first_step: int, end_step: int) -> Any:
        for stage in self._stages:
            payload = stage(payload, first_step, end_step)
        return payload

    def initial(self) -> np.ndarray:
        """The last stage's answer: each was made with the answer of the one before it."""
        return self._stages[-1].initial()
