"""What the configuration of a linked worktree alone sets is lost with the worktree, and comes back with its save."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.states import Loss
from tests.support.forgery import forged
from tests.support.look import porcelain
from tests.support.losing import lose
from tests.support.oracle import fingerprint
from tests.support.recovering import recovered_from
from tests.support.saving import saved_from
from tests.support.workspace import Workspace


@pytest.fixture
def linked(ws: Workspace) -> Workspace:
    """A linked worktree with a configuration of its own."""
    ws.config("extensions.worktreeConfig", "true")
    made = Workspace(ws.path.with_name("linked"), ws.outside, main=ws.path)
    ws.git("worktree", "add", "-q", "-b", "of-linked", made.path)
    return made


def _set(ws: Workspace, **settings: str) -> None:
    for name, value in settings.items():
        ws.git("config", "--worktree", name.replace("_", "."), value)


def _own(ws: Workspace) -> dict[str, str]:
    listed = ws.git("config", "--worktree", "--list", "-z", check=False).decode().split("\0")[:-1]
    return dict(item.split("\n", 1) for item in listed)


def _removed_and_recovered(ws: Workspace) -> list[str]:
    """What `recover --into` says it did not bring back, of a worktree that is removed after its save."""
    where, options = lose(ws, Loss.REMOVED, saved_from(ws.save()))
    answer = recovered_from(ws.recover(*options, path=where))
    assert answer["verdict"] == "restore"
    return [item["reason"] for item in answer["left_out"]]


def test_settings_come_back_before_git_writes_files(linked: Workspace) -> None:
    """Line ends of files that nobody changed are as the worktree's own setting has them."""
    linked.write("lines.txt", "1\n2\n")
    linked.commit("lines")
    _set(linked, core_autocrlf="true", user_name="Agent Two")
    (linked.path / "lines.txt").unlink()
    linked.git("checkout", "-q", "lines.txt")
    assert (linked.path / "lines.txt").read_bytes() == b"1\r\n2\r\n"
    linked.append("a.txt")
    linked.write("untracked.txt")
    before, status, own = fingerprint(linked.path), porcelain(linked), _own(linked)
    assert _removed_and_recovered(linked) == []
    assert before.diff(fingerprint(linked.path)) == []
    assert (porcelain(linked), _own(linked)) == (status, own)
    assert linked.out("config", "user.name") == "Agent Two"


@pytest.mark.parametrize("is_on", [True, False])
def test_sparse_checkout_comes_back_with_other_settings(is_on: bool, linked: Workspace) -> None:
    """The patterns stay when a sparse checkout ends, and so does the setting that it is off."""
    for name in ("in/a", "out/b"):
        linked.write(name)
    linked.commit("directories")
    linked.git("sparse-checkout", "init", "--cone")
    linked.git("sparse-checkout", "set", "in")
    if not is_on:
        linked.git("sparse-checkout", "disable")
    _set(linked, user_email="two@example.com")
    linked.append("in/a")
    before, own = fingerprint(linked.path), _own(linked)
    assert _removed_and_recovered(linked) == []
    assert before.diff(fingerprint(linked.path)) == []
    assert _own(linked) == own


def test_patterns_come_back_where_the_shared_configuration_is_sparse(ws: Workspace, tmp_path: Path) -> None:
    linked = Workspace(tmp_path / "linked", ws.outside, main=ws.path)
    ws.git("worktree", "add", "-q", "-b", "of-linked", linked.path)
    for name in ("in/a", "out/b"):
        linked.write(name)
    linked.commit("directories")
    ws.config("core.sparseCheckout", "true")
    (linked.git_dir / "info").mkdir(exist_ok=True)
    (linked.git_dir / "info" / "sparse-checkout").write_text("/in/\n")
    linked.git("read-tree", "-m", "-u", "HEAD")
    assert not (linked.path / "out").exists()
    linked.append("in/a")
    before = fingerprint(linked.path)
    assert _removed_and_recovered(linked) == []
    assert before.diff(fingerprint(linked.path)) == []


def test_setting_that_names_a_program_is_not_kept_and_named(linked: Workspace) -> None:
    canary = linked.outside / "canary"
    program = f"touch {canary}"
    _set(linked, core_sshCommand=program, core_hooksPath="/somewhere", core_eol="lf", http_extraHeader="secret: 1")
    linked.append("a.txt")
    reasons = _removed_and_recovered(linked)
    assert len(reasons) == 1
    assert all(name in reasons[0] for name in ("core.sshcommand", "core.hookspath", "http.extraheader"))
    assert "git -C" in reasons[0]
    assert "core.eol" not in reasons[0]
    assert _own(linked) == {"core.eol": "lf"}
    for archive in linked.refs("refs/gitstate"):
        manifest = linked.git("show", f"{archive}:manifest.json", check=False)
        assert b"secret: 1" not in manifest
        assert os.fsencode(canary) not in manifest


def test_settings_stay_as_they_are_in_the_worktree_itself(linked: Workspace) -> None:
    _set(linked, user_name="Agent Two", core_hooksPath="/somewhere")
    linked.append("a.txt")
    saved_from(linked.save())
    linked.git("config", "--worktree", "user.name", "Agent Three")
    answer = recovered_from(linked.recover())
    assert answer["left_out"] == []
    assert _own(linked) == {"user.name": "Agent Three", "core.hookspath": "/somewhere"}


def test_changed_setting_is_a_change(linked: Workspace) -> None:
    linked.append("a.txt")
    saved_from(linked.save())
    _set(linked, user_name="Agent Two")
    saved_from(linked.save())
    assert linked.recover().exit_status == 0
    linked.append("a.txt")
    assert _removed_and_recovered(linked) == []
    assert _own(linked) == {"user.name": "Agent Two"}


def test_settings_of_a_fetched_save_are_not_taken(linked: Workspace, tmp_path: Path) -> None:
    _set(linked, user_name="Somebody")
    linked.append("a.txt")
    save_id = saved_from(linked.save()).save_id
    linked.git("init", "-q", "--bare", tmp_path / "bare.git")
    linked.git("remote", "add", "origin", tmp_path / "bare.git")
    linked.git("push", "-q", "origin", "HEAD~1:refs/heads/main")
    assert linked.gitstate("push", "origin").exit_status == 0
    linked.git("clone", "-q", tmp_path / "bare.git", tmp_path / "there")
    there = Workspace(tmp_path / "there", linked.outside)
    there.config("extensions.worktreeConfig", "true")
    assert there.gitstate("fetch", "origin").exit_status == 0
    into = Workspace(tmp_path / "into", linked.outside, main=there.path)
    there.gitstate("recover", "--trust", "--save", save_id, "--into", str(into.path))
    assert (into.path / "a.txt").read_bytes() == (linked.path / "a.txt").read_bytes()
    assert _own(into) == {}


def test_setting_of_a_forged_save_is_not_taken(linked: Workspace) -> None:
    """The manifest is read again: a name may be an option of git's, or that of a program."""
    _set(linked, user_name="Agent Two")
    linked.append("a.txt")
    saved = saved_from(linked.save())
    with forged(linked) as save:
        save.manifest["worktree_settings"] |= {"core.fsmonitor": "touch canary", "--file=elsewhere": "x"}
    where, options = lose(linked, Loss.REMOVED, saved)
    recovered_from(linked.recover(*options, path=where))
    assert _own(linked) == {"user.name": "Agent Two"}
