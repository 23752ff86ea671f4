"""Hooks in git's configuration (git 2.54): gitstate runs none of them, but for the one that may refuse a push."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integrations.installed import CONFIGURED
from tests.states import dirty
from tests.support.remotes import remote_refs
from tests.support.workspace import Workspace, run_git

pytestmark = pytest.mark.skipif(not CONFIGURED, reason="hooks in git's configuration need git 2.54 or newer")

EVENTS = (
    *("reference-transaction", "post-index-change", "post-checkout", "pre-auto-gc", "post-rewrite", "post-merge"),
    *("pre-commit", "post-commit", "commit-msg"),
)


def _configure(ws: Workspace, scope: str, name: str, command: str | Path, *events: str) -> None:
    ws.git("config", scope, f"hook.{name}.command", str(command))
    for event in events:
        ws.git("config", scope, "--add", f"hook.{name}.event", event)


def _ran(ws: Workspace) -> list[str]:
    return [str(trace.read_text()) for trace in ws.canaries if trace.exists()]


@pytest.mark.parametrize("name", ["evil", "a=b", "A.b c"])
@pytest.mark.parametrize("scope", ["--local", "--global"])
def test_no_configured_hook_runs(scope: str, name: str, ws: Workspace) -> None:
    """They refuse what they are asked, too: with one that runs the save, or its proof, would fail."""
    dirty(ws)
    _configure(ws, scope, name, ws.canary("hook"), *EVENTS)
    for command in ("save", "verify", "recover", "checkpoint", "prune", "doctor", "save"):
        ws.append("a.txt")
        run = ws.gitstate(command)
        assert run.exit_status == 0 and not _ran(ws), (command, run, _ran(ws))
    (ws.git_dir / "index").write_bytes(b"torn")
    assert ws.gitstate("save").exit_status == 4 and not _ran(ws), _ran(ws)
    ws.gitstate("doctor")
    assert not _ran(ws), _ran(ws)


@pytest.mark.parametrize("scope", ["--local", "--global"])
def test_no_configured_hook_runs_where_the_configuration_is_damaged(scope: str, ws: Workspace) -> None:
    _configure(ws, scope, "evil", ws.canary("hook"), *EVENTS)
    ws.append("a.txt")
    with open(ws.git_dir / "config", "a") as file:
        file.write("[status]\n\tshowUntrackedFiles = some\n")
    run = ws.save()
    assert run.exit_status == 4 and not _ran(ws), (run, _ran(ws))
    assert "showuntrackedfiles" in run.json["left_out"][0]["reason"], run


def test_hook_that_has_no_command_costs_no_save(ws: Workspace) -> None:
    """Git ends at it."""
    ws.git("config", "hook.half.event", "reference-transaction")
    ws.append("a.txt")
    assert ws.save().exit_status == 0
    assert ws.gitstate("verify").exit_status == 0
    assert ws.recover().exit_status == 0


@pytest.mark.parametrize("scope", ["--local", "--global"])
def test_push_obeys_a_configured_pre_push_hook(scope: str, ws: Workspace, tmp_path: Path) -> None:
    run_git(tmp_path, "init", "-q", "--bare", "origin.git")
    ws.git("remote", "add", "origin", str(tmp_path / "origin.git"))
    ws.append("a.txt")
    assert ws.save().exit_status == 0
    hook = ws.script("refuse", "cat >/dev/null; echo no secrets leave this host >&2; exit 1\n")
    _configure(ws, scope, "scanner", hook, "pre-push")
    run = ws.gitstate("push", "origin")
    assert run.exit_status == 1 and "no secrets leave this host" in run.stderr, run
    assert remote_refs(ws) == {}
    ws.git("config", scope, "hook.scanner.enabled", "false")
    assert ws.gitstate("push", "origin").exit_status == 0
    assert remote_refs(ws)


@pytest.mark.parametrize("key", ["hook.gitstate-post-checkout.enabled", "hook.post-checkout.enabled"])
def test_doctor_names_the_setting_that_keeps_our_hook_from_running(key: str, ws: Workspace) -> None:
    def told() -> list[str]:
        findings = ws.gitstate("doctor", "--json").json["findings"]
        return [f"{item['what']}: {item['next']}" for item in findings if "git does not call gitstate" in str(item)]

    assert ws.gitstate("install").exit_status == 0
    assert told() == []
    ws.git("config", key, "false")
    (problem,) = told()
    assert problem.startswith(f"{key} is false") and problem.endswith(f"--unset-all {key}")
    ws.git("config", key, "true")
    assert told() == []
