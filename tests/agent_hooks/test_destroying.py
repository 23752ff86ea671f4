"""Which commands get a checkpoint before they run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time

import pytest

from gitstate.agent_hooks.destroying import checked_out, destroys, emptied, named_paths
from gitstate.agents.registry import all_agents
from tests.support.agents import Started, keeper_pid, keepers, members, wait_until
from tests.support.workspace import GITSTATE, Workspace

DESTROYING = (
    "rm a",
    "/bin/rm -rf d",
    "\\rm a",
    "FOO=1 rm a",
    "cd x && rm a",
    "true; rm a",
    "ls | xargs rm",
    "ls | xargs -n 10 -I{} rm {}",
    "sudo -u nobody rm a",
    "env -i A=b rm a",
    "sh -c 'rm a'",
    'bash -lc "cd x && git reset --hard"',
    "bash -c 'sh -c \"rm a\"'",
    "echo $(rm a)",
    'echo "$(git clean -fd)"',
    "echo `rm a`",
    "(rm a)",
    "{ rm a; }",
    "if true; then rm a; fi",
    "for f in *; do rm $f; done",
    "eval 'rm a'",
    "'rm' a",
    'r"m" a',
    "r\\\nm a",
    "timeout 5 rm a",
    "true &&\nrm a",
    "nohup rm a &",
    "git sparse-checkout clean -f",
    "git sparse-checkout set d",
    "git sparse-checkout reapply",
    "git checkout -m other",
    "git switch --merge other",
    "cat <<x | sh\ngit sparse-checkout clean -f\nx",
    "git reset --hard",
    "git reset --har",
    "git reset --m HEAD~1",
    "git clean --forc -d",
    "git clean --f --no-dry",
    "git checkout --fo main",
    "git checkout --th -q",
    "git restore --stage --work a",
    "git switch --disc main",
    "git rm --forc a",
    "git read-tree --rese HEAD",
    "git rebase --abor",
    "ln --forc a b",
    "git -C x reset --hard HEAD~1",
    "git -c a.b=c --no-pager clean -fdx",
    "git checkout .",
    "git checkout -- a",
    "git checkout HEAD a",
    "git checkout -f main",
    "git checkout a.txt",
    "git restore .",
    "git restore -SW a",
    "git stash",
    "git stash -u",
    "git stash push -m x",
    "git stash drop",
    "git switch -f main",
    "git switch --discard-changes main",
    "git worktree remove --force x",
    "git submodule foreach git reset --hard",
    "git submodule foreach --recursive 'git clean -fdx'",
    "git rm a",
    "git rebase --abort",
    "git merge --abort",
    "find . -name x -delete",
    "find . -exec rm {} +",
    "truncate -s 0 a",
    "shred a",
    "dd if=/dev/zero of=a",
    "mv a b",
    "unlink a",
    "rsync -a --delete a/ b/",
    "ln -sf a b",
    "cat <<EOF\nx\nEOF\nrm a",
    'echo "unbalanced $(rm a',
)
HARMLESS = (
    "",
    "ls -l",
    "echo rm",
    "echo 'rm a'",
    'echo "git reset --hard"',
    "git status",
    "git reset a",
    "git reset --soft HEAD~1",
    "git reset --sof HEAD~1",
    "git clean -n",
    "git clean --dry -d",
    "git checkout --orph a.b",
    "git restore --stag a",
    "git rm --cach a",
    "ln --symb a b",
    "git checkout main",
    "git checkout -b new",
    "git checkout -b feature/1.2",
    "git restore --staged a",
    "git stash list",
    "git stash pop",
    "git switch main",
    "git worktree add x",
    "git submodule foreach git status",
    "git submodule foreach",
    "git rm --cached a",
    "git sparse-checkout list",
    "git sparse-checkout clean --dry-run",
    "git stash export --print",
    "git stash import HEAD",
    "git history reword HEAD",
    "git refs migrate --ref-format=reftable",
    "git commit -m 'rm a; git reset --hard'",
    "grep -r rm .",
    "find . -name rm",
    "dd if=a",
    "rm --help",
    "ln -s a b",
    "rsync -a a/ b/",
    "python3 -c 'import os'",
    "npm run build > out.log 2>&1",
    "'",
    '"',
    "$(",
    "\\",
    "git",
    "git -C",
    "sh -c",
    "xargs",
)


@pytest.mark.parametrize("command", DESTROYING)
def test_command_that_destroys_is_recognized(command: str) -> None:
    assert destroys(command)


@pytest.mark.parametrize("command", HARMLESS)
def test_harmless_command_is_none(command: str) -> None:
    assert not destroys(command)


@pytest.mark.sample(5)
@pytest.mark.parametrize(
    "part",
    [
        "'",
        '"',
        "\\",
        "$(",
        "`",
        "(",
        ")",
        "a ",
        "sh -c '",
        "xargs ",
        "eval ",
        "git ",
        ";",
        "\0",
        "é",
        "find -exec ",
        "> a ",
        "cd b;",
        "'cd b; ",
    ],
)
def test_hostile_command_is_answered(part: str) -> None:
    """CPU time, which does not count what else the machine does. A quadratic look would take minutes."""
    begun = time.process_time()
    destroys(part * ((1 << 20) // len(part)))
    emptied(part * ((1 << 20) // len(part)))
    named_paths(part * ((1 << 20) // len(part)))
    checked_out(part * ((1 << 20) // len(part)))
    assert time.process_time() - begun < 20


@pytest.mark.parametrize(
    ("command", "files"),
    [
        ("> a", ["a"]),
        ("echo x >a", ["a"]),
        ("echo x>a 2>&1", ["a"]),
        ("x >| a", ["a"]),
        ("x 2> a > b", ["a", "b"]),
        ("sh -c x > 'a b'; y >> c", ["a b"]),
        ("cd d && echo > a", ["a", "d/a"]),
        ("cat < a", []),
        ("diff <(a) <(b); x 2>&1 >", []),
    ],
)
def test_files_that_a_redirection_empties(command: str, files: list[str]) -> None:
    assert emptied(command) == files


def test_redirection_over_a_file_brings_a_checkpoint_and_to_a_new_one_none(repo: Workspace) -> None:
    repo.write("new.txt", "precious")
    event(repo, "PreToolUse", tool_name="Bash", tool_input={"command": "echo > other; make > /dev/null 2>&1"})
    assert not repo.git("for-each-ref", "refs/gitstate/checkpoints")
    event(repo, "PreToolUse", tool_name="Bash", tool_input={"command": "echo > new.txt"})
    assert checkpoint_holds(repo, "precious")


def event(repo: Workspace, name: str, agent: str = "claude", **more: object) -> None:
    told = {"session_id": "s", "transcript_path": "/t", "cwd": str(repo.path), "hook_event_name": name, **more}
    argv = [*GITSTATE, "hook", agent]
    env = {**os.environ, "GITSTATE_HOOK_INTERVAL": "3600"}
    done = subprocess.run(argv, input=json.dumps(told).encode(), cwd=repo.path, env=env, capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"")


def checkpoint_holds(repo: Workspace, text: str) -> bool:
    refs = repo.git("for-each-ref", "--format=%(refname)", "refs/gitstate/checkpoints").decode().split()
    listed = [ref for ref in refs if repo.git("ls-tree", f"{ref}^1", "new.txt")]
    return any(text.encode() in repo.git("show", f"{ref}^1:new.txt") for ref in listed)


ANNOUNCED = [(one.name, event.name) for one in all_agents() for event in one.events if event.meaning == "before_tool"]


@pytest.mark.parametrize(("agent", "name"), ANNOUNCED)
def test_checkpoint_is_there_before_a_destroying_command_runs(repo: Workspace, agent: str, name: str) -> None:
    repo.write("new.txt", "precious")
    event(repo, name, agent, tool_name="Bash", tool_input={"command": "cd . && git clean -fd"})
    assert checkpoint_holds(repo, "precious")


def test_command_may_be_a_list_of_words(repo: Workspace) -> None:
    repo.write("new.txt", "precious")
    event(repo, "PreToolUse", "codex", tool_name="Bash", tool_input={"command": ["bash", "-lc", "git clean -fd"]})
    assert checkpoint_holds(repo, "precious")


def test_keeper_takes_it_before_the_agent_is_answered(ws: Workspace) -> None:
    started = Started(ws, [*GITSTATE, "run", "--interval", "3600", "--", "sleep", "600"])
    keeper_pid(ws)
    wait_until(lambda: ws.out("for-each-ref", "refs/gitstate/checkpoints"), "the first checkpoint")
    ws.write("new.txt", "precious")
    event(ws, "PreToolUse", tool_name="Bash", tool_input={"command": "> new.txt; truncate -s 0 new.txt"})
    assert checkpoint_holds(ws, "precious")
    started.send(signal.SIGTERM)
    started.status()
    wait_until(lambda: not keepers(ws) and not members(ws), "the run is over")


def test_harmless_command_brings_no_checkpoint(repo: Workspace) -> None:
    repo.write("new.txt", "precious")
    event(repo, "PreToolUse", tool_name="Bash", tool_input={"command": "ls"})
    event(repo, "PreToolUse", tool_name="Bash", tool_input=["rm"])
    event(repo, "PreToolUse", tool_name="Bash")
    assert not repo.git("for-each-ref", "refs/gitstate/checkpoints")


@pytest.mark.parametrize(
    ("command", "paths"),
    [
        ("git checkout Makefile", ["Makefile"]),
        ("cd d && git checkout src", ["src", "d/src"]),
        ("git -C d --no-pager checkout src", ["src", "d/src"]),
        ("git checkout -b src", []),
        ("git checkout", []),
        ("git", []),
        ("echo checkout src", []),
    ],
)
def test_what_git_checkout_may_take_for_a_path(command: str, paths: list[str]) -> None:
    assert checked_out(command) == paths


@pytest.mark.parametrize("name", ["Makefile", "src"])
def test_checkout_of_a_path_without_an_ending_brings_a_checkpoint(repo: Workspace, name: str) -> None:
    event(repo, "PreToolUse", tool_name="Bash", tool_input={"command": f"git checkout {name}"})
    repo.write("new.txt", "precious")
    assert not repo.git("for-each-ref", "refs/gitstate/checkpoints")
    repo.write("Makefile", "all:")
    repo.write("src/a.txt", "a")
    event(repo, "PreToolUse", tool_name="Bash", tool_input={"command": f"git checkout {name}"})
    assert checkpoint_holds(repo, "precious")


@pytest.mark.parametrize(
    ("command", "paths"),
    [
        ("git -C ../wt reset --hard", {"../wt"}),
        ("cd ../wt && git clean -fd", {"../wt", "../wt/git"}),
        ("cd .. && cd wt; rm a", {"../wt/a"}),
        ("A=../wt; rm -rf $A", {"../wt"}),
        ("git --work-tree=../wt reset --hard", {"../wt"}),
        ("rm -rf ../wt/*.c ../w[t] /x/$A/b", {"../wt", "..", "/x"}),
        ("bash -c 'cd ..; rm -rf wt'", {"../wt"}),
        ("cd /x; rm ~/y", {"~/y"}),
    ],
)
def test_paths_that_a_command_may_name(command: str, paths: set[str]) -> None:
    assert paths <= set(named_paths(command))


THREATS = (
    "git worktree remove --force {wt}",
    "git worktree remove --force wt",
    "git worktree remove --force ../wt",
    "git worktree list | tail -1 | cut -d' ' -f1 | xargs git worktree remove --force",
    "git -C ../wt reset --hard && git -C ../wt clean -fd",
    "cd ../wt && git clean -fd",
    "rm -rf ../w*",
    "rm ../wt/new.txt",
    "> ../wt/new.txt",
    "sh -c 'cd .. && rm -rf wt'",
    "rm -rf {wt}/../wt",
)


@pytest.mark.sample(3)
@pytest.mark.parametrize("command", THREATS)
def test_worktree_that_a_command_names_gets_a_checkpoint(repo: Workspace, command: str) -> None:
    there = repo.outside / "wt"
    repo.git("worktree", "add", "-q", str(there))
    (there / "new.txt").write_text("precious")
    (repo.outside / "link").symlink_to(there)
    command = command.replace("../wt", os.path.relpath(there, repo.path)).replace("{wt}", str(there))
    command = command.replace("cd ..", f"cd {there.parent}").replace("../w*", f"{there.parent}/w*")
    event(repo, "PreToolUse", tool_name="Bash", tool_input={"command": command})
    assert checkpoint_holds(repo, "precious")


def test_worktrees_that_a_command_does_not_name_get_none(repo: Workspace) -> None:
    for name in ("one", "two"):
        repo.git("worktree", "add", "-q", str(repo.outside / name))
        (repo.outside / name / "new.txt").write_text(f"precious {name}")
    (repo.outside / "link").symlink_to(repo.outside / "two")
    told = {"command": f"rm a.txt \0 \ud800; cd {repo.outside}/link; rm b"}
    event(repo, "PreToolUse", tool_name="Bash", tool_input=told)
    assert not checkpoint_holds(repo, "precious one")
    assert checkpoint_holds(repo, "precious two")


def test_main_worktree_gets_a_checkpoint_before_a_command_in_a_linked_one(repo: Workspace) -> None:
    there = repo.path / "linked"
    repo.git("worktree", "add", "-q", str(there))
    repo.write("new.txt", "precious")
    event(repo, "PreToolUse", cwd=str(there), tool_name="Bash", tool_input={"command": "rm x"})
    assert not checkpoint_holds(repo, "precious")
    event(repo, "PreToolUse", cwd=str(there), tool_name="Bash", tool_input={"command": "cd .. && git clean -fd"})
    assert checkpoint_holds(repo, "precious")


def test_worktree_that_is_about_to_go_gets_a_checkpoint(repo: Workspace) -> None:
    repo.git("worktree", "add", "-q", str(repo.outside / "wt"))
    (repo.outside / "wt" / "new.txt").write_text("precious")
    event(repo, "WorktreeRemove", worktree_path=str(repo.outside / "wt"))
    assert checkpoint_holds(repo, "precious")


@pytest.mark.parametrize(
    "command",
    [
        "# don't keep it\nrm -rf src",
        "cat > n.md <<'EOF'\nit's here\nEOF\nrm -rf src",
        "echo a # it's\nrm -rf src",
        "x=$(cat <<'EOF'\nit's\nEOF\n); rm x",
        "case $x in a) rm -rf src;; esac",
        "clean() { rm -rf src; }; clean",
        "function f { rm x; }; f",
        "2>/dev/null rm -rf src",
        "> log rm x",
        "</dev/null rm x",
        "git checkout -fq main",
        "bash -c -e 'rm x'",
        "A+=1 rm x",
        "trap 'rm x' EXIT",
        "$'rm' x",
        "flock lock rm x",
        "su -c 'rm x'",
        "uv run rm x",
        "rsync -a --del a b",
    ],
)
def test_what_no_simple_reading_finds_counts_as_destroying(command: str) -> None:
    assert destroys(command)


@pytest.mark.parametrize(
    "command", ["# list them\nls -l", "cat <<EOF\nharmless\nEOF", "git log # the newest", ">log ls"]
)
def test_what_is_not_read_is_harmless_without_such_a_word(command: str) -> None:
    assert not destroys(command)
