"""`verify` proves that the newest save comes back, and notices each byte that is not what it was."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.states import STATES, make
from tests.support.oracle import fingerprint
from tests.support.patched import patched
from tests.support.repositories import Templates, three_files
from tests.support.workspace import Run, Workspace


def verify(ws: Workspace, *args: str) -> Run:
    return ws.gitstate("verify", "--json", *args)


@pytest.mark.parametrize("name", sorted(STATES))
@pytest.mark.slow
def test_save_of_each_state_is_proven(name: str, templates: Templates, tmp_path: Path) -> None:
    ws = make(STATES[name], templates, tmp_path)
    if ws.save().exit_status != 0:
        pytest.skip("the save of this state is not complete")
    before = fingerprint(ws.path)
    run = verify(ws)
    assert run.exit_status == 0, run
    assert fingerprint(ws.path).diff(before) == []


#: A file system that is mounted read-only, below the workspace.
READ_ONLY = """
import errno
opens = os.open
def refused(path, flags, *args, **names):
    if flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR) and b"/.git/" in os.fsencode(path) and WHERE in os.fsencode(path):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
    return opens(path, flags, *args, **names)
os.open = refused
"""


@pytest.mark.parametrize("is_whole", [True, False])
def test_workspace_on_a_read_only_disk_is_verified(is_whole: bool, ws: Workspace) -> None:
    """As a backup is: what was found holds, though no receipt of it can be left."""
    ws.append("a.txt")
    made = ws.save().json
    if not is_whole:
        blob = ws.out("rev-parse", f"{made['wip_commit']}:a.txt")
        for pack in sorted((ws.git_dir / "objects/pack").glob("*.pack")):
            content = pack.read_bytes()
            for path in pack.parent.glob(f"{pack.stem}.*"):
                path.unlink()
            ws.git("unpack-objects", "-q", stdin=content)
        (ws.git_dir / "objects" / blob[:2] / blob[2:]).unlink()
    run = patched(ws, f"WHERE = {os.fsencode(ws.path)!r}\n{READ_ONLY}", "verify")
    assert run.returncode == (0 if is_whole else 4), run
    said = run.stdout + run.stderr
    assert (b" proven at 20" if is_whole else b"does not come back") in said
    assert b"verified.json" in said and b"Read-only file system" in said
    assert ws.gitstate("status", "--json").json["workspaces"][0]["proven"] is None


def test_proof_is_kept_for_status_and_doctor(ws: Workspace) -> None:
    assert verify(ws).json["workspaces"][0]["proven"] is False
    ws.append("a.txt")
    made = ws.save().json["save_id"]
    run = ws.gitstate("verify")
    assert run.exit_status == 0 and f"save {made} proven at 20" in run.text
    (status,) = ws.gitstate("status", "--json").json["workspaces"]
    assert status["proven"]["save_id"] == made and status["proven"]["problems"] == []
    assert "(proven at 20" in ws.gitstate("status").text
    assert "verify" not in [item["check"] for item in ws.gitstate("doctor", "--json").json["findings"]]


def test_damage_is_told_by_doctor_until_a_save_is_proven(ws: Workspace) -> None:
    ws.write("new.txt", "x\n")
    archive = ws.save().json["archive"]
    ws.git("repack", "-adq")
    blob = ws.out("rev-parse", f"{archive}^:new.txt")
    ws.git("unpack-objects", "-q", stdin=ws.git("pack-objects", "--stdout", "-q", stdin=b"%s\n" % blob.encode()))
    for pack in (ws.path / ".git" / "objects" / "pack").glob("*"):
        pack.chmod(0o644)
    (pack,) = (ws.path / ".git" / "objects" / "pack").glob("*.pack")
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 0xFF
    pack.write_bytes(data)
    assert verify(ws).exit_status == 4
    assert "verify" in [item["check"] for item in ws.gitstate("doctor", "--json").json["findings"]]


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 89])
def test_every_flipped_byte_and_missing_object_is_noticed(tmp_path: Path, step: int) -> None:
    """In each pack and loose object that holds the save, of its files, trees, commits, context and manifest."""
    ws = three_files(tmp_path)
    ws.write("a", "a, edited\n")
    ws.git("add", "a")
    ws.write("new", "new\n")
    assert ws.save().exit_status == 0
    assert verify(ws).exit_status == 0
    objects = ws.path / ".git" / "objects"
    holding = [path for path in sorted(objects.rglob("*")) if path.is_file() and path.suffix != ".keep"]
    assert any(path.suffix == ".pack" for path in holding) and any(len(path.name) == 38 for path in holding)
    unneeded = {ws.out("rev-parse", "refs/notes/gitstate"), ws.out("rev-parse", "refs/notes/gitstate^{tree}")}
    # The pack of the save holds the staged file too: its loose object is not needed.
    (index,) = objects.rglob("*.idx")
    packed = {line.split()[1].decode() for line in ws.git("show-index", stdin=index.read_bytes()).splitlines()}
    noticed = missed = 0
    for path in holding:
        if path.parent.name + path.name in unneeded | packed:
            continue
        data = path.read_bytes()
        path.chmod(0o644)
        path.rename(path.with_name("aside"))
        assert verify_in_process(ws), f"{path} is missing"
        path.with_name("aside").rename(path)
        for position in range(0, len(data), step):
            damaged = bytearray(data)
            damaged[position] ^= 0xFF
            path.write_bytes(damaged)
            if verify_in_process(ws):
                noticed += 1
            else:
                missed += 1
        path.write_bytes(data)
    assert (missed, noticed > 2000 // step) == (0, True)
    assert verify(ws).exit_status == 0


def verify_in_process(ws: Workspace) -> bool:
    """Whether `verify` finds something wrong."""
    from gitstate.history.verify import verify as prove

    return bool(prove(os.fsencode(ws.path)).problems)


def test_marker_without_an_object_id_is_noticed(ws: Workspace) -> None:
    ws.append("a.txt")
    ws.save()
    (ref,) = ws.refs("refs/gitstate/pending/")
    (ws.path / ".git" / ref).write_text("")
    assert verify(ws).exit_status == 4


def test_verify_leaves_nothing_behind(ws: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    ws.append("a.txt")
    ws.save()
    assert verify(ws).exit_status == 0
    assert list(place.iterdir()) == []


def test_verify_all_names_each_workspace(ws: Workspace) -> None:
    ws.append("a.txt")
    ws.save()
    linked = ws.outside / "linked"
    ws.git("worktree", "add", "-q", "--detach", str(linked))
    answers = verify(ws, "--all").json["workspaces"]
    assert {(Path(item["workspace"]).name, item["proven"]) for item in answers} >= {
        ("linked", False),
        (ws.path.name, True),
    }
