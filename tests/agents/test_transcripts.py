"""Where a transcript is found, and where its agent looks for it in another directory."""

from __future__ import annotations

import hashlib
import itertools
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from gitstate.agents.registry import agent_named
from gitstate.agents.sessions import find_transcript, matches, place_for
from gitstate.format.context import Context

SESSION = "0a1b2c3d-4e5f-6789"
HASH = hashlib.sha256(b"/new/w").hexdigest()[:12]

#: Agent, what of a session is below its home, and the same for the directory /new/w.
PLACES = [
    ("claude", f"projects/-old/{SESSION}.jsonl", f"projects/-new-w/{SESSION}.jsonl"),
    ("codex", f"sessions/2026/01/31/r-{SESSION}.jsonl", f"sessions/2026/01/31/r-{SESSION}.jsonl"),
    ("gemini", "tmp/old/chats/session-1-0a1b2c3d.jsonl", "tmp/w/chats/session-1-0a1b2c3d.jsonl"),
    ("kimi", f"sessions/wd_old_1/{SESSION}", f"sessions/wd_w_{HASH}/{SESSION}"),
]


@pytest.mark.parametrize(("agent", "transcript", "there"), PLACES)
@pytest.mark.parametrize("told", [True, False])
def test_transcript_is_found_and_has_a_place_elsewhere(
    agent: str, transcript: str, there: str, told: bool, tmp_path: Path
) -> None:
    record = agent_named(agent)
    assert record is not None
    home = tmp_path / record.sessions.transcripts[0].home.directory
    for name in record.sessions.transcripts[0].files or ("",):
        path = home / transcript / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}\n")
    extra = {"transcript_path": str(path)} if told else {}
    context = Context(agent=agent, session_id=SESSION, extra=extra)
    environ = {"HOME": "/nowhere" if told else str(tmp_path)}
    found = find_transcript(context, environ)
    assert found is not None and (found.root, found.transcript) == (str(home), transcript)
    assert all((home / name).is_file() for name in found.files)
    assert place_for(record, str(home), transcript, "/old", "/old", environ).transcript == transcript
    assert place_for(record, str(home), transcript, "/old", "/new/w", environ).transcript == there


@pytest.mark.parametrize(
    ("known", "owners", "there"),
    [
        ("/else/w", {"tmp/w": "/old/w", "history/w-1": "/else/w"}, "w-3"),
        ("/else/w", {"tmp/w": "/old/w", "tmp/w-7": "/new/w"}, "w-7"),
        ("/new/w", {"tmp/w": "/old/w"}, "w-2"),
        ("/new/w", {"tmp/w-2": "/new/w\n/old/w"}, "w"),
    ],
)
def test_name_of_another_project_is_not_taken(known: str, owners: dict[str, str], there: str, tmp_path: Path) -> None:
    for name, owner in owners.items():
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / ".project_root").write_text(owner)
    (tmp_path / "projects.json").write_text(f'{{"projects": {{"{known}": "w-2", "/x": 1}}}}')
    place = place_for(agent_named("gemini"), str(tmp_path), "tmp/w/chats/x.json", "/old/w", "/new/w", {})
    assert place.transcript == f"tmp/{there}/chats/x.json"
    assert place.lists == ((f"tmp/{there}/.project_root", b"/new/w"),)


@pytest.mark.parametrize(
    ("name", "slug"),
    [("My.Shop (1)", "my.shop-1"), ("a - b", "a---b"), ("\u00fc", "workspace"), ("A" * 39 + "-b", "a" * 39)],
)
def test_kimi_finds_a_session_by_another_name_of_its_directory(name: str, slug: str) -> None:
    directory = f"/new/{name}"
    place = place_for(agent_named("kimi"), "/h", f"sessions/wd_old_1/{SESSION}", "/old", directory, {})
    hashed = hashlib.sha256(directory.encode()).hexdigest()[:12]
    assert place.transcript == f"sessions/wd_{slug}_{hashed}/{SESSION}"
    # Its record of the session names that, too.
    assert (b"wd_old_1", f"wd_{slug}_{hashed}".encode()) in place.rewrites


@pytest.mark.parametrize(
    ("directory", "name"),
    [
        ("/w/my shop \U0001f4a5", "-w-my-shop---"),
        ("/" + "a" * 199, "-" + "a" * 199),
        # As Claude Code 2.1.332 has it.
        ("/tmp/" + "Long-directory.name/" * 12 + "My.Shop", "-tmp-" + ("Long-directory-name-" * 10)[:195] + "-3xoh9j"),
    ],
)
def test_claude_finds_a_session_by_its_name_for_a_directory(directory: str, name: str) -> None:
    place = place_for(agent_named("claude"), "/h", "projects/-old/x.jsonl", "/old", directory, {})
    assert place.transcript == f"projects/{name}/x.jsonl"


def test_qwen_has_two_dashes_for_a_sign_of_two_units() -> None:
    place = place_for(agent_named("qwen"), "/h", "projects/-old/chats/x.jsonl", "/old", "/w/\U0001f4a5", {})
    assert place.transcript == "projects/-w---/chats/x.jsonl"


def test_home_of_another_host_is_exchanged_for_the_one_of_here(tmp_path: Path) -> None:
    claude = agent_named("claude")
    place = place_for(claude, "/home/other/.claude", "projects/-w/x.jsonl", "/w", "/w", {"HOME": str(tmp_path)})
    assert (place.root, place.transcript) == (str(tmp_path / ".claude"), "projects/-w/x.jsonl")


def test_database_is_looked_for_in_no_other_directory(tmp_path: Path) -> None:
    place = place_for(agent_named("opencode"), str(tmp_path), "gitstate/x.jsonl", "/w", "/w", {"HOME": "/h"})
    assert (place.root, place.transcript) == ("/h/.local/share/opencode", "gitstate/x.jsonl")


@pytest.mark.parametrize("told", ["relative.jsonl", "/etc/passwd", "/nowhere/x.jsonl", 7, None])
def test_any_other_path_is_no_transcript(told: object) -> None:
    context = Context(agent="claude", session_id=SESSION, extra={"transcript_path": told})
    assert find_transcript(context, {"HOME": "/nowhere"}) is None


@pytest.mark.parametrize(
    ("path", "pattern", "does"),
    [
        ("a/b", "a/*", True),
        ("a/b/c", "a/*", False),
        ("a", "a/*", False),
        ("a/b/c.x", "a/**/*.x", True),
        ("a/c.x", "a/**/*.x", True),
        ("b/c.x", "a/**/*.x", False),
    ],
)
def test_path_matches_as_a_whole(path: str, pattern: str, does: bool) -> None:
    assert matches(path, pattern) == does


def test_names_match_as_in_a_shell() -> None:
    """Every short name against every short pattern: as Python's own module has it, which loads five others."""
    names = ["".join(letters) for size in range(6) for letters in itertools.product("ab", repeat=size)]
    patterns = ["".join(letters) for size in range(1, 6) for letters in itertools.product("ab*", repeat=size)]
    patterns.remove("**")
    apart = [(name, one) for name in names for one in patterns if matches(name, one) != fnmatchcase(name, one)]
    assert apart == []
    assert matches("a\nb", "a*b") and not matches("a/b", "a*b")
