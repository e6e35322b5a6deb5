"""Closed forms of everything that linear_probe exchanges, from its parameters alone, and the same of a run.

    python by_hand.py RUN_DIRECTORY [FIGURE.png]      # a table of closed form against simulated, and a figure

A series is a sum of terms (onset, ratio, amplitude): amplitude ratio^(n - onset) from step `onset` on, 0 before. Leaky
integration, y(n + 1) = p y(n) + g x(n) from y(0) = 0, makes of each term two (the sum of a geometric series),

    g A / (r - p) (r^(n - m) - p^(n - m))        n >= m,

so all potentials and all of TVB's states are sums of a few terms. A spike is a term of ratio 0.

TVB keeps weights, the states that couple, their products and sums in single precision. With ``single=True``
these roundings are in: each is known, and is one more term, of ratio 0.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

Terms = list[tuple[int, float, float]]


class Spikes(NamedTuple):
    """steps and neurons (numbers within the population) of the spikes of a population, in the order of the steps."""

    steps: np.ndarray
    neurons: np.ndarray


class Numbers(NamedTuple):
    """All numbers of a run. x: TVB's states by region, at steps 1 to n. potential: the mean of P, and that of K [mV],
    at steps 0 to n - 1. spikes: of Q."""

    x: dict[str, np.ndarray]
    potential: dict[str, np.ndarray]
    spikes: Spikes


def values(terms: Terms, n_steps: int) -> np.ndarray:
    """The series at steps 0 to n_steps - 1."""
    total = np.zeros(n_steps)
    for onset, ratio, amplitude in terms:
        if onset < n_steps:
            total[onset:] += amplitude * ratio ** np.arange(n_steps - onset)
    return total


def integrated(terms: Terms, ratio: float, gain: float) -> Terms:
    """y(n + 1) = ratio y(n) + gain x(n), y(0) = 0."""
    found = []
    for onset, r, amplitude in terms:
        c = gain * amplitude / (r - ratio)
        found += [(onset, r, c), (onset, ratio, -c)]
    return found


def scaled(terms: Terms, factor: float) -> Terms:
    return [(onset, ratio, factor * amplitude) for onset, ratio, amplitude in terms]


def delayed(terms: Terms, steps: int) -> Terms:
    return [(onset + steps, ratio, amplitude) for onset, ratio, amplitude in terms]


def heard(before: float, x: Terms, first: int, steps: int) -> Terms:
    """x, which has the value `before` until its step `first`, `steps` later."""
    return [(0, 1.0, before), (first + steps, 1.0, -before), *delayed(x, steps)]


def spike_steps(g: np.ndarray, v: float, P: float, threshold: float, reset: float, refractory: int) -> list[int]:
    """Steps in which a neuron fires. Potentials are relative to E_L: v at t = 0, and g, what the input makes of 0.

    The equation is linear: after step r, V(n) = g(n) + P^(n - r) (V(r) - g(r)). The first n at which this is above
    threshold ends step n - 1, in which the neuron fires; `refractory` steps later it starts again from the reset.
    """
    found, r = [], 0
    while r < len(g):
        course = g[r:] + P ** np.arange(len(g) - r) * (v - g[r])
        above = np.flatnonzero(course[1:] >= threshold)
        if not len(above):
            break
        found.append(r + int(above[0]))
        r, v = found[-1] + 1 + refractory, reset
    return found


def closed_form(experiment: dict[str, Any], n_steps: int, single: bool = False) -> Numbers:
    """experiment: as in experiment.json; the rows to the network of either coupling mode. single: with TVB's
    roundings."""
    tvb, (spikenet,) = experiment["tvb"]["params"], experiment["spikenet"]
    rows, params, dt = experiment["interfaces"], spikenet["params"], tvb["dt"]
    neuron, h = params["neuron"], spikenet["resolution"]
    if h != dt:
        raise ValueError(f"spikenet.resolution = {h} ms: the closed forms hold for TVB's dt = {dt} ms; set it to that.")
    at = {region: i for i, region in enumerate(tvb["regions"])}
    weight = {(e["from"], e["to"]): e["weight"] for e in tvb["edges"]}
    delay = {(e["from"], e["to"]): round(e["length"] / tvb["speed"] / dt) for e in tvb["edges"]}
    a, x0 = tvb["a"], tvb["x0"]

    def factors(row: dict[str, Any]) -> tuple[float, float]:
        given = row["transformer_params"]
        return given.get("scale_factor", 1.0), given.get("translation_factor", 0.0)

    def coupling(parts: list[tuple[float, Terms]]) -> Terms:
        """a sum_j w_j x_j of (w_j, x_j), x_j delayed."""
        total = [term for w, x in parts for term in scaled(x, w)]
        if single:
            parts32 = [np.float32(w) * values(x, n_steps).astype(np.float32) for w, x in parts]
            off = np.sum(parts32, axis=0, dtype=np.float32).astype(float) - values(total, n_steps)
            total = [*total, *((n, 0.0, each) for n, each in enumerate(off.tolist()))]
        return scaled(total, a)

    # S hears nobody: x(n + 1) = (1 + gamma dt) x(n)
    source: Terms = [(0, 1 + tvb["gamma"][at["S"]] * dt, x0[at["S"]])]

    def current(row: dict[str, Any]) -> Terms:
        (region,) = row["regions"]
        edge = "S", region
        scale, shift = factors(row)
        proxies = row["proxy_params"].get("weight", 1.0)
        if row["coupling_mode"] == "spikeNet":  # the proxy plays x, its synapse delays and weighs; silent before t = 0
            sent = [*scaled(source, scale), (0, 1.0, shift)]
            return delayed(scaled(sent, proxies * a * weight[edge]), delay[edge])
        sent = coupling([(weight[edge], heard(x0[at["S"]], source, 0, delay[edge]))])
        sent = [*scaled(sent, scale), (0, 1.0, shift)]
        return delayed(scaled(sent, proxies), round(1.0 / h))  # proxy_params.delay: 1 ms

    P = float(np.exp(-h / neuron["tau_m"]))
    G = neuron["tau_m"] / neuron["C_m"] * (1 - P)
    E_L, (to_p, to_q) = neuron["E_L"], rows["tvb_to_spikenet"]
    currents = {"P": current(to_p), "Q": current(to_q)}

    # P: the mean of its neurons, V(n + 1) - E_L = P (V(n) - E_L) + G I(n)
    mean = {key: float(np.mean(params["P"][key])) for key in ("V_m", "I_e")}
    V_p = [(0, 1.0, E_L), (0, P, mean["V_m"] - E_L), *integrated([*currents["P"], (0, 1.0, mean["I_e"])], P, G)]

    # Q: spike for spike
    fired = []
    for i, (V_m, I_e) in enumerate(zip(params["Q"]["V_m"], params["Q"]["I_e"], strict=True)):
        g = values(integrated([*currents["Q"], (0, 1.0, I_e)], P, G), n_steps + 1)
        steps = spike_steps(g, V_m - E_L, P, neuron["V_th"] - E_L, neuron["V_reset"] - E_L, round(neuron["t_ref"] / h))
        fired += [(step, i) for step in steps]
    fired.sort()
    spikes = Spikes(*np.array(fired, int).reshape(-1, 2).T)

    # K: a spike of step s arrives in s + delay, and shows in the potential one step later
    k = params["K"]
    V_k = [(s + round(k["delay"] / h) + 1, 1.0, k["weight"]["Q"]) for s in spikes.steps.tolist()]

    # what TVB has as the state of these regions at step s + 1: the potential before step s, the rate in step s
    of_p, of_q, of_k = rows["spikenet_to_tvb"]
    (scale_p, shift_p), (scale_q, shift_q), (scale_k, shift_k) = map(factors, (of_p, of_q, of_k))
    x_p = delayed([*scaled(V_p, scale_p), (0, 1.0, shift_p)], 1)
    one_spike = scale_q * 1000.0 / (len(params["Q"]["V_m"]) * dt)
    x_q = [(1, 1.0, shift_q), *((s + 1, 0.0, one_spike) for s in spikes.steps.tolist())]
    x_k = delayed([*scaled(V_k, scale_k), (0, 1.0, shift_k)], 1)
    before_p, before_q = scale_p * of_p["initial_rate"] + shift_p, scale_q * of_q["initial_rate"] + shift_q

    # L: x(n + 1) = (1 + gamma dt) x(n) + dt a (w_LP x_P(n - d) + w_LQ x_Q(n - d))
    hears = coupling([
        (weight["P", "L"], heard(before_p, x_p, 1, delay["P", "L"])),
        (weight["Q", "L"], heard(before_q, x_q, 1, delay["Q", "L"])),
    ])  # fmt: skip
    leak = 1 + tvb["gamma"][at["L"]] * dt
    x_l = [(0, leak, x0[at["L"]]), *integrated(hears, leak, dt)]
    states = {"S": source, "P": x_p, "Q": x_q, "K": x_k, "L": x_l}
    return Numbers(
        {region: values(terms, n_steps + 1)[1:] for region, terms in states.items()},
        {"P": values(V_p, n_steps), "K": values(V_k, n_steps)},
        spikes,
    )


def simulated(run_dir: Path) -> Numbers:
    """The same numbers, from the result files of a run."""
    with h5py.File(run_dir / "tvb.h5") as tvb, h5py.File(run_dir / "exchange.h5") as exchange:
        regions = [label.decode() for label in tvb["regions/label"]]
        states = tvb["monitors/Raw/data"][:, 0, :, 0]
        potential = {region: exchange[f"spikenet_to_tvb.{i}/raw/data"][:, 0] for i, region in ((0, "P"), (2, "K"))}
        spikes = exchange["spikenet_to_tvb.1/raw"]
        return Numbers(
            dict(zip(regions, states.T, strict=True)), potential, Spikes(spikes["times"][()], spikes["senders"][()])
        )


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest one, relative to the largest value expected."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def table(run_dir: Path) -> list[tuple[str, float, float, float, float]]:
    """What, simulated at 20 ms, its closed form at 20 ms, largest difference to it without and with TVB's single
    precision."""
    experiment = json.loads((run_dir / "experiment.json").read_text())
    found = simulated(run_dir)
    n_steps = len(found.x["S"])
    exact, single = (closed_form(experiment, n_steps, each) for each in (False, True))
    for each in (exact, single):
        if not all(np.array_equal(a, b) for a, b in zip(found.spikes, each.spikes, strict=True)):
            raise SystemExit(f"{run_dir}: Q fires in steps {found.spikes.steps}; by hand, in {each.spikes.steps}.")
    at = min(round(20.0 / experiment["tvb"]["params"]["dt"]), n_steps) - 1
    rows = [("V of P [mV]", found.potential["P"], exact.potential["P"], single.potential["P"])]
    rows += [(f"x of {region}", found.x[region], exact.x[region], single.x[region]) for region in found.x]
    return [(name, a[at], b[at], difference(a, b), difference(a, c)) for name, a, b, c in rows]


def figure(run_dir: Path, path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    experiment = json.loads((run_dir / "experiment.json").read_text())
    found = simulated(run_dir)
    exact = closed_form(experiment, len(found.x["S"]))
    time_ms = experiment["tvb"]["params"]["dt"] * np.arange(1, len(found.x["S"]) + 1)
    figure, rows = pyplot.subplots(4, 1, figsize=(8, 8), sharex=True, layout="constrained")
    for row, region in zip(rows[[0, 1, 3]], "SPL", strict=True):
        row.plot(time_ms, exact.x[region], color="0.75", lw=5, label="closed form")
        row.plot(time_ms, found.x[region], color="C0", lw=1, label="simulated")
        row.set_ylabel(f"x of {region}")
    for (steps, neurons), color, width in ((exact.spikes, "0.75", 5), (found.spikes, "C0", 1)):
        rows[2].plot(steps * time_ms[0], neurons, "|", color=color, ms=16, mew=width)
    rows[2].set_ylabel("neurons of Q")
    rows[2].set_ylim(-0.7, len(experiment["spikenet"][0]["params"]["Q"]["V_m"]) - 0.3)
    rows[0].legend(frameon=False)
    rows[3].set_xlabel("time [ms]")
    figure.savefig(path, dpi=100)


def main(run_dir: Path, *paths: str) -> None:
    print("| | simulated, 20 ms | closed form | largest difference | with single precision |\n|---|---|---|---|---|")
    for name, a, b, off, off_single in table(run_dir):
        print(f"| {name} | {a:.12g} | {b:.12g} | {off:.1e} | {off_single:.1e} |")
    spikes = simulated(run_dir).spikes
    print(f"\nQ fires {len(spikes.steps)} spikes, each in the step that its closed form says.")
    for path in paths:
        figure(run_dir, Path(path))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
