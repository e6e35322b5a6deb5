"""The NEST program: the only folder that imports nest."""

from .adapter import Nest
from .modules import install

__all__ = ["Nest", "install"]
