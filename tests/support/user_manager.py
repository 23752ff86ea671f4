"""A systemd user manager of its own for a test: in a private mount namespace, where /run is empty, and with a bus."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.support.skips import NO_MANAGER, not_installed, why_not_root

_MANAGER = "/lib/systemd/systemd"
#: systemd asks whether the host was booted with it: here it was.
_PREPARE = """\
mount -t tmpfs none /run && mkdir -p /run/systemd/system "$XDG_RUNTIME_DIR" && chmod 700 "$XDG_RUNTIME_DIR" || exit 99
exec dbus-run-session -- /bin/sh "$1"
"""
_INSIDE = """\
poll() { i=0; until "$@"; do i=$((i + 1)); [ $i -lt 600 ] || { echo "in vain: $*"; return 1; }; sleep 0.1; done; }
manager() {
  MANAGER_PATH=${BARE_PATH:-$PATH}
  env PATH="$MANAGER_PATH" @MANAGER@ --user --log-target=null & MANAGER=$!
  poll systemctl --user show-environment >/dev/null 2>&1 || exit 98
}
leave() { systemctl --user exit >/dev/null 2>&1; wait "$MANAGER"; }
manager
"""


def why_not_user_manager() -> str | None:
    """None where a user manager can be started, else the reason to skip."""
    for program in ("unshare", "dbus-run-session", "systemctl", "systemd-run"):
        if shutil.which(program) is None:
            return not_installed(program)
    if not os.access(_MANAGER, os.X_OK):
        return not_installed("systemctl")
    if (reason := why_not_root()) is not None:
        return reason
    probe = ["unshare", "-m", "--propagation", "private", "mount", "-t", "tmpfs", "none", "/run"]
    return NO_MANAGER if subprocess.run(probe, capture_output=True).returncode else None


def in_user_manager(script: str, top: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a script for sh beside a user manager. `leave` ends that one, `manager` starts the next, as a reboot does.

    In it `poll COMMAND…` waits until a command succeeds.
    """
    prepare, inside = top / "prepare.sh", top / "inside.sh"
    prepare.write_text(_PREPARE)
    inside.write_text(_INSIDE.replace("@MANAGER@", _MANAGER) + script + "\nleave\n")
    argv = ["unshare", "-m", "--propagation", "private", "/bin/sh", str(prepare), str(inside)]
    given = {**os.environ, **env, "XDG_RUNTIME_DIR": "/run/user/0"}
    return subprocess.run(argv, capture_output=True, encoding="utf-8", errors="replace", env=given, timeout=300)
