"""Counter-based random numbers: a pure function of (stream, counter), so that no number depends on what was drawn
before it, nor on the window, the transport, the process or a restart.

This is Philox4x32-10 (Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3", SC'11,
doi:10.1145/2063384.2063405), evaluated for arrays of counters at once. `numpy.random.Philox` holds one stream at a
time and walks its counter; here the streams of all columns, and scattered counters, take one call. Nothing depends
on numpy's version either: only on integer arithmetic.
"""

from __future__ import annotations

import hashlib

import numpy as np

_ROUNDS = 10
_MULTIPLIERS = np.array([0xD2511F53, 0xCD9E8D57], np.uint64).reshape(2, 1)
_WEYL = np.array([0x9E3779B9, 0xBB67AE85], np.uint64)
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


def key_of(*names: str | int) -> np.ndarray:
    """A key (2,) of 32-bit words (in uint64) that depends on every one of `names`, the same in every process."""
    text = "\x1f".join(f"{type(name).__name__}:{name}" for name in names)  # a separator no label holds
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return np.frombuffer(digest, "<u4").astype(np.uint64)


def schedule(keys: np.ndarray) -> np.ndarray:
    """The round keys (10, 2, n) of `keys` (n, 2); row [:, :, i] is what `philox` wants for stream i."""
    rounds = np.arange(_ROUNDS, dtype=np.uint64)[:, None, None]
    # the odd word of the counter meets the key in the order (k0, k1)
    return np.ascontiguousarray((keys.astype(np.uint64).T[None] + rounds * _WEYL[None, :, None]) & _LOW)


def philox(counter: np.ndarray, draw: np.ndarray | int, round_keys: np.ndarray) -> tuple[np.ndarray, ...]:
    """Four independent 32-bit words, each an array (n,) of uint64, for n (counter, draw) pairs.

    counter: (n,) uint64, for example a time step. draw: 0, 1, 2 ... when one counter needs more than four words.
    round_keys: (10, 2, n), from `schedule`.
    """
    even = np.empty((2, len(counter)), np.uint64)  # words 0 and 2
    odd = np.zeros_like(even)  # words 1 and 3
    even[0] = counter & _LOW
    even[1] = draw
    odd[0] = counter >> _32
    return _rounds(even, odd, round_keys)


def _rounds(even: np.ndarray, odd: np.ndarray, round_keys: np.ndarray) -> tuple[np.ndarray, ...]:
    for keys in round_keys:
        product = even * _MULTIPLIERS
        even = (product >> _32)[::-1] ^ odd
        even ^= keys
        product &= _LOW
        odd = product[::-1]
    return even[0], odd[0], even[1], odd[1]


def uniform(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Float64 in [0, 1) with 53 random bits, from two 32-bit words."""
    return ((high >> np.uint64(5)) * 2.0**26 + (low >> np.uint64(6))) * 2.0**-53
