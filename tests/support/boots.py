"""A boot that began a moment ago, for what `gitstate` runs: no test waits for a reboot."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

import pytest

from tests.support.workspace import Workspace

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: what tells of the boot is mounted")

#: $0 is an empty directory, $BEGAN the time of the boot in seconds since the epoch.
_MOUNT = """\
mount -t tmpfs none "$0" && sed "s/^btime .*/btime $BEGAN/" /proc/stat >"$0/stat" &&
mount --bind "$0/stat" /proc/stat || exit 97
for name in zero full urandom mem; do
    test -e /dev/$name || continue
    cp -R /dev/$name "$0/$name" && touch -d @$BEGAN "$0/$name" && mount --bind "$0/$name" /dev/$name || exit 97
done
exec "$@"
"""


@contextlib.contextmanager
def in_a_new_boot(ws: Workspace) -> Iterator[None]:
    """What `gitstate` runs sees a boot that began after all that was written so far. Needs root."""
    place = ws.outside / "new-boot"
    place.mkdir(exist_ok=True)
    began = f"BEGAN={int(time.time()) + 2}"
    ws.cli_prefix = ("env", began, "unshare", "-m", "sh", "-c", _MOUNT, os.fspath(place))
    try:
        yield
    finally:
        ws.cli_prefix = ()
