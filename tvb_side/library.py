"""The parts of tvb-library that this side uses, imported without its chatter.

`tvb.simulator.lab` is left aside: it also loads plotters and surfaces' tools.
"""

import logging
import warnings

with warnings.catch_warnings():
    # optional packages (geodesic distances of surfaces), of no use for region-level simulations
    warnings.filterwarnings("ignore", category=UserWarning, module=r"tvb\.")
    from tvb.basic.neotraits.api import Attr, Float, HasTraits, Int, NArray
    from tvb.basic.neotraits.ex import TraitError
    from tvb.datatypes.connectivity import Connectivity
    from tvb.simulator import coupling, integrators, models, monitors, noise
    from tvb.simulator.history import SparseHistory
    from tvb.simulator.simulator import Simulator

# importing TVB sets levels of its own for these, and prints from INFO on
for _name in ("tvb", "tvb.simulator", "tvb.simulator.monitors", "tvb.datatypes", "tvb.basic.config"):
    logging.getLogger(_name).setLevel(logging.WARNING)
logging.getLogger("tvb.basic.readers").setLevel(logging.ERROR)  # warns of every optional file a connectivity lacks

__all__ = [
    "Attr",
    "Connectivity",
    "Float",
    "HasTraits",
    "Int",
    "NArray",
    "Simulator",
    "SparseHistory",
    "TraitError",
    "coupling",
    "integrators",
    "models",
    "monitors",
    "noise",
]
