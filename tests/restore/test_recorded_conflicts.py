"""What `git rerere` recorded of a conflict survives its own clean-up: without it git crashes at the next commit."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support.losing import wipe
from tests.support.oracle import fingerprint
from tests.support.recovering import recovered_from
from tests.support.remotes import clone
from tests.support.saving import saved_from
from tests.support.workspace import Workspace, run_git


def stop_in_am(ws: Workspace) -> None:
    ws.config("rerere.enabled", "true")
    mailbox = ws.outside / "mailbox"
    mailbox.write_bytes(ws.git("format-patch", "--stdout", "base..side-content"))
    ws.fails("am", "-q", "--3way", str(mailbox))
    ws.expect("UU a.txt")


def recorded(ws: Workspace) -> dict[Path, bytes]:
    top = ws.common_dir / "rr-cache"
    return {file.relative_to(top): file.read_bytes() for file in top.glob("*/*")}


def resolve(ws: Workspace) -> None:
    ws.write("a.txt", "resolved\n")
    ws.add("a.txt")
    ws.git("rerere")


def test_conflict_that_an_abort_forgot_is_recorded_again(ws: Workspace) -> None:
    stop_in_am(ws)
    before, names = recorded(ws), (ws.git_dir / "MERGE_RR").read_bytes()
    assert len(before) == 1
    saved_from(ws.save())
    ws.git("am", "--abort")
    assert not recorded(ws)
    recovered_from(ws.recover())
    assert (recorded(ws), (ws.git_dir / "MERGE_RR").read_bytes()) == (before, names)
    resolve(ws)
    assert sorted(path.name for path in recorded(ws)) == ["postimage", "preimage"]


def test_variant_of_a_recorded_conflict_comes_back(ws: Workspace) -> None:
    stop_in_am(ws)
    names = (ws.git_dir / "MERGE_RR").read_bytes()
    (preimage,) = (ws.common_dir / "rr-cache").glob("*/preimage")
    os.rename(preimage, f"{preimage}.1")
    (ws.git_dir / "MERGE_RR").write_bytes(names.replace(b"\t", b".1\t"))
    before = recorded(ws)
    saved_from(ws.save())
    ws.git("am", "--abort")
    shutil.rmtree(ws.common_dir / "rr-cache")
    recovered_from(ws.recover())
    assert recorded(ws) == before
    resolve(ws)


def test_conflict_whose_record_is_lost_crashes_no_git(ws: Workspace) -> None:
    """As in a save of before, or where the record was gone already."""
    stop_in_am(ws)
    shutil.rmtree(ws.common_dir / "rr-cache")
    saved_from(ws.save())
    ws.git("am", "--abort", check=False)
    wipe(ws)
    for name in ("MERGE_RR", "MERGE_RR.lock"):
        (ws.git_dir / name).unlink(missing_ok=True)
    recovered_from(ws.recover())
    assert not (ws.git_dir / "MERGE_RR").exists()
    resolve(ws)


def test_record_whose_place_is_taken_holds_up_nothing_else(ws: Workspace) -> None:
    stop_in_am(ws)
    before = fingerprint(ws.path)
    saved_from(ws.save())
    ws.git("am", "--abort")
    shutil.rmtree(ws.common_dir / "rr-cache")
    (ws.common_dir / "rr-cache").write_text("mine\n")
    (item,) = recovered_from(ws.recover())["left_out"]
    assert not item["lost"] and "the records of git rerere are not back: " in item["reason"], item
    after = fingerprint(ws.path)
    assert (after.files, after.index) == (before.files, before.index)
    assert not (ws.git_dir / "MERGE_RR").exists() and (ws.common_dir / "rr-cache").read_text() == "mine\n"


@pytest.mark.parametrize("enabled", [False, True])
def test_recovery_in_another_clone_turns_nothing_on(enabled: bool, ws: Workspace) -> None:
    origin = ws.path.parent / "origin.git"
    run_git(ws.path.parent, "clone", "-q", "--bare", str(ws.path), str(origin))
    ws.git("remote", "add", "origin", f"file://{origin}")
    stop_in_am(ws)
    saved = saved_from(ws.save())
    assert ws.gitstate("push", "origin").exit_status == 0
    there = clone(ws)
    if enabled:
        there.config("rerere.enabled", "true")
    assert there.gitstate("fetch", "origin").exit_status == 0
    recovered_from(there.gitstate("recover", "--json", "--save", saved.save_id))
    assert bool(recorded(there)) == enabled == (there.git_dir / "MERGE_RR").exists()
    resolve(there)


def test_save_with_a_recorded_conflict_is_proven(ws: Workspace) -> None:
    stop_in_am(ws)
    saved_from(ws.save())
    run = ws.gitstate("verify")
    assert run.exit_status == 0, run
