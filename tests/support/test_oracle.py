"""The oracle sees every change that matters, and no other."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.states import STATES, dirty, make, nested_repository, stop_rebasing
from tests.support.index_reader import IndexDamagedError, index_through_git, parse_index
from tests.support.losing import strip_operation, wipe
from tests.support.oracle import FileEntry, Fingerprint, fingerprint, git_dir_of
from tests.support.repositories import Templates
from tests.support.workspace import Workspace


def _replace_by_fifo(ws: Workspace) -> None:
    ws.remove("a.txt")
    os.mkfifo(ws.at("a.txt"))


ALTERATIONS: dict[str, tuple[Callable[[Workspace], object], str]] = {
    "bytes": (lambda ws: ws.append("b.txt"), "file b.txt"),
    "bytes of an untracked file": (lambda ws: ws.append("notes/todo.txt"), "file notes/todo.txt"),
    "mode": (lambda ws: ws.chmod("b.txt", 0o600), "file b.txt"),
    "mode of a directory": (lambda ws: ws.chmod("hollow/inner", 0o700), "file hollow/inner"),
    "file gone": (lambda ws: ws.remove("b.txt"), "file b.txt"),
    "file appeared": (lambda ws: ws.write("fresh"), "file fresh"),
    "empty directory gone": (lambda ws: os.rmdir(ws.at("hollow/inner")), "file hollow/inner"),
    "empty directory appeared": (lambda ws: ws.mkdir("fresh"), "file fresh"),
    "symlink's target": (lambda ws: ws.symlink("b.txt", "link"), "file link"),
    "type": (_replace_by_fifo, "file a.txt: file 0644"),
    "staged content": (lambda ws: ws.add("b.txt"), "index b.txt"),
    "staged mode": (lambda ws: ws.git("update-index", "--chmod=+x", "b.txt"), "index b.txt"),
    "assume-valid": (lambda ws: ws.git("update-index", "--assume-unchanged", "b.txt"), "assume-valid"),
    "skip-worktree": (lambda ws: ws.git("update-index", "--skip-worktree", "b.txt"), "skip-worktree"),
    "intent-to-add": (lambda ws: ws.git("add", "-N", "notes/todo.txt"), "index notes/todo.txt"),
    "unstaged": (lambda ws: ws.git("reset", "-q", "new.txt"), "index new.txt"),
    "branch": (lambda ws: ws.git("symbolic-ref", "HEAD", "refs/heads/main"), "HEAD: ref: refs/heads/agent/work"),
    "detached": (lambda ws: ws.git("update-ref", "--no-deref", "HEAD", "HEAD^0"), "HEAD: ref: refs/heads/agent/work"),
    "commit": (lambda ws: ws.git("update-ref", "HEAD", "HEAD~1"), "commit: "),
    "merge head": (lambda ws: (ws.git_dir / "MERGE_HEAD").write_text("x"), "operation MERGE_HEAD"),
    "rebase": (lambda ws: stop_rebasing(ws, "--autostash", "side-content"), "operation rebase-merge/onto"),
    "bisect ref": (lambda ws: ws.git("update-ref", "refs/bisect/bad", "HEAD"), "operation refs/bisect/bad"),
    "sparse patterns": (lambda ws: (ws.git_dir / "info/sparse-checkout").write_text("/*"), "setting info/sparse"),
    "sparse setting": (lambda ws: ws.config("core.sparseCheckout", "true"), "setting core.sparsecheckout"),
    "nested repository": (lambda ws: ws.git("init", "-q", "nested"), "repository nested: appeared"),
    "work in a nested repository": (lambda ws: ws.append("inner/inner.txt"), "repository inner: file inner.txt"),
}


@pytest.mark.sample(3)
@pytest.mark.parametrize("what", ALTERATIONS)
def test_oracle_sees_each_alteration(what: str, ws: Workspace) -> None:
    dirty(ws)
    nested_repository(ws, "inner", commit=True)
    before = fingerprint(ws.path)
    assert before == fingerprint(ws.path)
    assert before.diff(fingerprint(ws.path)) == []
    alter, said = ALTERATIONS[what]
    alter(ws)
    after = fingerprint(ws.path)
    assert before != after
    assert [line for line in before.diff(after) if line.startswith(said) or line.endswith(said)], before.diff(after)


def test_oracle_ignores_stat_data_reflogs_and_ignored_files(ws: Workspace) -> None:
    dirty(ws)
    before = fingerprint(ws.path)
    everything = fingerprint(ws.path, keep_ignored=True)
    ws.write("x.log")
    ws.write("build/out/x.o")
    ws.write("src/only/x.log")
    ws.write("active_state.json", "{}")
    os.utime(ws.at("b.txt"), (1, 1))
    ws.write("README.md", ws.read("README.md"))
    ws.git("update-index", "-q", "--refresh", check=False)
    ws.git("update-ref", "ORIG_HEAD", "HEAD")
    ws.git("reflog", "expire", "--expire=now", "--all")
    ws.git("gc", "-q")
    after = fingerprint(ws.path)
    assert before.diff(after) == []
    assert b"src/only" in after.hollow
    kept = fingerprint(ws.path, keep_ignored=True)
    assert {path for path in kept.files if path not in everything.files} == {
        b"build",
        b"build/out",
        b"build/out/x.o",
        b"src/only",
        b"src/only/x.log",
        b"x.log",
    }


def test_oracle_never_writes(ws: Workspace) -> None:
    dirty(ws)
    ws.config("core.fsmonitor", ws.canary("fsmonitor"))
    before = {path: os.lstat(path) for path in ws.path.rglob("*")}
    fingerprint(ws.path)
    after = {path: os.lstat(path) for path in ws.path.rglob("*")}
    assert {path: (status.st_mtime_ns, status.st_ino) for path, status in before.items()} == {
        path: (status.st_mtime_ns, status.st_ino) for path, status in after.items()
    }
    assert not any(trace.exists() for trace in ws.canaries)


@pytest.mark.parametrize(
    "name",
    [
        "everything_at_once",
        "index_v4",
        "sha256",
        "sha256_index_v4_intent_to_add",
        "sha256_merge_conflict",
        "intent_to_add",
        "skip_worktree_on_staged_content",
        "unmerged_stages_in_odd_combinations",
        "untracked_cache",
        "names_of_255_bytes",
        "deep_nesting",
    ],
)
def test_oracle_parses_an_index_as_git_does(name: str, templates: Templates, tmp_path: Path) -> None:
    ws = make(STATES[name], templates, tmp_path)
    data = (git_dir_of(ws.path) / "index").read_bytes()
    parsed = parse_index(data, 32 if STATES[name].template == "sha256" else 20)
    assert sorted(parsed.entries) == sorted(index_through_git(ws.path))
    with pytest.raises(IndexDamagedError):
        parse_index(data[:40] + bytes([data[40] ^ 1]) + data[41:], 32 if STATES[name].template == "sha256" else 20)


def test_oracle_can_ignore_a_path(ws: Workspace) -> None:
    ws.write("fresh/inner.txt")
    before = fingerprint(ws.path)
    ws.remove("fresh")
    after = fingerprint(ws.path)
    assert before.diff(after) == ["file fresh: directory 0755 is gone", "file fresh/inner.txt: " + _described(before)]
    assert before.without([b"fresh/inner.txt"]).diff(after) == []
    assert before.without([b"fresh"]).diff(after) == []
    assert before.without([b"fres"]).diff(after) != []


def _described(print_: Fingerprint) -> str:
    entry = print_.files[b"fresh/inner.txt"]
    assert entry == FileEntry("file", 0o644, hashlib.sha256(b"text\n").hexdigest())
    return f"{entry} is gone"


@pytest.mark.parametrize("name", ["merge_conflict", "rebase_with_autostash", "bisect", "intent_to_add", "mode_0600"])
def test_oracle_tells_a_wiped_workspace_from_a_whole_one(name: str, templates: Templates, tmp_path: Path) -> None:
    """Without gitstate the work is lost, so a passing round trip proves something."""
    ws = make(STATES[name], templates, tmp_path)
    before = fingerprint(ws.path)
    wipe(ws)
    strip_operation(ws)
    assert before.diff(fingerprint(ws.path)) != []
