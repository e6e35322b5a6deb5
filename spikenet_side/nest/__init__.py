"""The NEST program: the only folder that imports nest."""

from .adapter import Nest

__all__ = ["Nest"]
