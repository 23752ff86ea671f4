"""Objects are read by id; one that is missing, damaged, too large or of another kind is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gitstate.errors import GitError, MissingObject
from gitstate.git.opening import open_repository
from gitstate.objects.reader import ObjectReader, commit_head, format_commit
from gitstate.objects.tree import TreeReader
from tests.support.workspace import Workspace

OID, OTHER = "1" * 40, "2" * 40


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    ws = Workspace(tmp_path / "ws", tmp_path)
    ws.path.mkdir()
    ws.git("init", "-q", ".")
    ws.write("f", "content\n")
    ws.commit("first")
    return ws


def reader_of(ws: Workspace) -> ObjectReader:
    return ObjectReader(open_repository(os.fsencode(ws.path)).git)


@pytest.mark.parametrize("parents", [[], [OID], [OID, OTHER]])
def test_commit_is_parsed_as_it_is_formatted(parents: list[str]) -> None:
    data = format_commit(OTHER, parents, "me <me@here> 0 +0000", f"subject\n\ntree {OID}\n")
    assert commit_head(data) == (OTHER, parents)


@pytest.mark.parametrize("data", [b"", b"tree x\n\n", b"parent %s\n\n" % OID.encode(), b"\n\ntree %s\n" % OID.encode()])
def test_what_is_no_commit_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        commit_head(data)


def test_git_reads_a_formatted_commit(ws: Workspace) -> None:
    tree = ws.out("rev-parse", "HEAD^{tree}")
    data = format_commit(tree, [ws.out("rev-parse", "HEAD")], "me <me@here> 7 +0000", "subject\n\nbody\n")
    oid = ws.git("hash-object", "-t", "commit", "-w", "--stdin", stdin=data).decode("ascii").strip()
    ws.git("fsck", "--strict")
    with reader_of(ws) as reader:
        assert reader.commit(oid) == data and reader.tree_of(oid) == tree


def test_missing_object_is_no_failed_git(ws: Workspace) -> None:
    tree, blob = ws.out("rev-parse", "HEAD^{tree}"), ws.out("rev-parse", "HEAD:f")
    with reader_of(ws) as reader:
        assert reader.commit(OID) is None and reader.commit(tree) is None
        assert reader.contents([OID, blob]) == [None, ("blob", b"content\n")]
        for ask in (
            lambda: reader.tree_of(OID),
            lambda: reader.tree_of(tree),
            lambda: TreeReader(reader).tree(OID),
            lambda: TreeReader(reader).tree(blob),
            lambda: reader.contents([blob], limit=3),
            lambda: list(reader.stream(OID)),
        ):
            with pytest.raises(MissingObject) as raised:
                ask()
            assert isinstance(raised.value, GitError) and raised.value.status == 0
            assert raised.value.oid in str(raised.value) and raised.value.oid in (OID, tree, blob)


def test_git_that_was_killed_is_told_from_a_missing_object(ws: Workspace) -> None:
    blob = ws.out("rev-parse", "HEAD:f")
    with reader_of(ws) as reader:
        assert reader.kinds([blob]) == [("blob", 8)]
        reader._process.kill()
        os.waitid(os.P_PID, reader._process.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(GitError) as raised:
            reader.kinds([blob])
        assert raised.value.status == -9 and not isinstance(raised.value, MissingObject)
        reader.restart()
        assert reader.kinds([blob]) == [("blob", 8)]


#: Large enough that what a power cut left of its file begins with bytes of the blob.
TORN = b"".join(b"%d\n" % number for number in range(40_000))


def torn_blob(ws: Workspace, *, packed: bool) -> str:
    """A blob whose loose file was cut to a half, and which a pack has whole if it is `packed`."""
    ws.write("torn", TORN)
    ws.commit("second")
    if packed:
        ws.git("repack", "-q", "-a")
    oid = ws.out("rev-parse", "HEAD:torn")
    path = ws.git_dir / "objects" / oid[:2] / oid[2:]
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return oid


def test_blob_with_a_torn_file_is_read_from_its_pack(ws: Workspace) -> None:
    torn, whole = torn_blob(ws, packed=True), ws.out("rev-parse", "HEAD:f")
    with reader_of(ws) as reader:
        assert reader.contents([whole, torn, whole, torn]) == [("blob", b"content\n"), ("blob", TORN)] * 2
        assert b"".join(reader.stream(torn)) == TORN
        assert b"".join(reader.stream(whole)) == b"content\n"
    with reader_of(ws) as reader:
        reader.foresee_contents([torn])
        reader.foresee_kinds([whole])
        reader.foresee_contents([whole])
        assert reader.kinds([torn, whole]) == [("blob", len(TORN)), ("blob", 8)]
        assert reader.contents([whole, torn]) == [("blob", b"content\n"), ("blob", TORN)]
    assert sorted(path.name for path in ws.path.iterdir()) == [".git", "f", "torn"]


def test_blob_with_a_torn_file_and_no_pack_is_named(ws: Workspace) -> None:
    torn, whole = torn_blob(ws, packed=False), ws.out("rev-parse", "HEAD:f")
    with reader_of(ws) as reader:
        for ask in (lambda: reader.contents([whole, torn, whole]), lambda: list(reader.stream(torn))):
            with pytest.raises(MissingObject, match=torn):
                ask()
            reader.restart()
            assert reader.contents([whole]) == [("blob", b"content\n")]
