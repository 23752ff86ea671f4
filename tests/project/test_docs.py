"""The README is true: its commands exist, its code blocks run, its transcript matches the demo, its links resolve."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from gitstate import errors
from gitstate.cli import demo
from tests.states import STATES, dirty, make
from tests.support.environment import ROOT
from tests.support.oracle import fingerprint
from tests.support.repositories import Templates
from tests.support.workspace import Workspace, run_git

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def block(language: str, word: str) -> str:
    """The README's one block in this language that holds this word."""
    found: str
    (found,) = [text for kind, text in BLOCKS if kind == language and word in text]
    return found


def gitstate(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "gitstate", *args], capture_output=True, encoding="utf-8", timeout=60)


# --------------------------------------------------------------------------------------------------------------------
# The demo
# --------------------------------------------------------------------------------------------------------------------


def stable(transcript: str) -> list[str]:
    """Without what differs from run to run: save ids, object ids, process ids, the temporary directory."""
    for pattern, word in (
        (r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{6}", "SAVE"),
        (r"\S*/gitstate-demo-\w+", "TMP"),
        (r"\b[0-9a-f]{7,40}\b", "OID"),
        (r"kill -TERM \d+", "kill -TERM PID"),
    ):
        transcript = re.sub(pattern, word, transcript)
    return transcript.splitlines()


def test_readme_transcript_matches_the_demo() -> None:
    lines: list[str] = []
    assert demo.run(lines.append) == 0, "\n".join(lines)
    assert stable("\n".join(lines)) == stable(block("console", "gitstate recover").removeprefix("$ gitstate demo\n"))
    assert len(lines) <= 60


def test_demo_leaves_nothing_behind(tmp_path: Path, hermetic: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The temporary directory and the home stay empty, whatever the environment and configuration say."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    monkeypatch.setenv("GIT_AUTHOR_DATE", "rubbish")
    (hermetic / ".gitconfig").write_text("[commit]\n\tgpgSign = true\n[status]\n\tshort = x\n")
    before = sorted(hermetic.rglob("*"))
    done = gitstate("demo")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("byte for byte") == 2
    assert list(tmp_path.iterdir()) == []
    assert sorted(hermetic.rglob("*")) == before


def test_demo_works_with_sigterm_ignored() -> None:
    command = f"trap '' TERM; exec {shlex.quote(sys.executable)} -m gitstate demo"
    done = subprocess.run(["sh", "-c", command], capture_output=True, encoding="utf-8", timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_demo_reports_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    wipe = demo._Story._wipe

    def wipe_and_spoil(story: demo._Story, commit: str) -> None:
        wipe(story, commit)
        (story.shop / "notes.txt").write_text("newer than the save\n")

    monkeypatch.setattr(demo._Story, "_wipe", wipe_and_spoil)
    lines: list[str] = []
    assert demo.run(lines.append) == 1
    assert "notes.txt" in lines[-1]


# --------------------------------------------------------------------------------------------------------------------
# Blocks
# --------------------------------------------------------------------------------------------------------------------


def test_ci_runs_the_test_command_of_the_readme() -> None:
    command = block("sh", "pytest").strip().rpartition(" && ")[2].removeprefix(".venv/bin/")
    assert command == 'pytest -q -n 2 -m "not slow"'
    assert f"\n{command}" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_two_commands_of_the_readme_set_up_gitstate() -> None:
    for word in ("demo", "pytest"):
        (line,) = block("sh", word).splitlines()
        assert line.startswith("python3 -m venv .venv && .venv/bin/pip install ")


def test_plain_git_of_the_readme_restores_the_files(templates: Templates, tmp_path: Path) -> None:
    ws = make(STATES["clean"], templates, tmp_path)
    dirty(ws)
    before = fingerprint(ws.path)
    status = ws.status()
    assert ws.save().json["index_commit"]
    subprocess.run(["bash", "-ec", block("sh", "reset --soft")], cwd=ws.path, check=True, stdout=subprocess.DEVNULL)
    assert ws.status() == status
    after = fingerprint(ws.path)
    assert (after.head, after.commit, after.files) == (before.head, before.commit, before.files)


def test_commands_of_the_readme_recover_on_another_host(templates: Templates, tmp_path: Path, on_path: Path) -> None:
    ws = make(STATES["clean"], templates, tmp_path)
    dirty(ws)
    before = fingerprint(ws.path)
    remote, clone = tmp_path / "remote.git", tmp_path / "clone"
    run_git(tmp_path, "init", "-q", "--bare", str(remote))
    ws.git("remote", "add", "origin", str(remote))
    ws.git("push", "-q", "origin", "HEAD")
    assert ws.save().exit_status == 0
    subprocess.run(["bash", "-ec", block("sh", "gitstate push")], cwd=ws.path, check=True)
    run_git(tmp_path, "clone", "-q", "-b", "agent/work", str(remote), str(clone))
    subprocess.run(["bash", "-ec", block("sh", "gitstate fetch")], cwd=clone, check=True)
    after = fingerprint(clone)
    assert before.diff(replace(after, settings=before.settings)) == []


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory on the PATH with a `gitstate` in it."""
    directory = tmp_path / "bin"
    directory.mkdir()
    command = directory / "gitstate"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m gitstate "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")
    return directory


@pytest.fixture
def loop(templates: Templates, tmp_path: Path, on_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A clean workspace, `agent-loop.sh` beside it, and `gitstate` and `run-agent` on the PATH."""
    ws = make(STATES["clean"], templates, tmp_path)
    ws.script("agent-loop.sh", "").write_text(block("bash", "run-agent"))
    agent = 'echo work >>work.txt\ngit add work.txt\necho more >>work.txt\necho >"$READY"\nexec sleep 600\n'
    ws.script("run-agent", agent).rename(on_path / "run-agent")
    monkeypatch.setenv("READY", str(ws.outside / "ready"))
    return ws


def start(ws: Workspace) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["bash", str(ws.outside / "agent-loop.sh")], cwd=ws.path, start_new_session=True)


def wait_for_agent(ws: Workspace, running: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 60
    while not (ws.outside / "ready").exists():
        assert running.poll() is None and time.monotonic() < end, "the agent never started"
        time.sleep(0.02)
    (ws.outside / "ready").unlink()


@pytest.mark.faults
@pytest.mark.parametrize("whole_group", [False, True], ids=["loop", "group"])
@pytest.mark.parametrize("name", ["TERM", "HUP", "INT"])
def test_loop_of_the_readme_saves_dies_of_the_signal_and_recovers(
    loop: Workspace, name: str, whole_group: bool
) -> None:
    number = getattr(signal, f"SIG{name}")
    running = start(loop)
    wait_for_agent(loop, running)
    before = loop.status()
    (os.killpg if whole_group else os.kill)(running.pid, number)
    assert running.wait(60) == -number
    assert len(loop.refs("refs/gitstate/pending")) == 1
    assert loop.status() == set()
    loop.git("clean", "-ffdxq")
    again = start(loop)
    wait_for_agent(loop, again)
    try:
        assert loop.refs("refs/gitstate/pending") == {}
        assert loop.status() == before
        assert loop.read("work.txt") == b"work\nmore\nwork\nmore\n"
    finally:
        os.killpg(again.pid, signal.SIGTERM)
        again.wait(60)


def test_loop_of_the_readme_passes_the_exit_status_on(loop: Workspace, on_path: Path) -> None:
    (on_path / "run-agent").write_text("#!/bin/sh\necho work >work.txt\nexit 7\n")
    assert start(loop).wait(60) == 7
    (archive,) = loop.refs("refs/gitstate/pending").values()
    assert b'"exit_code": 7' in loop.git("show", f"{archive}:manifest.json")


def test_one_liner_of_the_readme_saves_and_recovers(loop: Workspace, on_path: Path) -> None:
    (on_path / "run-agent").rename(on_path / "claude")
    line = ["bash", "-c", "exec " + block("sh", "gitstate run")]
    running = subprocess.Popen(line, cwd=loop.path, start_new_session=True)
    wait_for_agent(loop, running)
    before = loop.status()
    running.send_signal(signal.SIGTERM)
    assert running.wait(60) == -signal.SIGTERM
    assert len(loop.refs("refs/gitstate/pending")) == 1
    assert gitstate("-C", str(loop.path), "recover").returncode == 0
    assert loop.status() == before


def test_python_loop_of_the_readme_saves_and_recovers(loop: Workspace) -> None:
    script = loop.script("loop.py", "")
    script.write_text(block("python", "guard"))
    running = subprocess.Popen([sys.executable, str(script)], cwd=loop.path, start_new_session=True)
    wait_for_agent(loop, running)
    before = loop.status()
    running.send_signal(signal.SIGTERM)
    assert running.wait(60) == -signal.SIGTERM
    assert gitstate("-C", str(loop.path), "recover").returncode == 0
    assert loop.status() == before


# --------------------------------------------------------------------------------------------------------------------
# Words
# --------------------------------------------------------------------------------------------------------------------


def commands(text: str) -> set[str]:
    return set(re.findall(r"(?<![-\w/.])gitstate (?:-C \S+ )?([a-z]+)\b(?=[^.]|$)", text))


def test_every_command_in_the_readme_exists() -> None:
    code = "\n".join([*re.findall(r"`([^`\n]+)`", README), *(text for _, text in BLOCKS)])
    named = {name for name in commands(code) if name not in ("commits",)}
    assert named >= {"save", "checkpoint", "recover", "status", "set", "show", "log", "diff", "restore", "demo"}
    offered = set(re.findall(r"^  ([a-z]+)", gitstate("--help").stdout.partition("Commands:")[2], re.MULTILINE))
    assert named == offered


def test_every_option_in_the_readme_exists() -> None:
    for command, options in {
        "save": ["--signal", "--exit-code", "--include-ignored", "--json"],
        "recover": ["--dry-run", "--into", "--json"],
        "status": ["--all", "--json"],
    }.items():
        said = gitstate(command, "--help").stdout
        assert all(option in said and option in README for option in options), command


def test_every_exit_status_in_the_readme_is_defined() -> None:
    table = README.partition("| exit status |")[2].partition("\n\n")[0]
    listed = {int(number) for number in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    assert listed == {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    classes = (error for error in vars(errors).values() if isinstance(error, type))
    raised = {error.exit_status for error in classes if issubclass(error, errors.GitstateError)}
    assert raised == {errors.EXIT_FAILED, errors.EXIT_USAGE, errors.EXIT_PERSON, errors.EXIT_AGAIN}


def test_readme_layout_lists_every_module() -> None:
    layout = README.partition("## Where things are")[2]
    listed = set(re.findall(r"^\| `gitstate/(\w+)\.py`", layout, re.MULTILINE))
    assert listed == {path.stem for path in (ROOT / "gitstate").glob("[a-z]*.py")}


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "bench/README.md"])
def test_every_link_resolves(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if "://" not in target:
            assert (ROOT / page).parent.joinpath(target).exists(), target
    for line in text.splitlines():
        assert "://" in line or len(line) <= 160, line
