"""The walk: what lies in real directories, and where each thing is put."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gitstate.git.opening import open_repository
from gitstate.snapshot.record import SnapshotBuilder
from gitstate.snapshot.snapshot import most_precious_first, take_snapshot
from gitstate.snapshot.walk import CROWD, WalkResult, add_touched, is_nested, sort_entries, walk, without_ignored
from gitstate.system.clock import Deadline
from tests.states import nested_repository
from tests.support.workspace import Workspace

NewBuilder = Callable[..., SnapshotBuilder]


@dataclass(frozen=True)
class Case:
    """What is put into a repository that tracks `a`, `b` and `d/x`, and what the walk makes of it."""

    name: str
    build: Callable[[Workspace], object]
    untracked: list[bytes] = field(default_factory=list)
    special: list[bytes] = field(default_factory=list)
    replaced: list[bytes] = field(default_factory=list)
    directories: dict[bytes, int] = field(default_factory=dict)
    modes: dict[bytes, int] = field(default_factory=dict)
    nested: list[bytes] = field(default_factory=list)
    skipped: list[bytes] = field(default_factory=list)


def replace_file_by_directory(ws: Workspace) -> None:
    ws.remove("a")
    ws.write("a/inner")


def replace_directory_by_file(ws: Workspace) -> None:
    ws.remove("d")
    ws.write("d")


def replace_directory_by_symlink(ws: Workspace) -> None:
    ws.remove("d")
    ws.symlink(".", "d")


CASES = [
    Case("nothing new", lambda ws: None),
    Case("untracked file", lambda ws: ws.write("d/new"), untracked=[b"d/new"]),
    Case("untracked directory is not opened", lambda ws: ws.write("n/m/new"), untracked=[b"n/"]),
    Case("symlink to a directory is a file", lambda ws: ws.symlink("d", "link"), untracked=[b"link"]),
    Case("symlink in place of a directory", replace_directory_by_symlink, untracked=[b"d"]),
    Case("file in place of a directory", replace_directory_by_file, untracked=[b"d"]),
    Case("directory in place of a file", replace_file_by_directory, replaced=[b"a"]),
    Case("FIFO", lambda ws: os.mkfifo(ws.at("fifo")), special=[b"fifo"]),
    Case("state file", lambda ws: ws.write("active_state.json")),
    Case("state file's name elsewhere", lambda ws: ws.write("d/active_state.json"), [b"d/active_state.json"]),
    Case("emptied directory", lambda ws: ws.remove("d/x"), directories={b"d": 0o755}),
    Case("private directory", lambda ws: ws.chmod("d", 0o700), directories={b"d": 0o700}),
    Case("private file", lambda ws: ws.chmod("d/x", 0o600), modes={b"d/x": 0o600}),
    Case("executable file", lambda ws: ws.chmod("d/x", 0o755)),
    Case("repository", lambda ws: nested_repository(ws, "d", commit=True), [b"d/inner.txt"], nested=[b"d"]),
    Case("file named .git", lambda ws: ws.write("d/.git"), skipped=[b"d/.git"]),
    Case("directory named .git without a repository", lambda ws: ws.write("d/.git/x"), skipped=[b"d/.git"]),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_walk(case: Case, ws: Workspace, new_builder: NewBuilder) -> None:
    case.build(ws)
    builder = new_builder()
    found = walk(builder, [builder.top])
    snapshot = builder.snapshot
    assert WalkResult(*map(sorted, found)) == WalkResult(case.untracked, case.special, case.replaced)
    assert snapshot.directories == case.directories
    assert snapshot.modes == case.modes
    assert snapshot.nested == case.nested
    assert [item.path for item in snapshot.left_out] == case.skipped


def test_ignored_paths_and_empty_directories_are_told_apart(ws: Workspace, new_builder: NewBuilder) -> None:
    ws.write(".gitignore", "*.log\nbuild/\n!keep.log\n")
    ws.commit()
    for path in ("n/new", "n/x.log", "n/deep/keep.log", "build/o", ":odd/new", "repo/new", "active_state.json"):
        ws.write(path)
    nested_repository(ws, "repo", commit=False)
    os.mkfifo(ws.at("n/fifo"))
    ws.mkdir("n/empty/inner", 0o700)
    builder = new_builder()
    plain, ignored = without_ignored(builder, walk(builder, [builder.top]))
    assert set(plain) == {b"n/new", b"n/deep/keep.log", b":odd/new"}
    assert set(ignored) == {b"n/x.log", b"build/"}
    assert builder.snapshot.nested == [b"repo"]
    assert builder.snapshot.directories == {b"n/empty": 0o755, b"n/empty/inner": 0o700}
    assert [(item.path, item.lost) for item in builder.snapshot.left_out] == [(b"n/fifo", False)]


def test_other_work_is_done_while_git_starts(ws: Workspace, new_builder: NewBuilder) -> None:
    calls: list[int] = []
    builder = new_builder()
    assert without_ignored(builder, WalkResult([], [], []), lambda: calls.append(1)) == ([], [])
    assert without_ignored(builder, WalkResult([b"gone"], [], []), lambda: calls.append(2)) == ([b"gone"], [])
    assert calls == [1, 2]


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda ws: nested_repository(ws, "r", commit=False), True),
        (lambda ws: ws.git("worktree", "add", "-q", "--detach", "r"), True),
        (lambda ws: ws.write("r/.git", "gitdir: elsewhere\n"), False),
        (lambda ws: ws.write("r/.git", "gitdir: ../.git\n"), False),
        (lambda ws: ws.mkdir("r/.git"), False),
        (lambda ws: ws.write("r/x"), False),
        (lambda ws: None, False),
    ],
    ids=[
        "repository",
        "worktree",
        "stale gitdir file",
        "gitdir file to our own",
        "empty .git",
        "plain directory",
        "missing",
    ],
)
def test_repository_is_recognized(ws: Workspace, build: Callable[[Workspace], object], expected: bool) -> None:
    build(ws)
    assert is_nested(open_repository(os.fsencode(ws.path)), ws.at("r")) is expected


def make_many(ws: Workspace, directory: str, count: int) -> None:
    """Files that a program has written, all older than today."""
    for number in range(count):
        ws.write(f"{directory}{number}", "")
        os.utime(ws.at(f"{directory}{number}"), (number + 1, number + 1))


@pytest.mark.parametrize("directory", ["", "d/", "made/"])
def test_newest_file_of_very_many_is_asked_about_first(ws: Workspace, directory: str, new_builder: NewBuilder) -> None:
    make_many(ws, directory, CROWD + 100)
    builder = new_builder()
    plain, _ = without_ignored(builder, walk(builder, [builder.top]), deadline=Deadline(1000))
    newest = [b"%s%d" % (directory.encode(), number) for number in reversed(range(CROWD + 100))]
    assert plain == newest


def test_files_of_many_directories_are_not_sorted_when_the_time_is_over(
    ws: Workspace, new_builder: NewBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program has filled each of them."""
    directories = ("d/", "e/", "f/")
    for directory in directories:
        make_many(ws, directory, CROWD + 100)
    builder = new_builder()
    found = walk(builder, [builder.top])
    looked_at: list[object] = []
    lstat = os.lstat

    def looked(path: bytes, **more: Any) -> os.stat_result:
        looked_at.append(path)
        return lstat(path, **more)

    monkeypatch.setattr(os, "lstat", looked)
    without_ignored(builder, found, deadline=Deadline(0))
    assert len(looked_at) < CROWD


@pytest.mark.parametrize("crowd", ["", "d/", "made/"])
def test_few_new_files_come_before_very_many_newer_ones(ws: Workspace, crowd: str, new_builder: NewBuilder) -> None:
    """In asking git about them, and in reading them."""
    ws.write("e/by hand", "")
    os.utime(ws.at("e/by hand"), (1, 1))
    ws.commit()
    ws.write("e/new by hand", "")
    os.utime(ws.at("e/new by hand"), (0, 0))
    make_many(ws, crowd, CROWD + 100)
    builder = new_builder(deadline=1000)
    found = walk(builder, [builder.top])
    plain, _ = without_ignored(builder, found, deadline=builder.options.deadline)
    small, large = most_precious_first(builder, plain, found.untracked)
    assert (small[0], len(small), large) == (b"e/new by hand", CROWD + 101, [])
    if crowd != "made/":
        # Git is asked about directories level by level.
        assert plain[0] == b"e/new by hand"


def test_known_file_is_found_in_a_directory_that_there_is_no_time_for(ws: Workspace, new_builder: NewBuilder) -> None:
    """An early save holds it, and the last save takes its place."""
    names = [f"many/{number:03}" for number in range(150)]
    for name in names:
        ws.write(f"{name}/tracked")
    ws.write("many/.gitignore", "ignored\n")
    ws.commit()
    for name in names:
        ws.write(f"{name}/new")
        ws.write(f"{name}/ignored")
        ws.write(f"{name}/made/deep")
        ws.symlink("made", f"{name}/link")
        ws.write(f"{name}/nested/.git", "gitdir: elsewhere\n")
        ws.write(f"{name}/nested/x")
    builder = new_builder(deadline=0)
    inside = ("new", "ignored", "made/deep", "link/deep", "nested/x", "nested", "made", "tracked", "gone")
    touched = frozenset(f"{name}/{one}".encode() for name in names for one in inside)
    builder.options = builder.options._replace(touched=touched | {b"a"})
    found = walk(builder, [builder.top], builder.options.deadline)
    late = [path for path in builder.unread if path.startswith(b"many/")]
    assert late
    before = set(found.untracked)
    add_touched(builder, found.untracked)
    added = [path for path in found.untracked if path not in before]
    wanted = {path + end for path in late for end in (b"/new", b"/ignored", b"/made/deep")}
    assert set(added) == wanted and len(added) == len(wanted)


def test_known_file_is_saved_though_there_is_no_time_for_its_directory(ws: Workspace, new_builder: NewBuilder) -> None:
    for number in range(150):
        ws.write(f"many/{number:03}/tracked")
    ws.commit()
    builder = new_builder(deadline=0)
    walk(builder, [builder.top], builder.options.deadline)
    path = next(path for path in builder.unread if path.startswith(b"many/")) + b"/new"
    ws.write(path, "new\n")
    again = new_builder(deadline=0)
    options = again.options._replace(touched=frozenset({path}))
    taken = take_snapshot(SnapshotBuilder(again.repository, again.writer, again.reader, again.index_path, options))
    assert path in taken.worktree


def test_known_edit_is_saved_though_git_finds_no_change_in_time(
    ws: Workspace, new_builder: NewBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`git status` and a look at every file hang; git is asked about the files that the keeper knows of."""
    hangs = 'case "$*" in *" status --porcelain"* | *"diff-files "*" --") exec sleep 1000 ;; esac'
    (tmp_path / "git").write_text(f'#!/bin/sh\n{hangs}\nexec {shutil.which("git")} "$@"\n')
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setattr("gitstate.snapshot.tracked._QUICK", 60.0)
    ws.write("staged")
    ws.add("staged")
    ws.write("a", "edited\n")
    ws.remove("d/x")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    builder = new_builder(deadline=0.5)
    options = builder.options._replace(touched=frozenset({b"a", b"d", b"d/x", b"b", b"staged", b"new"}))
    reader, writer = builder.reader, builder.writer
    taken = take_snapshot(SnapshotBuilder(builder.repository, writer, reader, builder.index_path, options))
    assert {*taken.worktree} == {b"a", b"d/x"} and taken.worktree[b"d/x"] is None
    assert {*taken.staged} == {b"staged"}
    assert any(not item.path and "changes of tracked files" in item.reason for item in taken.left_out)


def test_vanished_file_hides_no_other_entry(ws: Workspace, new_builder: NewBuilder) -> None:
    ws.write("new")
    builder = new_builder()
    # The entries are listed, then a tracked file is deleted, then they are sorted.
    entries = sorted(os.scandir(builder.top), key=lambda entry: entry.name)
    ws.remove("a")
    found = WalkResult([], [], [])
    sort_entries(builder, entries, found, [])
    assert found.untracked == [b"new"]
