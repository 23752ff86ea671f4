"""Refs move by compare and swap, whatever git believes about `packed-refs`."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gitstate.errors import GitError, RefChanged
from gitstate.git import packed, refs
from gitstate.git.opening import open_repository
from gitstate.git.refs import RefUpdate, RefWriter
from gitstate.system.clock import Deadline
from tests.support.workspace import Workspace

REF = "refs/heads/packed"


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    ws = Workspace(tmp_path / "ws", tmp_path)
    ws.path.mkdir()
    ws.git("init", "-q", "-b", "main", ".")
    # Nobody can set a ctime: without it, git sees what changed by size, inode and mtime.
    ws.git("config", "core.trustctime", "false")
    for number in range(3):
        ws.write("f", f"{number}\n")
        ws.commit(f"number {number}")
    ws.git("update-ref", REF, "HEAD~2")
    ws.git("pack-refs", "--all")
    assert not (ws.path / ".git" / REF).exists()
    return ws


@pytest.fixture
def oids(ws: Workspace) -> list[str]:
    """The three commits, oldest first."""
    return [oid(ws, name) for name in ("HEAD~2", "HEAD~1", "HEAD")]


@pytest.fixture
def writer(ws: Workspace) -> Iterator[RefWriter]:
    """A git that has read `packed-refs` already: it lives over its first transaction."""
    repository = open_repository(os.fsencode(ws.path))
    writer = RefWriter(repository, repository.git, "test")
    writer.commit([RefUpdate(REF + "-2", oid(ws, "HEAD"), None)])
    yield writer
    writer.close()


def oid(ws: Workspace, name: str) -> str:
    return ws.out("rev-parse", name)


def pack_in_place(ws: Workspace, old: str, new: str) -> None:
    """Change a packed ref so that size, inode and mtime of the file stay: git takes it for unchanged."""
    path = ws.path / ".git" / "packed-refs"
    data = path.read_bytes()
    before = os.stat(path)
    changed = data.replace(f"{old} {REF}\n".encode(), f"{new} {REF}\n".encode())
    assert changed != data
    with open(path, "r+b") as file:
        file.write(changed)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = os.stat(path)
    assert (after.st_size, after.st_ino) == (before.st_size, before.st_ino)


@pytest.mark.parametrize("new", [2, None], ids=["update", "delete"])
def test_ref_that_moved_in_packed_refs_unseen_by_git_is_not_moved(
    ws: Workspace, oids: list[str], writer: RefWriter, new: int | None
) -> None:
    first, second, _ = oids
    target = None if new is None else oids[new]
    pack_in_place(ws, first, second)
    with pytest.raises(RefChanged):
        writer.commit([RefUpdate(REF, target, first)])
    assert oid(ws, REF) == second
    assert not list((ws.path / ".git" / "refs").rglob("*.lock"))
    writer.commit([RefUpdate(REF, target, second)])
    assert ws.refs(REF) == ({} if target is None else {REF: target})


def test_no_ref_of_a_transaction_moves_where_one_moved_unseen_by_git(
    ws: Workspace, oids: list[str], writer: RefWriter
) -> None:
    first, second, third = oids
    pack_in_place(ws, first, second)
    with pytest.raises(RefChanged):
        writer.commit([RefUpdate("refs/heads/new", third, None), RefUpdate(REF, third, first)])
    assert "refs/heads/new" not in ws.refs("refs/heads")


def test_symbolic_ref_moves_what_it_points_to(ws: Workspace, writer: RefWriter) -> None:
    ws.git("symbolic-ref", "refs/heads/symbolic", REF)
    writer.commit([RefUpdate("refs/heads/symbolic", oid(ws, "HEAD"), oid(ws, "HEAD~2"))])
    assert oid(ws, REF) == oid(ws, "HEAD")


def packed_refs(ws: Workspace) -> Path:
    return ws.path / ".git" / "packed-refs"


def test_packed_refs_are_read_as_git_reads_them(ws: Workspace, oids: list[str]) -> None:
    first, second, third = oids
    for name, value in (("p", first), ("packed-2", second), ("packed/below", third)):
        ws.git("update-ref", f"refs/heads/x/{name}", value)
    ws.git("tag", "-a", "-m", "annotated", "v1", "HEAD")
    ws.git("pack-refs", "--all")
    repository = open_repository(os.fsencode(ws.path))
    names = [*ws.refs("refs"), "refs/heads/x", "refs/heads/x/packed", "refs/heads/none"]
    expected = ws.refs("refs")
    assert refs.read_refs(repository, names) == expected
    # One by one they are looked for in the bytes.
    assert {name: value for name in names for value in refs.read_refs(repository, [name]).values()} == expected
    (below,) = refs.read_refs_below(repository.common_dir, "refs/heads/x/p")
    assert below == {"": first, "acked-2": second, "acked/below": third}


def test_last_line_of_packed_refs_may_lack_its_line_feed(ws: Workspace, oids: list[str]) -> None:
    packed_refs(ws).write_bytes(f"{oids[0]} {REF}\n{oids[1]} refs/heads/z".encode())
    repository = open_repository(os.fsencode(ws.path))
    assert refs.read_refs(repository, [REF, "refs/heads/z"]) == {REF: oids[0], "refs/heads/z": oids[1]}
    assert refs.read_refs_below(repository.common_dir, "refs/heads/z") == [{"": oids[1]}]


def test_damaged_line_of_packed_refs_hides_no_other(ws: Workspace, oids: list[str]) -> None:
    lines = (f"{oids[0]} {REF}", f"# {oids[1]} {REF}", f"^{oids[1]} {REF}", f"{oids[1]} x {REF}", f" {REF}x")
    packed_refs(ws).write_bytes("\n".join((*lines, "\0" * 40)).encode())
    repository = open_repository(os.fsencode(ws.path))
    assert refs.read_refs(repository, [REF]) == {REF: oids[0]}
    assert refs.read_refs(repository, [REF, *(f"refs/heads/{number}" for number in range(20)), REF + "x"]) == {
        REF: oids[0]
    }


def test_one_packed_ref_is_found_without_parsing_the_others(
    ws: Workspace, oids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (f"{oids[0]} refs/heads/many/{number:04}\n" for number in range(1000))
    packed_refs(ws).write_bytes("".join(("# pack-refs with: peeled fully-peeled sorted \n", *lines)).encode())
    parsed: list[int] = []
    parse = packed.refs_in

    def counted(data: bytes, beginnings: Iterable[bytes]) -> dict[bytes, bytes]:
        found = parse(data, beginnings)
        parsed.append(len(found))
        return found

    monkeypatch.setattr(packed, "refs_in", counted)
    repository = open_repository(os.fsencode(ws.path))
    assert refs.read_refs(repository, ["refs/heads/many/0500", "refs/heads/none"]) == {"refs/heads/many/0500": oids[0]}
    names = [f"refs/heads/many/{number:04}" for number in range(500)]
    # Whatever their order, they are looked for in that of the file.
    assert refs.read_refs(repository, names[::-1]) == dict.fromkeys(names, oids[0])
    assert parsed == []
    # Of many refs in another order all lines are parsed, once.
    there = packed.PackedRefs(repository.common_dir)
    assert {there.value(os.fsencode(name)).decode() for name in names[::-1]} == {oids[0]}
    assert parsed == [1000]


def test_packed_refs_are_read_once_until_there_is_another_file(
    ws: Workspace, oids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = open_repository(os.fsencode(ws.path))
    reads: list[int] = []
    read = os.read

    def counted(fd: int, size: int) -> bytes:
        reads.append(fd)
        return read(fd, size)

    def value() -> str:
        reads.clear()
        return refs.read_refs(repository, [REF])[REF]

    (ws.git_dir / REF).unlink(missing_ok=True)
    packed_refs(ws).write_text(f"{oids[0]} {REF}\n")
    monkeypatch.setattr(os, "read", counted)
    with packed.read_once():
        assert value() == oids[0] and reads
        assert value() == oids[0] and not reads
        with packed.read_once():
            assert value() == oids[0] and not reads
        new = packed_refs(ws).with_name("packed-refs.new")
        new.write_text(f"{oids[1]} {REF}\n")
        os.utime(new, ns=(packed_refs(ws).stat().st_mtime_ns,) * 2)
        new.rename(packed_refs(ws))
        assert value() == oids[1] and reads, "of the same size and time, and another file"
        assert packed.PackedRefs(repository.common_dir, anew=True).value(os.fsencode(REF)) == oids[1].encode()
        assert reads
    assert value() == oids[1] and reads, "nothing is kept for longer"


def test_ref_that_is_packed_while_refs_are_read_is_found(
    ws: Workspace, oids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Git first writes a ref to `packed-refs`, then removes its file: who reads in this order, too, may miss both."""
    repository = open_repository(os.fsencode(ws.path))
    read = packed.read_packed
    packings = 0

    def read_then_pack(common_dir: bytes, *, anew: bool = False) -> bytes:
        nonlocal packings
        data = read(common_dir, anew=anew)
        ws.git("pack-refs", "--all", "--prune")
        assert not (ws.git_dir / "refs/x/new").exists()
        packings += 1
        return data

    for module in (refs, packed):
        monkeypatch.setattr(module, "read_packed", read_then_pack)
    wanted = {REF: oids[0], "refs/x/new": oids[1]}
    (ws.git_dir / "refs/x").mkdir(exist_ok=True)
    calls: list[Callable[[], bool]] = [
        lambda: refs.read_refs(repository, wanted) == wanted,
        lambda: refs.read_refs_below(repository.common_dir, "refs/x/") == [{"new": oids[1]}],
        lambda: refs.read_names_below(repository.common_dir, "refs/x/") == {"new"},
    ]
    for call in calls:
        ws.git("update-ref", "-d", "refs/x/new")
        ws.git("update-ref", "refs/x/new", oids[1])
        before = packings
        assert call() and packings == before + 1


@pytest.mark.parametrize("call", ["listdir", "open"])
def test_ref_that_can_not_be_read_is_not_taken_for_absent(
    call: str, ws: Workspace, oids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a descriptor; what is packed, or removed, meanwhile, and a link are no refs."""
    repository = open_repository(os.fsencode(ws.path))
    ws.git("update-ref", "refs/x/new", oids[0])
    (ws.git_dir / "refs/x/link").symlink_to("new")
    assert refs.read_refs_below(repository.common_dir, "refs/x/", "refs/none/") == [{"new": oids[0]}, {}]
    real = getattr(os, call)

    def fails(path: bytes, *args: Any, **named: Any) -> Any:
        if b"/refs/x" in path:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)
        return real(path, *args, **named)

    monkeypatch.setattr(os, call, fails)
    with pytest.raises(OSError, match="Too many open files"):
        refs.read_refs_below(repository.common_dir, "refs/x/")


def test_lock_of_another_git_is_named(ws: Workspace) -> None:
    (ws.git_dir / "refs/heads/locked.lock").touch()
    repository = open_repository(os.fsencode(ws.path))
    writer = RefWriter(repository, repository.git, "test", Deadline(0.3))
    with pytest.raises(GitError, match=r"Unable to create '.*/refs/heads/locked\.lock': File exists"):
        writer.commit([RefUpdate("refs/heads/locked", oid(ws, "HEAD"), None)])


def test_git_that_hangs_is_ended_at_the_deadline(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    repository, head = open_repository(os.fsencode(ws.path)), oid(ws, "HEAD")
    program = ws.script("git", "exec sleep 100000\n")
    monkeypatch.setenv("PATH", os.fspath(program.parent), prepend=os.pathsep)
    writer = RefWriter(repository, repository.git, "test", Deadline(0.5))
    with pytest.raises(GitError, match="it took too long") as caught:
        writer.commit([RefUpdate("refs/heads/new", head, None)])
    assert caught.value.status == -9


@pytest.mark.parametrize("is_packed", [False, True])
def test_deleted_ref_costs_a_sync_of_the_git_directory_only_where_git_has_packed_it(
    is_packed: bool, ws: Workspace, oids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = REF if is_packed else f"{REF}-not"
    ws.git("update-ref", ref, oids[0])
    repository = open_repository(os.fsencode(ws.path))
    synced: list[bytes] = []
    monkeypatch.setattr(refs, "fsync_paths", synced.extend)
    writer = RefWriter(repository, repository.git, "test")
    writer.commit([RefUpdate(ref, None, oids[0])])
    writer.close()
    assert os.path.join(repository.common_dir, b"refs") in synced
    assert (repository.common_dir in synced) == is_packed
    assert ref not in ws.out("for-each-ref", "--format=%(refname)").splitlines()
