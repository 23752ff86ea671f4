"""gitstate: what a coding agent's loop was doing when it was killed, kept in git, and brought back exactly."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .run.guard import guard as guard

__version__ = "0.2.0"
__all__ = ["guard"]


def __getattr__(name: str) -> Any:
    """`guard` is imported when it is asked for: the command line's crash path does not pay for it."""
    if name != "guard":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return import_module(".run.guard", __name__).guard
