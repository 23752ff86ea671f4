"""`.git/gitstate` as a link, or as anything that is no directory: every command refuses, nothing is followed."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from gitstate.git.index import link_or_copy
from tests.support.repositories import three_files
from tests.support.workspace import Workspace


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return three_files(tmp_path)


@pytest.mark.parametrize(
    "command", ["save", "checkpoint", "recover", "begin task_id=x", "log", "finish", "run -- true"]
)
def test_link_at_our_directory_is_refused(ws: Workspace, command: str) -> None:
    target = ws.outside / "elsewhere"
    (target / "checkout").mkdir(parents=True)
    (target / "checkout" / "file").write_text("precious")
    (target / "x.tmp-1").write_text("precious")
    (ws.git_dir / "gitstate").symlink_to(target)
    ws.append("a")
    run = ws.gitstate(*command.split())
    assert run.exit_status == 4 and "not a directory of the repository's own" in run.stderr, run
    assert sorted(path.name for path in target.rglob("*")) == ["checkout", "file", "x.tmp-1"]


def test_file_at_our_directory_is_refused(ws: Workspace) -> None:
    ws.write(".git/gitstate", "a file\n")
    run = ws.save()
    assert run.exit_status == 4 and "gitstate" in run.stderr, run
    assert ws.read(".git/gitstate") == b"a file\n"


def test_link_inside_our_directory_is_removed_not_followed(ws: Workspace) -> None:
    target = ws.outside / "elsewhere"
    target.mkdir()
    (target / "file").write_text("precious")
    ws.append("a")
    assert ws.save().exit_status == 0
    ws.git("reset", "-q", "--hard", "HEAD~1")
    (ws.path / "b").unlink()
    (ws.git_dir / "gitstate" / "checkout").symlink_to(target)
    assert ws.recover().exit_status == 0
    assert (ws.path / "b").exists() and (target / "file").read_text() == "precious"


def test_copy_of_an_index_that_git_replaces_meanwhile_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without hard links the index is copied: not the beginning of a new one, as long as the old one was."""
    index, new, copy = (tmp_path / name for name in ("index", "index.lock", "copy"))
    index.write_bytes(b"old")
    new.write_bytes(b"new and longer")

    def link(source: bytes, target: bytes) -> None:
        new.rename(index)
        raise OSError(errno.EMLINK, "no hard links")

    monkeypatch.setattr(os, "link", link)
    link_or_copy(os.fsencode(index), os.fsencode(copy))
    assert copy.read_bytes() == b"new and longer"
    assert copy.stat().st_mtime_ns == index.stat().st_mtime_ns
