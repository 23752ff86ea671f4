"""A transcript that is gone, torn or zeroed comes back; a longer one stays."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import pytest

from gitstate.agents.sessions import Place
from gitstate.conversation.give_back import _Writer, mended
from gitstate.conversation.record import Kept
from gitstate.git.opening import open_repository
from gitstate.objects.reader import ObjectReader
from gitstate.workspace.files import FileState, Worktree
from tests.conversation.talk import SESSION, Talk, encoded, transcript_of
from tests.states import dirty
from tests.support.forgery import forged
from tests.support.remotes import clone, remote_refs
from tests.support.workspace import Workspace, run_git

KEPT = b"".join(b'{"n": %d, "text": "%s"}\n' % (number, b"x" * (number % 50)) for number in range(200))
MORE = b"".join(b'{"n": %d}\n' % number for number in range(200, 260))


def test_missing_file_is_written() -> None:
    assert mended("t.jsonl", None, KEPT) == KEPT


@pytest.mark.parametrize("seed", range(300))
def test_cut_and_zeroed_bytes_are_mended_to_the_last_whole_line(seed: int) -> None:
    """Whatever a power cut does to what was written, the result is a beginning of it, and holds what is kept."""
    chance = random.Random(seed)
    damaged = bytearray(KEPT + MORE)
    for _ in range(chance.randrange(3)):
        start = chance.randrange(len(damaged))
        end = min(len(damaged), start + chance.choice((1, 512, 4096, 9000)))
        damaged[start:end] = bytes(end - start)
    del damaged[chance.randrange(len(damaged) + 1) :]
    found = mended("t.jsonl", bytes(damaged), KEPT)
    after = bytes(damaged) if found is None else found
    assert after.startswith(KEPT) and (KEPT + MORE).startswith(after)
    assert after.endswith(b"\n") and b"\0" not in after
    assert len(after) >= len(bytes(damaged).partition(b"\0")[0].rpartition(b"\n")[0])


@pytest.mark.parametrize(
    "there",
    [KEPT, KEPT + MORE, KEPT.replace(b'"n"', b'"m"') + MORE, MORE, b'{"other": "text"}\n'],
    ids=["the same", "longer", "other and longer", "other", "another line"],
)
def test_good_transcript_stays_as_it_is(there: bytes) -> None:
    assert mended("t.jsonl", there, KEPT) is None


@pytest.mark.parametrize(
    ("there", "stays"),
    [(b'{"later": 1}', True), (b"", False), (b'{"la', False), (b"\0" * 30, False)],
    ids=["whole", "empty", "cut short", "zeros"],
)
def test_file_that_its_agent_writes_whole(there: bytes, stays: bool) -> None:
    assert mended("state.json", there, b'{"kept": 1}') == (None if stays else b'{"kept": 1}')


@pytest.mark.parametrize("end", [*range(1, 30, 4), 30])
def test_file_without_a_form_of_its_own_that_was_cut(end: int) -> None:
    """YAML that was cut short is YAML, too: it is known by what is kept."""
    kept = b"id: s-1\ncwd: /home/me/work\nx: 1\n"
    assert mended("workspace.yaml", kept[:end], kept) == kept
    assert mended("workspace.yaml", kept, kept) is None
    assert mended("workspace.yaml", b"id: s-1\ncwd: /other\n", kept) is None


def test_transcript_comes_back_with_the_files(talk: Talk, hermetic: Path) -> None:
    dirty(talk.ws)
    assert talk.ws.save().exit_status == 0
    shutil.rmtree(hermetic / ".claude")
    (item,) = talk.ws.recover().json["workspaces"]
    assert item["verdict"] == "restore" and "conversation was given back" in item["message"]
    assert talk.path.read_bytes() == talk.said
    assert talk.path.stat().st_mode & 0o777 == 0o600
    assert f"claude --resume {SESSION}" in item["resume"]


def test_torn_transcript_of_a_run_without_a_save_comes_back(talk: Talk) -> None:
    talk.say(lines=3)
    assert talk.ws.gitstate("checkpoint").exit_status == 0
    damaged = talk.said[:1200] + b"\0" * 900
    talk.path.write_bytes(damaged)
    with talk.ws.in_another_boot():
        (item,) = talk.ws.recover().json["workspaces"]
    assert item["verdict"] == "context_only"
    assert talk.path.read_bytes() == talk.said
    (aside,) = (talk.ws.git_dir / "gitstate").glob("conversation-before-*")
    assert aside.read_bytes() == damaged and aside.stat().st_mode & 0o777 == 0o600


def test_what_stood_there_stays_each_time(talk: Talk) -> None:
    """Two power cuts: the second recovery keeps what the first one has kept."""
    talk.say(lines=3)
    torn = [talk.said[:length] + b"\0" * 90 for length in (1200, 700, 700)]
    for number, damaged in enumerate(torn):
        talk.ws.write("a.txt", f"{number}\n")
        assert talk.ws.save().exit_status == 0
        talk.path.write_bytes(damaged)
        with talk.ws.in_another_boot():
            talk.ws.recover()
        assert talk.path.read_bytes() == talk.said
    kept = (talk.ws.git_dir / "gitstate").glob("conversation-before-*")
    assert sorted(path.read_bytes() for path in kept) == sorted(set(torn))


def test_longer_transcript_is_never_replaced(talk: Talk) -> None:
    dirty(talk.ws)
    assert talk.ws.save().exit_status == 0
    talk.say(lines=3)
    assert talk.ws.recover().exit_status == 0
    assert talk.path.read_bytes() == talk.said


def test_symlink_in_the_way_is_not_followed(talk: Talk, ws: Workspace) -> None:
    dirty(ws)
    assert ws.save().exit_status == 0
    talk.path.unlink()
    talk.path.symlink_to(ws.outside / "precious")
    (item,) = ws.recover().json["workspaces"]
    assert item["verdict"] == "restore" and "is a symlink" in item["message"]
    assert not (ws.outside / "precious").exists()


def test_dry_run_writes_nothing(talk: Talk) -> None:
    dirty(talk.ws)
    assert talk.ws.save().exit_status == 0
    talk.path.unlink()
    talk.ws.recover("--dry-run")
    assert not talk.path.exists()


def published(talk: Talk, tmp_path: Path) -> Workspace:
    ws = talk.ws
    run_git(tmp_path, "init", "-q", "--bare", "origin.git")
    ws.git("remote", "add", "origin", str(tmp_path / "origin.git"))
    ws.git("push", "-q", "origin", "agent/work")
    dirty(ws)
    assert ws.save().exit_status == 0
    return ws


def test_push_leaves_it_out_unless_it_is_asked_for(talk: Talk, tmp_path: Path) -> None:
    ws = published(talk, tmp_path)
    assert ws.gitstate("push", "origin").exit_status == 0
    origin = tmp_path / "origin.git"
    assert not [ref for ref in remote_refs(ws) if "conversation" in ref]
    every = run_git(origin, "cat-file", "--batch-all-objects", "--batch")
    assert talk.said.split(b'"text": "')[1][:40] not in every
    assert ws.gitstate("push", "origin", "--with-conversation").exit_status == 0
    assert len([ref for ref in remote_refs(ws) if ref.startswith("refs/gitstate/conversations/")]) == 1


@pytest.mark.parametrize("options", [(), ("--filter=blob:none",)])
def test_session_goes_on_in_another_clone(options: tuple[str, ...], talk: Talk, tmp_path: Path, hermetic: Path) -> None:
    ws = published(talk, tmp_path)
    run_git(tmp_path / "origin.git", "config", "uploadpack.allowFilter", "true")
    assert ws.gitstate("push", "origin", "--with-conversation").exit_status == 0
    there = clone(ws, "clone", *options)
    there.git("config", "gitstate.trust", "origin")
    assert there.gitstate("fetch", "origin").exit_status == 0
    (item,) = there.recover().json["workspaces"]
    copy = transcript_of(there, hermetic)
    assert copy.read_bytes() == talk.said and encoded(there.path) in str(copy)
    assert item["context"]["extra"]["transcript_path"] == str(copy)
    assert item["context"]["extra"]["agent_cwd"] == str(there.path)
    assert item["resume"] == f"cd {there.path} && claude --resume {SESSION}"


def test_path_of_another_host_is_not_read_here(talk: Talk, tmp_path: Path) -> None:
    """What a fetched save names as its transcript may be any file of this user."""
    told = talk.path.rename(talk.ws.outside / f"{SESSION}.jsonl")
    talk.ws.gitstate("set", f"transcript_path={told}")
    ws = published(talk, tmp_path)
    assert talk.kept() == talk.said
    assert ws.gitstate("push", "origin").exit_status == 0
    there = clone(ws)
    there.git("config", "gitstate.trust", "origin")
    assert there.gitstate("fetch", "origin").exit_status == 0
    (item,) = there.recover().json["workspaces"]
    assert "transcript_path" not in item["context"]["extra"]
    there.append("a.txt")
    assert there.gitstate("save").exit_status == 0
    assert not there.refs("refs/gitstate/conversations")


def pushed_with_record(talk: Talk, tmp_path: Path, **fields: object) -> Workspace:
    """A clone that has fetched a save and a conversation whose record was changed by who pushed it."""
    ws = published(talk, tmp_path)
    assert ws.gitstate("push", "origin", "--with-conversation").exit_status == 0
    (ref,) = ws.refs("refs/gitstate/conversations")
    record = {**json.loads(ws.git("cat-file", "blob", f"{ref}:conversation.json")), **fields}
    if "name" in fields:
        record["files"][0]["name"] = fields["name"]
    blob = ws.git("hash-object", "-w", "--stdin", stdin=json.dumps(record).encode()).decode().strip()
    tree = (
        ws.git(
            "mktree",
            stdin=f"040000 tree {ws.out('rev-parse', ref + ':0')}\t0\n".encode()
            + f"100644 blob {blob}\tconversation.json\n".encode(),
        )
        .decode()
        .strip()
    )
    ws.git("push", "-q", "-f", "origin", f"{ws.out('commit-tree', tree, '-m', 'forged')}:{ref}")
    there = clone(ws)
    assert there.gitstate("fetch", "origin").exit_status == 0
    return there


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("agent", "root"), [("claude", None), ("codex", ".codex"), ("gemini", "missing"), ("opencode", None), ("no", None)]
)
def test_fetched_conversation_is_written_under_no_other_name(
    agent: str, root: str | None, talk: Talk, tmp_path: Path, hermetic: Path
) -> None:
    """A shell, an agent or git would run such a file."""
    place = hermetic if root is None else hermetic / root
    (hermetic / ".codex").mkdir()
    name = "config.toml"
    there = pushed_with_record(talk, tmp_path, agent=agent, root=str(place), transcript=name, name=name)
    (save,) = there.refs("refs/gitstate/fetched/origin/saves/")
    before = sorted(hermetic.rglob("*"))
    (item,) = there.recover("--save", save.rpartition("/")[2], "--trust").json["workspaces"]
    assert item["verdict"] == "restore" and f"has no name of a transcript ({name})" in item["message"]
    assert sorted(hermetic.rglob("*")) == before


def test_fetched_conversation_is_written_into_no_other_directory(talk: Talk, tmp_path: Path, hermetic: Path) -> None:
    place = tmp_path / "precious"
    place.mkdir()
    there = pushed_with_record(talk, tmp_path, root=str(place))
    (save,) = there.refs("refs/gitstate/fetched/origin/saves/")
    (item,) = there.recover("--save", save.rpartition("/")[2], "--trust").json["workspaces"]
    assert os.listdir(place) == [], item
    assert transcript_of(there, hermetic).read_bytes() == talk.said


def test_fetched_conversation_has_no_other_file(talk: Talk, tmp_path: Path, hermetic: Path) -> None:
    directory = f"session-state/{SESSION}"
    there = pushed_with_record(talk, tmp_path, agent="copilot", transcript=directory, name=f"{directory}/plan.md")
    (save,) = there.refs("refs/gitstate/fetched/origin/saves/")
    (item,) = there.recover("--save", save.rpartition("/")[2], "--trust").json["workspaces"]
    assert item["verdict"] == "restore" and "plan.md)" in item["message"]
    assert not list(hermetic.rglob("plan.md"))


@pytest.mark.sample(3)
@pytest.mark.parametrize("told", ["", "/etc", "/", "x\0y", "../..", "a link"])
def test_fetched_save_does_not_lead_the_agent_elsewhere(told: str, talk: Talk, tmp_path: Path) -> None:
    ws = talk.ws
    dirty(ws)
    if told == "a link":
        told = str(ws.path / "etc")
        os.symlink("/etc", told)
    assert ws.save().exit_status == 0
    with forged(ws) as parts:
        parts.context["extra"] |= {"agent_cwd": told, "transcript_path": told}
    run_git(tmp_path, "init", "-q", "--bare", "origin.git")
    ws.git(
        "push", "-q", str(tmp_path / "origin.git"), "HEAD~2:refs/heads/agent/work", "refs/gitstate/*:refs/gitstate/*"
    )
    there = clone(ws)
    assert there.gitstate("fetch", "origin").exit_status == 0
    (save,) = there.refs("refs/gitstate/fetched/origin/saves/")
    run = there.recover("--save", save.rpartition("/")[2])
    (item,) = run.json["workspaces"]
    assert item["context"]["extra"]["agent_cwd"] == str(there.path), run


def test_session_goes_on_in_a_new_worktree(talk: Talk, ws: Workspace, tmp_path: Path, hermetic: Path) -> None:
    tree = tmp_path / "tree"
    ws.git("worktree", "add", "-q", "-b", "agent/tree", str(tree))
    inside = Workspace(tree, ws.outside, main=ws.path)
    second = Talk(inside, hermetic)
    second.begin()
    second.say()
    dirty(inside)
    assert inside.save().exit_status == 0
    shutil.rmtree(tree)
    ws.git("worktree", "prune")
    shutil.rmtree(second.path.parent)
    other = tmp_path / "other"
    assert ws.gitstate("recover", "--into", str(other)).exit_status == 0
    assert (hermetic / ".claude" / "projects" / encoded(other) / f"{SESSION}.jsonl").read_bytes() == second.said


@pytest.mark.parametrize("others", [0, 1, 3])
def test_line_joins_those_that_other_agents_add_meanwhile(
    others: int, ws: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All sessions of an agent share the file that lists them."""
    listed = tmp_path / "sessions"
    listed.write_bytes(b"one\n")
    repository = open_repository(os.fsencode(ws.path))
    os.makedirs(repository.own, exist_ok=True)
    look, added = Worktree.look, [b"other %d\n" % number for number in range(others)]
    left = [*added]

    def after_another(disk: Worktree, path: bytes) -> FileState:
        if left:
            with open(listed, "ab") as file:
                file.write(left.pop(0))
        return look(disk, path)

    monkeypatch.setattr(Worktree, "look", after_another)
    with ObjectReader(repository.git) as reader:
        kept = Kept("claude", SESSION, str(tmp_path), "t.jsonl", str(ws.path))
        _Writer(repository, reader, kept, "", Place(str(tmp_path), "t.jsonl"), "/w")._list("sessions", b"mine\n")
    assert sorted(listed.read_bytes().splitlines()) == sorted([b"one", b"mine", *(line.strip() for line in added)])
