"""Random trees under random work: save and recover restore exactly what was there.

`GITSTATE_EXAMPLES=500 pytest tests/stories/test_random_trees.py` looks further, each time elsewhere.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from gitstate.git.opening import open_repository
from gitstate.git.status import ignored_among
from gitstate.save.request import SaveRequest
from gitstate.save.save import save
from gitstate.snapshot.incremental import Baseline
from gitstate.snapshot.record import Snapshot
from tests.states import add_submodule
from tests.support.oracle import fingerprint, parents, walk
from tests.support.repositories import Templates
from tests.support.workspace import Workspace

EXAMPLES = int(os.environ.get("GITSTATE_EXAMPLES", "0"))

#: Few names, so that files, directories and links meet in one place; some of them are hard to handle.
NAMES = st.sampled_from(
    [b"a", b"b", b"A", b"-x", b"n\nl", b"\xff", b":(top)", b"sp ace", b"x.log", b".gitignore", b"ab"]
)
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(b"/".join)
DATA = st.sampled_from([b"", b"one\n", b"two\n", b"one\r\ntwo\r\n", b"\0bin", b"*.log\n", b"x" * 70_000])
MODES = st.sampled_from([0o644, 0o755, 0o600, 0o444, 0o775])


class Step(NamedTuple):
    """One action of an agent, with a readable `repr` for failing examples."""

    act: Callable[..., None]
    words: tuple[Any, ...]

    def __repr__(self) -> str:
        return f"{self.act.__name__}{self.words}"


def clear(ws: Workspace, path: bytes) -> None:
    """Remove whatever is at a path or at one of its parent directories."""
    parts = path.split(b"/")
    for end in range(1, len(parts) + 1):
        place = ws.at(b"/".join(parts[:end]))
        if os.path.islink(place) or (os.path.lexists(place) and not os.path.isdir(place)):
            os.unlink(place)
        elif end == len(parts) and os.path.isdir(place):
            shutil.rmtree(place)


def write(ws: Workspace, path: bytes, data: bytes, mode: int) -> None:
    clear(ws, path)
    ws.write(path, data, mode)


def link(ws: Workspace, path: bytes, target: bytes) -> None:
    clear(ws, path)
    ws.symlink(target, path)


def directory(ws: Workspace, path: bytes) -> None:
    clear(ws, path)
    ws.mkdir(path)


def remove(ws: Workspace, path: bytes) -> None:
    if os.path.lexists(ws.at(path)):
        ws.remove(path)


def move(ws: Workspace, source: bytes, target: bytes) -> None:
    below = (target + b"/").startswith(source + b"/") or (source + b"/").startswith(target + b"/")
    if not below and os.path.lexists(ws.at(source)):
        clear(ws, target)
        if os.path.lexists(ws.at(source)):
            os.makedirs(os.path.dirname(ws.at(target)), exist_ok=True)
            os.rename(ws.at(source), ws.at(target))


def git(ws: Workspace, words: str, path: bytes) -> None:
    """Run a git command on one path; it may fail."""
    ws.git("--literal-pathspecs", *words.split(), "--", path, check=False)


def step(act: Callable[..., None], *words: st.SearchStrategy[Any]) -> st.SearchStrategy[Step]:
    return st.builds(Step, st.just(act), st.tuples(*words))


COMMANDS = (
    *("add -f -A", "add -f -A", "add -f -N", "rm -r -q --cached", "reset -q HEAD"),
    *("update-index --assume-unchanged", "update-index --skip-worktree", "update-index --chmod=+x"),
)
FILES = st.one_of(
    step(write, PATHS, DATA, MODES),
    step(link, PATHS, st.sampled_from([b"a", b"nowhere", b"b/a"])),
    step(directory, PATHS),
    step(remove, PATHS),
    step(move, PATHS, PATHS),
)
STEPS = st.one_of(
    step(write, PATHS, DATA, MODES),
    step(write, PATHS, DATA, MODES),
    step(link, PATHS, st.sampled_from([b"a", b"nowhere", b"../..", b"b/a", b"."])),
    step(directory, PATHS),
    step(remove, PATHS),
    step(move, PATHS, PATHS),
    step(git, st.sampled_from(COMMANDS), PATHS),
    step(git, st.sampled_from(COMMANDS), PATHS),
)


def work(ws: Workspace, steps: list[Step]) -> None:
    for one in steps:
        one.act(ws, *one.words)


def lose(ws: Workspace, loss: str) -> None:
    if loss == "wiped":
        ws.git("reset", "-q", "--hard", check=False)
        ws.git("clean", "-ffdxq")
    elif loss == "emptied":
        for name in os.listdir(ws.path):
            if name != ".git":
                ws.remove(name)


@settings(
    max_examples=EXAMPLES or 12,
    derandomize=not EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    base=st.lists(STEPS, max_size=8),
    steps=st.lists(STEPS, min_size=1, max_size=12),
    later=st.lists(STEPS, max_size=4),
    loss=st.sampled_from(["in place", "wiped", "emptied"]),
)
def test_random_tree_survives_save_and_recover(
    base: list[Step], steps: list[Step], later: list[Step], loss: str, templates: Templates
) -> None:
    with tempfile.TemporaryDirectory() as top:
        path = Path(top) / "repo"
        templates.copy("empty", path)
        ws = Workspace(path, Path(top))
        work(ws, base)
        ws.git("add", "-A", "-f")
        ws.git("commit", "-q", "--allow-empty", "-m", "base")
        work(ws, steps)
        before = fingerprint(path)
        run = ws.save()
        assert run.exit_status == 0 and run.json["left_out"] == [], run
        saved = replace(fingerprint(path), commit=None, index=())
        assert replace(before, commit=None, index=()).diff(saved) == [], "a save changed the worktree"
        if later:
            listed = (
                ws.git("ls-tree", "-z", "--name-only", "HEAD").split(b"\0")[:-1] if run.json["branch_moved"] else []
            )
            visible = [name for name in listed if not name.startswith(b".")]
            work(ws, later)
            # Without any visible name of the first save, `later` is a wipe: its deletions are not saved, by design.
            assume(not visible or any(os.path.lexists(ws.at(name)) for name in visible))
            before_files = fingerprint(path).files
            assert ws.save(task_id="T-2").exit_status == 0
        lose(ws, loss)
        run = ws.recover()
        assert run.exit_status == 0, run
        after = fingerprint(path)
        if later:
            assert replace(before, files=before_files, index=()).diff(replace(after, index=())) == [], run
        else:
            assert before.diff(after) == [], run
        ws.git("fsck", "--no-dangling")


def seen(top: Path) -> dict[bytes, tuple[int, ...]]:
    """What a watcher would notice: each name with its inode, and for all but directories when it changed."""
    return {
        path: (status.st_ino, status.st_mode, 0 if stat.S_ISDIR(status.st_mode) else status.st_ctime_ns)
        for path, status, _ in walk(bytes(top))
    }


def described(taken: Snapshot | None) -> dict[str, Any]:
    """What a snapshot found, in an order of its own."""
    assert taken is not None
    ignored = {path.rstrip(b"/") for path in taken.ignored}
    return {
        **{name: dict(sorted(getattr(taken, name).items())) for name in ("worktree", "modes", "directories", "raw")},
        **{name: sorted(getattr(taken, name)) for name in ("left_out", "nested", "absent", "intent_to_add")},
        "ignored": sorted(path for path in ignored if not any(above in ignored for above in parents(path))),
    }


@settings(
    max_examples=EXAMPLES or 15,
    derandomize=not EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@example(
    base=[],
    first=[Step(write, (b"a/a/a", b"", 0o644))],
    then=[Step(write, (b"a", b"", 0o644)), Step(link, (b"a/a", b"a"))],
)
@given(
    base=st.lists(STEPS, max_size=8), first=st.lists(STEPS, max_size=6), then=st.lists(FILES, min_size=1, max_size=6)
)
def test_incremental_snapshot_of_a_random_tree_matches_a_full_one(
    base: list[Step], first: list[Step], then: list[Step], templates: Templates
) -> None:
    with tempfile.TemporaryDirectory() as top:
        path = Path(top) / "repo"
        templates.copy("empty", path)
        ws = Workspace(path, Path(top))
        work(ws, base)
        ws.git("add", "-A", "-f")
        ws.git("commit", "-q", "--allow-empty", "-m", "base")
        work(ws, first)
        earlier = save(bytes(path), SaveRequest(kind="checkpoint"))
        assert earlier.taken is not None and earlier.archive is not None
        before = seen(path)
        work(ws, then)
        after = seen(path)
        touched = frozenset(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        known = Baseline(earlier.taken, earlier.archive, touched)
        fast = save(bytes(path), SaveRequest(kind="checkpoint", known=known))
        whole = save(bytes(path), SaveRequest(kind="checkpoint"))
        assert described(fast.taken) == described(whole.taken)


def test_paths_rejected_by_check_ignore_hide_no_others(templates: Templates, tmp_path: Path) -> None:
    ws = Workspace(tmp_path / "repo", tmp_path)
    templates.copy("sha1", ws.path)
    add_submodule(ws)
    ws.symlink("docs", "elsewhere")
    ws.write("x.log")
    repository = open_repository(bytes(ws.path))
    asked = [b"elsewhere/guide.md", b"x.log", b"sub/inner.txt", b"a.txt", b"build"]
    assert ignored_among(repository, asked) == {b"x.log"}
