"""``active_state.json`` is valid under the shipped schema, and hostile values stay data."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.states import STATES, dirty, make
from tests.support.repositories import Templates
from tests.support.workspace import Run, Workspace, run_git

SCHEMA: dict[str, Any] = json.loads(files("gitstate").joinpath("active_state.schema.json").read_text("utf-8"))

HOSTILE = {
    "quotes": "'\"`\\",
    "newlines": "one\ntwo\r\nthree\ttab",
    "shell": "$(touch PWNED) `touch PWNED`; touch PWNED & ${IFS}",
    "options": "--include-ignored=*",
    "terminal": "\x1b]0;title\x07\x1b[2J",
    "json": '","status":"finished","x":"',
    "format": "%s%n {0} %(refname)",
    "unicode": "\u202eevil \U0001f600 \ufeff",
    "null": "null",
    "lone surrogate": "a\udcffz",
    "64 KiB": "x" * 65_536,
}


@pytest.fixture
def ws(templates: Templates, tmp_path: Path) -> Workspace:
    ws = make(STATES["clean"], templates, tmp_path)
    dirty(ws)
    return ws


def well(run: Run) -> Run:
    assert run.exit_status == 0, str(run)
    return run


def state_of(ws: Workspace, name: str = "active_state.json") -> dict[str, Any]:
    """The state file, after checks that always hold."""
    path = ws.path / name
    assert stat.S_IMODE(path.lstat().st_mode) == 0o600
    state = json.loads(path.read_bytes().decode("utf-8", "strict"))
    Draft202012Validator(SCHEMA).validate(state)
    assert list(state) == list(SCHEMA["properties"]), "the schema names another set of fields"
    assert not any(name.encode() in record for record in ws.status()), "git sees the state file"
    assert not list(ws.path.rglob("*.tmp-*"))
    return dict(state)


def test_schema_is_valid_and_requires_every_property() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["required"] == list(SCHEMA["properties"])


def test_set_writes_a_valid_state_file(ws: Workspace) -> None:
    values = ("task_id=T-1", "issue_number=7", "progress_stage=coding", "memory_refs=a.md,b.md", "mine=x")
    well(ws.gitstate("set", *values))
    state = state_of(ws)
    assert state["status"] == "active"
    assert state["task_id"] == "T-1"
    assert state["issue_number"] == 7
    assert state["memory_refs"] == ["a.md", "b.md"]
    assert state["extra"] == {"mine": "x"}
    assert state["save"] is None
    assert state["agent"] is None, "what is unknown is null"


def test_save_and_recover_write_valid_state_files(ws: Workspace) -> None:
    document = well(ws.save("--signal", "TERM")).json
    saved = state_of(ws)
    assert saved["status"] == "interrupted"
    assert saved["reason"]["signal"] == "TERM"
    assert saved["workspace_path"] == str(ws.path)
    assert saved["branch_name"] == "agent/work"
    names = ("save_id", "wip_commit", "base_commit", "archive")
    assert {name: saved["save"][name] for name in names} == {name: document[name] for name in names}
    well(ws.recover())
    recovered = state_of(ws)
    assert recovered["status"] == "recovered"
    assert recovered["save"] == saved["save"]
    assert recovered["reason"] == saved["reason"]
    same = ("task_id", "issue_number", "progress_stage", "memory_refs", "branch_name", "extra")
    assert [recovered[name] for name in same] == [saved[name] for name in same]


def test_option_wins_over_the_environment(ws: Workspace) -> None:
    names = ("task_id", "issue_number", "progress_stage", "memory_refs", "agent", "session_id")
    ws.cli_env = {f"GITSTATE_{name.upper()}": f"{name} of the environment" for name in names}
    well(ws.gitstate("save", "--agent", "an option"))
    state = state_of(ws)
    expected: dict[str, object] = {name: f"{name} of the environment" for name in names}
    expected |= {"agent": "an option", "memory_refs": ["memory_refs of the environment"]}
    assert {name: state[name] for name in names} == expected


def test_state_file_lists_skipped_paths(ws: Workspace) -> None:
    os.mkfifo(os.path.join(bytes(ws.path), b"fifo-\xff"))
    well(ws.save())
    save = state_of(ws)["save"]
    assert save["incomplete"] is True
    assert [item["path_base64"] for item in save["left_out"]] == ["Zmlmby3/"]


@pytest.mark.sample(5)
@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_value_stays_data(ws: Workspace, value: str) -> None:
    expected = value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    well(ws.gitstate("save", "--task-id", value, "--progress-stage", value, "--reason", value, "--json"))
    assert state_of(ws)["task_id"] == expected
    ws.git("reset", "-q", "--hard")
    ws.git("clean", "-ffdxq")
    well(ws.recover())
    state = state_of(ws)
    assert (state["task_id"], state["progress_stage"]) == (expected, expected)
    assert state["status"] == "recovered"
    assert not list(ws.path.parent.rglob("PWNED"))
    shown = ws.gitstate("show")
    assert b"\x1b" not in well(shown).stdout + shown.stderr.encode()
    assert "\x1b" not in ws.gitstate("status").stdout.decode()


def test_overlong_value_is_cut_and_reported(ws: Workspace) -> None:
    run = ws.gitstate("save", "--task-id", "T-1", "--progress-stage", "x" * 65_537, "--json")
    assert run.json["incomplete"] is True
    state = state_of(ws)
    assert (state["task_id"], state["progress_stage"]) == ("T-1", "x" * 65_536)
    assert any("progress_stage" in item["reason"] for item in state["save"]["left_out"])


def test_recover_rebuilds_the_state_file_from_git_alone(ws: Workspace) -> None:
    """The state file, the live context and all reflogs are gone, and a gc has run."""
    well(ws.save("--signal", "TERM", "--session-id", "abc", "--memory-ref", "notes/a.md", "--memory-ref", "b"))
    before = state_of(ws)
    ws.remove("active_state.json")
    (ws.git_dir / "gitstate" / "context.json").unlink(missing_ok=True)
    ws.git("reflog", "expire", "--expire=now", "--all")
    ws.git("gc", "-q", "--prune=now")
    ws.remove(".git/logs")
    well(ws.recover())
    after = state_of(ws)
    varying = ("status", "timestamp", "resume", "briefing", "pid", "pid_start", "boot_id")
    assert {name: after[name] for name in after if name not in varying} == {
        name: before[name] for name in before if name not in varying
    }


def test_state_file_that_a_clone_brings_is_no_context(ws: Workspace) -> None:
    """Somebody committed it: what it says is of another workspace, and no task of this one."""
    well(ws.gitstate("begin", "task_id=T-of-another"))
    ws.git("add", "-f", "active_state.json")
    ws.commit("the state file, by mistake")
    ws.git("clone", "-q", os.fspath(ws.path), os.fspath(ws.outside / "clone"))
    clone = Workspace(ws.outside / "clone", ws.outside)
    (found,) = clone.recover().json["workspaces"]
    assert (found["verdict"], found["context"]["task_id"]) == ("nothing", None)
    assert "T-of-another" not in clone.gitstate("recover", "--format", "shell").text
    (ws.git_dir / "gitstate" / "context.json").unlink()
    ws.git("rm", "-q", "--cached", "active_state.json")
    (found,) = ws.recover().json["workspaces"]
    assert found["context"]["task_id"] == "T-of-another", "one that git does not track is this workspace's own"


def test_configured_state_file_is_used(ws: Workspace) -> None:
    ws.config("gitstate.stateFile", "var/agent state.json")
    well(ws.save())
    assert state_of(ws, "var/agent state.json")["task_id"] == "T-1"
    assert not (ws.path / "active_state.json").exists()
    ws.git("clean", "-ffdxq")
    well(ws.recover())
    assert state_of(ws, "var/agent state.json")["status"] == "recovered"


@pytest.mark.parametrize("setting", ["../outside.json", ".git/config", "/etc/active_state.json", "."])
def test_state_file_outside_of_the_workspace_is_rejected(ws: Workspace, setting: str) -> None:
    ws.config("gitstate.stateFile", setting)
    run = ws.gitstate("set", "task_id=T-1")
    assert run.exit_status == 2, str(run)
    assert "gitstate.stateFile" in run.stderr


def test_planted_symlink_is_not_followed(ws: Workspace) -> None:
    victim = ws.outside / "victim"
    victim.write_text("mine\n")
    ws.symlink(str(victim), "active_state.json")
    well(ws.save())
    assert victim.read_text() == "mine\n"
    assert state_of(ws)["status"] == "interrupted"


@pytest.mark.sample(2)
@pytest.mark.parametrize("theirs", [b"[]", b"\xff", b"[" * 100_000, b'{"mine": 1}'], ids=lambda data: repr(data[:9]))
def test_foreign_file_of_that_name_is_kept_and_saved(ws: Workspace, theirs: bytes) -> None:
    ws.write("active_state.json", theirs)
    well(ws.save())
    assert (ws.path / "active_state.json").read_bytes() == theirs
    assert json.loads((ws.git_dir / "gitstate/active_state.json").read_bytes())["task_id"] == "T-1"
    ws.git("reset", "-q", "--hard", "HEAD~1")
    ws.git("clean", "-fdxq")
    well(ws.recover())
    assert (ws.path / "active_state.json").read_bytes() == theirs


@pytest.mark.parametrize("damage", [b"", b"{", b'{"task_id": 5}'], ids=repr)
def test_damaged_state_file_is_rewritten(ws: Workspace, damage: bytes) -> None:
    ws.write("active_state.json", damage)
    well(ws.save())
    assert state_of(ws)["task_id"] == "T-1"


def test_linked_worktree_has_its_own_state_file(templates: Templates, tmp_path: Path) -> None:
    ws = make(STATES["clean"], templates, tmp_path, linked=True)
    dirty(ws)
    assert ws.main is not None
    well(ws.save())
    state = state_of(ws)
    assert state["workspace_path"] == str(ws.path)
    assert not (ws.main / "active_state.json").exists()
    assert run_git(ws.main, "status", "--porcelain") == b""


def test_readers_never_see_a_partial_state_file(ws: Workspace) -> None:
    """A reader during `set` sees the old file or the new one, whole."""
    well(ws.gitstate("set", "task_id=T-0"))
    argv = [sys.executable, "-m", "gitstate", "-C", str(ws.path), "set", f"task_id={'y' * 60_000}"]
    writer = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    sizes = set()
    while writer.poll() is None:
        sizes.add(len(json.loads((ws.path / "active_state.json").read_bytes())["task_id"]))
    assert writer.returncode == 0
    assert sizes <= {3, 60_000}
