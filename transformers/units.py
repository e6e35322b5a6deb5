"""Units of what is exchanged: one factor between two units of the same dimension, computed by `quantities`."""

from __future__ import annotations

from functools import lru_cache

from .base import TransformerError

# A closed list: the name of a unit may come from the other program, and `quantities` evaluates what it parses.
UNITS = (
    "Hz", "kHz", "1/s", "1/ms",
    "A", "mA", "uA", "nA", "pA",
    "V", "mV", "uV",
    "S", "mS", "uS", "nS", "pS",
    "s", "ms", "us",
)  # fmt: skip


@lru_cache
def convert(unit_from: str, unit_to: str) -> float:
    """The factor f of ``value [unit_to] = f * value [unit_from]``: ``convert("kHz", "Hz") == 1000.0``.

    Raises TransformerError for an unknown unit, or one of another dimension, listing those that would convert.
    """
    source, target = unit_from.replace("µ", "u").replace("μ", "u"), unit_to.replace("µ", "u").replace("μ", "u")
    if source == target and source in UNITS:
        return 1.0
    if target not in UNITS:
        raise TransformerError(f"unit {unit_to!r} is not known. Known are {', '.join(UNITS)}.")
    factor = _factor(source, target) if source in UNITS else None
    if factor is None:
        reason = "is not of the same dimension" if source in UNITS else "is not a known unit"
        allowed = [unit for unit in UNITS if _factor(unit, target) is not None]
        raise TransformerError(
            f"unit {unit_from!r} cannot be converted to {unit_to!r}: it {reason}. Allowed: {', '.join(allowed)}."
        )
    return factor


def is_rate(unit: str) -> bool:
    """Whether values of this unit are rates, which cannot be negative."""
    return unit in ("Hz", "kHz", "1/s", "1/ms")


def _factor(source: str, target: str) -> float | None:
    import quantities as pq  # 0.14 s, needed only where units differ

    try:
        factor = float(pq.Quantity(1.0, source).rescale(target))
    except ValueError:
        return None
    return float(f"{factor:.12g}")  # nA -> pA comes out as 999.9999999999999
