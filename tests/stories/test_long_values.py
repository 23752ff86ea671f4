"""A context value of any size costs no save: it is cut, and a word says so."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from gitstate.format.context import MAX_CONTEXT, MAX_VALUE, Context, context_from_json, with_values
from gitstate.system.jsonio import dumps
from tests.support.agents import wait_until
from tests.support.typed import run
from tests.support.workspace import Run, Workspace, run_gitstate

#: As long as one argument of a command may be, and longer than a value may be.
LONG = 120_000


def restored(ws: Workspace) -> dict[str, object]:
    """The context that the pending save brings back, with all of its files."""
    (item,) = ws.recover().json["workspaces"]
    assert item["verdict"] == "restore", item
    found = item["context"]
    assert isinstance(found, dict)
    return found


@pytest.mark.sample(6)
@pytest.mark.parametrize("name", ["task_id", "progress_stage", "memory_refs", "note"])
@pytest.mark.parametrize("char", ["x", "\N{PILE OF POO}", "\x01", '"'])
def test_save_cuts_a_long_option(name: str, char: str, ws: Workspace) -> None:
    ws.append("a.txt")
    value = char * (LONG // len(char.encode()))
    option = {"note": ("--set", f"note={value}"), "memory_refs": ("--memory-ref", value)}
    done = ws.save(*option.get(name, ("--" + name.replace("_", "-"), value)))
    assert done.exit_status == 0, done.stderr[-300:]
    assert (f"the end of {name}" in done.stderr) == (len(value) > MAX_VALUE)
    context = restored(ws)
    found = context["extra"]["note"] if name == "note" else context[name]  # type: ignore[index]
    text = "".join(found) if isinstance(found, list) else str(found)
    assert value.startswith(text) and len(text) >= min(MAX_VALUE, len(value)) - 1


def test_save_with_many_long_values_can_be_read(ws: Workspace) -> None:
    ws.append("a.txt")
    many = [word for number in range(15) for word in ("--set", f"key{number}={number}{'x' * 64_000}")]
    done = ws.save("--task-id", "T-1", *many)
    assert done.exit_status == 0 and "the end of key" in done.stderr, done.stderr[-300:]
    context = restored(ws)
    assert context["task_id"] == "T-1"
    assert len(context["extra"]) == 15  # type: ignore[arg-type]


@pytest.mark.parametrize("values", [{"a" * 2_000_000: "x"}, {str(n): "x" * MAX_VALUE for n in range(99)}])
def test_context_stays_small_enough_to_be_read(values: dict[str, str]) -> None:
    context, cut = with_values(Context(), {"task_id": "\x01" * 5_000_000, "memory_refs": "m,n", **values})
    assert "task_id" in cut and len(cut) > 1
    assert context.memory_refs == ("m", "n")
    data = dumps(context.to_json())
    assert len(data) <= MAX_CONTEXT // 2
    assert context_from_json(json.loads(data)) == context


@pytest.mark.parametrize("command", ["begin", "set"])
def test_begin_and_set_cut_a_long_value(command: str, ws: Workspace) -> None:
    done = ws.gitstate(command, "task_id=" + "x" * LONG)
    assert done.exit_status == 0 and "task_id is longer" in done.stderr, done.stderr[-300:]
    assert ws.gitstate("show", "task_id").text.strip() == "x" * MAX_VALUE


def test_run_and_environment_cut_a_long_value(ws: Workspace) -> None:
    env = {"GITSTATE_PROGRESS_STAGE": "x" * LONG}
    argv = ("run", "--task-id", "T" * LONG, "--", "sh", "-c", "echo work >>a.txt; exit 3")
    assert run_gitstate(*argv, cwd=ws.path, env=env).exit_status == 3
    context = restored(ws)
    assert (context["task_id"], context["progress_stage"]) == ("T" * MAX_VALUE, "x" * MAX_VALUE)


def hook(ws: Workspace, **more: str) -> Run:
    told = json.dumps({"hook_event_name": "Stop", "cwd": str(ws.path), **more})
    env = {"GITSTATE_PROGRESS_STAGE": "x" * LONG}
    return run(ws, sys.executable, "-m", "gitstate", "hook", "claude", given=told, env=env)


@pytest.mark.parametrize("key", ["session_id", "transcript_path", "tool_output"])
def test_hook_takes_its_checkpoint_whatever_the_event_holds(key: str, ws: Workspace) -> None:
    ws.append("a.txt")
    done = hook(ws, **{key: "y" * 5_000_000})
    assert (done.exit_status, done.stderr) == (0, "")
    wait_until(lambda: ws.refs("refs/gitstate/checkpoints"), "the checkpoint, which the agent does not wait for")
    (archive,) = ws.refs("refs/gitstate/checkpoints").values()
    assert ws.out("show", f"{archive}^1:a.txt") == ws.read("a.txt").decode().strip()


def test_guard_cuts_a_long_value(ws: Workspace, tmp_path: Path) -> None:
    script = tmp_path / "guarded.py"
    script.write_text(
        "import gitstate\n"
        "with gitstate.guard(task_id='T' * 5_000_000, note='n' * 5_000_000):\n"
        "    open('a.txt', 'a').write('work')\n"
        "    raise SystemExit(3)\n"
    )
    done = run(ws, sys.executable, str(script))
    assert done.exit_status == 3, done
    assert restored(ws)["task_id"] == "T" * MAX_VALUE
