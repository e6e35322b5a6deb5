"""The ANNarchy program: the only folder that imports ANNarchy."""

from .adapter import Annarchy, AnnarchyRequest
from .toolchain import requirements

__all__ = ["Annarchy", "AnnarchyRequest", "requirements"]
