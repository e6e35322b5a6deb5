"""Conversion factors, and the random numbers that depend on nothing but their counter."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from tvb_lockstep.transformers import TransformerError, random
from tvb_lockstep.transformers.units import UNITS, convert, is_rate


@pytest.mark.parametrize(
    ("unit_from", "unit_to", "factor"),
    [("kHz", "Hz", 1e3), ("Hz", "kHz", 1e-3), ("1/ms", "Hz", 1e3), ("1/s", "Hz", 1.0), ("nA", "pA", 1e3),
     ("A", "pA", 1e12), ("µA", "nA", 1e3),
     ("V", "mV", 1e3), ("mV", "V", 1e-3), ("nS", "uS", 1e-3), ("s", "ms", 1e3), ("Hz", "Hz", 1.0)],
)  # fmt: skip
def test_factors_are_the_exact_decimal_ones(unit_from, unit_to, factor):
    assert convert(unit_from, unit_to) == factor


def test_every_unit_converts_to_itself_and_to_some_other():
    for unit in UNITS:
        assert convert(unit, unit) == 1.0
        others = [other for other in UNITS if other != unit and _converts(unit, other)]
        assert others
        for other in others:
            assert convert(unit, other) * convert(other, unit) == pytest.approx(1.0, rel=1e-12)


def test_rates_are_the_units_that_convert_to_hertz():
    assert [unit for unit in UNITS if is_rate(unit)] == [unit for unit in UNITS if _converts(unit, "Hz")]


def test_a_unit_that_is_not_on_the_list_is_never_evaluated():
    for text in ("9**9**9", "__import__('os')", "", "Hz ", "rpm"):
        with pytest.raises(TransformerError, match=r"not a known unit. Allowed: Hz, kHz, 1/s, 1/ms\."):
            convert(text, "Hz")
    with pytest.raises(TransformerError, match=r"unit 'furlong' is not known\. Known are Hz, kHz"):
        convert("Hz", "furlong")


def _converts(unit, other):
    try:
        convert(unit, other)
    except TransformerError:
        return False
    return True


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [  # the known answers for philox4x32-10 that come with Random123 (kat_vectors)
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0),
         (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
    ],
)  # fmt: skip
def test_the_generator_gives_the_published_answers(counter, key, words):
    round_keys = random.schedule(np.array([key], np.uint64))
    even = np.array([[counter[0]], [counter[2]]], np.uint64)
    odd = np.array([[counter[1]], [counter[3]]], np.uint64)
    assert tuple(int(word[0]) for word in random._rounds(even, odd, round_keys)) == words


def test_the_counter_fills_the_first_two_words_and_the_draw_the_third():
    key = np.array([random.key_of(3, "a")])
    by_hand = random._rounds(np.array([[5], [2]], np.uint64), np.array([[9], [0]], np.uint64), random.schedule(key))
    called = random.philox(np.array([9 * 2**32 + 5], np.uint64), 2, random.schedule(key))
    assert [int(word[0]) for word in called] == [int(word[0]) for word in by_hand]


def test_a_number_depends_on_its_own_counter_and_stream_alone():
    keys = np.array([random.key_of(1, "E", label) for label in ("a", "b", "c")])
    together = random.philox(np.array([7, 8, 9], np.uint64), np.array([0, 1, 2], np.uint64), random.schedule(keys))
    for i in range(3):
        alone = random.philox(np.array([7 + i], np.uint64), i, random.schedule(keys[i : i + 1]))
        assert [int(word[i]) for word in together] == [int(word[0]) for word in alone]


def test_keys_differ_with_every_name_and_are_the_same_in_every_process():
    names = [(1, "a", "b"), (2, "a", "b"), (1, "ab", ""), (1, "", "ab"), (1, "b", "a"), ("1", "a", "b"), (1, "a")]
    keys = {tuple(int(word) for word in random.key_of(*name)) for name in names}
    assert len(keys) == len(names)
    program = "from tvb_lockstep.transformers.random import key_of; print(*key_of(1, 'a', 'é'))"
    answers = {
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True,
                       env={"PYTHONHASHSEED": hashseed}).stdout
        for hashseed in ("1", "2")
    }  # fmt: skip
    assert answers == {"{} {}\n".format(*random.key_of(1, "a", "é"))}


def test_uniform_numbers_cover_zero_to_one_exclusive():
    ones = np.array([0xFFFFFFFF], np.uint64)
    assert random.uniform(ones, ones)[0] == 1.0 - 2.0**-53
    assert random.uniform(ones * 0, ones * 0)[0] == 0.0
    assert random.uniform(np.array([2**31], np.uint64), ones * 0)[0] == 0.5
