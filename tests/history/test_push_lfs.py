"""`push` of saves with files of Git LFS: its own pre-push hook sends the content of what the save names."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from tests.support.remotes import clone, remote_refs
from tests.support.skips import why_not_program
from tests.support.workspace import Workspace

_MISSING = why_not_program("git-lfs")
pytestmark = pytest.mark.skipif(_MISSING is not None, reason=_MISSING or "")

_CHANGED, _STAGED, _NEW = (letter * 3_000 for letter in (b"changed", b"staged", b"new"))


@pytest.fixture
def ws(published: Workspace) -> Workspace:
    """A clone with three files of Git LFS that are not committed; the content of one is on the remote."""
    published.git("config", "lfs.url", store(published).as_uri())
    install(published)
    published.git("lfs", "track", "*.large")
    published.write("a.large", b"committed")
    published.commit("large files")
    with_hooks(published, "push", "-q", "origin", "HEAD")
    published.write("a.large", _CHANGED)
    published.write("staged.large", _STAGED)
    published.git("add", "staged.large")
    published.write("new.large", _NEW)
    return published


def install(ws: Workspace) -> None:
    """Filters and hooks of Git LFS."""
    with_hooks(ws, "lfs", "install", "--local")


def with_hooks(ws: Workspace, *args: str) -> None:
    """Run git with the hooks of the repository; the tests' git runs none."""
    ws.git("-c", f"core.hooksPath={ws.path / '.git' / 'hooks'}", *args)


def store(ws: Workspace) -> Path:
    return ws.path.parent / "origin.git"


def content(ws: Workspace) -> set[str]:
    """The SHA-256 of what the remote's LFS store holds."""
    return {path.name for path in (store(ws) / "lfs").rglob("*") if path.is_file()}


def names(*data: bytes) -> set[str]:
    return {hashlib.sha256(part).hexdigest() for part in data}


def saves_there(ws: Workspace) -> list[str]:
    return [ref for ref in remote_refs(ws) if ref.startswith("refs/gitstate/")]


def test_content_of_lfs_goes_with_the_save(ws: Workspace) -> None:
    assert content(ws) == names(b"committed")
    assert ws.save().exit_status == 0
    run = ws.gitstate("push", "origin", "--json")
    assert run.exit_status == 0, run
    assert run.json["not_sent"] == []
    assert content(ws) == names(b"committed", _CHANGED, _STAGED, _NEW)


def test_another_host_recovers_files_of_lfs(ws: Workspace) -> None:
    save_id = ws.save().json["save_id"]
    assert ws.gitstate("push", "origin").exit_status == 0
    other = clone(ws)
    other.git("config", "lfs.url", store(ws).as_uri())
    install(other)
    assert other.gitstate("fetch", "origin").exit_status == 0
    run = other.gitstate("restore", save_id, "a.large", "staged.large", "new.large", "--overwrite", "--trust")
    assert run.exit_status == 0, run
    assert [(other.path / name).read_bytes() for name in ("a.large", "staged.large", "new.large")] == [
        _CHANGED,
        _STAGED,
        _NEW,
    ]


def test_failed_upload_is_reported_and_sends_no_save(ws: Workspace) -> None:
    """git-lfs' hook refuses such a push: a host that fetched it would miss the content."""
    assert ws.save().exit_status == 0
    ws.git("config", "lfs.url", (ws.path.parent / "no-such-store.git").as_uri())
    run = ws.gitstate("push", "origin", "--json")
    assert run.exit_status != 0, run
    assert any(item["ref"].startswith("refs/gitstate/saves/") for item in run.json["not_sent"]), run
    assert saves_there(ws) == []


def test_plain_text_beside_files_of_lfs_stays_here(ws: Workspace, tmp_path: Path) -> None:
    """A save that is held back takes the content of its LFS files nowhere either."""
    ws.git("config", "filter.crypt.clean", "tr a-z n-za-m")
    ws.git("config", "filter.crypt.smudge", "tr a-z n-za-m")
    ws.write(".gitattributes", (ws.path / ".gitattributes").read_text() + "*.key filter=crypt\n")
    ws.write("token.key", "swordfish\n")
    assert ws.save().exit_status == 0
    run = ws.gitstate("push", "origin", "--json")
    assert any("token.key" in item["reason"] for item in run.json["not_sent"]), run
    assert content(ws) == names(b"committed")
    assert saves_there(ws) == []
    everything = Workspace(store(ws), tmp_path).git("cat-file", "--batch-all-objects", "--batch")
    assert b"swordfish" not in everything


def test_files_of_lfs_are_whole_in_the_save_without_its_store(ws: Workspace) -> None:
    """The save keeps the content itself: neither the local store nor the remote's is needed to recover."""
    assert ws.save().exit_status == 0
    shutil.rmtree(ws.path / ".git" / "lfs")
    for name in ("a.large", "staged.large", "new.large"):
        (ws.path / name).unlink()
    assert ws.gitstate("recover").exit_status == 0
    assert (ws.path / "new.large").read_bytes() == _NEW
    assert (ws.path / "staged.large").read_bytes() == _STAGED
