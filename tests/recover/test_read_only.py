"""A workspace on a disk that is mounted read-only, as a backup is: what would happen is told, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest

from tests.support.recovering import recovered_from
from tests.support.skips import NOT_ROOT
from tests.support.workspace import Workspace

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason=NOT_ROOT)

MOUNT = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" || exit 97; exec "$@"'


@pytest.fixture
def ws(ws: Workspace) -> Workspace:
    ws.write("a.txt", "work\n")
    assert ws.save().exit_status == 0
    ws.git("reset", "-q", "--hard", "HEAD~1")
    ws.cli_prefix = ("unshare", "-m", "sh", "-c", MOUNT, os.fspath(ws.path))
    return ws


def test_dry_run_names_what_would_come_back(ws: Workspace) -> None:
    assert [item["path"] for item in recovered_from(ws.recover("--dry-run"))["restored"]] == ["a.txt"]


def test_preview_of_one_file_is_shown(ws: Workspace) -> None:
    run = ws.gitstate("restore", "--dry-run", "latest", "a.txt")
    assert run.exit_status == 0 and b"+work" in run.stdout, run


@pytest.mark.parametrize("command", [["recover"], ["restore", "latest", "a.txt"]], ids=" ".join)
def test_what_writes_says_why_it_can_not(command: Sequence[str], ws: Workspace) -> None:
    run = ws.gitstate(*command)
    assert run.exit_status == 1 and "Read-only file system; nothing was lost" in run.stderr, run
