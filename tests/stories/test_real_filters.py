"""The filters that people use, as they are installed: git-lfs, git-annex, git-crypt."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.stories.test_conversions import LOSSES, check_round
from tests.support.look import look, porcelain
from tests.support.oracle import fingerprint
from tests.support.recovering import recovered_from
from tests.support.repositories import initialized
from tests.support.saving import saved_from
from tests.support.skips import why_not_program
from tests.support.workspace import Workspace


def with_lfs(ws: Workspace) -> str:
    ws.git("lfs", "install", "--skip-repo")  # into the configuration of the home directory, as most people do
    return "*.bin filter=lfs diff=lfs merge=lfs -text\n"


def with_annex(ws: Workspace) -> str:
    ws.git("annex", "init", "-q", "here")
    ws.config("annex.largefiles", "anything")
    ws.config("annex.addunlocked", "true")
    return "*.bin filter=annex\n"


def with_crypt(ws: Workspace) -> str:
    ws.git("crypt", "init")
    return "*.bin filter=git-crypt diff=git-crypt\n"


FILTERS: dict[str, Callable[[Workspace], str]] = {"git-lfs": with_lfs, "git-annex": with_annex, "git-crypt": with_crypt}


def content(number: int) -> bytes:
    return b"version %d\n" % number + os.urandom(5_000)


def work(ws: Workspace, attributes: str, *, committed: bool) -> None:
    """Files in every state. Git-annex writes `.git/info/attributes` of its own, which counts everywhere."""
    if committed:
        ws.write(".gitattributes", attributes)
    ws.write("other.txt", "other\n")
    for name in ("clean", "edited", "staged", "both", "deleted"):
        ws.write(f"{name}.bin", content(0))
    ws.commit("base")
    ws.write(".gitattributes", attributes)
    ws.write("new.bin", content(1))
    ws.write("staged.bin", content(2))
    ws.write("both.bin", content(3))
    ws.add("new.bin", "staged.bin", "both.bin")
    ws.write("both.bin", content(4))
    ws.write("edited.bin", content(5))
    ws.write("untracked.bin", content(6))
    ws.remove("deleted.bin")


def skip_without(program: str) -> None:
    reason = why_not_program(program)
    if reason is not None:
        pytest.skip(reason)


@pytest.mark.sample(6)
@pytest.mark.parametrize("committed", [True, False], ids=["committed", "untracked"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("program", FILTERS)
def test_work_comes_back(program: str, loss: str, committed: bool, tmp_path: Path) -> None:
    skip_without(program)
    ws = initialized(tmp_path)
    work(ws, FILTERS[program](ws), committed=committed)
    if program == "git-annex" and loss != "in-place":
        check_annex(ws, loss)
    elif loss == "cloned":
        check_clone(ws)
    else:
        check_round(ws, loss, look(ws))
    ws.git("fsck", "--no-dangling", "--no-progress")


def annex_objects(ws: Workspace) -> dict[str, bytes]:
    """The content that git-annex holds, by key."""
    return {path.name: path.read_bytes() for path in ws.git_dir.glob("annex/objects/*/*/*/*")}


def check_annex(ws: Workspace, loss: str) -> None:
    """Git-annex fills in files by itself, with a hook, and whenever git reads one: none of them counts as edited."""
    before = fingerprint(ws.path)
    base = ws.out("rev-parse", "HEAD")
    saved_from(ws.save())
    LOSSES[loss](ws, base)
    objects = annex_objects(ws)
    assert recovered_from(ws.recover())["kept"] == []
    assert annex_objects(ws).items() >= objects.items()
    unchanged = {b"clean.bin", b"other.txt"}
    if loss != "cloned":
        ws.git("annex", "smudge", "--update")
        unchanged = set()
    after = replace(fingerprint(ws.path), settings={})
    assert before.without(unchanged).diff(after.without(unchanged)) == []
    assert ws.git("cat-file", "-t", "git-annex" if loss != "cloned" else "origin/git-annex") == b"commit\n"


def check_clone(ws: Workspace) -> None:
    """The clone has neither the store of the filter nor its key: what was changed comes back all the same."""
    before = fingerprint(ws.path)
    saved = saved_from(ws.save())
    os.environ["GIT_LFS_SKIP_SMUDGE"] = "1"
    LOSSES["cloned"](ws, "")
    recovered_from(ws.recover(), exits=(0, 4))
    unchanged = {b"clean.bin", b"other.txt"}
    assert before.without(unchanged).diff(replace(fingerprint(ws.path), settings={}).without(unchanged)) == []
    assert saved.left_out == frozenset()


def test_filter_that_writes_into_the_repository_keeps_what_it_wrote(tmp_path: Path) -> None:
    ws = initialized(tmp_path)
    log = ws.script(
        "log.sh",
        "content=$(cat)\n"
        'blob=$(printf "%s\\n" "$content" | git hash-object -w --stdin)\n'
        'tree=$(printf "100644 blob %s\\tlog\\n" "$blob" | git mktree)\n'
        'git update-ref refs/filterlog "$(git commit-tree -m "log $$ $(date +%N)" "$tree" </dev/null)"\n'
        'printf "%s\\n" "$content"\n',
    )
    ws.config("filter.log.clean", log)
    ws.write(".gitattributes", "*.f filter=log\n")
    ws.write("x.f", "1\n")
    ws.commit("base")
    for number, command in enumerate(("checkpoint", "save", "checkpoint", "recover")):
        ws.write("x.f", f"version {number}\n")
        ws.write("staged.f", f"staged {number}\n")
        ws.add("staged.f")
        done = ws.gitstate(command)
        assert done.exit_status == 0, str(done)
        ws.git("fsck", "--no-dangling", "--no-progress")
        assert ws.git("cat-file", "-t", "refs/filterlog") == b"commit\n"


def test_save_names_files_whose_clean_filter_failed(tmp_path: Path) -> None:
    ws = initialized(tmp_path)
    ws.write(".gitattributes", "*.secret filter=key\n")
    ws.write("k.secret", "base\n")
    ws.write("other", "other\n")
    ws.commit("base")
    ws.config("filter.key.clean", "false")
    ws.config("filter.key.required", "true")
    ws.append("k.secret", "edit\n")
    before = look(ws)
    saved = saved_from(ws.save())
    assert "k.secret" in saved.document["message"] and "filter" in saved.document["message"]
    assert ws.git("show", "HEAD:k.secret") == b"base\n"  # never in plain text where a filter guards it
    again = saved_from(ws.save("--progress-stage", "later"))
    assert "k.secret" in again.document["message"]
    recovered_from(ws.recover())
    assert before.fingerprint.diff(fingerprint(ws.path)) == []


def test_pointers_that_a_wipe_wrote_are_not_called_as_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    skip_without("git-lfs")
    ws = initialized(tmp_path)
    ws.write(".gitattributes", with_lfs(ws))
    ws.write("clean.bin", content(0))
    ws.write("other", "other\n")
    ws.commit("base")
    ws.append("other")
    before = look(ws)
    saved = saved_from(ws.save())
    with monkeypatch.context() as skipping:
        skipping.setenv("GIT_LFS_SKIP_SMUDGE", "1")
        LOSSES["tip"](ws, "")
    assert ws.read("clean.bin").startswith(b"version https://git-lfs")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("git", "sh", "python3", "cat", "ls", "rm"):
        (programs / name).symlink_to(shutil.which(name) or "")
    ws.cli_env["PATH"] = str(programs)
    done = ws.gitstate("recover")
    assert "clean.bin" in done.stderr and "everything is as it was saved" not in done.stderr
    del ws.cli_env["PATH"]
    assert ws.gitstate("recover", "--save", saved.save_id).exit_status == 0
    assert before.fingerprint.diff(fingerprint(ws.path)) == []
    assert porcelain(ws) == before.status


def test_pointers_of_before_the_save_stay_pointers(tmp_path: Path) -> None:
    skip_without("git-lfs")
    ws = initialized(tmp_path)
    ws.write(".gitattributes", with_lfs(ws))
    ws.write("clean.bin", content(0))
    ws.commit("base")
    pointer = ws.git("show", "HEAD:clean.bin")
    ws.write("clean.bin", pointer)  # as in a clone with GIT_LFS_SKIP_SMUDGE
    ws.git("add", "clean.bin")
    ws.write("other", "other\n")
    before = look(ws)
    check_round(ws, "in-place", before)
    assert ws.read("clean.bin") == pointer


def test_converted_file_stays_where_only_the_wip_commit_is_left(tmp_path: Path) -> None:
    ws = initialized(tmp_path)
    for step in ("clean", "smudge"):
        ws.config(f"filter.rot.{step}", "tr A-Za-z N-ZA-Mn-za-m")
    ws.write("other", "other\n")
    ws.commit("base")
    ws.write(".gitattributes", "*.f filter=rot\n")
    ws.write("staged.f", "staged\n")
    ws.add("staged.f")
    ws.write("untracked.f", "untracked\n")
    saved_from(ws.save())
    for ref in ws.refs("refs/gitstate", "refs/notes"):
        ws.git("update-ref", "-d", ref)
    ws.git("add", "-A")  # as many a tool does
    assert ws.gitstate("recover").exit_status == 0
    assert (ws.read("staged.f"), ws.read("untracked.f")) == (b"staged\n", b"untracked\n")


# -- what the filter keeps is gone

#: The directory of a filter in the git directory.
KEPT = {"git-lfs": "lfs", "git-annex": "annex"}


def _reset(ws: Workspace) -> None:
    """Git writes the files of the commit before the save."""
    ws.git("reset", "-q", "--hard", "HEAD~2")
    ws.git("clean", "-fdq")


def _delete(ws: Workspace) -> None:
    for name in ("edited.bin", "staged.bin", "both.bin", "new.bin"):
        ws.remove(name)


WIPES: dict[str, Callable[[Workspace], None]] = {"reset": _reset, "deleted": _delete}


def _drop_settings(ws: Workspace, filter_: str) -> None:
    name = filter_.removeprefix("git-")
    for setting in ("clean", "smudge", "process"):
        ws.config(f"filter.{name}.{setting}", "")
    ws.config(f"filter.{name}.required", "false")


@pytest.mark.sample(5)
@pytest.mark.parametrize("is_set_up", [True, False], ids=["objects", "objects and settings"])
@pytest.mark.parametrize("wipe", WIPES)
@pytest.mark.parametrize("filter_", KEPT)
def test_changes_come_back_where_what_the_filter_keeps_is_gone(
    filter_: str, wipe: str, is_set_up: bool, ws: Workspace
) -> None:
    """The file that git wrote before is no change of anybody: the pointer in HEAD stands for its bytes."""
    skip_without(filter_)
    work(ws, FILTERS[filter_](ws), committed=True)
    changed = {name: ws.read(name) for name in ("edited.bin", "staged.bin", "both.bin", "new.bin")}
    saved_from(ws.save())
    WIPES[wipe](ws)
    if not is_set_up:
        _drop_settings(ws, filter_)
    for directory, names, _ in os.walk(ws.git_dir / KEPT[filter_]):
        for name in names:
            os.chmod(os.path.join(directory, name), 0o755)
    shutil.rmtree(ws.git_dir / KEPT[filter_])
    run = ws.recover()
    assert run.exit_status in (0, 4), run
    assert run.json["workspaces"][0]["kept"] == []
    assert {name: ws.read(name) for name in changed} == changed


def test_file_of_other_bytes_than_those_of_the_pointer_is_kept(ws: Workspace) -> None:
    skip_without("git-lfs")
    work(ws, with_lfs(ws), committed=True)
    saved_from(ws.save())
    ws.git("reset", "-q", "--hard", "HEAD~2")
    other = bytes([ws.read("edited.bin")[0] ^ 1]) + ws.read("edited.bin")[1:]
    ws.write("edited.bin", other)
    shutil.rmtree(ws.git_dir / "lfs")
    run = ws.recover()
    assert [item["path"] for item in run.json["workspaces"][0]["kept"]] == ["edited.bin"]
    assert ws.read("edited.bin") == other
