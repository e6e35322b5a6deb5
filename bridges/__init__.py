"""What lies between the programs: contract, time grid, frames, transports, session, recording, bridge."""

__version__ = "0.1.0"
