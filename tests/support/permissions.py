"""Start programs without root's right to override permissions."""

from __future__ import annotations

import ctypes
import os
import subprocess

import pytest

from tests.support.skips import NO_RIGHTS

_LIBC = ctypes.CDLL(None, use_errno=True)

_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 24, 1, 2


def drop_override() -> None:
    """Between fork and exec: the program that follows obeys permissions even as root."""
    for capability in (_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH):
        if os.geteuid() == 0 and _LIBC.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl(PR_CAPBSET_DROP)")


def why_permissions_cannot_be_tested() -> str | None:
    """None where a program without the right to override permissions can be started, else the reason."""
    try:
        subprocess.run(["true"], preexec_fn=drop_override, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return f"root must be able to drop capabilities: run as an ordinary user, or with CAP_SETPCAP ({error})"
    return None


#: The test itself reads or changes what gitstate may not.
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason=NO_RIGHTS)


def why_what_is_unreadable_cannot_be_compared() -> str | None:
    """None where the test can read what the program that it starts can't, else the reason."""
    return NO_RIGHTS if os.geteuid() else why_permissions_cannot_be_tested()
