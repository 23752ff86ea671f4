"""Torn indexes and torn objects: what is readable is saved, the rest is reported."""

from __future__ import annotations

import os
import zlib

import pytest

from tests.support.oracle import fingerprint
from tests.support.small import recover, save
from tests.support.workspace import Workspace


@pytest.mark.parametrize("torn", [b"", b"DIRC\0\0"])
def test_torn_index_is_restored_from_the_save(ws: Workspace, torn: bytes) -> None:
    ws.write("a", "a1\n")
    ws.add("a")
    ws.write("a", "a2\n")
    save(ws)
    (ws.git_dir / "index").write_bytes(torn)
    ws.remove("a")
    recover(ws)
    assert (ws.read("a"), ws.git("cat-file", "blob", ":a")) == (b"a2\n", b"a1\n")


def test_dry_run_keeps_a_torn_index(ws: Workspace) -> None:
    ws.write("a", "a1\n")
    save(ws)
    index = ws.git_dir / "index"
    index.write_bytes(b"")
    ws.remove("a")
    run = recover(ws, "--dry-run")
    assert [item["path"] for item in run.json["workspaces"][0]["restored"]] == ["a"], run
    assert index.read_bytes() == b"" and not os.path.exists(ws.at("a"))


def test_unreadable_pending_save_does_not_block_the_next(ws: Workspace) -> None:
    ws.git("checkout", "-q", "--detach")
    ws.write("a", "a1\n")
    save(ws)
    (archive,) = ws.refs("refs/gitstate/pending").values()
    manifest = ws.out("rev-parse", f"{archive}:manifest.json")
    for index in (ws.git_dir / "objects" / "pack").glob("*.idx"):
        for line in ws.git("show-index", stdin=index.read_bytes()).decode().splitlines():
            if manifest in line:
                pack = index.with_suffix(".pack")
                pack.chmod(0o644)
                with pack.open("r+b") as file:
                    file.seek(int(line.split()[0]) + 5)
                    file.write(b"no deflate")
    ws.fails("cat-file", "-p", manifest)
    ws.write("b", "b1\n")
    save(ws)
    (later,) = ws.refs("refs/gitstate/pending").values()
    assert later != archive and ws.git("show", f"{later}^1:a") == b"a1\n"


def tear(ws: Workspace, oid: str, left: int | bytes) -> None:
    """Damage a loose object as a power cut does: leave a beginning (a length) or other bytes."""
    path = ws.git_dir / "objects" / oid[:2] / oid[2:]
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:left] if isinstance(left, int) else left)


@pytest.mark.sample(2)
@pytest.mark.parametrize("left", [0, 12, bytes(40), zlib.compress(b"bogus 3\0abc"), zlib.compress(b"no kind 3\0abc")])
def test_torn_staged_object_is_rebuilt_from_the_file(ws: Workspace, left: int | bytes) -> None:
    for name in ("s", "t", "u"):
        ws.write(name, f"{name}\n" * 100)
        ws.add(name)
    before = fingerprint(ws.path)
    tear(ws, ws.out("rev-parse", ":t"), left)
    save(ws)
    for name in ("s", "t", "u"):
        ws.remove(name)
    ws.git("reset", "-q", "--hard", "HEAD~2")
    recover(ws)
    assert before.diff(fingerprint(ws.path)) == []
    # `cat-file` of git 2.55 prints the loose file, which is still torn.
    ws.remove("t")
    ws.git("checkout-index", "t")
    assert ws.read("t") == b"t\n" * 100


def test_staged_object_missing_in_a_partial_clone_stays_staged(ws: Workspace) -> None:
    ws.config("uploadpack.allowFilter", "true")
    ws.config("uploadpack.allowAnySHA1InWant", "true")
    blob = ws.out("rev-parse", "HEAD:a")
    partial = Workspace(ws.outside / "partial", ws.outside)
    url = f"file://{ws.path}"
    ws.git("clone", "-q", "--filter=blob:none", "--no-checkout", url, str(partial.path))
    partial.git("read-tree", "--empty")
    partial.git("update-index", "--add", "--info-only", "--cacheinfo", f"100644,{blob},elsewhere")
    partial.write("here", "here\n")
    run = partial.save()
    assert run.exit_status == 0, run
    assert "can't be read" not in run.stderr, run
    assert f"100644 blob {blob}\telsewhere" in partial.out("ls-tree", "-r", "HEAD~1")


def test_torn_staged_object_without_a_copy_is_reported_as_skipped(ws: Workspace) -> None:
    for name in ("a", "s"):
        ws.write(name, "staged\n" * 100)
        ws.add(name)
        tear(ws, ws.out("rev-parse", f":{name}"), 12)
        ws.write(name, "edited\n")
        ws.write(name + "2", "staged too\n")
        ws.add(name + "2")
    run = ws.save()
    assert run.exit_status == 4 and "skipped: s: its staged version is unreadable" in run.stderr, run
    assert ws.git("show", "HEAD:a") == ws.git("show", "HEAD:s") == b"edited\n"
    assert ws.git("show", "HEAD~1:a2") == b"staged too\n"
    ws.git("reset", "-q", "--hard", "HEAD~2")
    assert "skipped: a: its staged version is unreadable" in recover(ws).stderr
    assert ws.read("a") == ws.read("s") == b"edited\n"


def test_save_without_an_index_under_sparse_patterns(ws: Workspace) -> None:
    ws.git("config", "core.sparseCheckout", "true")
    ws.write(".git/info/sparse-checkout", "/*\n!/b.txt\n")
    (ws.git_dir / "index").unlink()
    ws.write("new.txt", "new\n")
    assert ws.save().exit_status == 0
    assert (ws.git_dir / "gitstate").is_dir() and ws.refs("refs/gitstate/pending")
