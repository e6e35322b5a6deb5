"""`lockstep check`: the resolved contract of an experiment, without running it."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from ...bridges.contract import Contract, Signal, compose
from ...bridges.errors import ExperimentError
from ...bridges.experiment import Experiment
from ..arguments import add_experiment, experiment_of, overrides_of
from ..program import enter, interpreter, python_for, requirements_of

EDGES_SHOWN = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_experiment(parser)
    parser.add_argument("--edges", action="store_true", help="list every edge")
    parser.add_argument("--tvb-only", action="store_true", help="do not build the spiking networks")


def run(args: argparse.Namespace) -> int:
    experiment, path = experiment_of(args)
    enter(*requirements_of("tvb", experiment))
    from ...tvb_side.plan import Plan

    plan = Plan(experiment, path.parent)
    console = Console()
    offers = {}
    if not args.tvb_only:
        offers = {
            program.name: _network(args, plan.offer, experiment, program.name) for program in experiment.spikenet
        }
        contract = compose("0" * 32, plan.offer, offers)
    else:
        contract = Contract("0" * 32, plan.grid, tuple(plan.channels), plan.offer["experiment"], plan.offer["tvb"], {})
    from ...bridges.bridge import transformer_of

    late_ms = {}
    for channel in contract.channels:
        if not args.tvb_only or channel.consumer != "tvb":
            late_ms[channel.name] = np.max(getattr(transformer_of(channel, contract, path.parent), "delay_ms", 0.0))
    _print(console, contract, args.edges, late_ms)
    return 0


def _network(args: argparse.Namespace, offer: dict[str, Any], experiment: Experiment, name: str) -> dict[str, Any]:
    """What the spiking program says of its network, built in its own environment."""
    python = python_for(*requirements_of(name, experiment))
    sets = [part for override in overrides_of(args) for part in ("--set", override)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "offer.json"
        file.write_text(json.dumps(offer))
        done = subprocess.run(
            [*interpreter(python), "spikenet", args.experiment, "--run-dir", folder, *sets,
             "--name", name, "--describe", str(file)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ,
        )  # fmt: skip
        if done.returncode:
            lines = done.stdout.strip().splitlines()
            raise ExperimentError("\n".join(lines[-30:]).removeprefix("lockstep spikenet: ") or f"{name} failed")
        return json.loads(file.read_text())


def _print(console: Console, contract: Contract, all_edges: bool, late_ms: dict[str, float]) -> None:
    grid, tvb, experiment = contract.grid, contract.tvb, contract.experiment
    exchange = experiment["exchange"]
    minimum = "none" if tvb["min_delay_ms"] is None else f"{tvb['min_delay_ms']:g} ms"
    title = ": ".join(filter(None, (experiment["name"], experiment["description"])))
    console.print(title, style="bold", highlight=False, markup=False, soft_wrap=True)
    for line in (
        f"time       {grid.duration_ms:g} ms in {grid.n_windows} windows of {grid.window_ms:g} ms "
        f"({grid.window_steps} steps of {grid.dt_ms:g} ms); min delay {minimum}; tick {grid.tick_ms:g} ms",
        f"exchange   {exchange['transport']}, {exchange['mode']}, transformers at the "
        f"{'receiver' if exchange['bridge'] == 'receiver' else 'bridge'}, seed {experiment['seed']}",
        f"tvb        {tvb['model']}, {len(tvb['regions'])} regions",
        *(
            f"{name:10} {offer['simulator']} {offer['version']}, resolution {offer['resolution_ms']:g} ms, min_delay "
            f"{offer.get('min_delay_ms')} ms: "
            + ", ".join(f"{size} {population}@{region}" for region, population, size in offer["populations"])
            for name, offer in contract.spikenet.items()
        ),
        *(f"note       {note}" for note in tvb["notes"]),
    ):
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    for channel in contract.channels:
        mode = f", coupling_mode {channel.coupling_mode}" if channel.coupling_mode else ""
        lines = [
            f"\n{channel.name}: {channel.producer} → {channel.consumer}, {channel.model}{mode}",
            f"  sent         {_shape(channel.raw, grid.window_steps)}",
            f"  transformer  {', '.join(channel.transformer)}: {channel.equation}"
            + (f"; late by {late_ms[channel.name]:g} ms" if late_ms.get(channel.name) else ""),
            f"  becomes      {_shape(channel.out, grid.window_steps)}",
        ]
        shown = channel.edges if all_edges else channel.edges[:EDGES_SHOWN]
        for i, edge in enumerate(shown):
            lines.append(
                f"  {'edges' if i == 0 else '':11}  {channel.out.labels[edge.group]} → "
                f"{edge.population}@{edge.region}: "
                f"weight {edge.weight:g}, delay {edge.delay_ms:g} ms"
            )
        if len(shown) < len(channel.edges):
            lines.append(f"  {'':11}  … and {len(channel.edges) - len(shown)} more (--edges lists all)")
        for line in lines:
            console.print(line, highlight=False, soft_wrap=True, markup=False)


def _shape(signal: Signal, steps: int) -> str:
    if signal.kind == "spikes":
        groups = ", ".join(f"{size} {label}" for label, size in zip(signal.labels[:6], signal.sizes, strict=False))
        return f"spikes of {signal.columns} senders: {groups}" + (", …" if len(signal.labels) > 6 else "")
    labels = ", ".join(signal.labels[:6]) + (f", … ({len(signal.labels)} in all)" if len(signal.labels) > 6 else "")
    return f"({steps}, {signal.columns}) float64{f' in {signal.unit}' if signal.unit else ''}: {labels}"
