"""The parts of tvb-library that this side uses, imported without its chatter.

`tvb.simulator.lab` is left aside: it also loads plotters and surfaces' tools.
"""

import logging
import warnings
from collections.abc import Iterable
from typing import Any

with warnings.catch_warnings():
    # optional packages (geodesic distances of surfaces), of no use for region-level simulations
    warnings.filterwarnings("ignore", category=UserWarning, module=r"tvb\.")
    from tvb.basic.neotraits.api import Attr, Final, Float, HasTraits, Int, List, NArray
    from tvb.basic.neotraits.ex import TraitError
    from tvb.datatypes.connectivity import Connectivity
    from tvb.simulator import coupling, integrators, models, monitors, noise
    from tvb.simulator.history import SparseHistory
    from tvb.simulator.simulator import Simulator


def quieten() -> None:
    """Leave of TVB's messages the warnings that matter."""
    # importing TVB sets levels of its own for these, and prints from INFO on
    for name in ("tvb", "tvb.simulator", "tvb.simulator.history", "tvb.simulator.monitors", "tvb.datatypes",
                 "tvb.basic.config"):  # fmt: skip
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("tvb.basic.readers").setLevel(logging.ERROR)  # warns of every optional file that is not there


quieten()


class PlainAccess:
    """While entered, the declared attributes of some TVB objects are read as plain ones.

    TVB's attributes are descriptors that look up, check and count on every access, 50 µs of a step of 200. Their values
    lie in the object's own dictionary under the same name; for the time of a step loop the objects get a class in which
    the descriptors are covered. The objects, their values and their methods are the same.
    """

    def __init__(self, objects: Iterable[Any]) -> None:
        self._swaps = []
        for item in objects:
            cls = type(item)
            covered: dict[str, None] = {}
            for name in cls.declarative_attrs:
                attr = getattr(cls, name)
                if type(attr) not in (Attr, NArray, Float, Int):
                    continue
                try:
                    value = getattr(item, name)  # puts a default into the dictionary
                except TraitError:  # required, and not there
                    continue
                if item.__dict__.get(name) is value:
                    covered[name] = None
            # made by `type` itself: TVB's metaclass would take it for a declaration
            plain = type.__new__(type(cls), cls.__name__, (cls,), {"__module__": cls.__module__, **covered})
            self._swaps.append((item, cls, plain))

    def __enter__(self) -> None:
        for item, _, plain in self._swaps:
            item.__class__ = plain

    def __exit__(self, *exc: object) -> None:
        for item, cls, _ in self._swaps:
            item.__class__ = cls


__all__ = [
    "Attr",
    "Connectivity",
    "Final",
    "Float",
    "HasTraits",
    "Int",
    "List",
    "NArray",
    "PlainAccess",
    "Simulator",
    "SparseHistory",
    "TraitError",
    "coupling",
    "integrators",
    "models",
    "monitors",
    "noise",
]
