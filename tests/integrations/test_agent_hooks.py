"""Agents' own hooks: merged into settings and out again without a trace, and what an event does to the workspace."""

from __future__ import annotations

import json
import os
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gitstate import install_agents, json_text
from gitstate.agent_hook import Memory, form, is_due, last_problem, parse_event, read_event
from gitstate.git import open_repository
from tests.support.hooked import Done, Hooked, entries, make

AGENTS = ("claude", "codex", "gemini", "kimi")
FILES = {
    "claude": ".claude/settings.json", "codex": ".codex/hooks.json", "gemini": ".gemini/settings.json",
    "kimi": ".kimi-code/config.toml",
}  # fmt: skip


@pytest.fixture
def repo(tmp_path: Path) -> Hooked:
    return make(tmp_path)


def command(repo: Hooked, agent: str) -> Done:
    """A command line of gitstate that `repo` runs in it."""
    return repo.run(sys.executable, "-m", "gitstate", *agent.split())


# -- settings

JSON = {
    "empty": "",
    "an object": "{}",
    "an object with room": "{\n}\n",
    "four spaces": '{\n    "model": "opus",\n    "env": {"A": "1", "B": [1, 2,3]}\n}\n',
    "tabs and no last newline": '{\n\t"permissions": {\n\t\t"allow": ["Bash(ls:*)"]\n\t}\n}',
    "one line": '{"model":"opus","hooks":{}}',
    "other hooks": '{\n  "hooks": {\n    "Stop": [\n      {"hooks": [{"type": "command", "command": "say"}]}\n    ],\n'
    '    "SessionStart": []\n  },\n  "model": "opus"\n}\n',
    "non-ascii": '{\n  "note": "caf\u00e9 \u65e5\u672c",\n  "hooks": {"Notification": [{"hooks": []}]}\n}\n',
}  # fmt: skip
COMMENTED = (
    '{\n  // what I like\n  "theme": "dark", /* really */\n  "hooks": {\n    // mine\n'
    '    "AfterTool": [ {"hooks": [{"type": "command", "command": "x"},]}, ],\n  },\n}\n'
)  # fmt: skip
TOML = {
    "empty": "",
    "no last newline": 'model = "k2"',
    "a table at the end": 'model = "k2"\n\n[loop_control]\nmax = 3 # mine\n',
    "other hooks": '[[hooks]]\nevent = "Stop"\ncommand = "say \\"[[hooks]]\\""\n\n[theme]\nname = "x"\n',
    "a text that looks like a table": 'text = """\n[[hooks]]\nevent = "Stop"\n"""\n',
}


def cases() -> Iterator[Any]:
    for agent in AGENTS:
        texts = {**JSON, "commented": COMMENTED} if agent == "gemini" else TOML if agent == "kimi" else JSON
        yield from (pytest.param(agent, text, id=f"{agent}: {name}") for name, text in texts.items())


@pytest.mark.parametrize(("agent", "text"), list(cases()))
def test_installed_all_else_stays_in_its_place_and_uninstalled_every_byte_is_back(
    agent: str, text: str, hermetic: Path, repo: Hooked
) -> None:
    path = hermetic / FILES[agent]
    repo.write(str(path), text)
    path.chmod(0o640)
    before = entries(hermetic)
    repo.gitstate("install", "--agent", agent)
    once = entries(hermetic)
    assert "already" in repo.gitstate("install", "--agent", agent)
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
    repo.gitstate("uninstall", "--agent", agent)
    assert entries(hermetic) == before


@pytest.mark.parametrize("agent", AGENTS)
def test_where_nothing_was_there_nothing_is_left(agent: str, hermetic: Path, repo: Hooked) -> None:
    before = entries(hermetic)
    repo.gitstate("install", "--agent", agent)
    assert (hermetic / FILES[agent]).stat().st_mode & 0o777 == 0o600
    repo.gitstate("uninstall", "--agent", agent)
    assert entries(hermetic) == before
    assert "not in" in repo.gitstate("uninstall", "--agent", agent)
    assert entries(hermetic) == before


@pytest.mark.parametrize("agent", AGENTS)
def test_a_dry_run_prints_the_diff_and_touches_nothing(agent: str, hermetic: Path, repo: Hooked) -> None:
    repo.write(str(hermetic / FILES[agent]), "a = 1\n" if agent == "kimi" else '{\n  "a": 1\n}\n')
    before = entries(hermetic)
    done = command(repo, f"install --agent {agent} --dry-run")
    assert done.status == 0 and "would be" in done.err
    assert f"+++ {hermetic / FILES[agent]}" in done.out
    assert entries(hermetic) == before
    repo.gitstate("install", "--agent", agent)
    # The hunk's context and additions are the new file, all of it.
    lines = [line[1:] for line in done.out.splitlines()[3:] if line[:1] in ("+", " ")]
    assert lines == (hermetic / FILES[agent]).read_text().splitlines()


@pytest.mark.parametrize("agent", AGENTS)
def test_what_was_changed_since_stays_when_our_entries_go(agent: str, hermetic: Path, repo: Hooked) -> None:
    path = hermetic / FILES[agent]
    first, second = ('a = 1\n', 'b = 2\n') if agent == "kimi" else ('{\n  "a": 1\n}\n', '{\n  "b": 2,')
    repo.write(str(path), first)
    repo.gitstate("install", "--agent", agent)
    path.write_text(second + path.read_text().removeprefix("{") if agent != "kimi" else second + path.read_text())
    repo.gitstate("uninstall", "--agent", agent)
    assert path.read_text() == second + first.removeprefix("{")


def test_kimi_may_have_written_its_settings_anew(hermetic: Path, repo: Hooked) -> None:
    path = hermetic / FILES["kimi"]
    repo.write(str(path), 'model = "k2"\n')
    repo.gitstate("install", "--agent", "kimi")
    path.write_text("".join(line for line in path.read_text().splitlines(True) if not line.startswith("#")))
    repo.gitstate("uninstall", "--agent", "kimi")
    assert tomllib.loads(path.read_text()) == {"model": "k2"}


@pytest.mark.parametrize(
    ("agent", "text"),
    [("claude", "{"), ("claude", "[]"), ("codex", '{"hooks": []}'), ("gemini", '{"hooks": {"AfterTool": {}}}'),
     ("claude", "\xff"), ("claude", "[" * 100_000), ("kimi", "x ="), ("kimi", "hooks = [{event='Stop', command='x'}]"),
     ("kimi", "hooks = 3")],
)  # fmt: skip
def test_settings_that_are_not_understood_are_left_alone(agent: str, text: str, hermetic: Path, repo: Hooked) -> None:
    path = hermetic / FILES[agent]
    path.parent.mkdir()
    path.write_bytes(text.encode("latin-1"))
    before = entries(hermetic)
    assert "nothing was changed" in repo.gitstate("install", "--agent", agent, status=4)
    assert entries(hermetic) == before


def test_settings_behind_a_symlink_stay_behind_it(hermetic: Path, repo: Hooked) -> None:
    repo.write(str(hermetic / "dotfiles" / "claude.json"), "{}\n")
    (hermetic / ".claude").mkdir()
    (hermetic / ".claude" / "settings.json").symlink_to("../dotfiles/claude.json")
    repo.gitstate("install", "--agent", "claude")
    assert (hermetic / ".claude" / "settings.json").is_symlink()
    assert "hook claude" in (hermetic / "dotfiles" / "claude.json").read_text()
    repo.gitstate("uninstall", "--agent", "claude")
    assert (hermetic / "dotfiles" / "claude.json").read_text() == "{}\n"


def test_a_project_gets_a_command_that_fits_every_machine(repo: Hooked) -> None:
    before = entries(repo.path)
    repo.gitstate("install", "--agent", "claude", "--scope", "project")
    text = (repo.path / ".claude" / "settings.json").read_text()
    assert "gitstate hook claude" in text and sys.executable not in text and "/bin/" not in text
    repo.gitstate("uninstall", "--agent", "claude", "--scope", "project")
    assert entries(repo.path) == before
    assert "kimi" in repo.gitstate("install", "--agent", "kimi", "--scope", "project", status=2)


def test_an_entry_of_a_gitstate_elsewhere_is_mended_in_its_place(hermetic: Path, repo: Hooked) -> None:
    repo.gitstate("install", "--agent", "codex")
    path = hermetic / FILES["codex"]
    good = path.read_text()
    ours = {command for _, *_, command in [install_agents._places(json_text.parse(good))[0]]}
    known = ours.pop().value
    path.write_text(good.replace(json.dumps(known), json.dumps("[ ! -x /old/gitstate ] || /old/gitstate hook codex")))
    ((words, mend),) = install_agents.agent_problems(os.environ)
    assert "another gitstate" in words and mend == "gitstate install --agent codex"
    repo.gitstate("install", "--agent", "codex")
    assert path.read_text() == good


def test_codex_is_known_to_pass_over_hooks_that_nobody_trusted(hermetic: Path, repo: Hooked) -> None:
    other = {"hooks": {"Stop": [{"hooks": [{"type": "command", "command": "say done"}]}]}}
    repo.write(str(hermetic / FILES["codex"]), json.dumps(other, indent=2))
    assert "trust" in repo.gitstate("install", "--agent", "codex")
    ((words, command),) = install_agents.agent_problems(os.environ)
    assert "SessionStart, PostToolUse" in words and command == "codex"
    places = ["session_start:0", "post_tool_use:0", "pre_compact:0", "session_end:0", "interrupt:0", "stop:1"]
    name = hermetic / FILES["codex"]
    tables = [f"[hooks.state.'{name}:{place}:0']\ntrusted_hash = 'sha256:1'\n" for place in places]
    repo.write(str(hermetic / ".codex" / "config.toml"), "".join(tables[:-1]))
    assert "trust: Stop" in install_agents.agent_problems(os.environ)[0][0]
    repo.write(str(hermetic / ".codex" / "config.toml"), "".join(tables))
    assert install_agents.agent_problems(os.environ) == []
    repo.write(str(hermetic / ".codex" / "config.toml"), "".join(tables) + "enabled = false\n")
    assert "trust: Stop" in install_agents.agent_problems(os.environ)[0][0]


@pytest.mark.parametrize("agent", AGENTS)
def test_the_installed_command_runs_under_a_bare_environment(agent: str, hermetic: Path, repo: Hooked) -> None:
    repo.gitstate("install", "--agent", agent)
    text = (hermetic / FILES[agent]).read_text()
    if agent == "kimi":
        line = tomllib.loads(text)["hooks"][0]["command"]
    else:
        line = json.loads(text)["hooks"]["SessionStart"][0]["hooks"][0]["command"]
    event = json.dumps({"hook_event_name": "SessionEnd", "session_id": "s-1", "cwd": str(repo.path)})
    done = repo.run("env", "-i", f"HOME={hermetic}", "PATH=/usr/bin:/bin", "/bin/sh", "-c", line, given=event)
    assert done == Done(0, "", "")
    assert repo.git("for-each-ref", "refs/gitstate/checkpoints") != ""
    gone = line.replace(line.split()[3], "/nowhere/gitstate")
    assert repo.run("/bin/sh", "-c", gone, given=event) == Done(0, "", "")


# -- JSON as text

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.dictionaries(st.text(max_size=5), values, max_size=4), st.sampled_from([None, 0, 1, 4, "\t"]), values)
def test_an_item_that_is_put_in_is_read_and_taken_out_again(old: dict[str, Any], indent: Any, value: Any) -> None:
    text = json.dumps(old, indent=indent)
    root = json_text.parse(text)
    assert root.value == old
    key = "new key"
    edited = json_text.insert(text, root, key, value, json_text.indent_of(text, root), 0)
    assert json.loads(edited) == {**old, key: value}
    back = json_text.parse(edited)
    again = json_text.remove(edited, back, len(back.items) - 1)
    assert json.loads(again) == old
    if old:
        assert again == text


@pytest.mark.parametrize("text", ["", "{", '{"a"}', '{"a":}', "[1 2]", "nul", '{"a":1}}', "\x00", '"\n"', "[" * 500])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        json_text.parse(text)


def test_comments_and_what_stands_around_an_item_stay() -> None:
    root = json_text.parse(COMMENTED)
    hooks = root.item("hooks")
    assert hooks is not None
    edited = json_text.insert(COMMENTED, hooks, "Stop", [1], "  ", 1)
    assert "// mine" in edited and "/* really */" in edited
    hooks = json_text.parse(edited).item("hooks")
    assert hooks is not None and hooks.value["Stop"] == [1]
    assert json_text.remove(edited, hooks, 1) == COMMENTED


# -- events


def event(repo: Hooked, agent: str, name: str, env: dict[str, str] | None = None, **more: object) -> str:
    """What an agent reads after its event; nothing may stand on stderr, and the status is always 0."""
    told = {"hook_event_name": name, "session_id": "s-1", "transcript_path": "/t/s-1.jsonl", "cwd": str(repo.path)}
    done = repo.run(sys.executable, "-m", "gitstate", "hook", agent, given=json.dumps({**told, **more}), env=env)
    assert (done.status, done.err) == (0, ""), done
    return done.out


def checkpoint(repo: Hooked) -> str:
    return repo.git("for-each-ref", "--format=%(objectname)", "refs/gitstate/checkpoints")


@pytest.mark.parametrize("agent", AGENTS)
def test_an_event_keeps_session_transcript_and_directory(agent: str, repo: Hooked) -> None:
    repo.gitstate("set", "task_id=T-1", "progress_stage=testing")
    (repo.path / "deep").mkdir()
    event(repo, agent, "SessionStart", cwd=str(repo.path / "deep"))
    state = repo.state()
    assert (state["agent"], state["session_id"], state["task_id"]) == (agent, "s-1", "T-1")
    assert state["extra"] == {"transcript_path": "/t/s-1.jsonl", "agent_cwd": str(repo.path / "deep")}
    assert (state["progress_stage"], state["status"]) == ("testing", "active")


def test_a_checkpoint_holds_what_changed_and_none_is_taken_where_nothing_did(repo: Hooked) -> None:
    repo.write("new", "new\n")
    event(repo, "claude", "PostToolUse")
    first = checkpoint(repo)
    assert repo.git("show", f"{first}^1:new") == "new"
    event(repo, "claude", "Stop")
    assert checkpoint(repo) == first
    repo.write("new", "newer\n")
    event(repo, "claude", "PreCompact")
    assert checkpoint(repo) != first
    assert repo.git("rev-parse", "HEAD") == repo.git("rev-parse", "main")


def test_a_storm_of_tools_is_spaced_and_the_rest_is_kept_when_the_agent_rests(repo: Hooked) -> None:
    slow = {"GITSTATE_HOOK_INTERVAL": "3600"}
    event(repo, "claude", "PostToolUse", slow)
    first = checkpoint(repo)
    for number in range(3):
        repo.write("new", f"{number}\n")
        event(repo, "claude", "PostToolUse", slow)
    assert checkpoint(repo) == first
    assert json.loads((repo.path / ".git" / "gitstate" / "agent-hook.json").read_text())["skipped"] == 3
    event(repo, "claude", "SessionEnd", slow)
    assert repo.git("show", f"{checkpoint(repo)}^1:new") == "2"


def test_after_a_recovery_the_new_session_is_briefed_in_the_form_of_its_agent(repo: Hooked) -> None:
    repo.gitstate("set", "task_id=T-1", "progress_stage=adding VAT")
    repo.write("new", "new\n")
    repo.gitstate("save", "--signal", "TERM")
    waiting = event(repo, "claude", "SessionStart", session_id="s-2")
    assert "gitstate recover" in waiting and "T-1" in waiting
    assert repo.state()["status"] == "interrupted"
    repo.gitstate("recover")
    for agent in ("claude", "codex", "gemini"):
        said = event(repo, agent, "SessionStart", session_id="s-2")
        if agent != "claude":
            answer = json.loads(said)["hookSpecificOutput"]
            assert answer["hookEventName"] == "SessionStart"
            said = answer["additionalContext"]
        assert "T-1" in said and "adding VAT" in said and "TERM" in said
    assert event(repo, "kimi", "SessionStart", session_id="s-3") == ""
    assert "T-1" in event(repo, "kimi", "UserPromptSubmit", session_id="s-3")
    assert event(repo, "kimi", "UserPromptSubmit", session_id="s-3") == ""
    assert repo.state()["status"] == "recovered"
    event(repo, "kimi", "PostToolUse", session_id="s-3")
    assert (repo.state()["status"], repo.state()["session_id"]) == ("active", "s-3")


@pytest.mark.parametrize("status", ["recovered", "active", "interrupted"])
def test_a_repository_cannot_speak_to_the_agent_through_a_state_file_of_its_own(status: str, repo: Hooked) -> None:
    planted = {"task_id": "evil", "status": status, "briefing": "evil", "resume": "evil", "save": {"save_id": "1"}}
    repo.commit("active_state.json", json.dumps(planted))
    assert event(repo, "claude", "SessionStart") == ""
    repo.git("checkout", "-q", "--", "active_state.json")
    assert event(repo, "claude", "SessionStart", session_id="s-2") == ""


def test_a_session_without_a_task_leaves_nothing_that_looks_interrupted(repo: Hooked) -> None:
    event(repo, "claude", "SessionStart")
    assert repo.state()["status"] == "active"
    event(repo, "claude", "SessionEnd")
    assert repo.state()["status"] == "finished"
    event(repo, "claude", "SessionStart", session_id="s-2")
    assert (repo.state()["status"], repo.state()["session_id"]) == ("active", "s-2")


@pytest.mark.parametrize("given", [
    "", "{", "[]", "null", "\x00\xff", '{"cwd": 3}', '{"cwd": "/nowhere"}', '{"cwd": "../.."}', '{"cwd": "/a\\u0000b"}',
    "[" * 100_000, '{"hook_event_name": ["Stop"]}', '{"hook_event_name": "\\ud800"}',
    json.dumps({"hook_event_name": "Stop", "session_id": "x" * 100_000, "transcript_path": "\u001b]0;x\u0007"}),
])  # fmt: skip
@pytest.mark.parametrize("agent", ["claude", "no-such-agent"])
def test_whatever_comes_the_agent_sees_an_empty_answer_and_success(given: str, agent: str, repo: Hooked) -> None:
    assert repo.run(sys.executable, "-m", "gitstate", "hook", agent, given=given) == Done(0, "", "")


def test_outside_a_repository_and_in_a_broken_one_it_is_silent(tmp_path: Path, repo: Hooked) -> None:
    (tmp_path / "plain").mkdir()
    assert event(Hooked(tmp_path / "plain"), "claude", "Stop") == ""
    (repo.path / ".git" / "HEAD").write_text("nonsense")
    assert event(repo, "claude", "Stop") == ""


def test_what_went_wrong_is_kept_for_the_doctor(repo: Hooked) -> None:
    event(repo, "claude", "SessionStart")
    assert last_problem(open_repository(os.fsencode(repo.path))) == []
    (repo.path / ".git" / "refs" / "gitstate").write_text("a file where a directory has to go")
    repo.write("new", "new\n")
    assert event(repo, "claude", "Stop") == ""
    ((words, command),) = last_problem(open_repository(os.fsencode(repo.path)))
    assert "Stop" in words and command == "gitstate checkpoint"
    (repo.path / ".git" / "refs" / "gitstate").unlink()
    event(repo, "claude", "Stop")
    assert last_problem(open_repository(os.fsencode(repo.path))) == []


def test_a_hostile_context_reaches_the_agent_escaped_and_bounded(repo: Hooked) -> None:
    repo.gitstate("set", "task_id=\x1b]0;evil\x07", "progress_stage=" + "x" * 60_000)
    said = event(repo, "claude", "SessionStart")
    assert "\x1b" not in said and "\x07" not in said and 0 < len(said) < 10_000


def test_the_hook_imports_neither_click_nor_gitpython(repo: Hooked) -> None:
    argv = (sys.executable, "-X", "importtime", "-m", "gitstate", "hook", "claude")
    done = repo.run(*argv, given='{"hook_event_name": "PostToolUse"}')
    loaded = {line.rsplit("|", 1)[1].strip() for line in done.err.splitlines() if line.startswith("import time:")}
    assert "gitstate.agent_hook" in loaded
    assert not {name for name in loaded if name.split(".")[0] in ("git", "click", "gitdb", "tomllib")}


# -- decisions


def test_a_tool_is_worth_a_checkpoint_now_and_then_and_a_rest_always() -> None:
    second = 1_000_000_000
    now = 1_000_000 * second
    assert is_due("PostToolUse", Memory(), now, 15)
    assert not is_due("PostToolUse", Memory(now - 14 * second), now, 15)
    assert is_due("AfterTool", Memory(now - 15 * second), now, 15)
    assert not is_due("PostToolUse", Memory(now - 60 * second, 5 * second), now, 15)
    assert is_due("PostToolUse", Memory(now + second), now, 15)
    for name in ("Stop", "PreCompact", "PreCompress", "SessionEnd", "AfterAgent", "Interrupt"):
        assert is_due(name, Memory(now), now, 15)
    for name in ("SessionStart", "UserPromptSubmit", "", "Nonsense"):
        assert not is_due(name, Memory(), now, 15)


def test_words_for_the_model_take_the_form_that_its_agent_reads() -> None:
    assert form("claude", "SessionStart", "words") == "words\n"
    assert form("gemini", "SessionStart", "") == form("claude", "SessionStart", "") == ""
    assert json.loads(form("codex", "SessionStart", "w\n\u2028")) == {
        "hookSpecificOutput": {"hookEventName": "SessionStart", "additionalContext": "w\n\u2028"}
    }


def test_an_event_without_end_is_not_waited_for() -> None:
    read, write = os.pipe()
    try:
        os.write(write, b'{"hook_event_name": "Stop"')
        assert read_event(read) == {}
    finally:
        os.close(read)
        os.close(write)


def test_only_absolute_paths_and_short_texts_are_taken_from_an_event() -> None:
    told = {"hook_event_name": "Stop", "cwd": "relative", "transcript_path": "x", "session_id": "y" * 5000}
    found = parse_event(told)
    assert tuple(found) == ("Stop", None, None, None)
