"""gitstate: what a coding agent's loop was doing when it was killed, kept in git, and brought back exactly."""

__version__ = "0.1.0"
