"""`lockstep diff`: the differences of two runs, by biological time. Reads only."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ...bridges.compare import compare_runs, describe, readable
from ...bridges.contract import Contract
from ...bridges.session import two_columns

NAMES = ("run 1", "run 2")
KEYS_SHOWN = 20  # of the contract, whose every edge is a key


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_1", type=Path, metavar="RUN1", help="a run directory")
    parser.add_argument("run_2", type=Path, metavar="RUN2", help="the run directory to compare it with")
    parser.epilog = "Exit status 0 when all that both runs recorded is identical, 1 when something differs."


def run(args: argparse.Namespace) -> int:
    for name, run_dir in zip(NAMES, (args.run_1, args.run_2), strict=True):
        print(f"{name}: {run_dir}: {_title(readable(run_dir))}")
    compared = compare_runs(args.run_1, args.run_2, NAMES)
    _keys("experiment", compared.experiment)
    _keys("versions", compared.versions)
    if compared.contract != ({}, {}):
        _keys("what the programs made of it", compared.contract)
    for log in compared.logs:
        print("\n".join(describe(log, NAMES)))
    different = [log.name for log in compared.logs if log.differing]
    left_out = [log.name for log in compared.logs if not log.comparable]
    if len(left_out) == len(compared.logs):
        print("nothing could be compared")
        return 1
    n = len(compared.logs) - len(left_out)
    alone = f" ({len(left_out)} could not be compared)" if left_out else ""
    print(f"different: {len(different)} of {n} logs{alone}" if different else f"identical: {n} logs{alone}")
    return 0 if compared.identical else 1


def _title(contract: Contract) -> str:
    grid = contract.grid
    return (
        f"{contract.experiment.get('name', '')}, {grid.duration_ms:g} ms in {grid.n_windows} windows of "
        f"{grid.window_ms:g} ms, tick {grid.tick_ms:g} ms, run {contract.run_id[:12]}"
    )


def _keys(title: str, sides: tuple[dict[str, Any], dict[str, Any]]) -> None:
    keys = sorted({**sides[0], **sides[1]})
    if not keys:
        print(f"{title}: the same")
        return
    shown = [{key: side[key] for key in keys[:KEYS_SHOWN] if key in side} for side in sides]
    print(f"{title}:\n{two_columns(shown[0], shown[1], *NAMES)}")
    if len(keys) > KEYS_SHOWN:
        print(f"  … and {len(keys) - KEYS_SHOWN} more")
