"""What a new user types wrong, or expects, in the first half hour."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.workspace import Workspace, run_gitstate


def context(ws: Workspace) -> dict[str, object]:
    found = ws.gitstate("show", "--json").json["context"]
    assert isinstance(found, dict)
    return found


@pytest.mark.sample(3)
@pytest.mark.parametrize("command", ["set", "begin"])
@pytest.mark.parametrize(("typed", "meant"), [("task", "task_id"), ("taks_id", "task_id"), ("stage", "progress_stage")])
def test_mistyped_key_is_kept_and_said(ws: Workspace, command: str, typed: str, meant: str) -> None:
    run = ws.gitstate(command, f"{typed}=foo")
    assert run.exit_status == 0 and f"did you mean {meant}?" in run.stderr
    assert context(ws)["extra"] == {typed: "foo"}
    assert ws.gitstate("set", f"{typed}=bar").stderr == ""


def test_key_of_the_caller_is_taken_without_a_word(ws: Workspace) -> None:
    assert ws.gitstate("set", "colour=blue").stderr == ""


def test_each_memory_ref_counts(ws: Workspace) -> None:
    ws.gitstate("set", "memory_refs=a", "memory_refs=b,c")
    assert context(ws)["memory_refs"] == ["a", "b,c"]
    ws.append("a.txt")
    ws.gitstate("checkpoint", "memory_refs=x", "memory_refs=y")
    (item,) = ws.gitstate("log", "--json").json["saves"]
    assert item["context"]["memory_refs"] == ["x", "y"]


@pytest.mark.sample(5)
@pytest.mark.parametrize("words", [("--task-id", "T-9"), ("task_id=T-9",), ("--set", "task_id=T-9")])
@pytest.mark.parametrize("command", ["set", "begin", "save", "checkpoint", "run"])
def test_each_command_takes_each_way_to_name_a_task(ws: Workspace, command: str, words: tuple[str, ...]) -> None:
    ws.append("a.txt")
    more = ("--", "sh", "-c", "exit 3") if command == "run" else ()
    ws.gitstate(command, *words, *more)
    if command in ("set", "begin"):
        assert context(ws)["task_id"] == "T-9"
    else:
        assert ws.gitstate("log", "--json").json["saves"][0]["context"]["task_id"] == "T-9"


def test_command_of_run_may_hold_equals_signs(ws: Workspace) -> None:
    run = ws.gitstate("run", "--", "env", "A=1", "sh", "-c", 'test "$A" = 1 && test "$1" = --', "sh", "--")
    assert run.exit_status == 0, run


def test_recover_after_a_recovery_proposes_no_older_checkpoint(ws: Workspace) -> None:
    ws.write("a.txt", "one\n")
    old = ws.gitstate("checkpoint", "--json").json["save_id"]
    ws.write("a.txt", "two\n")
    ws.gitstate("save")
    assert ws.gitstate("recover").exit_status == 0
    ws.gitstate("finish")
    for _ in range(2):
        run = ws.gitstate("recover")
        assert run.exit_status == 0 and old not in run.stderr, run


def test_overwrite_after_changed_names_the_command(ws: Workspace) -> None:
    ws.write("a.txt", "saved\n")
    save_id = ws.save().json["save_id"]
    ws.write("a.txt", "edited since\n")
    (result,) = ws.gitstate("recover", "--json").json["workspaces"]
    assert result["verdict"] == "changed"
    run = ws.gitstate("recover", "--overwrite")
    assert f"restore --overwrite {save_id}" in run.stderr and ws.read("a.txt") == b"edited since\n"


def test_doctor_advises_boot_only_where_it_can_work(ws: Workspace, tmp_path: Path) -> None:
    empty = tmp_path / "bin"
    empty.mkdir()
    for name in ("git", "sh"):
        found = subprocess.run(["sh", "-c", f"command -v {name}"], capture_output=True, encoding="utf-8", check=True)
        (empty / name).symlink_to(found.stdout.strip())
    run = run_gitstate("doctor", "--json", cwd=ws.path, env={"PATH": str(empty)})
    (finding,) = [item for item in run.json["findings"] if item["check"] == "boot"]
    assert finding["next"] == "let whatever starts your agents run: gitstate recover --all"
    assert run.stderr == "" and ws.gitstate("doctor").stderr == ""


def test_status_outside_a_repository_exits_1(tmp_path: Path, ws: Workspace) -> None:
    assert run_gitstate("status", cwd=tmp_path).exit_status == 1
    assert ws.gitstate("status", str(tmp_path / "nowhere")).exit_status == 1
    assert ws.gitstate("status").exit_status == 0
    assert run_gitstate("status", "--all", cwd=tmp_path).exit_status == 0


def test_install_has_a_dry_run(ws: Workspace) -> None:
    before = sorted(path for path in (ws.path / ".git").rglob("*"))
    run = ws.gitstate("install", "--dry-run", "--json")
    assert run.exit_status == 0 and {item["outcome"] for item in run.json["hooks"]} == {"planned"}
    assert "would be installed" in ws.gitstate("install", "--dry-run").stderr
    assert sorted(path for path in (ws.path / ".git").rglob("*")) == before
    ws.gitstate("install")
    assert "would be" not in ws.gitstate("install", "--dry-run").stderr


@pytest.mark.parametrize("words", [("run", "--", "true"), ("begin", "task_id=T-1")])
def test_misspelt_setting_is_said(ws: Workspace, words: tuple[str, ...]) -> None:
    ws.config("gitstate.intervall", "30")
    run = ws.gitstate(*words)
    assert "gitstate.intervall is not a setting of gitstate; did you mean gitstate.interval?" in run.stderr


def test_push_that_sent_nothing_says_so(ws: Workspace) -> None:
    remote = ws.outside / "remote.git"
    ws.git("init", "-q", "--bare", str(remote))
    ws.append("a.txt")
    ws.save()
    ws.recover()
    assert "1 save sent to" in ws.gitstate("push", str(remote)).stderr
    again = ws.gitstate("push", str(remote))
    assert again.exit_status == 0 and again.stderr.splitlines()[0] == f"nothing to send to {remote}"


@pytest.mark.sample(2)
@pytest.mark.parametrize("command", ["log --all -p", "completion bash", "init bash", "show", "status"])
def test_output_that_is_cut_is_no_failure(ws: Workspace, command: str) -> None:
    for number in range(3):
        ws.write("a.txt", f"{number}\n" * 40_000)
        ws.gitstate("checkpoint", "--label", f"n{number}")
    program = f"{shlex.quote(sys.executable)} -m gitstate -C {shlex.quote(str(ws.path))}"
    script = f"set -o pipefail; {program} {command} | head -c 1 >/dev/null"
    done = subprocess.run(["bash", "-c", script], capture_output=True, encoding="utf-8", env=dict(os.environ))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "words", [("frobnicate",), ("log", "-n", "x"), ("diff",), ("save", "--nothing"), ("boot", "x")]
)
def test_usage_error_is_json_too(ws: Workspace, words: tuple[str, ...]) -> None:
    run = ws.gitstate("--json", *words)
    told = json.loads(run.stdout)
    assert run.exit_status == 2 == told["exit_status"]
    assert told["error"] and told["hint"].endswith(" --help") and told["schema_version"] == 1
    assert ws.gitstate(*words).stdout == b""


def test_init_prints_where_the_loops_are() -> None:
    run = run_gitstate("init", "--path", cwd=Path("/"))
    assert Path(run.text.strip(), "claude-loop.sh").is_file() and Path(run.text.strip(), "gitstate.bash").is_file()
    assert run_gitstate("init", cwd=Path("/")).exit_status == 2


def test_second_save_of_a_killed_loop_names_the_first(ws: Workspace) -> None:
    ws.append("a.txt")
    save_id = ws.gitstate("save", "--signal", "TERM", "--json").json["save_id"]
    assert ws.gitstate("save", "--signal", "TERM").stderr == f"already saved as {save_id}\n"
    assert "nothing changed" in ws.gitstate("save").stderr


@pytest.mark.parametrize(
    "words",
    [
        "status",
        "status --all",
        "status --short",
        "recover",
        "save",
        "checkpoint",
        "run -- true",
        "log",
        "show",
        "doctor",
    ],
)
def test_directory_that_is_gone_is_said(tmp_path: Path, words: str) -> None:
    """A worktree was removed while a shell stood in it."""
    gone = tmp_path / "gone"
    gone.mkdir()
    program = f"{shlex.quote(sys.executable)} -m gitstate {words}"
    script = f"rmdir {shlex.quote(str(gone))}; exec {program}"
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(["bash", "-c", script], capture_output=True, encoding="utf-8", cwd=gone, env=environment)
    assert done.returncode == 1 and done.stdout == "", done
    assert "gitstate: the current directory does not exist any more; nothing was changed\n" in done.stderr
    assert "next: cd " in done.stderr and "Traceback" not in done.stderr


def test_other_directory_is_named_from_one_that_is_gone(ws: Workspace, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    script = f"rmdir {gone}; exec {shlex.quote(sys.executable)} -m gitstate -C {shlex.quote(str(ws.path))} status"
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(["bash", "-c", script], capture_output=True, encoding="utf-8", cwd=gone, env=environment)
    assert done.returncode == 0 and str(ws.path) in done.stdout


@pytest.mark.parametrize("words", [("completion",), ("loop",), ("completion", "tcsh")])
def test_choices_are_told_on_one_line(ws: Workspace, words: tuple[str, ...]) -> None:
    first, second = ws.gitstate(*words).stderr.splitlines()
    assert "\\n" not in first and "\\t" not in first and second == f"  next: gitstate {words[0]} --help"


def test_boot_status_advises_what_can_work(ws: Workspace, tmp_path: Path) -> None:
    empty = tmp_path / "bin"
    empty.mkdir()
    git = subprocess.run(["sh", "-c", "command -v git"], capture_output=True, encoding="utf-8", check=True)
    (empty / "git").symlink_to(git.stdout.strip())
    run = run_gitstate("boot", "status", cwd=ws.path, env={"PATH": str(empty)})
    assert run.exit_status == 0 and "boot enable" not in run.stderr
    assert "next: let whatever starts your agents run: gitstate recover --all" in run.stderr


def test_unregister_of_what_is_not_listed_says_so(ws: Workspace) -> None:
    ws.gitstate("register")
    assert ws.gitstate("unregister").stderr == f"unregistered {ws.path}\n"
    assert ws.gitstate("unregister").stderr == "nothing was on the list\n"
    assert ws.gitstate("unregister", "--missing").stderr == "no registered workspace is missing\n"


@pytest.mark.parametrize("command", ["save", "checkpoint"])
def test_message_behind_save_is_answered_with_what_to_type(ws: Workspace, command: str) -> None:
    ws.append("a.txt")
    run = ws.gitstate(command, "my message")
    assert run.exit_status == 2 and "'my message' is not KEY=VALUE; nothing was saved" in run.stderr
    assert f" {command} progress_stage=testing; " in run.stderr and "--label" in run.stderr
    assert ws.gitstate("--json", command, "my message").json["exit_status"] == 2
    assert ws.gitstate("log", "--json").json["saves"] == []


def test_task_without_its_key_is_answered_with_it(ws: Workspace) -> None:
    assert " begin task_id='T 42'\n" in ws.gitstate("begin", "T 42").stderr
    run = ws.gitstate("run", "T-42", "--", "echo", "a b")
    assert run.exit_status == 127 and "gitstate run --task-id T-42 -- echo 'a b'" in run.stderr


@pytest.mark.parametrize("command", ["push", "fetch"])
def test_remote_that_is_not_named_is_asked_for_by_the_same_command(ws: Workspace, command: str) -> None:
    assert f" {command} REMOTE, or: " in ws.gitstate(command).stderr


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("stat",), "No such command 'stat'. Did you mean 'status'?"),
        (("recovr",), "Did you mean 'recover'?"),
        (("boot", "enabel"), "Did you mean 'enable'?"),
        (("xyzzy",), "No such command 'xyzzy'.\n"),
        (("log", "-n", "x"), "'x' is not an integer."),
        (("recover", "--wait", "x"), "'x' is not a number."),
    ],
)
def test_mistyped_words_are_answered_plainly(ws: Workspace, words: tuple[str, ...], said: str) -> None:
    run = ws.gitstate(*words)
    assert run.exit_status == 2 and said in run.stderr


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ("status --prometheus", "status"),
        ("-C . log -n", "log"),
        ("--json boot enable --scheduler", "boot enable"),
        ("--nothing", ""),
    ],
)
def test_option_without_its_value_points_to_its_command(ws: Workspace, words: str, command: str) -> None:
    assert ws.gitstate(*words.split()).stderr.endswith(f"  next: {f'gitstate {command}'.strip()} --help\n")
