"""Hooks in flat JSON and in a file of our own: installed, shown, mended and removed byte for byte."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from gitstate.agent_hooks.install import agent_problems
from gitstate.agents.registry import agent_named
from tests.support.skips import not_installed
from tests.support.typed import entries, gitstate, run
from tests.support.workspace import GITSTATE, Workspace

FILES = {
    "copilot": (".copilot/hooks/gitstate.json", ".github/hooks/gitstate.json"),
    "cursor": (".cursor/hooks.json", ".cursor/hooks.json"),
    "opencode": (".config/opencode/plugins/gitstate.js", ".opencode/plugins/gitstate.js"),
    "qwen": (".qwen/settings.json", ".qwen/settings.json"),
}
FLAT = {
    "others": '{\n  "version": 1,\n  "hooks": {\n    "stop": [\n      { "command": "say" }\n    ]\n  }\n}\n',
    "one line": '{"version":1,"hooks":{"afterFileEdit":[]}}',
    "no hooks": '{\n\t"version": 1\n}\n',
}


@pytest.mark.sample(5)
@pytest.mark.parametrize("agent", FILES)
@pytest.mark.parametrize("project", [False, True])
def test_install_and_uninstall(agent: str, project: bool, repo: Workspace, hermetic: Path) -> None:
    top = repo.path if project else hermetic
    scope = ["--scope", "project"] if project else []
    before = entries(top)
    shown = run(repo, *GITSTATE, "install", "--agent", agent, *scope, "--dry-run")
    assert "+++" in shown.text and entries(top) == before
    gitstate(repo, "install", "--agent", agent, *scope)
    path = top / FILES[agent][project]
    text = path.read_text()
    assert f"hook {agent}" in text
    gitstate(repo, "install", "--agent", agent, *scope)
    assert path.read_text() == text, "idempotent"
    assert agent_problems(os.environ) == []
    gitstate(repo, "uninstall", "--agent", agent, *scope)
    assert {name: found for name, found in entries(top).items() if ".git/" not in name} == {
        name: found for name, found in before.items() if ".git/" not in name
    }


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", FLAT)
def test_flat_settings_of_others_stay(name: str, repo: Workspace, hermetic: Path) -> None:
    path = hermetic / ".cursor" / "hooks.json"
    path.parent.mkdir()
    path.write_text(FLAT[name])
    gitstate(repo, "install", "--agent", "cursor")
    found = json.loads(path.read_text())
    agent = agent_named("cursor")
    assert agent is not None and found["version"] == 1
    assert all(hooks[-1]["command"].endswith("hook cursor") for hooks in found["hooks"].values() if hooks)
    assert {event.name for event in agent.registered_events()} <= found["hooks"].keys()
    path.write_text(path.read_text() + "\n")
    gitstate(repo, "uninstall", "--agent", "cursor")
    assert json.loads(path.read_text()).get("hooks", {}).get("stop", []) == json.loads(FLAT[name]).get("hooks", {}).get(
        "stop", []
    )
    path.write_text(FLAT[name])
    gitstate(repo, "install", "--agent", "cursor")
    gitstate(repo, "uninstall", "--agent", "cursor")
    assert path.read_text() == FLAT[name]


def test_plugin_of_somebody_else_is_left_alone(repo: Workspace, hermetic: Path) -> None:
    path = hermetic / FILES["opencode"][0]
    path.parent.mkdir(parents=True)
    path.write_text("export const Mine = async () => ({})\n")
    gitstate(repo, "install", "--agent", "opencode", status=4)
    assert path.read_text() == "export const Mine = async () => ({})\n"


def test_old_command_is_reported_and_mended(repo: Workspace, hermetic: Path) -> None:
    for agent in ("cursor", "opencode"):
        gitstate(repo, "install", "--agent", agent)
        path = hermetic / FILES[agent][0]
        good = path.read_text()
        (command, *_) = [word for word in good.split('"') if f"hook {agent}" in word]
        path.write_text(good.replace(command, f"/old/gitstate hook {agent}"))
        problems = agent_problems(os.environ)
        assert len(problems) == 1, problems
        ((words, mend),) = problems
        assert "another gitstate" in words and mend == f"gitstate install --agent {agent}"
        gitstate(repo, "install", "--agent", agent)
        assert path.read_text() == good
        gitstate(repo, "uninstall", "--agent", agent)


def test_plugin_is_javascript(repo: Workspace, hermetic: Path, tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip(not_installed("node"))
    gitstate(repo, "install", "--agent", "opencode")
    copy = tmp_path / "plugin.mjs"
    copy.write_text((hermetic / FILES["opencode"][0]).read_text())
    subprocess.run([node, "--check", str(copy)], check=True)
