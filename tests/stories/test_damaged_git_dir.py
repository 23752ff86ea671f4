"""A git directory that git refuses to open, or whose refs it can't read: saved all the same, and exact once mended."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gitstate.git.attributes import conditional_includes
from tests.states import STATES, Loss, dirty, make
from tests.support.losing import wipe
from tests.support.oracle import fingerprint
from tests.support.permissions import why_permissions_cannot_be_tested
from tests.support.recovering import recovered_from
from tests.support.repositories import Templates
from tests.support.saving import saved_from
from tests.support.workspace import Workspace, run_git

Damage = Callable[[Workspace], None]


def _replaced(name: str, data: bytes | None) -> Damage:
    """A file of the worktree's own git directory holds other bytes, or is gone."""

    def damage(ws: Workspace) -> None:
        path = ws.git_dir / name
        path.unlink()
        if data is not None:
            path.write_bytes(data)

    return damage


def _head_is_directory(ws: Workspace) -> None:
    (ws.git_dir / "HEAD").unlink()
    (ws.git_dir / "HEAD").mkdir()


def _without_refs(ws: Workspace) -> None:
    ws.git("pack-refs", "--all")
    shutil.rmtree(ws.common_dir / "refs")


def _without_refs_and_branch(ws: Workspace) -> None:
    shutil.rmtree(ws.common_dir / "refs")


def _config(added: str) -> Damage:
    def damage(ws: Workspace) -> None:
        with open(ws.common_dir / "config", "a") as file:
            file.write(added)

    return damage


def _zeroed_config(ws: Workspace) -> None:
    (ws.common_dir / "config").write_bytes(bytes(80))


def _empty_branch(ws: Workspace) -> None:
    (ws.common_dir / "refs/heads/agent/work").write_bytes(b"")


def _packed_refs(change: Callable[[bytes], bytes]) -> Damage:
    def damage(ws: Workspace) -> None:
        ws.git("pack-refs", "--all")
        path = ws.common_dir / "packed-refs"
        path.write_bytes(change(path.read_bytes()))

    return damage


def _with_zeroed_line(data: bytes) -> bytes:
    lines = data.split(b"\n")
    at = next(number for number, line in enumerate(lines) if line.endswith(b"refs/heads/agent/work"))
    lines[at] = bytes(len(lines[at]))
    return b"\n".join(lines)


def _damaged_shallow(ws: Workspace) -> None:
    (ws.common_dir / "shallow").write_bytes(bytes(41))


def _lost_alternates(ws: Workspace) -> None:
    (ws.common_dir / "objects/info/alternates").write_text("/nowhere/objects\n")


def _make_file(path: Path) -> None:
    path.write_text("no directory\n")


def _make_loop(path: Path) -> None:
    path.symlink_to(path.name)


def _in_place_of(name: str, make_other: Callable[[Path], None]) -> Damage:
    """Something else stands where git keeps a directory, or a file; what was there is lost."""

    def damage(ws: Workspace) -> None:
        path = ws.common_dir / name
        if name == "refs/heads":
            ws.git("pack-refs", "--all")
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        make_other(path)

    return damage


#: What stands in another's place: a quick run tries the first two, each through one loss.
STRANGERS = {
    "logs_is_a_file": _in_place_of("logs", _make_file),
    "info_is_a_fifo": _in_place_of("info", os.mkfifo),
    "logs_is_a_fifo": _in_place_of("logs", os.mkfifo),
    "logs_refs_is_a_loop": _in_place_of("logs/refs", _make_loop),
    "logs_refs_heads_is_a_file": _in_place_of("logs/refs/heads", _make_file),
    "info_is_a_file": _in_place_of("info", _make_file),
    "info_is_a_loop": _in_place_of("info", _make_loop),
    "refs_heads_is_a_file": _in_place_of("refs/heads", _make_file),
    "refs_heads_is_a_fifo": _in_place_of("refs/heads", os.mkfifo),
    "refs_heads_is_a_loop": _in_place_of("refs/heads", _make_loop),
    "exclude_is_a_fifo": _in_place_of("info/exclude", os.mkfifo),
    "attributes_is_a_directory": _in_place_of("info/attributes", Path.mkdir),
    "config_worktree_is_a_fifo": _in_place_of("config.worktree", os.mkfifo),
    "packed_refs_is_a_loop": _in_place_of("packed-refs", _make_loop),
    "shallow_is_a_loop": _in_place_of("shallow", _make_loop),
}


GIT_DIRS = {
    "head_empty": _replaced("HEAD", b""),
    "head_zeros": _replaced("HEAD", bytes(23)),
    "head_garbage": _replaced("HEAD", b"\xff\x01garbage\n"),
    "head_missing": _replaced("HEAD", None),
    "head_is_a_directory": _head_is_directory,
    "head_names_an_impossible_ref": _replaced("HEAD", b"ref: refs/heads/..bad\n"),
    "head_names_no_ref": _replaced("HEAD", b"ref: elsewhere\n"),
    "refs_missing": _without_refs,
    "refs_missing_with_the_branch": _without_refs_and_branch,
    "config_with_a_broken_line": _config("[core\n"),
    "config_with_a_torn_end": _config('[remote "origi'),
    "config_with_a_bad_value": _config("[core]\n\tfilemode = maybe\n"),
    "config_zeros": _zeroed_config,
    "branch_empty": _empty_branch,
    "packed_refs_zeros": _packed_refs(lambda data: bytes(len(data))),
    "packed_refs_with_a_zeroed_line": _packed_refs(_with_zeroed_line),
    "packed_refs_cut": _packed_refs(lambda data: data[:-20]),
    "shallow_zeros": _damaged_shallow,
    **STRANGERS,
}
LOSSES = [Loss.IN_PLACE, Loss.WIPED, Loss.REMOVED, Loss.CLONED]


@pytest.fixture
def damaged(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace with every kind of work; its remote has all commits, and the editor removes the line it is given."""
    run_git(ws.outside, "clone", "-q", "--bare", "--no-local", ws.path, "remote.git")
    ws.git("remote", "add", "origin", str(ws.outside / "remote.git"))
    monkeypatch.setenv("EDITOR", str(ws.script("editor", 'exec sed -i "${1#+}d" "$2"\n')))
    dirty(ws)
    return ws


def mend(ws: Workspace) -> None:
    """Type what recover says, until it says something else than that the repository is damaged."""
    for _ in range(3):
        answer = recovered_from(ws.recover("--dry-run"), exits=(0, 4))
        if answer["verdict"] != "damaged":
            return
        subprocess.run(answer["hint"].split(", then: ")[0], shell=True, check=True, cwd=ws.outside)
    raise AssertionError(f"three commands did not mend it: {answer}")


def _lose(ws: Workspace, loss: Loss) -> None:
    if loss is Loss.WIPED:
        wipe(ws)
    elif loss is Loss.REMOVED:
        for name in os.listdir(ws.path):
            if name != ".git":
                ws.remove(name)
    elif loss is Loss.CLONED:
        clone = ws.path.with_name("clone")
        run_git(ws.outside, "clone", "-q", "--no-local", "-b", "agent/work", ws.path, clone)
        run_git(clone, "fetch", "-q", "origin", "refs/gitstate/*:refs/gitstate/*")
        ws.path.rename(ws.outside / "the lost one")
        ws.path = clone


def go_round(ws: Workspace, how: str, loss: Loss) -> None:
    before = fingerprint(ws.path)
    GIT_DIRS[how](ws)
    saved = saved_from(ws.save(), exits=(4,))
    assert not saved.moved
    mend(ws)
    assert before.diff(fingerprint(ws.path)) == [], "save and recover touched nothing"
    _lose(ws, loss)
    answer = recovered_from(ws.recover())
    assert (answer["verdict"], answer["save_id"], answer["kept"]) == ("restore", saved.save_id, [])
    after = fingerprint(ws.path)
    if loss is Loss.CLONED:
        before, after = replace(before, settings={}), replace(after, settings={})
    assert before.diff(after) == []


def _cases() -> list[Any]:
    """Each kind of damage through each loss; a quick run tries two losses of each."""
    quick: dict[str, tuple[Loss, ...]] = {how: (Loss.IN_PLACE, Loss.WIPED) for how in GIT_DIRS if how not in STRANGERS}
    quick |= {"logs_is_a_file": (Loss.WIPED,), "info_is_a_fifo": (Loss.IN_PLACE,)}
    return [
        pytest.param(
            how, loss, id=f"{how}-{loss.value}", marks=[] if loss in quick.get(how, ()) else [pytest.mark.slow]
        )
        for how in GIT_DIRS
        for loss in LOSSES
    ]


@pytest.mark.sample(5)
@pytest.mark.parametrize(("how", "loss"), _cases())
def test_damaged_git_dir(how: str, loss: Loss, damaged: Workspace) -> None:
    go_round(damaged, how, loss)


def _linked(**contents: bytes | None) -> Damage:
    """Files of a linked worktree hold other bytes, or are gone; `link` is its `.git`."""

    def damage(ws: Workspace) -> None:
        paths = {name: ws.path / ".git" if name == "link" else ws.git_dir / name for name in contents}
        for name, path in paths.items():
            path.unlink()
            data = contents[name]
            if data is not None:
                path.write_bytes(data)

    return damage


#: What damages a linked worktree, and whether git can't work in it.
LINKED = {
    "head_empty": (_linked(HEAD=b""), True),
    "head_cut": (_linked(HEAD=b"ref: refs/heads/age"), True),
    "commondir_empty": (_linked(commondir=b""), True),
    "commondir_missing": (_linked(commondir=None), True),
    "commondir_cut": (_linked(commondir=b"../"), True),
    "commondir_garbage": (_linked(commondir=b"\xff\x01garbage\n"), True),
    "commondir_zeros": (_linked(commondir=bytes(6)), True),
    "link_empty": (_linked(link=b""), True),
    "link_missing": (_linked(link=None), True),
    "link_garbage": (_linked(link=b"\xff\x01garbage\n"), True),
    "link_cut": (_linked(link=b"gitdir: /tm"), True),
    "all_zeros": (_linked(HEAD=bytes(24), commondir=bytes(6), gitdir=bytes(50), link=bytes(60)), True),
    "gitdir_empty": (_linked(gitdir=b""), False),
    "gitdir_garbage": (_linked(gitdir=b"\xff\x01garbage\n"), False),
    "gitdir_missing": (_linked(gitdir=None), False),
}
#: Those which a quick run tries.
QUICK = [("head_empty", Loss.IN_PLACE), ("commondir_missing", Loss.WIPED), ("all_zeros", Loss.WIPED)]


def _linked_cases() -> list[Any]:
    return [
        pytest.param(how, loss, id=f"{how}-{loss.value}", marks=[] if (how, loss) in QUICK else [pytest.mark.slow])
        for how in LINKED
        for loss in (Loss.IN_PLACE, Loss.WIPED)
    ]


@pytest.mark.sample(2)
@pytest.mark.parametrize(("how", "loss"), _linked_cases())
def test_damaged_linked_worktree(how: str, loss: Loss, templates: Templates, tmp_path: Path) -> None:
    ws = make(STATES["clean"], templates, tmp_path, linked=True)
    assert ws.main is not None
    # A worktree in which gitstate was used is on the list of workspaces, and so is its repository.
    assert ws.gitstate("register", path=ws.main).exit_status == 0
    dirty(ws)
    before, main = fingerprint(ws.path), fingerprint(ws.main)
    damage, stops_git = LINKED[how]
    damage(ws)
    saved = saved_from(ws.save(), exits=(4,) if stops_git else (0,))
    if how != "head_cut":
        assert f"gitstate -C {ws.path} doctor" in ws.gitstate("status").text
    mend(ws)
    _lose(ws, loss)
    answer = recovered_from(ws.recover())
    assert (answer["verdict"], answer["save_id"]) == ("restore", saved.save_id)
    assert before.diff(fingerprint(ws.path)) == []
    assert main.diff(fingerprint(ws.main)) == []


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(bytes(40), id="zeros", marks=pytest.mark.slow),
        pytest.param(b"/nowhere\n", id="garbage", marks=pytest.mark.slow),
        pytest.param(None, id="missing", marks=pytest.mark.slow),
    ],
)
def test_lost_way_to_a_linked_worktree_is_named(content: bytes | None, templates: Templates, tmp_path: Path) -> None:
    """Git works without `gitdir`, but takes the worktree for one that is gone."""
    ws = make(STATES["clean"], templates, tmp_path, linked=True)
    assert ws.main is not None
    assert ws.gitstate("register").exit_status == 0
    _linked(gitdir=content)(ws)
    assert str(ws.path) not in ws.out("worktree", "list")
    assert f"gitstate -C {ws.path} doctor" in ws.gitstate("status").text
    for path in (ws.path, ws.main):
        assert "git worktree prune" in ws.gitstate("doctor", path=path).text
    message = recovered_from(ws.recover(path=ws.main))["message"]
    assert message == recovered_from(ws.recover())["message"]
    subprocess.run(message.rpartition("mend it with: ")[2], shell=True, check=True, cwd=ws.outside)
    assert str(ws.path) in ws.out("worktree", "list")
    assert "gitdir" not in recovered_from(ws.recover())["message"]


@pytest.mark.parametrize("has_copy", [False, True])
def test_directory_with_the_name_of_a_lost_worktree_is_none(
    has_copy: bool, templates: Templates, tmp_path: Path
) -> None:
    """A save of it would come back in the worktree: files that are not in it would be deleted there."""
    ws = make(STATES["clean"], templates, tmp_path, linked=True)
    assert ws.main is not None
    assert ws.gitstate("register", path=ws.main).exit_status == 0
    other = tmp_path / "elsewhere" / ws.path.name
    if has_copy:
        shutil.copytree(ws.path, other, ignore=shutil.ignore_patterns(".git"))
    other.mkdir(parents=True, exist_ok=True)
    (other / "plain.txt").write_text("plain")
    _linked(gitdir=b"")(ws)
    before = sorted(other.iterdir())
    assert "not a git repository" in ws.gitstate("save", path=other).stderr
    assert "not a git repository" in ws.gitstate("recover", path=other).stderr
    assert sorted(other.iterdir()) == before
    assert ws.out("for-each-ref", "refs/gitstate") == ""


def test_linked_worktree_inside_that_lost_its_link_is_not_taken_for_the_main_one(ws: Workspace) -> None:
    """Git would go on to the worktree above, to which all the files in this one are untracked, or ignored."""
    ws.git("worktree", "add", "-q", "-b", "inside", ws.path / ".agents/x", "HEAD")
    inside = Workspace(ws.path / ".agents/x", ws.outside, main=ws.path)
    inside.append("a.txt")
    before = fingerprint(inside.path)
    (inside.path / ".git").unlink()
    saved = saved_from(inside.save(), exits=(4,))
    assert Path(saved.document["workspace"]) == inside.path
    mend(inside)
    wipe(inside)
    assert recovered_from(inside.recover())["save_id"] == saved.save_id
    assert before.diff(fingerprint(inside.path)) == []


def test_missing_objects_leave_files_and_context(damaged: Workspace) -> None:
    """What was staged and edited since is gone with the objects; every file is saved."""
    run_git(damaged.path, "push", "-q", "origin", "HEAD")
    shutil.rmtree(damaged.common_dir / "objects")
    before = damaged.read("b.txt")
    saved = saved_from(damaged.save(), exits=(4,))
    assert "the directory .git/objects is missing" in saved.document["left_out"][0]["reason"]
    assert damaged.git("cat-file", "blob", f"{saved.document['archive']}^1:b.txt") == before
    mend(damaged)
    assert damaged.out("cat-file", "-t", "HEAD^{tree}") == "tree"


@pytest.mark.sample(3)
@pytest.mark.parametrize("make_other", [_make_file, os.mkfifo, _make_loop], ids=["file", "fifo", "loop"])
@pytest.mark.parametrize("name", ["refs/gitstate", "objects/pack"])
def test_way_is_named_where_a_save_could_stand_nowhere(name: str, make_other: Any, ws: Workspace) -> None:
    dirty(ws)
    path = ws.common_dir / name
    aside = ws.outside / "packs"
    if path.exists():
        path.rename(aside)
    make_other(path)
    for command in ("save", "recover"):
        run = ws.gitstate(command, "--json")
        assert run.exit_status == 1 and f".git/{name} is a" in run.json["error"], run
    subprocess.run(run.json["hint"].partition(", then")[0], shell=True, check=True, cwd=ws.outside)
    if aside.exists():
        aside.rename(path)
    saved_from(ws.save())


def test_alternates_that_lead_nowhere_cost_nothing(damaged: Workspace) -> None:
    before = fingerprint(damaged.path)
    _lost_alternates(damaged)
    saved_from(damaged.save())
    wipe(damaged, "HEAD~1")
    recovered_from(damaged.recover())
    assert before.diff(fingerprint(damaged.path)) == []


def test_missing_alternate_that_held_the_commits_is_named(damaged: Workspace) -> None:
    objects = damaged.common_dir / "objects"
    shared = damaged.outside / "shared"
    shutil.copytree(objects, shared)
    shutil.rmtree(objects)
    (objects / "info").mkdir(parents=True)
    (objects / "info/alternates").write_text(f"{shared}\n")
    assert damaged.out("cat-file", "-t", "HEAD") == "commit"
    shared.rename(damaged.outside / "moved")
    saved_from(damaged.save(), exits=(4,))
    answer = recovered_from(damaged.recover(), exits=(4,))
    assert answer["verdict"] == "damaged"
    assert f"bring back {shared}" in answer["hint"]


def test_repository_above_is_left_alone(damaged: Workspace) -> None:
    """With a HEAD that git can't read it goes on to the repository above: no keeper may follow it there."""
    ready, go = damaged.outside / "ready", damaged.outside / "go"
    run_git(damaged.path.parent, "init", "-q", ".")
    script = f"touch {ready}; while ! [ -e {go} ]; do sleep 0.05; done; : >.git/HEAD; echo more >>a.txt; exit 3"
    process = subprocess.Popen(
        ["python3", "-m", "gitstate", "-C", str(damaged.path), "run", "--task-id", "T-1", "--", "sh", "-c", script],
        stderr=subprocess.PIPE,
        text=True,
    )
    go.touch()
    _, stderr = process.communicate(timeout=120)
    assert process.returncode in (3, 4), stderr
    assert "HEAD is empty" in stderr, stderr
    assert not run_git(damaged.path.parent, "for-each-ref")
    mend(damaged)
    assert damaged.refs("refs/gitstate/pending")


INCLUDED = '[filter "c"]\n\tclean = tr a-z A-Z\n\tsmudge = tr A-Z a-z\n\trequired\n'


@pytest.mark.sample(2)
@pytest.mark.parametrize("line", ["path = extra", '\tpath="extra"', "PATH = ./extra"])
def test_filter_of_an_included_file_converts(ws: Workspace, line: str) -> None:
    (ws.git_dir / "extra").write_text(INCLUDED)
    with open(ws.git_dir / "config", "a") as file:
        file.write(f"[include]\n{line}\n")
    assert b"unreadable" not in ws.gitstate("doctor").stdout
    ws.write(".gitattributes", "*.sec filter=c\n")
    ws.write("f.sec", "password\n")
    before = fingerprint(ws.path)
    head = (ws.git_dir / "HEAD").read_bytes()
    (ws.git_dir / "HEAD").write_bytes(b"")
    wip = ws.save("--json").json["wip_commit"]
    (ws.git_dir / "HEAD").write_bytes(head)
    assert ws.git("show", f"{wip}:f.sec") == b"PASSWORD\n"
    wipe(ws)
    recovered_from(ws.recover())
    assert before.diff(fingerprint(ws.path)) == []


CONDITIONS = [
    *("gitdir:{top}/", "gitdir:{top}/.git", "gitdir:**/.git", "gitdir:**/{name}/**", "gitdir:{name}/", "gitdir:**"),
    *("gitdir/i:{upper}/", "gitdir:{above}/*/.git", "gitdir:{above}/re?o/", "gitdir:{above}/[a-r]epo/", "gitdir:~/"),
    *("gitdir:{above}/*", "gitdir:{upper}/", "gitdir:/nowhere/", "gitdir:{above}/[!r]epo/", "gitdir:"),
    *("onbranch:agent/*", "onbranch:agent/", "onbranch:**", "onbranch:*", "onbranch:main", "onbranch:agent/work"),
    *("hasconfig:remote.*.url:https://example.com/**", "hasconfig:remote.*.url:*", "unknown:x"),
]


def test_condition_of_an_include_holds_where_it_does_for_git(ws: Workspace, hermetic: Path) -> None:
    """Each condition includes a file with a key of its own; git says which of the keys it sees."""
    ws.git("remote", "add", "origin", "https://example.com/a/b.git")
    words = {"top": str(ws.path), "name": ws.path.name, "upper": str(ws.path).upper(), "above": str(ws.path.parent)}
    config = hermetic / ".gitconfig"
    with open(config, "a") as file:
        for number, condition in enumerate(CONDITIONS):
            (hermetic / f"inc{number}").write_text(f"[seen]\n\tn{number} = yes\n")
            path = f"inc{number}" if number % 2 else str(hermetic / f"inc{number}")
            file.write(f'[includeIf "{condition.format(**words)}"]\n\tpath = {path}\n')
    git_dir = os.fsencode(ws.git_dir)
    options = conditional_includes(git_dir, git_dir, b"agent/work", None)
    seen = {CONDITIONS[int(Path(option).name.removeprefix("inc"))] for option in options if option != "-c"}
    keys = ws.git("config", "--name-only", "--get-regexp", "^seen[.]n").decode().split()
    assert seen == {CONDITIONS[int(key.removeprefix("seen.n"))] for key in keys}
    assert 8 < len(seen) < len(CONDITIONS)


@pytest.mark.sample(3)
@pytest.mark.parametrize("condition", ["gitdir:{top}/.git", "onbranch:agent/work"])
@pytest.mark.parametrize("how", ["head_empty", "branch_empty", "config_with_a_torn_end"])
def test_filter_of_a_conditional_include_converts(how: str, condition: str, ws: Workspace, hermetic: Path) -> None:
    """Git is run by way of another git dir, for which the condition does not hold."""
    (hermetic / "included").write_text(INCLUDED)
    with open(hermetic / ".gitconfig", "a") as file:
        file.write(f'[includeIf "{condition.format(top=ws.path)}"]\n\tpath = included\n')
    ws.write(".gitattributes", "*.sec filter=c\n")
    ws.write("f.sec", "password\n")
    GIT_DIRS[how](ws)
    wip = ws.save("--json").json["wip_commit"]
    mended = {"head_empty": b"ref: refs/heads/agent/work\n"}
    if how in mended:
        (ws.path / ".git/HEAD").write_bytes(mended[how])
    if how == "config_with_a_torn_end":
        config = ws.path / ".git/config"
        config.write_bytes(config.read_bytes().rpartition(b"[remote")[0])
    assert ws.git("cat-file", "blob", f"{wip}:f.sec") == b"PASSWORD\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("trusted", [False, True])
def test_damaged_repository_of_another_user_is_refused_like_a_whole_one(ws: Workspace, trusted: bool) -> None:
    if trusted:
        ws.git("config", "--global", "safe.directory", str(ws.path))
    (ws.git_dir / "HEAD").write_bytes(b"")
    ws.write("a", "edited\n")
    for directory, names, entries in os.walk(ws.path):
        for name in (".", *names, *entries):
            os.lchown(os.path.join(directory, name), 65534, 65534)
    run = ws.gitstate("save")
    if trusted:
        assert "saved" in run.stderr, run
    else:
        assert run.exit_status == 1 and "dubious ownership" in run.stderr, run
        assert not (ws.git_dir / "gitstate").exists()


def test_advice_for_a_lost_head_names_the_branches(ws: Workspace) -> None:
    """Two branches are at the same commit, and no log says which one was checked out: each has its command."""
    ws.git("branch", "and-another")
    ws.git("pack-refs", "--all")
    shutil.rmtree(ws.common_dir / "logs")
    (ws.git_dir / "HEAD").write_bytes(b"")
    hint = str(ws.recover().json["workspaces"][0]["hint"]).partition(", then: ")[0]
    names = []
    for command in hint.split(", or: "):
        subprocess.run(["sh", "-c", command], cwd="/", check=True)
        names.append(ws.out("symbolic-ref", "--short", "HEAD"))
    assert {"agent/work", "and-another"} <= set(names)


def test_lost_head_of_a_linked_worktree_is_on_the_branch_that_is_left(ws: Workspace) -> None:
    """The other branch at the same commit is checked out in the main worktree: git checks none out twice."""
    path = ws.outside / "linked"
    ws.git("worktree", "add", "-q", "-b", "linked", path)
    linked = Workspace(path, ws.outside, main=ws.path)
    git_dir = linked.git_dir
    linked.append("a.txt")
    (git_dir / "HEAD").write_bytes(b"")
    hint = str(linked.recover().json["workspaces"][0]["hint"])
    assert "refs/heads/linked" in hint and ", or: " not in hint


@pytest.mark.sample(5)
@pytest.mark.parametrize("command", ["log", "begin task_id=T-2", "restore latest", "prune"])
@pytest.mark.parametrize("name", ["HEAD", "packed-refs"])
def test_command_that_git_cannot_carry_out_names_doctor(name: str, command: str, ws: Workspace) -> None:
    """No command but `recover` says how to mend it, and each names the one that does."""
    assert ws.save().exit_status == 0
    (ws.git_dir / name).write_text("no such thing\n")
    run = ws.gitstate(*command.split())
    assert run.exit_status or name != "HEAD"
    if run.exit_status:
        assert f"  next: gitstate -C {ws.path} doctor" in run.stderr, run
        assert name in run.stderr and "Errno" not in run.stderr, run
    found = ws.gitstate("doctor")
    assert found.exit_status == 4 and f".git/{name}" in found.text, found


@pytest.mark.sample(5)
@pytest.mark.parametrize("command", ["save", "log"])
@pytest.mark.parametrize("name", ["HEAD", "config", "objects", "refs/gitstate", "gitstate/lock"])
def test_command_that_is_named_lets_this_user_in(name: str, command: str, ws: Workspace) -> None:
    """As where root has worked in the repository with a umask of 077."""
    if reason := why_permissions_cannot_be_tested():
        pytest.skip(reason)
    assert ws.save().exit_status == 0
    ws.append("a.txt")
    ws.without_override = True
    (ws.git_dir / name).chmod(0)
    run = ws.gitstate(command)
    if run.exit_status == 0:
        assert (name, command) in {("gitstate/lock", "log"), ("refs/gitstate", "log")}, run
    else:
        assert run.exit_status == 1 and "Permission denied" in run.stderr and "Errno" not in run.stderr, run
        (way,) = (line for line in run.stderr.splitlines() if line.startswith("  next: chmod"))
        subprocess.run(["sh", "-c", way.removeprefix("  next: ")], check=True)
        assert ws.gitstate(command).exit_status == 0
    (ws.git_dir / name).chmod(0o700)


def test_split_index_without_its_shared_file_is_set_aside(ws: Workspace) -> None:
    dirty(ws)
    files = fingerprint(ws.path).files
    ws.git("update-index", "--split-index")
    for shared in ws.git_dir.glob("sharedindex.*"):
        shared.unlink()
    saved_from(ws.save(), exits=(4,))
    recovered_from(ws.recover())
    assert fingerprint(ws.path).files == files


@pytest.mark.parametrize("content", [b"\0" * 1000, pytest.param(b"", marks=pytest.mark.slow)])
def test_damaged_index_of_packs_costs_no_save(content: bytes, ws: Workspace) -> None:
    """A power cut leaves zeros; git then finds no object that is in a pack, and the packs are whole."""
    dirty(ws)
    before = fingerprint(ws.path)
    ws.git("repack", "-qad")
    index = ws.common_dir / "objects" / "pack" / "multi-pack-index"
    index.write_bytes(content)
    saved_from(ws.save())
    message = recovered_from(ws.recover())["message"]
    assert f"{index} is damaged" in message
    subprocess.run(message.partition("stops git: ")[2], shell=True, check=True)
    assert before.diff(fingerprint(ws.path)) == []
