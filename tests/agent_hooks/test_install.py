"""Agents' own hooks: merged into their settings, and removed without a trace."""

from __future__ import annotations

import json
import os
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gitstate.agent_hooks import install as agent_hooks_install
from tests.agent_hooks.settings import AGENTS, COMMENTED, FILES, JSON, TOML
from tests.support.typed import entries, git, gitstate, run
from tests.support.workspace import GITSTATE, Run, Workspace


def command(repo: Workspace, agent: str) -> Run:
    """A command line of gitstate that `repo` runs in it."""
    return run(repo, *GITSTATE, *agent.split())


def cases() -> Iterator[Any]:
    for agent in AGENTS:
        texts = {**JSON, "commented": COMMENTED} if agent == "gemini" else TOML if agent == "kimi" else JSON
        yield from (pytest.param(agent, text, id=f"{agent}: {name}") for name, text in texts.items())


@pytest.mark.sample(5)
@pytest.mark.parametrize(("agent", "text"), list(cases()))
def test_install_keeps_other_settings_and_uninstall_restores_every_byte(
    agent: str, text: str, hermetic: Path, repo: Workspace
) -> None:
    path = hermetic / FILES[agent]
    repo.write(str(path), text)
    path.chmod(0o640)
    before = entries(hermetic)
    gitstate(repo, "install", "--agent", agent)
    once = entries(hermetic)
    assert "already" in gitstate(repo, "install", "--agent", agent)
    assert entries(hermetic) == once
    written = path.read_text()
    assert written.count(f"hook {agent}") >= 5
    # A list on one line that gets an item is on several then.
    whole = [line for line in text.splitlines() if not any(word in line for word in ("[]", "{}", "AfterTool"))]
    assert not [line for line in whole if line.rstrip(",") not in written]
    if agent == "kimi":
        tables = tomllib.loads(written)["hooks"]
        assert all(set(table) <= {"event", "command", "timeout", "matcher"} for table in tables)
    elif text != COMMENTED:
        new, old = json.loads(written), json.loads(text or "{}")
        assert {key: value for key, value in new.items() if key != "hooks"}.items() >= {
            key: value for key, value in old.items() if key != "hooks"
        }.items()
        for event, groups in old.get("hooks", {}).items():
            assert new["hooks"][event][: len(groups)] == groups
    gitstate(repo, "uninstall", "--agent", agent)
    assert entries(hermetic) == before


@pytest.mark.sample(2)
@pytest.mark.parametrize("text", [json.dumps({"theme": "dark"}, indent=2) + "\n", '{"theme": "dark"}\n'])
@pytest.mark.parametrize("agent", ["claude", "qwen"])
def test_install_brings_entries_of_an_earlier_version_to_date(
    agent: str, text: str, hermetic: Path, repo: Workspace
) -> None:
    path = hermetic / f".{agent}" / "settings.json"
    repo.write(str(path), text)
    gitstate(repo, "install", "--agent", agent)
    new = path.read_text()
    old = json.loads(new)
    hooks = [hook for groups in old["hooks"].values() for group in groups for hook in group["hooks"]]
    assert [hook.pop("async", None) for hook in hooks].count(True) >= 2
    path.write_text(json.dumps(old, indent=2) + "\n")
    gitstate(repo, "install", "--agent", agent)
    assert json.loads(path.read_text()) == json.loads(new)
    assert "already" in gitstate(repo, "install", "--agent", agent)
    gitstate(repo, "uninstall", "--agent", agent)
    assert json.loads(path.read_text()) == json.loads(text)


@pytest.mark.sample(2)
@pytest.mark.parametrize("agent", AGENTS)
def test_uninstall_removes_settings_that_install_created(agent: str, hermetic: Path, repo: Workspace) -> None:
    before = entries(hermetic)
    gitstate(repo, "install", "--agent", agent)
    assert (hermetic / FILES[agent]).stat().st_mode & 0o777 == 0o600
    gitstate(repo, "uninstall", "--agent", agent)
    assert entries(hermetic) == before
    assert "not in" in gitstate(repo, "uninstall", "--agent", agent)
    assert entries(hermetic) == before


@pytest.mark.sample(2)
@pytest.mark.parametrize("agent", AGENTS)
def test_dry_run_prints_the_diff_and_writes_nothing(agent: str, hermetic: Path, repo: Workspace) -> None:
    repo.write(str(hermetic / FILES[agent]), "a = 1\n" if agent == "kimi" else '{\n  "a": 1\n}\n')
    before = entries(hermetic)
    done = command(repo, f"install --agent {agent} --dry-run")
    assert done.exit_status == 0 and "would be" in done.stderr
    assert f"+++ {hermetic / FILES[agent]}" in done.text
    assert entries(hermetic) == before
    gitstate(repo, "install", "--agent", agent)
    # The hunk's context and additions are the new file, all of it.
    lines = [line[1:] for line in done.text.splitlines()[3:] if line[:1] in ("+", " ")]
    assert lines == (hermetic / FILES[agent]).read_text().splitlines()


@pytest.mark.sample(2)
@pytest.mark.parametrize("agent", AGENTS)
def test_uninstall_keeps_settings_changed_since_install(agent: str, hermetic: Path, repo: Workspace) -> None:
    path = hermetic / FILES[agent]
    first, second = ("a = 1\n", "b = 2\n") if agent == "kimi" else ('{\n  "a": 1\n}\n', '{\n  "b": 2,')
    repo.write(str(path), first)
    gitstate(repo, "install", "--agent", agent)
    path.write_text(second + path.read_text().removeprefix("{") if agent != "kimi" else second + path.read_text())
    gitstate(repo, "uninstall", "--agent", agent)
    assert path.read_text() == second + first.removeprefix("{")


@pytest.mark.parametrize("text", ["{\n  // mine\n}\n", '{\n  "hooks": {\n    // mine\n  }\n}\n'])
def test_comment_in_settings_changed_since_install_is_kept(text: str, hermetic: Path, repo: Workspace) -> None:
    path = hermetic / FILES["gemini"]
    repo.write(str(path), text)
    gitstate(repo, "install", "--agent", "gemini")
    path.write_text(path.read_text().replace("// mine", "// mine, and changed"))
    gitstate(repo, "uninstall", "--agent", "gemini")
    assert path.read_text() == text.replace("// mine", "// mine, and changed")


def test_uninstall_works_after_kimi_rewrote_its_settings(hermetic: Path, repo: Workspace) -> None:
    path = hermetic / FILES["kimi"]
    repo.write(str(path), 'model = "k2"\n')
    gitstate(repo, "install", "--agent", "kimi")
    path.write_text("".join(line for line in path.read_text().splitlines(True) if not line.startswith("#")))
    gitstate(repo, "uninstall", "--agent", "kimi")
    assert tomllib.loads(path.read_text()) == {"model": "k2"}


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("agent", "text"),
    [
        ("claude", "{"),
        ("claude", "[]"),
        ("codex", '{"hooks": []}'),
        ("gemini", '{"hooks": {"AfterTool": {}}}'),
        ("claude", "\xff"),
        ("claude", "[" * 100_000),
        ("kimi", "x ="),
        ("kimi", "hooks = [{event='Stop', command='x'}]"),
        ("kimi", "hooks = 3"),
    ],
)
def test_unparsable_settings_are_kept(agent: str, text: str, hermetic: Path, repo: Workspace) -> None:
    path = hermetic / FILES[agent]
    path.parent.mkdir()
    path.write_bytes(text.encode("latin-1"))
    before = entries(hermetic)
    assert "nothing was changed" in gitstate(repo, "install", "--agent", agent, status=4)
    assert entries(hermetic) == before


def test_symlink_to_the_settings_is_kept(hermetic: Path, repo: Workspace) -> None:
    repo.write(str(hermetic / "dotfiles" / "claude.json"), "{}\n")
    (hermetic / ".claude").mkdir()
    (hermetic / ".claude" / "settings.json").symlink_to("../dotfiles/claude.json")
    gitstate(repo, "install", "--agent", "claude")
    assert (hermetic / ".claude" / "settings.json").is_symlink()
    assert "hook claude" in (hermetic / "dotfiles" / "claude.json").read_text()
    gitstate(repo, "uninstall", "--agent", "claude")
    assert (hermetic / "dotfiles" / "claude.json").read_text() == "{}\n"


def test_project_settings_get_a_portable_command(repo: Workspace) -> None:
    before = entries(repo.path)
    gitstate(repo, "install", "--agent", "claude", "--scope", "project")
    text = (repo.path / ".claude" / "settings.json").read_text()
    assert "gitstate hook claude" in text and sys.executable not in text and "/bin/" not in text
    gitstate(repo, "uninstall", "--agent", "claude", "--scope", "project")
    assert entries(repo.path) == before
    assert "kimi" in gitstate(repo, "install", "--agent", "kimi", "--scope", "project", status=2)


def test_entry_with_an_old_path_is_updated_in_place(hermetic: Path, repo: Workspace) -> None:
    gitstate(repo, "install", "--agent", "codex")
    path = hermetic / FILES["codex"]
    good = path.read_text()
    known = json.loads(good)["hooks"]["SessionStart"][0]["hooks"][0]["command"]
    path.write_text(good.replace(json.dumps(known), json.dumps("[ ! -x /old/gitstate ] || /old/gitstate hook codex")))
    ((words, mend),) = agent_hooks_install.agent_problems(os.environ)
    assert "another gitstate" in words and mend == "gitstate install --agent codex"
    gitstate(repo, "install", "--agent", "codex")
    assert path.read_text() == good


def test_untrusted_codex_hooks_are_reported(hermetic: Path, repo: Workspace) -> None:
    other = {"hooks": {"Stop": [{"hooks": [{"type": "command", "command": "say done"}]}]}}
    repo.write(str(hermetic / FILES["codex"]), json.dumps(other, indent=2))
    assert "trust" in gitstate(repo, "install", "--agent", "codex")
    ((words, command),) = agent_hooks_install.agent_problems(os.environ)
    assert "SessionStart, PreToolUse, PostToolUse" in words and command == "codex"
    places = ["session_start:0", "pre_tool_use:0", "post_tool_use:0", "pre_compact:0", "session_end:0", "interrupt:0"]
    places += ["user_prompt_submit:0", "subagent_stop:0", "stop:1"]
    name = hermetic / FILES["codex"]
    tables = [f"[hooks.state.'{name}:{place}:0']\ntrusted_hash = 'sha256:1'\n" for place in places]
    repo.write(str(hermetic / ".codex" / "config.toml"), "".join(tables[:-1]))
    assert "trust: Stop" in agent_hooks_install.agent_problems(os.environ)[0][0]
    repo.write(str(hermetic / ".codex" / "config.toml"), "".join(tables))
    assert agent_hooks_install.agent_problems(os.environ) == []
    repo.write(str(hermetic / ".codex" / "config.toml"), "".join(tables) + "enabled = false\n")
    assert "trust: Stop" in agent_hooks_install.agent_problems(os.environ)[0][0]


@pytest.mark.sample(2)
@pytest.mark.parametrize("agent", AGENTS)
def test_installed_command_runs_with_an_empty_environment(agent: str, hermetic: Path, repo: Workspace) -> None:
    gitstate(repo, "install", "--agent", agent)
    text = (hermetic / FILES[agent]).read_text()
    if agent == "kimi":
        line = tomllib.loads(text)["hooks"][0]["command"]
    else:
        line = json.loads(text)["hooks"]["SessionStart"][0]["hooks"][0]["command"]
    event = json.dumps({"hook_event_name": "SessionEnd", "session_id": "s-1", "cwd": str(repo.path)})
    done = run(repo, "env", "-i", f"HOME={hermetic}", "PATH=/usr/bin:/bin", "/bin/sh", "-c", line, given=event)
    assert done == Run(0, b"", "")
    assert git(repo, "for-each-ref", "refs/gitstate/checkpoints") != ""
    gone = line.replace(line.split()[3], "/nowhere/gitstate")
    assert run(repo, "/bin/sh", "-c", gone, given=event) == Run(0, b"", "")
