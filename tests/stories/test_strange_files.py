"""A git directory in which a FIFO, a socket or a directory stands in the place of a file: git waits for ever, or fails.

Each save ends, says what it is, and comes back once the command that `recover` prints was run.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.recovering import recovered_from
from tests.support.saving import saved_from
from tests.support.workspace import Workspace


def _make_socket(path: Path) -> None:
    before = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(before)


def _make_directory(path: Path) -> None:
    path.mkdir()
    (path / "inside").touch()


KINDS: dict[str, Callable[[Path], None]] = {
    "a FIFO": lambda path: os.mkfifo(path),
    "a socket": _make_socket,
    "a directory": _make_directory,
}
#: For each kind the files in whose place it stands; the first ones are tried always.
FILES = ("HEAD", "config", "index", "refs/heads/agent/work", "packed-refs", "info/exclude")
MORE = (
    "objects/info/alternates",
    "info/attributes",
    "info/grafts",
    "info/sparse-checkout",
    "shallow",
    "logs/HEAD",
    "logs/refs/heads/agent/work",
)
CASES = [("a FIFO", name) for name in (*FILES[:4], "objects/info/alternates")]
SLOW = [(kind, name) for kind in KINDS for name in (*FILES, *MORE) if (kind, name) not in CASES]
SLOW = [case for case in SLOW if case[0] != "a directory" or ("logs/" not in case[1] and "refs/" not in case[1])]


def _put(ws: Workspace, kind: str, name: str) -> Path:
    path = ws.common_dir / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    KINDS[kind](path)
    return path


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("kind", "name"), [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)], ids=str
)
def test_save_ends_and_comes_back(kind: str, name: str, ws: Workspace) -> None:
    ws.append("a.txt")
    ws.write("new.txt")
    work = {path: ws.read(path) for path in ("a.txt", "new.txt")}
    path = _put(ws, kind, name)
    saved = saved_from(ws.save(), exits=(4,))
    assert kind in str(saved.document["left_out"])
    damaged = ws.recover()
    assert damaged.exit_status == 4 and damaged.json["workspaces"][0]["verdict"] == "damaged", damaged
    command = str(damaged.json["workspaces"][0]["hint"]).partition(", then: gitstate ")[0]
    assert str(path) in command
    for file in work:
        ws.remove(file)
    subprocess.run(["sh", "-c", command], cwd="/", check=True, capture_output=True)
    recovered_from(ws.recover())
    assert {file: ws.read(file) for file in work} == work


@pytest.mark.parametrize("command", ["log", "verify", "undo", "prune", "show", "checkpoint"])
@pytest.mark.slow
def test_every_command_ends_at_a_fifo(command: str, ws: Workspace) -> None:
    saved_from(ws.save())
    _put(ws, "a FIFO", "config")
    run = ws.gitstate(command)
    assert "Traceback" not in run.stderr and "Errno" not in run.stderr
    assert run.exit_status in (1, 4), run
    assert "a FIFO" in run.stderr + run.text


@pytest.mark.parametrize("linked", [False, True], ids=["main", "linked"])
def test_command_ends_where_a_ref_is_a_fifo(linked: bool, ws: Workspace) -> None:
    """Git opens each ref that it lists, and waits for somebody who writes."""
    saved_from(ws.save())
    os.mkfifo(ws.common_dir / "refs/gitstate/saves/fifo")
    path = ws.path
    if linked:
        path = ws.outside / "linked"
        ws.git("branch", "side")
        ws.git("worktree", "add", "-q", path, "side")
    run = ws.gitstate("log", "--all", path=path)
    assert run.exit_status == 0 and "T-1" in run.text, run


@pytest.mark.parametrize("name", ["objects", "refs"])
def test_objects_that_nothing_can_be_written_to_are_said(name: str, ws: Workspace) -> None:
    path = ws.common_dir / name
    if path.is_dir():
        path.rename(ws.outside / "away")
    os.mkfifo(path)
    run = ws.save()
    assert run.exit_status == 1
    assert "no directory" in run.stderr
    assert "doctor" in run.stderr and "Errno" not in run.stderr
    found = ws.gitstate("doctor")
    assert str(path) in found.text, found


@pytest.mark.parametrize("place", ["refs/gitstate", "refs/gitstate/saves"])
def test_ref_in_the_place_of_a_directory_is_moved_by_the_command_that_is_named(place: str, ws: Workspace) -> None:
    ws.git("update-ref", place, "HEAD")
    ws.append("a.txt", "edited\n")
    run = ws.save()
    assert run.exit_status == 1 and re.search("nothing was (lost|changed)", run.stderr), run
    (command,) = re.findall(r"  next: .*?(mv [^,\n]*)", run.stderr)
    subprocess.run(["sh", "-c", command], check=True)
    assert ws.save().exit_status == 0
    (aside,) = ws.git_dir.rglob("*.aside")
    assert aside.read_text().strip() == ws.out("rev-parse", "HEAD~1")


@pytest.mark.sample(5)
@pytest.mark.parametrize("kind", ["directory", "link", "FIFO"])
@pytest.mark.parametrize("name", ["lock", "durable", "workspace-id", "save-number"])
def test_what_is_in_the_place_of_a_file_of_ours_is_moved_by_the_command_that_is_named(
    name: str, kind: str, ws: Workspace
) -> None:
    assert ws.gitstate("checkpoint").exit_status == 0
    path = ws.git_dir / "gitstate" / name
    path.unlink(missing_ok=True)
    if kind == "directory":
        (path / "inner").mkdir(parents=True)
    elif kind == "link":
        path.symlink_to("/dev/null")
    else:
        os.mkfifo(path)
    ws.append("a.txt", "edited\n")
    run = ws.save()
    if run.exit_status:
        assert run.exit_status == 1 and "nothing was lost" in run.stderr and "Errno" not in run.stderr
        (command,) = re.findall(r"  next: .* is in the way: (mv .*)", run.stderr)
        subprocess.run(["sh", "-c", command], check=True)
        assert ws.save().exit_status == 0


@pytest.mark.parametrize("place", [".gitignore", "deep/.gitignore", "deep/.gitattributes"])
def test_fifo_at_which_git_waits_in_the_worktree_stops_no_save(place: str, ws: Workspace) -> None:
    """Git opens it at each look, and waits for somebody who writes."""
    ws.write("deep/new.txt", "new\n")
    ws.append("a.txt", "edited\n")
    (ws.path / place).unlink(missing_ok=True)
    os.mkfifo(ws.path / place)
    run = ws.save()
    assert run.exit_status in (0, 4), run
    (ws.path / place).unlink()
    ws.git("reset", "-q", "--hard", "HEAD~1")
    ws.git("clean", "-fdq")
    assert recovered_from(ws.recover(), exits=(0, 4))["verdict"] == "restore"
    assert ws.read("deep/new.txt") == b"new\n" and ws.read("a.txt").endswith(b"edited\n")


# -- files that the configuration names


@pytest.mark.sample(2)
@pytest.mark.parametrize("key", ["", "core.attributesFile", "diff.orderFile", "mailmap.file"])
def test_patches_and_advice_end_where_git_waits_at_a_fifo(key: str, ws: Workspace) -> None:
    """It stands in the place of `.gitattributes`, or the configuration names it."""
    ws.append("a.txt")
    save_id = ws.save().json["save_id"]
    path = ws.outside / "fifo" if key else ws.path / ".gitattributes"
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    if key:
        ws.config(key, str(path))
    for command in (("diff", save_id), ("log", "--patch"), ("doctor",)):
        run = ws.gitstate(*command)
        if command == ("doctor",):
            assert run.exit_status in (0, 4), run
        else:
            assert run.exit_status == 0 and "diff --git a/a.txt b/a.txt" in run.text, run


def _excludes(ws: Workspace, path: Path) -> None:
    ws.config("core.excludesFile", str(path))


def _attributes(ws: Workspace, path: Path) -> None:
    ws.config("core.attributesFile", str(path))


def _moved(to: str) -> Callable[[Workspace, Path], None]:
    def move(ws: Workspace, path: Path) -> None:
        place = Path(os.environ["XDG_CONFIG_HOME"] if to.startswith("git/") else os.environ["HOME"], to)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        path.rename(place)

    return move


def _included(condition: str, *, globally: bool = False) -> Callable[[Workspace, Path], None]:
    def include(ws: Workspace, path: Path) -> None:
        inner = ws.outside / "inner"
        inner.write_text(f"[user]\n\tname = inner\n[include]\n\tpath = {path}\n")
        place = ["--global"] if globally else ["--file", str(ws.common_dir / "config")]
        ws.git("config", *place, condition, inner)

    return include


def _of_worktree(ws: Workspace, path: Path) -> None:
    ws.config("extensions.worktreeConfig", "true")
    ws.git("config", "--worktree", "some.setting", "true")
    ws.git("config", "--file", str(ws.git_dir / "config.worktree"), "include.path", path)


NAMED: dict[str, tuple[Callable[[Workspace, Path], None], int]] = {
    "excludesFile": (_excludes, 0),
    "attributesFile": (_attributes, 0),
    "default_excludes": (_moved("git/ignore"), 0),
    "default_attributes": (_moved("git/attributes"), 0),
    "users_configuration": (_moved(".gitconfig"), 0),
    "users_include": (_included("include.path", globally=True), 0),
    "users_includeIf": (_included("includeIf.gitdir:/.path", globally=True), 0),
    "include": (_included("include.path"), 4),
    "includeIf": (_included("includeIf.gitdir:/.path"), 4),
    "include_of_worktree": (_of_worktree, 4),
}


@pytest.fixture
def own_home(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The user's configuration is in files by whose usual names git finds it."""
    home = ws.outside / "home of one"
    (home / "configuration").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "configuration"))
    monkeypatch.delenv("GIT_CONFIG_GLOBAL", raising=False)
    (home / ".gitconfig").write_text("[user]\n\tname = A\n\temail = a@example.invalid\n")
    return ws


@pytest.mark.sample(4)
@pytest.mark.parametrize("kind", ["a FIFO", "a socket", "a directory"])
@pytest.mark.parametrize("named", NAMED)
def test_save_is_made_without_a_file_that_the_configuration_names(kind: str, named: str, own_home: Workspace) -> None:
    ws, (put, status) = own_home, NAMED[named]
    ws.append("a.txt", "edited\n")
    ws.write("new.txt", "new\n")
    path = ws.outside / "strange"
    KINDS[kind](path)
    put(ws, path)
    run = ws.save("--deadline", "20")
    assert run.exit_status == status, run
    for command in ("status", "log"):
        told = ws.gitstate(command)
        assert told.exit_status in ((0, 1, 4) if status else (0,)), told
        assert "Traceback" not in told.stderr
    if not status:
        (how,) = re.findall(r"the save was made without it\. Remove it with: (.*)", "\n".join(run.json["warnings"]))
    else:
        damaged = ws.recover()
        assert damaged.exit_status == 4, damaged
        how = str(damaged.json["workspaces"][0]["hint"]).partition(", then: gitstate ")[0]
    told = ws.gitstate("doctor")
    assert told.exit_status == 4 and how in told.text
    subprocess.run(["sh", "-c", how], cwd="/", check=True, capture_output=True)
    assert "without it" not in ws.gitstate("doctor").text
    ws.git("status", "--porcelain")
    ws.git("reset", "-q", "--hard", "HEAD" if status else "HEAD~1")
    ws.git("clean", "-fdq")
    assert recovered_from(ws.recover())["verdict"] == "restore"
    assert ws.read("new.txt") == b"new\n" and ws.read("a.txt").endswith(b"edited\n")


def test_what_git_can_read_of_the_users_configuration_still_counts(own_home: Workspace) -> None:
    ws = own_home
    fifo = ws.outside / "strange"
    os.mkfifo(fifo)
    ws.git("config", "--global", "filter.up.clean", "tr a-z A-Z")
    ws.git("config", "--global", "include.path", fifo)
    ws.write(".gitattributes", "*.up filter=up\n")
    ws.write("x.up", "text\n")
    saved = saved_from(ws.save())
    Path(os.environ["HOME"], ".gitconfig").unlink()
    assert ws.out("show", f"{saved.document['wip_commit']}:x.up") == "TEXT"


@pytest.mark.parametrize("place", ["--global", "--local"])
def test_ordinary_include_is_read(place: str, own_home: Workspace) -> None:
    ws = own_home
    inner = ws.outside / "inner"
    inner.write_text('[filter "up"]\n\tclean = tr a-z A-Z\n[include]\n\tpath = deeper\n')
    (ws.outside / "deeper").write_text("[include]\n\tpath = nowhere\n")
    ws.git("config", place, "include.path", inner)
    ws.write(".gitattributes", "*.up filter=up\n")
    ws.write("x.up", "text\n")
    saved = saved_from(ws.save())
    assert saved.document["warnings"] == [] and ws.out("show", f"{saved.document['wip_commit']}:x.up") == "TEXT"


@pytest.mark.parametrize("key", ["core.excludesFile", "core.attributesFile"])
def test_empty_name_of_a_file_is_none(key: str, own_home: Workspace) -> None:
    own_home.config(key, "")
    own_home.append("a.txt", "edited\n")
    assert saved_from(own_home.save()).document["warnings"] == []


def test_files_that_include_each_other_many_times_are_looked_at_once(own_home: Workspace) -> None:
    """Git ends at them: all is saved without."""
    wide = own_home.outside / "wide"
    wide.write_text(f"[include]\n\tpath = {wide}\n" * 30)
    own_home.git("config", "--file", str(own_home.common_dir / "config"), "include.path", wide)
    own_home.append("a.txt", "edited\n")
    saved_from(own_home.save(), exits=(4,))


def test_save_is_made_where_the_objects_of_head_were_found_by_a_fifo(ws: Workspace) -> None:
    """The store that `alternates` named is out of reach: what is on the disk is saved all the same."""
    ws.config("gc.auto", "0")
    store = ws.outside / "store"
    ws.git("repack", "-q", "-a", "-d")
    (ws.common_dir / "objects/pack").rename(store)
    (ws.common_dir / "objects/pack").mkdir()
    (ws.outside / "objects").mkdir()
    store.rename(ws.outside / "objects/pack")
    alternates = ws.common_dir / "objects/info/alternates"
    alternates.write_text(f"{ws.outside / 'objects'}\n")
    kept = alternates.read_bytes()
    ws.append("a.txt", "edited\n")
    ws.write("new.txt", "new\n")
    _put(ws, "a FIFO", "objects/info/alternates")
    saved_from(ws.save(), exits=(4,))
    alternates.unlink()
    alternates.write_bytes(kept)
    ws.git("reset", "-q", "--hard")
    ws.git("clean", "-fdq")
    recovered_from(ws.recover(), exits=(0, 4))
    assert ws.read("new.txt") == b"new\n" and ws.read("a.txt").endswith(b"edited\n")
