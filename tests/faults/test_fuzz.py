"""Random hostile data in saves, notes, state files and configuration does no harm.

Nothing is written outside of the workspace, nor into `.git` beyond what is ours; no program that is named somewhere
is run; nobody calls it a bug. `recover/test_tampered_saves.py` holds designed attacks; here they are generated.
"""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gitstate.errors import BadJson, GitstateError
from gitstate.format.context import MAX_CONTEXT, Context, context_from_json
from gitstate.format.manifest import read_manifest
from gitstate.objects.tree import is_safe_path
from gitstate.system.jsonio import loads
from tests.support.forgery import FILE, LINK, PROGRAM, TREE, Entry, forged, index_file, store
from tests.support.workspace import Workspace

from .sweeps import Say, judge, spread
from .watch import HOOK, Watch, dirty_repository, everything, polite

#: `.git` as some file system or other would read it, and other ways out.
DISGUISES = [
    *(b".git", b".GIT", b".Git", b"git~1", b"GIT~1", b".git.", b".git ", b".git. .", b".git::$INDEX_ALLOCATION"),
    *("\u200c.git".encode(), ".g\u200dit".encode(), "\ufeff.GIT".encode(), ".gi\u202et".encode(), b"..", b"."),
]

HOSTILE_TEXTS = [
    "",
    "\0",
    "..",
    "../../../etc/passwd",
    "/etc/passwd",
    "/",
    ".git/hooks/pre-commit",
    "a/.GIT/config",
    "-rf",
    "--all",
    "$(touch PWNED)",
    "`touch PWNED`",
    "; touch PWNED",
    "\x1b]0;owned\x07\x1b[2J",
    "\x9b31m",
    "\u202egpj.exe",
    "\ud800",
    "x" * 70_000,
    "refs/heads/../../config",
    "refs/heads/-x",
    "@{-1}",
    "HEAD",
    "0" * 40,
    "f" * 40,
    "0" * 64,
    "\n\n",
]

HOSTILE_VALUES: list[Any] = [
    *HOSTILE_TEXTS,
    None,
    True,
    False,
    0,
    -1,
    1 << 31,
    1 << 63,
    1 << 200,
    1.5,
    float("inf"),
    float("nan"),
    [],
    {},
    [[]],
    [None] * 3,
    {"path": "x"},
    {"path": "../x", "oid": "f" * 40, "mode": "100644"},
    [{"path": ".git/x"}] * 2,
]


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value."""
    yield above
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*above, key))


def spoiled(value: Any, chance: random.Random) -> Any:
    """A copy in which one to three places are gone, doubled, hostile, or of another type."""
    value = copy.deepcopy(value)
    for _ in range(chance.randint(1, 3)):
        found = [place for place in places(value) if place]
        if not found:
            return value
        *above, last = chance.choice(found)
        target = value
        for key in above:
            target = target[key]
        how = chance.random()
        if how < 0.15:
            del target[last]
        elif how < 0.25 and isinstance(target, dict):
            target[chance.choice(HOSTILE_TEXTS)] = chance.choice(HOSTILE_VALUES)
        elif how < 0.32:
            deep: Any = 0
            for _ in range(200):
                deep = [deep]
            target[last] = deep
        else:
            target[last] = chance.choice(HOSTILE_VALUES)
    return value


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return dirty_repository(tmp_path)


def test_reader_rejects_or_types_3000_spoiled_manifests_and_contexts(ws: Workspace, say: Say) -> None:
    """Reading returns a value of the right type, or raises the error for unreadable saves."""
    assert ws.save().exit_status == 0
    with forged(ws) as save:
        manifest, context = save.manifest, save.context
    chance, read, refused = random.Random(5), 0, 0
    for _ in range(3_000):
        try:
            read_manifest(json.dumps(spoiled(manifest, chance)).encode(), 64 << 20)
            read += 1
        except (BadJson, GitstateError):
            refused += 1
        try:
            data = json.dumps(spoiled(context, chance)).encode()
            assert isinstance(context_from_json(loads(data, MAX_CONTEXT, "it")), Context)
        except BadJson:
            refused += 1
    say(f"{read} manifests could be read all the same, {refused} values were refused")
    assert read > 100 and refused > 500


def forge_at_random(ws: Workspace, chance: random.Random) -> None:
    with forged(ws) as save:
        part = chance.randrange(5)
        if part in (0, 1):
            save.manifest = spoiled(save.manifest, chance)
            save.manifest.setdefault("save_id", "x")
        elif part == 2:
            save.context = spoiled(save.context, chance)
        elif part == 3:
            name = chance.choice([b"manifest.json", b"context.json"])
            save.raw[name] = chance.choice([b"", b"\xff" * 50, b"[" * 100_000, b'{"a":' * 50_000, b"null", b"\0" * 999])
        else:
            blob = save.blob(HOOK)
            evil = Entry(chance.choice([FILE, PROGRAM, LINK]), chance.choice(DISGUISES), blob)
            if chance.random() < 0.5:
                evil = Entry(TREE, evil.name, save.tree(Entry(PROGRAM, b"pre-commit", blob)))
            chance.choice([save.wip, save.archive]).insert(0, evil)


def fuzzed_saves(ws: Workspace, tmp_path: Path, home: Path, say: Say, times: int) -> None:
    first = ws.save().json["save_id"]
    pristine = ws.refs()
    work = {name: ws.read(name) for name in ("a", "b", "d/x", "new/u")}
    problems = []
    for number in range(times):
        chance = random.Random(number)
        try:
            forge_at_random(ws, chance)
            watch = Watch(ws, tmp_path, home)
            everything(ws, first)
            watch.check()
        except AssertionError as error:
            problems.append(f"seed {number}: {str(error)[:1500]}")
        for name in ws.refs().keys() - pristine.keys():
            ws.git("update-ref", "-d", name)
        for name, oid in pristine.items():
            ws.git("update-ref", name, oid)
        ws.git("clean", "-ffdxq")
        for name, data in work.items():
            ws.write(name, data)
        ws.git("read-tree", "HEAD")
    judge(say, points=times, floor=times, tried=times, problems=problems)


@pytest.mark.faults
def test_sampled_spoiled_saves_do_no_harm(ws: Workspace, tmp_path: Path, hermetic: Path, say: Say) -> None:
    fuzzed_saves(ws, tmp_path, hermetic, say, 3)


@pytest.mark.slow
@pytest.mark.faults
def test_many_spoiled_saves_do_no_harm(ws: Workspace, tmp_path: Path, hermetic: Path, say: Say) -> None:
    fuzzed_saves(ws, tmp_path, hermetic, say, 300)


@pytest.mark.parametrize("name", DISGUISES, ids=lambda name: ascii(name.decode()))
def test_every_disguise_of_dot_git_is_rejected(name: bytes) -> None:
    for path in (name, name + b"/config", b"a/" + name, b"a/" + name + b"/hooks/pre-commit"):
        assert not is_safe_path(path)


@pytest.mark.sample(2)
@pytest.mark.faults
@pytest.mark.parametrize("where", ["tree", "index", "raw"])
def test_disguised_dot_git_is_never_written(where: str, ws: Workspace, tmp_path: Path, hermetic: Path) -> None:
    """One save holds all the disguises: in its tree, its archived index, and its raw files."""
    save_id = ws.save().json["save_id"]
    with forged(ws) as save:
        blob = save.blob(HOOK)
        names = [name for name in DISGUISES if name not in (b".", b"..")]
        entries = [Entry(TREE, name, save.tree(Entry(PROGRAM, b"pre-commit", blob))) for name in names]
        if where == "tree":
            save.wip[:] = sorted([*save.wip, *entries], key=lambda entry: entry.name + b"/")
        elif where == "index":
            data = index_file([(name + b"/pre-commit", 0o100755, blob) for name in names])
            oid = save.blob(data)
            save.archive[:] = [entry._replace(oid=oid) if entry.name == b"index" else entry for entry in save.archive]
        else:
            raw = Entry(TREE, b"raw", save.tree(*sorted(entries, key=lambda entry: entry.name + b"/")))
            save.archive.append(raw)
            save.manifest["raw"] = [{"path": f"{os.fsdecode(name)}/pre-commit", "reason": "filter"} for name in names]
    watch = Watch(ws, tmp_path, hermetic)
    everything(ws, save_id)
    watch.check()
    there = {os.fsencode(entry) for entry in os.listdir(ws.path)} - {b".git"}
    assert not there & set(DISGUISES), there


def deep_tree(ws: Workspace, levels: int) -> str:
    oid = store(ws, "tree", b"")
    for _ in range(levels):
        oid = store(ws, "tree", b"40000 ab\0" + bytes.fromhex(oid))
    return oid


def notes(ws: Workspace, wip: str) -> Iterator[str]:
    """Yield malformed notes trees."""

    def tree(mode: bytes, name: str, oid: str) -> str:
        return store(ws, "tree", mode + b" " + name.encode() + b"\0" + bytes.fromhex(oid))

    blob = store(ws, "blob", b"x")
    yield tree(b"100644", wip[:2], blob)  # a file where a directory belongs
    yield tree(b"40000", wip, tree(b"100644", "x", blob))  # a directory where a note belongs
    yield deep_tree(ws, 500)
    yield tree(b"100644", wip, store(ws, "blob", b"[" * 200_000))
    yield tree(b"100644", wip, store(ws, "blob", b"x" * (3 << 20)))
    yield tree(b"120000", wip, store(ws, "blob", b"/etc/passwd"))
    yield tree(b"160000", wip, "f" * 40)
    yield tree(b"100644", wip, store(ws, "blob", json.dumps({"task_id": {"x": []}, "pid": "1", "extra": 3}).encode()))


@pytest.mark.faults
def test_hostile_notes_do_no_harm(ws: Workspace, tmp_path: Path, hermetic: Path) -> None:
    wip = ws.save().json["wip_commit"]
    for name in ws.refs("refs/gitstate"):
        ws.git("update-ref", "-d", name)  # so that the note is all there is beside the WIP commit
    watch = Watch(ws, tmp_path, hermetic)
    for tree in notes(ws, wip):
        body = b"tree %s\nauthor a <a> 1 +0000\ncommitter a <a> 1 +0000\n\nx\n" % tree.encode()
        ws.git("update-ref", "refs/notes/gitstate", store(ws, "commit", body))
        for words in (("recover", "--dry-run"), ("save", "--task-id", "T-2")):
            polite(ws.gitstate(*words))
        for name in ws.refs("refs/gitstate"):
            ws.git("update-ref", "-d", name)
        ws.git("update-ref", "HEAD", wip)
    watch.check()


STATES = [
    b"",
    b"\0" * 100,
    b"{",
    b"[" * 100_000,
    b"null",
    b'{"schema_version": 99}',
    b'{"task_id": [[]], "extra": 1}',
    b'{"task_id": "\\ud800", "pid": 1e400, "issue_number": NaN}',
    b"\xff\xfe" * 1000,
    b"x" * (5 << 20),
    b'{"task_id":"x","workspace_path":"/etc","branch_name":"../../config","resume":"touch PWNED"}',
]


@pytest.mark.sample(2)
@pytest.mark.faults
@pytest.mark.parametrize("most", [pytest.param(2, id="some"), pytest.param(None, id="all", marks=pytest.mark.slow)])
@pytest.mark.parametrize("planted", ["active_state.json", "context.json", "journal", "symlinks"])
def test_hostile_state_files_do_no_harm(
    planted: str, most: int | None, ws: Workspace, tmp_path: Path, hermetic: Path
) -> None:
    """The state file, the live context and the journal hold hostile data, or are symlinks."""
    assert ws.gitstate("set", "task_id=T-1").exit_status == 0
    own = ws.git_dir / "gitstate"
    victim = ws.outside / "victim"
    victim.write_text("theirs\n")
    watch = Watch(ws, tmp_path, hermetic)
    for number, data in enumerate(spread(STATES, most)):
        if planted == "symlinks":
            for path in (ws.path / "active_state.json", own / "context.json", own / "journal", own / "index.tmp"):
                path.unlink(missing_ok=True)
                path.symlink_to(victim)
        else:
            path = ws.path / planted if planted == "active_state.json" else own / planted
            path.write_bytes(data)
        ws.write("a", f"{number}\n")
        for words in (("show",), ("save",), ("recover",)):
            polite(ws.gitstate(*words))
        watch.check()


@pytest.mark.faults
def test_journal_removes_only_locks_of_this_repository(ws: Workspace, tmp_path: Path, hermetic: Path) -> None:
    """A journal can name any path; only locks inside this repository may be removed."""
    assert ws.gitstate("set", "task_id=T-1").exit_status == 0
    victims = [ws.outside / "x.lock", ws.path / "mine.lock", ws.git_dir / "config", ws.git_dir / "HEAD"]
    for victim in victims[:2]:
        victim.write_text("theirs\n")
    names = [str(victim) for victim in victims] + [f"{ws.git_dir}/../../outside/x.lock", "x.lock", "\0.lock"]
    before = [victim.read_bytes() for victim in victims]
    (ws.git_dir / "gitstate" / "journal").write_bytes(b"0\0" + b"".join(os.fsencode(name) + b"\0" for name in names))
    polite(ws.gitstate("save"))
    polite(ws.gitstate("recover"))
    assert [victim.read_bytes() for victim in victims] == before


@pytest.mark.faults
def test_control_characters_never_reach_the_terminal(ws: Workspace) -> None:
    """Contexts and the names of files, branches and settings are printed escaped."""
    evil = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\r\x08"
    ws.write(f"f{evil}", "x\n")
    ws.git("config", "gitstate.includeIgnored", f"*{evil}")
    os.mkfifo(ws.at(f"p{evil}"))
    options = ("--task-id", evil, "--progress-stage", evil, "--agent", evil, "--set", f"k={evil}", "--reason", evil)
    run = ws.gitstate("save", *options)
    save_id = next(iter(ws.refs("refs/gitstate/saves"))).rpartition("/")[2]
    runs = [run]
    ws.git("clean", "-ffdxq")
    for words in (
        ("status",),
        ("status", "--all"),
        ("log",),
        ("recover", "--dry-run"),
        ("restore", save_id, f"no{evil}"),
        ("restore", save_id),
        ("recover",),
        ("show",),
        ("set", f"task_id={evil}"),
        ("recover", "--save", evil),
        (f"{evil}",),
        ("save", f"--{evil}"),
    ):
        runs.append(ws.gitstate(*words))
    for run in runs:
        polite(run)
        said = run.stdout.decode("utf-8") + run.stderr
        raw = {c for c in said if not c.isprintable() and c != "\n"}
        assert not raw, f"{raw} in {run}"
