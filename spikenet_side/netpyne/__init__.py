"""The NetPyNE program: the only folder that imports netpyne and neuron."""

from .adapter import NetPyNE
from .mechanisms import requirements

__all__ = ["NetPyNE", "requirements"]
