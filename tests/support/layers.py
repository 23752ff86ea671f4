"""What the image of a container holds: files of a lower layer, which move to the upper one when they are written."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.skips import NO_MOUNT


@contextlib.contextmanager
def in_an_image(top: Path, place: Path, *, other: bool) -> Iterator[None]:
    """All that is in `top` is in the lower layer; the upper one is in `place`, with `other` on another file system.

    Then files of the two have different devices, and directories a third one.
    """
    place.mkdir()
    with contextlib.ExitStack() as mounted:
        if other:
            _mount(mounted, "tmpfs", place, "mode=755")
        for name in ("upper", "work"):
            (place / name).mkdir()
        _mount(mounted, "overlay", top, f"lowerdir={top},upperdir={place / 'upper'},workdir={place / 'work'}")
        yield


def _mount(mounted: contextlib.ExitStack, kind: str, where: Path, options: str) -> None:
    done = subprocess.run(["mount", "-t", kind, "-o", options, kind, os.fspath(where)], capture_output=True)
    if done.returncode:
        pytest.skip(f"{NO_MOUNT} ({done.stderr.decode('utf-8', 'replace').strip()[:100]})")
    mounted.callback(subprocess.run, ["umount", "-l", os.fspath(where)], check=True)
