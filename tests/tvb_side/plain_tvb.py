"""Plain TVB runs to compare with: TVB's own Simulator, and nothing of this project but the quiet import."""

from functools import cache
from types import SimpleNamespace

import numpy as np
from tvb_lockstep.tvb_side import library as tvb

PROXIED = (5, 17, 40)


def simulator(model="WilsonCowan", integrator="HeunStochastic", coupling="Linear", connectivity="connectivity_68.zip",
              monitors=(), speed=4.0, **coupling_params):  # fmt: skip
    """A Simulator with all state variables of interest, noise of seed 5 and small dispersion."""
    conn = tvb.Connectivity.from_file(connectivity)
    conn.speed = np.array([speed])
    conn.weights = conn.weights / conn.weights.max()
    chosen = getattr(tvb.integrators, integrator)
    noise = {"noise": tvb.noise.Additive(nsig=np.array([1e-5]), noise_seed=5)} if "Stochastic" in integrator else {}
    model = getattr(tvb.models, model)()
    model.variables_of_interest = list(model.state_variables)
    params = {name: np.array([value]) for name, value in coupling_params.items()}
    return tvb.Simulator(connectivity=conn, model=model, coupling=getattr(tvb.coupling, coupling)(**params),
                         integrator=chosen(dt=0.1, **noise), monitors=monitors or (tvb.monitors.Raw(),))  # fmt: skip


def configure(sim):
    """Configure with the same initial history in deterministic and stochastic runs."""
    state = np.random.get_state()
    np.random.seed(11)
    try:
        return sim.configure()
    finally:
        np.random.set_state(state)


def cut(sim, proxied=PROXIED, groups=None):
    """Take away, by hand, the edges that exclusive proxied regions lose: those within each group."""
    weights = sim.connectivity.weights.copy()
    for group in groups or [proxied]:
        weights[np.ix_(group, group)] = 0
    sim.connectivity.weights = weights
    return sim


@cache
def run(n_steps, proxied=PROXIED, groups=None, **kwargs):
    """A plain run with the edges cut: states (n_steps + 1, n_variables, n_nodes), coupling (n_steps, n_cvar, n_nodes),
    row j for the step from j to j + 1."""
    sim = cut(simulator(monitors=(tvb.monitors.Raw(), tvb.monitors.AfferentCoupling()), **kwargs), proxied, groups)
    configure(sim)
    first = sim.coupling(1, sim.history).copy()
    initial = sim.current_state.copy()
    (_, states), (_, terms) = sim.run(n_steps=n_steps)
    return SimpleNamespace(
        states=np.concatenate([initial[None], states])[..., 0],
        coupling=np.concatenate([first[None], terms])[:n_steps, ..., 0],
        variables=list(sim.model.state_variables),
        cvars=[sim.model.state_variables[i] for i in sim.model.cvar],
        min_delay=int(sim.connectivity.idelays[_touching(sim, proxied)].min()),
    )


def _touching(sim, proxied):
    edges = sim.connectivity.weights != 0
    touching = np.zeros_like(edges)
    touching[list(proxied)] = touching[:, list(proxied)] = True
    return edges & touching & ~np.eye(len(edges), dtype=bool)
