"""The shell library, `gitstate.bash`: where it is, and its text."""

from __future__ import annotations

import os

from .errors import GitstateError

_HERE = os.path.dirname(os.path.abspath(__file__))
#: In an installed package, and in a checkout.
_PLACES = (os.path.join(_HERE, "hooks"), os.path.join(os.path.dirname(_HERE), "hooks"))


def library() -> str:
    """The text of the library, for `eval`. Raises GitstateError where the installation lacks it."""
    for place in _PLACES:
        try:
            with open(os.path.join(place, "gitstate.bash"), encoding="utf-8") as file:
                return file.read()
        except FileNotFoundError:
            continue
    raise GitstateError("this installation lacks gitstate.bash", hint="pip install --force-reinstall gitstate-recovery")
