"""Every setting: which values can be read, which place wins, and what a bad value does to each command."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from gitstate.errors import UsageError
from gitstate.git.command import Git
from gitstate.git.opening import open_repository
from gitstate.git.repository import Repository, parse_bool
from gitstate.workspace import settings
from gitstate.workspace.settings import SETTINGS, setting_named
from tests.states import dirty
from tests.support.oracle import fingerprint
from tests.support.workspace import Workspace


def repository(**config: str | list[str]) -> Repository:
    """A repository of which only the settings exist."""
    values = {
        f"gitstate.{name.lower()}": [value] if isinstance(value, str) else value for name, value in config.items()
    }
    return Repository(b"/work/tree", b"/work/tree/.git", b"/work/tree/.git", "sha1", values, Git(b"/"))


# --------------------------------------------------------------------------------------------------------------------
# Values
# --------------------------------------------------------------------------------------------------------------------

NO_NUMBERS = ["soon", "1s", "1_000", "nan", "inf", "-inf", "-1", "1e400", "0x10", "1,5", "--", "1 2", "٣", "", "true"]
NUMBERS = {
    "grace": (["0", "0.0", "1.5", "3600", " 2 ", "1e2", "+3"], ["3600.1", "-0.1", "1e9"]),
    "deadline": (["0.5", "4", "3600"], ["0", "0.49", "3601"]),
    "interval": (["0.2", "10", "86400"], ["0", "0.19", "86401"]),
    "hookInterval": (["0", "15", "86400"], ["86400.5"]),
    "keepSaves": (["0", "20", "1000000", " 7 ", "+3"], ["1000001", "1.0", "3.5", "1e3"]),
    "keepDays": (["0", "0.5", "30", "1000000"], ["1000000.5"]),
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, (good, _) in NUMBERS.items() for text in good])
def test_number_in_its_range_is_read(name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.number(repository(**{name: text}), name) == float(text)
    monkeypatch.setenv(setting_named(name).variable, text)
    assert settings.number(repository(), name) == float(text)


@pytest.mark.parametrize(
    ("name", "text"),
    [(name, text) for name, (_, bad) in NUMBERS.items() for text in [*bad, *(text for text in NO_NUMBERS if text)]],
)
def test_what_is_no_number_in_its_range_is_an_error(name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variable = setting_named(name).variable
    monkeypatch.setenv(variable, text)
    with pytest.raises(UsageError) as caught:
        settings.number(repository(), name)
    assert f"gitstate.{name} is " in caught.value.message and f"{variable} in the environment" in caught.value.message
    assert caught.value.exit_status == 2 and caught.value.hint == f"unset {variable}"
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("name", NUMBERS)
def test_empty_number_in_the_configuration_is_an_error(name: str) -> None:
    with pytest.raises(UsageError):
        settings.number(repository(**{name: ""}), name)


@pytest.mark.parametrize("name", NUMBERS)
def test_given_number_is_checked_as_the_setting_is(name: str) -> None:
    good, bad = NUMBERS[name]
    with pytest.raises(UsageError, match="the argument x"):
        settings.number(repository(), name, json.loads(bad[0]), "the argument x")
    assert settings.number(repository(**{name: "soon"}), name, json.loads(good[1])) == float(good[1])


BOOLEANS = [
    *("true", "yes", "on", "TRUE", "Yes", "oN", "false", "no", "off", "FALSE", "No", "oFF", ""),
    *("0", "1", "2", "-1", "+1", "00", "010", "08", "0x0", "0x1f", "0x", "1k", "0k", "1K", "-1m", "1g", "2g", "1kk"),
    *("2147483647", "2147483648", "-2147483647", "-2147483649", " 1", "\t0", " ", "1 k", "++1", "-", "k", "1_0"),
    *("tru", "t", "f", "y", "n", "null", "none", "maybe", "0o1", "true false", "disabled", "٣", "1.0"),
]


def test_boolean_is_read_as_git_reads_it(tmp_path: Path) -> None:
    def by_git(text: str) -> bool | None:
        argv = ["git", "-c", f"x.y={text}", "config", "--type=bool", "x.y"]
        done = subprocess.run(argv, cwd=tmp_path, capture_output=True, encoding="utf-8", check=False)
        return {"true\n": True, "false\n": False}.get(done.stdout)

    assert {text: parse_bool(text) for text in BOOLEANS} == {text: by_git(text) for text in BOOLEANS}


def test_boolean_setting_follows_git(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in filter(None, BOOLEANS):
        monkeypatch.setenv("GITSTATE_REGISTER", text)
        if parse_bool(text) is None:
            with pytest.raises(UsageError):
                settings.boolean(repository(), "register")
        else:
            assert settings.boolean(repository(), "register") is parse_bool(text)
    monkeypatch.delenv("GITSTATE_REGISTER")
    assert settings.boolean(repository(), "register") and not settings.boolean(repository(register=""), "register")


PATHS = {
    "state.json": b"/work/tree/state.json",
    "a/b.json": b"/work/tree/a/b.json",
    "./a//b/../c": b"/work/tree/a/c",
    "/work/tree/x": b"/work/tree/x",
    "ä\udcff": b"/work/tree/\xc3\xa4\xff",
    ".hidden": b"/work/tree/.hidden",
}
NO_PATHS = [
    ".",
    "..",
    "../x",
    "a/../../x",
    "/",
    "/etc/passwd",
    "/work/treehouse",
    ".git",
    ".git/x",
    "a/.GIT/x",
    "git~1",
]


@pytest.mark.parametrize("text", PATHS)
def test_path_inside_the_workspace_is_read(text: str) -> None:
    assert settings.path(repository(stateFile=text), "stateFile") == PATHS[text]


@pytest.mark.parametrize("text", NO_PATHS)
def test_path_outside_of_the_workspace_is_an_error(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITSTATE_STATE_FILE", text)
    with pytest.raises(UsageError, match=r"gitstate\.stateFile is .* not a path inside the workspace"):
        settings.path(repository(), "stateFile")


def test_patterns_of_the_configuration_add_up_and_the_environment_replaces_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    configured = repository(includeIgnored=["*.log", "/build/**", "a\\\\"])
    assert settings.patterns(configured, "includeIgnored") == ["*.log", "/build/**", "a\\\\"]
    assert settings.patterns(repository(), "includeIgnored") == []
    monkeypatch.setenv("GITSTATE_INCLUDE_IGNORED", "one\n\ntwo\n")
    assert settings.patterns(configured, "includeIgnored") == ["one", "two"]


@pytest.mark.parametrize("text", ["a\\", "a\\\\\\", "x" * 4097])
def test_pattern_that_matches_nothing_or_is_too_long_is_an_error(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITSTATE_INCLUDE_IGNORED", f"*.log\n{text}")
    with pytest.raises(UsageError, match="not a gitignore pattern") as caught:
        settings.patterns(repository(), "includeIgnored")
    assert len(caught.value.message) < 300


def test_remote_comes_from_the_argument_or_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.remote(repository(), None) is None
    assert settings.remote(repository(remote="origin"), None) == "origin"
    assert settings.remote(repository(remote="origin"), "other") == "other"
    for text in ("--mirror", "-u"):
        with pytest.raises(UsageError, match="not a remote's name or URL"):
            settings.remote(repository(), text)
        monkeypatch.setenv("GITSTATE_REMOTE", text)
        with pytest.raises(UsageError, match="GITSTATE_REMOTE"):
            settings.remote(repository(), None)


# --------------------------------------------------------------------------------------------------------------------
# Places
# --------------------------------------------------------------------------------------------------------------------


def test_option_wins_over_environment_over_configuration_over_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.number(repository(), "grace") == 1.5
    assert settings.number(repository(grace=["7", "2"]), "grace") == 2, "the last value of git's configuration counts"
    monkeypatch.setenv("GITSTATE_GRACE", "")
    assert settings.number(repository(grace="2"), "grace") == 2, "an empty variable counts as not set"
    monkeypatch.setenv("GITSTATE_GRACE", "3")
    assert settings.number(repository(grace="2"), "grace") == 3
    assert settings.number(repository(grace="2"), "grace", 0) == 0


def test_earlier_value_of_a_key_is_not_looked_at() -> None:
    assert settings.problems(repository(grace=["soon", "2"])) == []


def test_every_default_can_be_read() -> None:
    assert settings.problems(repository()) == []
    settings.require(repository(), *(setting.name for setting in SETTINGS))


def test_names_of_the_variables() -> None:
    assert {setting.variable for setting in SETTINGS} == {
        *("GITSTATE_INTERVAL", "GITSTATE_GRACE", "GITSTATE_DEADLINE", "GITSTATE_HOOK_INTERVAL"),
        *("GITSTATE_INCLUDE_IGNORED", "GITSTATE_STATE_FILE", "GITSTATE_REGISTER", "GITSTATE_REMOTE"),
        "GITSTATE_FILTER_TIMEOUT",
        *("GITSTATE_KEEP_SAVES", "GITSTATE_KEEP_DAYS", "GITSTATE_TRUST", "GITSTATE_CONVERSATION"),
        *("GITSTATE_HISTORY", "GITSTATE_HISTORY_INTERVAL"),
    }


def test_help_says_what_the_setting_does_its_key_and_default() -> None:
    assert settings.help_text("grace").endswith("  [gitstate.grace, 1.5]")
    for setting in SETTINGS:
        assert len(setting.meaning) <= 60 and not setting.meaning.endswith("."), setting.name


def test_defaults_take_the_place_of_bad_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITSTATE_STATE_FILE", "../outside")
    bad = repository(stateFile="inside.json", includeIgnored=["*.log", "a\\", "*.tmp"], register="maybe", grace="2")
    better, problems = settings.with_defaults(bad, [setting.name for setting in SETTINGS])
    assert [problem.name for problem in problems] == ["includeIgnored", "stateFile", "register"]
    assert settings.path(better, "stateFile") == b"/work/tree/active_state.json"
    assert settings.patterns(better, "includeIgnored") == ["*.log", "*.tmp"]
    assert settings.boolean(better, "register") and settings.number(better, "grace") == 2
    assert settings.problems(better) == [] and len(settings.problems(bad)) == 3, "the first is unchanged"
    assert settings.with_defaults(repository(), ["grace"]) == (repository(), [])


def test_unknown_keys_are_those_that_no_setting_has() -> None:
    found = repository(grace="1", grase="1", trusted="x")
    found.config["gitstatement.x"] = ["1"]
    assert settings.unknown_keys(found) == ["gitstate.grase", "gitstate.trusted"]


# --------------------------------------------------------------------------------------------------------------------
# The file that a bad value is in
# --------------------------------------------------------------------------------------------------------------------


def problem_of(ws: Workspace) -> settings.Problem:
    (problem,) = settings.problems(open_repository(os.fsencode(ws.path)))
    return problem


def test_error_names_the_file_and_its_command_unsets_the_value(ws: Workspace, hermetic: Path) -> None:
    for options in (("--local",), ("--global",), ("--file", str(ws.outside / "in cluded"))):
        ws.git("config", "--global", "include.path", str(ws.outside / "in cluded"))
        ws.git("config", *options, "--add", "gitstate.grace", "soon")
        problem = problem_of(ws)
        file = {"--local": ws.git_dir / "config", "--global": hermetic / ".gitconfig"}.get(
            options[0], ws.outside / "in cluded"
        )
        assert f'gitstate.grace is "soon" ({file}), not a number of seconds from 0 to 3600' == problem.message
        assert problem.command is not None
        subprocess.run(problem.command, shell=True, check=True)
        assert settings.problems(open_repository(os.fsencode(ws.path))) == []


def test_error_in_a_linked_worktree_names_its_own_file(ws: Workspace) -> None:
    ws.git("config", "extensions.worktreeConfig", "true")
    ws.git("worktree", "add", "-q", "--detach", str(ws.outside / "linked"))
    linked = Workspace(ws.outside / "linked", ws.outside)
    linked.git("config", "--worktree", "gitstate.keepDays", "a week")
    assert str(linked.git_dir / "config.worktree") in problem_of(linked).message


# --------------------------------------------------------------------------------------------------------------------
# Commands
# --------------------------------------------------------------------------------------------------------------------

OF_CONTEXT = {"stateFile": "../outside"}
OF_SAVE = {**OF_CONTEXT, "includeIgnored": "a\\", "register": "maybe"}
OF_RUN = {**OF_SAVE, "grace": "soon", "deadline": "0", "interval": "nan"}
COMMANDS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "save": (("save",), OF_SAVE),
    "checkpoint": (("checkpoint",), OF_SAVE),
    "run": (("run", "--task-id", "T-2", "--", "touch", "canary"), OF_RUN),
    "set": (("set", "task_id=T-2"), OF_CONTEXT),
    "begin": (("begin", "task_id=T-2"), {**OF_CONTEXT, "register": "maybe"}),
    "finish": (("finish",), OF_CONTEXT),
    "recover": (("recover",), {**OF_CONTEXT, "includeIgnored": "a\\", "trust": "-x"}),
    "restore": (("restore", "SAVE"), {**OF_CONTEXT, "includeIgnored": "a\\"}),
    "prune": (("prune", "--days", "0"), {"keepSaves": "3.5"}),
    "prune days": (("prune", "--keep", "0"), {"keepDays": "a week"}),
    "push": (("push",), {"remote": "--mirror"}),
    "fetch": (("fetch",), {"remote": "--mirror"}),
}
CASES = [(command, name, "configuration") for command, (_, bad) in COMMANDS.items() for name in bad]
CASES += [("run", name, "environment") for name in OF_RUN]


@pytest.mark.sample(5)
@pytest.mark.parametrize(("command", "name", "place"), CASES, ids=[" ".join(case) for case in CASES])
def test_bad_value_ends_a_command_before_anything_begins(ws: Workspace, command: str, name: str, place: str) -> None:
    argv, bad = COMMANDS[command]
    ws.gitstate("set", "task_id=T-1")
    dirty(ws)
    save_id = ws.save().json["save_id"] if command in ("recover", "finish", "restore") else ""
    setting = setting_named(name)
    if place == "configuration":
        ws.git("config", setting.key, bad[name])
        where = f"({ws.git_dir}/config)"
    else:
        ws.cli_env = {setting.variable: bad[name]}
        where = f"({setting.variable} in the environment)"
    context = (ws.git_dir / "gitstate" / "context.json").read_bytes()
    before, refs = fingerprint(ws.path), ws.refs()
    done = ws.gitstate(*(save_id if word == "SAVE" else word for word in argv))
    assert done.exit_status == 2, done
    first, *rest = done.stderr.splitlines()
    assert first.startswith(f'gitstate: {setting.key} is "{bad[name]}" {where}, not ')
    assert first.endswith("; nothing was changed") and len(rest) == 1 and "unset" in rest[0]
    assert done.stdout == b"" and not (ws.path / "canary").exists()
    assert (ws.git_dir / "gitstate" / "context.json").read_bytes() == context
    assert before.diff(fingerprint(ws.path)) == [] and ws.refs() == refs


def test_bad_setting_in_json(ws: Workspace) -> None:
    ws.git("config", "gitstate.register", "maybe")
    run = ws.gitstate("save", "--json")
    assert run.exit_status == 2 and run.json["exit_status"] == 2
    assert run.json["error"].startswith('gitstate.register is "maybe"')


def by_configuration(ws: Workspace) -> None:
    for name, value in OF_SAVE.items():
        ws.git("config", f"gitstate.{name}", value)


def by_environment(ws: Workspace) -> None:
    ws.cli_env = {setting_named(name).variable: value for name, value in OF_SAVE.items()}


@pytest.mark.sample(2)
@pytest.mark.parametrize("spoil", [by_configuration, by_environment])
@pytest.mark.parametrize("end", [("--signal", "TERM"), ("--exit-code", "7")])
def test_save_of_a_trap_stands_with_the_defaults(
    ws: Workspace, spoil: Callable[[Workspace], None], end: tuple[str, str]
) -> None:
    """The trap has no second chance: the work comes first, and the result says what was wrong."""
    ws.gitstate("set", "task_id=T-1")
    dirty(ws)
    before = fingerprint(ws.path)
    spoil(ws)
    run = ws.save(*end)
    # What a pattern was to keep may be missing, and is never called a success.
    assert run.exit_status == 4 and run.json["result"] == "saved" and run.json["branch_moved"], run
    (lost,) = run.json["left_out"]
    assert lost["lost"] and 'gitstate.includeIgnored is "a\\"' in lost["reason"]
    assert [line.partition(" ")[0] for line in run.json["warnings"]] == ["gitstate.stateFile", "gitstate.register"]
    assert "gitstate.stateFile" in run.stderr and "the default was used" in run.stderr
    assert json.loads((ws.path / "active_state.json").read_bytes())["status"] == "interrupted"
    ws.cli_env = {}
    ws.git("config", "--remove-section", "gitstate", check=False)
    assert ws.recover().exit_status == 0
    assert before.diff(fingerprint(ws.path)) == []


def test_save_of_a_trap_without_lost_patterns_is_a_success(ws: Workspace) -> None:
    dirty(ws)
    ws.git("config", "gitstate.stateFile", "/etc/passwd")
    run = ws.save("--signal", "TERM")
    assert run.exit_status == 0 and run.json["left_out"] == [] and len(run.json["warnings"]) == 1, run


def test_bad_setting_of_a_nested_repository_does_not_cost_its_save(ws: Workspace) -> None:
    ws.git("init", "-q", "inner")
    ws.write("inner/file", "text\n")
    ws.git("-C", "inner", "config", "gitstate.stateFile", "../x")
    run = ws.save()
    assert not any(item["path"].startswith("inner") and item["lost"] for item in run.json["left_out"]), run
    assert ws.out("-C", "inner", "for-each-ref", "refs/gitstate/pending")


def test_patterns_of_the_environment_reach_the_save(ws: Workspace) -> None:
    ws.write(".gitignore", "*.log\n*.tmp\n")
    ws.write("one.log", "1")
    ws.write("two.tmp", "2")
    ws.cli_env = {"GITSTATE_INCLUDE_IGNORED": "*.log\n*.tmp"}
    assert ws.save().exit_status == 0
    ws.remove("one.log")
    ws.remove("two.tmp")
    ws.cli_env = {}
    assert ws.recover().exit_status == 0
    assert (ws.read("one.log"), ws.read("two.tmp")) == (b"1", b"2")


def test_doctor_lists_bad_values_and_unknown_keys(ws: Workspace) -> None:
    for name, value in {**OF_RUN, "keepSaves": "many", "keepdais": "3", "nonsense": "x"}.items():
        ws.git("config", f"gitstate.{name}", value)
    run = ws.gitstate("doctor", "--json")
    found = [item for item in run.json["findings"] if item["check"] == "settings"]
    assert not [item for item in run.json["findings"] if item["check"] == "check"], "no other check fails for it"
    serious = {item["what"].partition(" ")[0] for item in found if item["serious"]}
    assert serious == {f"gitstate.{name}" for name in (*OF_RUN, "keepSaves")}
    advice = {item["what"] for item in found if not item["serious"]}
    assert advice == {
        "gitstate.keepdais is not a setting of gitstate; did you mean gitstate.keepDays?",
        "gitstate.nonsense is not a setting of gitstate",
    }
    for item in found:
        subprocess.run(item["next"], shell=True, check=True, cwd=ws.path, stdout=subprocess.DEVNULL)
    left = [item for item in ws.gitstate("doctor", "--json").json["findings"] if item["check"] == "settings"]
    assert not [item for item in left if item["serious"]]
