"""An incremental snapshot equals a full one, whatever an agent does in between."""

from __future__ import annotations

import os
import pickle
import pickletools
import random
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gitstate.git.command import Git, object_id
from gitstate.git.index import link_or_copy
from gitstate.git.opening import open_repository
from gitstate.git.repository import Repository
from gitstate.git.status import ignored_among
from gitstate.holding.watch import Watch
from gitstate.holding.window import directories_above
from gitstate.objects.pack import PackWriter
from gitstate.objects.reader import ObjectReader
from gitstate.snapshot.incremental import Baseline, take_since, take_touched
from gitstate.snapshot.record import Growth, Snapshot, SnapshotBuilder, SnapshotOptions, TrackedPaths
from gitstate.snapshot.snapshot import take_snapshot
from gitstate.system.clock import Deadline
from tests.states import STATES, make
from tests.support.repositories import Templates
from tests.support.workspace import Workspace

TRACKED = ("a.txt", "b.txt", "src/one.py", "src/two.py", "src/deep/x")
NAMES = (*TRACKED, "new", "sub/new", "sub/sub/new", "out.log", "build/o")
OPTIONS = SnapshotOptions(b"active_state.json", Deadline(None))
VERBS = ("write", "write", "write", "same", "delete", "chmod", "link", "mkdir", "empty", "rename", "rmdir", "dirmode")


class Looking:
    """A workspace watched as a keeper watches it, with both kinds of snapshot."""

    def __init__(self, ws: Workspace) -> None:
        self.ws = ws
        self.options = OPTIONS
        self.repository: Repository = open_repository(os.fsencode(ws.path))
        os.makedirs(self.repository.own, exist_ok=True)
        self.watch = Watch(self.repository.toplevel)
        listed = self.repository.git.run("ls-files", "-z").split(b"\0")[:-1]
        self.watch.add(directories_above(listed))
        self.last = self.whole()
        self.follow()

    def follow(self) -> None:
        assert self.last.scan is not None
        tracked = self.last.scan.tracked
        new = [path for path, leaf in self.last.worktree.items() if leaf is not None and path not in tracked.paths]
        self.watch.add([*directories_above([*tracked.order, *new]), *self.last.directories])
        self.watch.touch(new)

    def _look(self, take: Callable[..., Any]) -> Any:
        repository = self.repository
        frozen = os.path.join(repository.own, b"frozen-for-test")
        link_or_copy(os.path.join(repository.git_dir, b"index"), frozen)
        writer = PackWriter(repository.objects, repository.object_format, "test")
        with ObjectReader(repository.git) as reader:
            found = take(SnapshotBuilder(repository, writer, reader, frozen, self.options))
        writer.finish()
        writer.release()
        self.written = writer.written
        return found

    def whole(self) -> Snapshot:
        found: Snapshot = self._look(take_snapshot)
        return found

    def since(self) -> Snapshot | None:
        touched = self.watch.take()
        self.watch.drop(ignored_among(self.repository, self.watch.unjudged))
        self.watch.unjudged = []
        if touched is None:
            return None
        baseline = Baseline(self.last, "0" * 40, touched)
        found: Snapshot | None = self._look(partial(take_since, baseline))
        return found

    def check(self) -> bool:
        """Take both snapshots and compare them; whether the incremental one was possible."""
        quick = self.since()
        whole = self.whole()
        if quick is None:
            self.last = whole
            self.follow()
            return False
        assert parts(quick) == parts(whole)
        self.last = quick
        return True


def parts(found: Snapshot) -> dict[str, object]:
    """The parts of a snapshot that a save stores."""
    names = ("head", "head_ref", "staged", "worktree", "intent_to_add", "modes", "directories", "absent", "operation")
    return {
        **{name: getattr(found, name) for name in names},
        "raw": found.raw,
        "left_out": sorted(found.left_out),
        "index": found.index_file,
    }


@pytest.fixture
def looking(templates: Templates, tmp_path: Path) -> Iterator[Looking]:
    ws = make(STATES["clean"], templates, tmp_path)
    ws.write(".gitignore", "*.log\nbuild/\n")
    for name in TRACKED:
        ws.write(name, name)
    ws.commit()
    found = Looking(ws)
    yield found
    # Those of all tests, and of every keeper, are 128 for each user.
    found.watch.close()


def act(ws: Workspace, choose: random.Random) -> str:
    """Do one random thing that an agent may do; its description."""
    name = choose.choice(NAMES)
    path = ws.path / name
    verb = choose.choice(VERBS)
    if verb in ("write", "link", "mkdir") and any((ws.path / parent).is_file() for parent in Path(name).parents):
        return "nothing"
    if verb == "write":
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            path.unlink()
        path.write_text(choose.choice(("x", "y", name)))
    elif verb == "same" and path.is_file():
        path.write_bytes(path.read_bytes())
    elif verb == "delete" and (path.is_file() or path.is_symlink()):
        path.unlink()
    elif verb == "chmod" and path.is_file() and not path.is_symlink():
        path.chmod(choose.choice((0o644, 0o755, 0o600)))
    elif verb == "link":
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(choose.choice(("a.txt", "src", "gone")))
    elif verb == "mkdir" and not path.exists() and not path.is_symlink():
        path.mkdir(parents=True)
    elif verb == "empty":
        (ws.path / choose.choice(("hollow", "src/hollow", "build/hollow"))).mkdir(parents=True, exist_ok=True)
    elif verb == "rename":
        source, target = ws.path / choose.choice(("src", "sub", "hollow", "src/deep")), ws.path / "moved"
        if source.is_dir() and not target.exists():
            source.rename(target)
        elif target.is_dir() and not source.exists() and source.parent.is_dir():
            target.rename(source)
    elif verb == "rmdir" and path.parent != ws.path and path.parent.is_dir():
        shutil.rmtree(path.parent)
    elif verb == "dirmode" and (ws.path / "src").is_dir():
        (ws.path / "src").chmod(choose.choice((0o755, 0o700)))
    return f"{verb} {name}"


@pytest.mark.sample(5)
@pytest.mark.parametrize("seed", range(12))
def test_incremental_snapshot_matches_a_full_one_after_random_work(looking: Looking, seed: int) -> None:
    choose = random.Random(seed)
    quick = 0
    for turn in range(12):
        done = [act(looking.ws, choose) for _ in range(choose.randint(1, 4))]
        if turn % 5 == 4:
            looking.ws.git("add", "-A")
        try:
            quick += looking.check()
        except AssertionError as error:
            raise AssertionError(f"after {done}: {error}") from None
    assert quick >= 6, "hardly ever could it look at the changes alone"


@pytest.mark.parametrize("seed", range(12, 112))
@pytest.mark.slow
def test_incremental_snapshot_matches_a_full_one_after_much_random_work(looking: Looking, seed: int) -> None:
    test_incremental_snapshot_matches_a_full_one_after_random_work(looking, seed)


@pytest.mark.parametrize(
    "change",
    [
        lambda ws: ws.write(".gitignore", "b.txt\n"),
        lambda ws: ws.write("src/.gitattributes", "* text eol=crlf\n"),
        lambda ws: ws.git("commit", "-q", "--allow-empty", "-m", "x"),
        lambda ws: ws.git("checkout", "-q", "-b", "elsewhere"),
        lambda ws: ws.git("checkout", "-q", "--detach"),
        lambda ws: ws.config("core.autocrlf", "true"),
        lambda ws: ws.git("update-index", "--assume-unchanged", "a.txt"),
        lambda ws: ws.git("init", "-q", "inner"),
    ],
    ids=["gitignore", "gitattributes", "commit", "branch", "detach", "config", "hidden", "repository"],
)
def test_changes_that_need_a_full_snapshot_get_one(looking: Looking, change: Callable[[Workspace], object]) -> None:
    change(looking.ws)
    looking.ws.write("a.txt", "changed\n")
    assert looking.check() is False


def test_file_that_was_written_anew_with_its_bytes_is_not_stored(looking: Looking) -> None:
    ws = looking.ws
    content = os.urandom(100_000)
    ws.write("src/one.py", content)
    ws.add()
    ws.commit()
    looking.check()
    ws.write("src/one.py", content)
    assert looking.check() and looking.last.worktree == {}
    quick = looking.since()
    assert quick is not None
    ws.write("src/one.py", content)
    quick = looking.since()
    assert quick is not None and quick.worktree == {} and looking.written < len(content)
    # Where the object of the index is lost, another file with the same bytes has one of its own.
    oid = ws.out("rev-parse", ":src/one.py")
    (ws.git_dir / "objects" / oid[:2] / oid[2:]).unlink()
    ws.write("src/one.py", content)
    ws.write("new", content)
    quick = looking.since()
    assert quick is not None and quick.worktree.keys() == {b"new"}
    assert ws.git("cat-file", "blob", oid) == content


REFUSING = (
    ("large", OPTIONS._replace(growth=Growth(0, frozenset(), {}, None))),
    ("large", OPTIONS._replace(largest=1000)),
    ("git~1", OPTIONS),
)


@pytest.mark.parametrize(("name", "options"), REFUSING, ids=["growth", "largest", "name"])
def test_file_that_was_written_anew_with_its_bytes_is_not_left_out(
    looking: Looking, name: str, options: SnapshotOptions
) -> None:
    """A checkpoint takes a large file less often, and a name that git refuses never comes back: it is in HEAD."""
    ws = looking.ws
    content = os.urandom(100_000)
    ws.write(name, content)
    ws.git("-c", "core.protectNTFS=false", "add", name)
    ws.git("-c", "core.protectNTFS=false", "commit", "-qm", "one more")
    ws.git("config", "core.protectNTFS", "false")
    looking.check()
    looking.options = options
    for written, is_told in ((content, False), (content + b"more", True)):
        ws.write(name, written)
        quick = looking.since()
        assert quick is not None and [item.path for item in quick.left_out] == [name.encode()] * is_told


def test_incremental_snapshot_walks_no_directory(looking: Looking, monkeypatch: pytest.MonkeyPatch) -> None:
    looking.ws.write("src/one.py", "changed\n")
    looking.ws.write("sub/new", "new\n")
    asked: list[tuple[Any, ...]] = []
    start = Git.start

    def recorded(self: Git, *args: Any, **more: Any) -> Any:
        asked.append(args)
        return start(self, *args, **more)

    monkeypatch.setattr(Git, "start", recorded)
    assert looking.since() is not None
    verbs = {word for args in asked for word in args if isinstance(word, str)}
    assert not verbs & {"status", "ls-files", "diff-index"}, asked


def test_unknown_index_entry_needs_a_full_snapshot(looking: Looking) -> None:
    looking.ws.write("staged", "staged\n")
    looking.ws.add("staged")
    looking.last = looking.whole()
    looking.follow()
    # A save does this where the staged blob is unreadable.
    del looking.last.staged[b"staged"]
    looking.ws.write("staged", "edited\n")
    assert looking.since() is None


@pytest.mark.parametrize("paths", [[], [b"a"], [b"a", b"a b/\xff\n", b"d/"]])
def test_tracked_paths_are_sent_as_one_text(paths: list[bytes]) -> None:
    """A keeper that reads hundreds of thousands of values one by one hears nothing meanwhile."""
    tracked = TrackedPaths(set(paths), paths, True)
    sent = pickle.dumps(tracked)
    assert pickle.loads(sent) == tracked
    empty = pickle.dumps(TrackedPaths(set(), [], True))
    assert len(list(pickletools.genops(sent))) == len(list(pickletools.genops(empty)))


@pytest.mark.parametrize("version", [2, 4])
@pytest.mark.parametrize("flag", ["to be added", "skipped", None])
def test_part_is_taken_only_where_the_index_can_have_no_more_flags(
    flag: str | None, version: int, ws: Workspace
) -> None:
    """Version 3 says that it has some; in version 4, that of `feature.manyFiles`, any entry may."""
    ws.write("tracked", "committed\n")
    ws.commit("first")
    ws.git("update-index", "--index-version", str(version))
    ws.write("added", "new\n")
    if flag == "to be added":
        ws.git("add", "-N", "added")
    elif flag == "skipped":
        ws.git("update-index", "--skip-worktree", "tracked")
    taken, _ = taken_alone(ws, b"added")
    assert (taken is not None) == (flag is None and version == 2)


def taken_alone(ws: Workspace, *touched: bytes) -> tuple[Snapshot | None, Repository]:
    repository = open_repository(os.fsencode(ws.path))
    os.makedirs(repository.own, exist_ok=True)
    frozen = os.path.join(repository.own, b"frozen")
    link_or_copy(os.path.join(repository.git_dir, b"index"), frozen)
    writer = PackWriter(repository.objects, repository.object_format, "part")
    with ObjectReader(repository.git) as reader:
        options = OPTIONS._replace(touched=frozenset(touched))
        taken = take_touched(SnapshotBuilder(repository, writer, reader, frozen, options))
    writer.release()
    return taken, repository


def test_nothing_is_built_on_a_part(ws: Workspace) -> None:
    """Nobody may take it for what is known of the whole; a directory that is touched brings nothing back."""
    ws.write("dir/tracked", "committed\n")
    ws.commit("first")
    ws.write("dir/new", "new\n")
    taken, _ = taken_alone(ws, b"dir", b"dir/new")
    assert taken is not None
    assert (taken.scan, taken.index_is_plain) == (None, False)
    assert [(item.path, item.lost) for item in taken.left_out] == [(b"", True)]
    assert [*taken.worktree] == [b"dir/new"]


@pytest.mark.parametrize("where", ["committed", "on disk", "staged", "info", "configured"])
def test_part_is_converted_as_git_does(where: str, ws: Workspace) -> None:
    """An encrypting filter is a conversion, too: what it guards must not come into a save as it is."""
    rule = "*.txt text\n"
    ws.write("dir/file.txt", "before\n")
    if where == "committed":
        ws.write(".gitattributes", rule)
    ws.commit("first")
    if where in ("on disk", "staged"):
        ws.write("dir/.gitattributes", rule)
    if where == "staged":
        ws.add("dir/.gitattributes")
        ws.remove("dir/.gitattributes")
    elif where == "info":
        ws.write(".git/info/attributes", rule)
    elif where == "configured":
        ws.config("core.autocrlf", "input")
    ws.write("dir/file.txt", "one\r\ntwo\r\n")
    taken, repository = taken_alone(ws, b"dir/file.txt")
    expected = object_id(repository.object_format, "blob", b"one\ntwo\n")
    leaf = None if taken is None else taken.worktree[b"dir/file.txt"]
    assert taken is None or (leaf is not None and leaf.oid == expected)
