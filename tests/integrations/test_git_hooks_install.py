"""`gitstate install` beside every kind of hook: both run, it is idempotent, and uninstall restores every byte."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gitstate.git.opening import open_repository
from gitstate.integrations import git_hooks_install, hook_file, hook_managers
from gitstate.integrations.git_hooks_install import git_version, manner
from gitstate.integrations.hook_file import with_block, without_block
from gitstate.integrations.hook_managers import manager_of
from tests.integrations.installed import CONFIGURED, files_only, kept, refuses, tool
from tests.support.skips import not_installed
from tests.support.typed import EVENTS, commit, entries, git, gitstate, hooks, outcomes, run, script
from tests.support.workspace import Run, Workspace

# -- alone


def test_install_is_idempotent_and_uninstall_removes_everything(repo: Workspace) -> None:
    before = kept(repo)
    assert set(outcomes(repo).values()) == {"installed"}
    once = kept(repo)
    assert set(outcomes(repo).values()) == {"already"}
    assert kept(repo) == once != before
    assert git_hooks_install.hook_problems(open_repository(os.fsencode(repo.path))) == []
    assert refuses(repo)
    assert set(outcomes(repo, "uninstall").values()) == {"removed"}
    assert kept(repo) == before
    assert set(outcomes(repo, "uninstall").values()) == {"absent"}


def test_uninstall_removes_a_hooks_directory_that_install_created(repo: Workspace) -> None:
    shutil.rmtree(hooks(repo))
    gitstate(repo, "install")
    assert refuses(repo)
    gitstate(repo, "install")
    gitstate(repo, "uninstall")
    assert not hooks(repo).exists()


def test_uninstall_without_install_changes_nothing(repo: Workspace) -> None:
    script(hooks(repo) / "pre-commit", "#!/bin/sh\nexit 0\n")
    before = kept(repo)
    gitstate(repo, "uninstall")
    assert kept(repo) == before


def test_install_in_a_linked_worktree_covers_all_worktrees(repo: Workspace, tmp_path: Path) -> None:
    before = kept(repo)
    git(repo, "worktree", "add", "-q", str(tmp_path / "linked"), "-b", "agent/9")
    linked = Workspace(tmp_path / "linked", tmp_path)
    gitstate(linked, "install")
    assert refuses(linked)
    gitstate(linked, "recover")
    assert refuses(repo)
    gitstate(linked, "uninstall")
    assert kept(repo) == before


# -- beside plain hooks

#: What a hook may be: its text or what it links to, and its mode.
FOREIGN: dict[str, tuple[str | bytes, int | None]] = {
    "sh": ("#!/bin/sh\necho ran $0 >>log\n", 0o755),
    "sh without a last newline, with options": ("#!/bin/sh -eu\necho ran $0 >>log", 0o750),
    "bash through env": ("#!/usr/bin/env bash\n[[ x == x ]] && echo ran $0 >>log\n", 0o700),
    "python": ("#!/usr/bin/env python3\nimport sys\nprint('ran', sys.argv[0], file=open('log', 'a'))\n", 0o755),
    "no first line": ("echo ran $0 >>log\n", 0o755),
    "carriage returns": ("#!/bin/sh\r\necho ran\r\n", 0o755),
    "latin-1": (b"#!/bin/sh\n# caf\xe9\necho ran $0 >>log\n", 0o755),
    "not executable": ("#!/bin/sh\necho ran $0 >>log\n", 0o644),
    "a link": ("../hooks-of-ours/dispatch", None),
}


def put(repo: Workspace, name: str, kind: str) -> None:
    text, mode = FOREIGN[kind]
    path = hooks(repo) / name
    path.unlink(missing_ok=True)
    if mode is None:
        script(repo.path / ".git" / "hooks-of-ours" / "dispatch", "#!/bin/sh\necho ran $0 >>log\n")
        path.symlink_to(os.fsdecode(text))
    else:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        path.chmod(mode)


@pytest.mark.sample(6)
@files_only
@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_hook_runs_beside_ours_and_is_restored(kind: str, repo: Workspace) -> None:
    for event in EVENTS:
        put(repo, event, kind)
    before = kept(repo)
    gitstate(repo, "install")
    once = kept(repo)
    gitstate(repo, "install")
    assert kept(repo) == once
    if kind != "carriage returns":  # no kernel finds that interpreter
        assert refuses(repo)
        gitstate(repo, "recover")
        git(repo, "commit", "-q", "-a", "-m", "mine")
        ran = (repo.path / "log").read_text() if (repo.path / "log").exists() else ""
        assert ("pre-commit" in ran and "post-commit" in ran) == (kind != "not executable"), ran
    gitstate(repo, "uninstall")
    assert kept(repo) == before


@files_only
def test_foreign_hook_keeps_its_arguments_input_and_exit_status(repo: Workspace) -> None:
    read = '#!/bin/sh\necho "$@" >>log\ncat >>log\n'
    script(hooks(repo) / "pre-push", read)
    copy = "#!/usr/bin/env python3\nimport sys\nopen('log', 'a').write(sys.stdin.read())\n"
    script(hooks(repo) / "post-rewrite", copy)
    script(hooks(repo) / "pre-commit", "#!/bin/sh\nexit 7\n")
    gitstate(repo, "install")
    repo.write("a", "two\n")
    git(repo, "commit", "-q", "-a", "-m", "x", fails=True)
    git(repo, "commit", "-q", "-a", "-m", "x", "--no-verify")
    old = git(repo, "rev-parse", "HEAD")
    git(repo, "commit", "-q", "--amend", "-m", "y", "--no-verify")
    new = git(repo, "rev-parse", "HEAD")
    assert (repo.path / "log").read_text() == f"{old} {new}\n"
    (repo.path / "log").unlink()
    git(repo, "push", "-q", "origin", "agent/1")
    url = git(repo, "remote", "get-url", "origin")
    assert (repo.path / "log").read_text() == f"origin {url}\nrefs/heads/agent/1 {new} refs/heads/agent/1 {'0' * 40}\n"
    assert run(repo, "sh", ".git/hooks/pre-commit").exit_status == 7


@pytest.mark.sample(2)
@files_only
@pytest.mark.parametrize("first", ["#!/bin/sh", "#!/usr/bin/env bash", "#!/usr/bin/env python3"])
def test_foreign_hook_gets_the_whole_input_of_a_huge_push(first: str, repo: Workspace) -> None:
    copy = "import sys\nopen('log', 'w').write(sys.stdin.read())\n" if "python" in first else "cat >log\n"
    script(hooks(repo) / "pre-push", f"{first}\n{copy}")
    gitstate(repo, "install")
    head = git(repo, "rev-parse", "HEAD")
    lines = "".join(f"refs/heads/{n} {head} refs/heads/{n} {'0' * 40}\n" for n in range(3000))
    assert run(repo, str(hooks(repo) / "pre-push"), "origin", "url", given=lines).exit_status == 0
    assert (repo.path / "log").read_text() == lines
    (repo.path / "log").unlink()
    assert run(repo, str(hooks(repo) / "pre-push"), "origin", "url").exit_status == 0
    assert (repo.path / "log").read_text() == ""


@files_only
def test_uninstall_keeps_lines_that_a_person_added(repo: Workspace) -> None:
    gitstate(repo, "install")
    hook = hooks(repo) / "post-commit"
    hook.write_text(hook.read_text() + "echo theirs >>log\n")
    commit(repo, "b", "b\n")
    assert (repo.path / "log").read_text() == "theirs\n"
    gitstate(repo, "uninstall")
    assert hook.read_text() == "#!/bin/sh\necho theirs >>log\n"
    assert hook.stat().st_mode & 0o777 == 0o755


@files_only
def test_lost_hook_is_reported_and_reinstalled(repo: Workspace) -> None:
    gitstate(repo, "install")
    (hooks(repo) / "pre-push").unlink()
    ((words, command),) = git_hooks_install.hook_problems(open_repository(os.fsencode(repo.path)))
    assert "pre-push" in words and command == "gitstate install"
    result = outcomes(repo)
    assert result.pop("pre-push") == "installed" and set(result.values()) == {"already"}


@files_only
def test_foreign_file_under_the_name_of_our_shim_is_kept(repo: Workspace) -> None:
    script(hooks(repo) / "gitstate-hook", "#!/bin/sh\necho mine\n")
    before = kept(repo)
    assert "exists and is not of gitstate" in gitstate(repo, "install", status=4)
    assert kept(repo) == before


# -- core.hooksPath


@pytest.mark.sample(3)
@files_only
@pytest.mark.parametrize("where", ["relative", "absolute", "global", "home", "missing"])
def test_install_respects_core_hookspath(where: str, repo: Workspace, tmp_path: Path) -> None:
    places = {
        "relative": (repo.path / "tools" / "hooks", "tools/hooks"),
        "home": (Path.home() / "hooks", "~/hooks"),
    }
    place, setting = places.get(where, (tmp_path / "elsewhere", str(tmp_path / "elsewhere")))
    if where != "missing":
        script(place / "pre-commit", "#!/bin/sh\necho ran >>log\n")
    git(repo, "config", "--global" if where in ("global", "home") else "--local", "core.hooksPath", setting)
    before = entries(place) if place.exists() else None
    said = gitstate(repo, "install")
    assert ("all your repositories" in said) == (where in ("global", "home"))
    assert refuses(repo)
    assert not (hooks(repo) / "pre-commit").exists()
    gitstate(repo, "uninstall")
    assert (entries(place) if place.exists() else None) == before


@files_only
def test_tracked_hooks_are_left_alone_and_the_printed_line_works(repo: Workspace, tmp_path: Path) -> None:
    script(repo.path / ".githooks" / "pre-commit", "#!/bin/sh\n")
    script(repo.path / ".githooks" / "pre-push", "#!/bin/sh\n")
    git(repo, "add", ".")
    git(repo, "commit", "-q", "-m", "hooks")
    git(repo, "config", "core.hooksPath", ".githooks")
    assert set(outcomes(repo, status=4).values()) == {"by hand"}
    assert git(repo, "status", "--short") == ""
    command = script(tmp_path / "bin" / "gitstate", f'#!/bin/sh\nexec {sys.executable} -m gitstate "$@"\n')
    repo.cli_env["PATH"] = f"{command.parent}:{os.environ['PATH']}"
    for event in ("pre-commit", "pre-push"):
        repo.write(f".githooks/{event}", f"#!/bin/sh\n{hook_managers.script_line(event)}\n")
    git(repo, "commit", "-q", "-a", "-m", "lines")
    assert refuses(repo)
    result = outcomes(repo, status=4)
    assert result["pre-commit"] == result["pre-push"] == "already"
    without = [place for place in os.environ["PATH"].split(os.pathsep) if not os.path.exists(f"{place}/gitstate")]
    repo.cli_env["PATH"] = os.pathsep.join(without)
    assert run(repo, ".githooks/pre-commit") == Run(0, b"", "")


@files_only
def test_disabled_hooks_are_reported(repo: Workspace) -> None:
    git(repo, "config", "core.hooksPath", "/dev/null")
    assert "which is not a directory" in gitstate(repo, "install", status=4)


# -- killed in the middle

CALLS = "rename,renameat,renameat2,link,linkat,unlink,unlinkat,rmdir"


@files_only
@pytest.mark.faults
@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize("command", ["install", "uninstall"])
def test_kill_at_any_change_leaves_working_hooks_and_a_rerun_completes(
    command: str, step: int, repo: Workspace
) -> None:
    """At each change, of which a quick run takes every third."""
    tool("strace", repo)
    kinds = ["sh", "python", "not executable", "a link", "bash through env"]
    for event, kind in zip(EVENTS, kinds, strict=False):
        put(repo, event, kind)
    before = kept(repo)
    for number in range(1, 60, step):
        if command == "uninstall":
            gitstate(repo, "install")
        inject = f"inject={CALLS}:signal=KILL:when={number}"
        trace = ("strace", "-qq", "-o", "/dev/null", "-e", f"trace={CALLS}", "-e", inject)
        done = run(repo, *trace, sys.executable, "-B", "-m", "gitstate", command)
        for event, kind in zip(EVENTS, kinds, strict=False):
            if kind != "not executable":
                (repo.path / "log").unlink(missing_ok=True)
                assert run(repo, str(hooks(repo) / event)).exit_status == 0
                assert event in (repo.path / "log").read_text(), (number, event)
        (repo.path / "log").unlink(missing_ok=True)
        if command == "install":
            gitstate(repo, "install")
            assert set(outcomes(repo).values()) == {"already"}
        gitstate(repo, "uninstall")
        assert kept(repo) == before, number
        if done.exit_status == 0:
            break
    assert 5 < number < 59


# -- git's configuration


def test_configured_hooks_get_and_lose_one_section_per_event(repo: Workspace) -> None:
    repository = open_repository(os.fsencode(repo.path))
    before = kept(repo)
    steps = git_hooks_install._install_config(repository)
    assert {step.outcome for step in steps} == {"installed"}
    assert {step.outcome for step in git_hooks_install._install_config(repository)} == {"already"}
    for event in EVENTS:
        assert git(repo, "config", f"hook.gitstate-{event}.event") == event
        command = git(repo, "config", f"hook.gitstate-{event}.command")
        assert run(repo, "sh", "-c", f'{command} "$@"', "sh").exit_status == 0
    assert set(outcomes(repo, "uninstall").values()) == {"removed"}
    assert kept(repo) == before


@pytest.mark.skipif(not CONFIGURED, reason="hooks in git's configuration need git 2.54 or newer")
@pytest.mark.parametrize("where", ["plain", "husky", "tracked"])
def test_configured_hooks_run_beside_any_hook_files(where: str, repo: Workspace) -> None:
    directory = {"plain": hooks(repo), "husky": repo.path / ".husky" / "_", "tracked": repo.path / ".githooks"}[where]
    for event in ("pre-commit", "pre-push"):
        script(directory / event, f"#!/bin/sh\necho theirs {event} >>log\n")
    if where != "plain":
        git(repo, "config", "core.hooksPath", str(directory.relative_to(repo.path)))
        git(repo, "add", ".")
        git(repo, "commit", "-q", "-m", "hooks")
        git(repo, "push", "-q", "origin", "HEAD:hooks")
    before = kept(repo), entries(directory)
    assert set(outcomes(repo).values()) == {"installed"}
    assert refuses(repo)
    gitstate(repo, "recover")
    git(repo, "commit", "-q", "-a", "-m", "mine")
    git(repo, "push", "-q", "origin", "agent/1")
    assert {"theirs pre-commit", "theirs pre-push"} <= set((repo.path / "log").read_text().splitlines())
    assert set(outcomes(repo, "uninstall").values()) == {"removed"}
    assert (kept(repo), entries(directory)) == before


def test_git_version_decides_between_configuration_and_files() -> None:
    assert git_version(b"git version 2.39.5 (Apple Git-154)\n") == (2, 39)
    assert git_version(b"nonsense") == (0, 0)
    assert [manner(version) for version in ((2, 39), (2, 53), (2, 54), (3, 0), (0, 0))] == [
        "files",
        "files",
        "config",
        "config",
        "files",
    ]


def test_block_is_inserted_into_shell_scripts_only_and_removed_exactly() -> None:
    for first in (b"#!/bin/sh\n", b"#! /usr/bin/env -S bash -eu\n", b"#!/usr/local/bin/zsh\n", b"#!/bin/dash -e\n"):
        for rest in (b"", b"exit 0", b"\n\n# >>> other >>>\n"):
            edited = with_block(first + rest, "pre-push")
            assert edited is not None and edited.startswith(first)
            assert without_block(edited) == ("part", first + rest)
    for text in (b"", b"exit\n", b"#!/usr/bin/python\n", b"#!/bin/sh\r\n", b"#!/usr/bin/env fish\n", b"#!/bin/csh\n"):
        assert with_block(text, "pre-commit") is None
        assert without_block(text) is None


def test_owner_of_a_hook_is_known_by_its_mark() -> None:
    assert manager_of(b"#!/bin/sh\ncall_lefthook run pre-commit\n") == "lefthook"
    assert manager_of(b"# File generated by pre-commit: https://pre-commit.com\n") == "pre-commit"
    assert manager_of(b"#!/bin/sh\ngit lfs pre-push\n") == "plain"


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason=not_installed("shellcheck"))
def test_shim_and_blocks_pass_shellcheck(tmp_path: Path) -> None:
    texts = [hook_file.shim(made=True)]
    for event in EVENTS:
        texts += [b"#!/bin/sh\n" + hook_file.block(event, kind, b"x") for kind in ("file", "part", "chain")]
    for number, text in enumerate(texts):
        (tmp_path / str(number)).write_bytes(text)
    names = [str(path) for path in sorted(tmp_path.iterdir())]
    done = subprocess.run(["shellcheck", "-s", "sh", *names], capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout
