"""`log` lists saves and the latest checkpoint, and `diff` prints what one of them changed."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gitstate.git.opening import open_repository
from gitstate.history import listing
from tests.support.repositories import unpack
from tests.support.workspace import Workspace, run_git, run_gitstate


def log(ws: Workspace, *args: str) -> list[dict[str, Any]]:
    run = ws.gitstate("log", "--json", *args)
    assert run.exit_status == 0, run
    listed: list[dict[str, Any]] = run.json["saves"]
    return listed


def test_log_lists_saves_newest_first_and_marks_the_pending_one(ws: Workspace) -> None:
    ws.append("a.txt")
    first = ws.save().json["save_id"]
    assert ws.recover().exit_status == 0
    second = ws.save().json["save_id"]
    assert [(item["save_id"], item["waiting"]) for item in log(ws)] == [(second, True), (first, False)]
    assert [item["save_id"] for item in log(ws, "-n", "1")] == [second]
    header, *lines = ws.gitstate("log").text.splitlines()
    assert header.split() == ["SAVE", "KIND", "AGE", "BRANCH", "TASK", "STAGE", "CHANGES", "SIZE"]
    assert lines[0].startswith(f"{second}  save  ") and lines[0].endswith("  pending")
    assert lines[1].startswith(f"{first}  save  ") and "pending" not in lines[1]


def test_log_shows_label_task_changes_and_size(ws: Workspace) -> None:
    ws.write("new.txt", b"x" * 3000)
    ws.append("a.txt")
    ws.remove("b.txt")
    assert ws.save("--label", "before merge", "--task-id", "T-7", "--progress-stage", "tests").exit_status == 0
    _, line = ws.gitstate("log").text.splitlines()
    cells = re.split(r"  +", line)
    expected = ["save", None, "before merge", "agent/work", "T-7", "tests", "+1 ~1 \N{MINUS SIGN}1", None, "pending"]
    assert [cell if want else None for cell, want in zip(cells[1:], expected, strict=True)] == expected
    assert re.fullmatch(r"\d+s", cells[2]) and re.fullmatch(r"[23]\.\d KiB", cells[8])
    (item,) = log(ws)
    assert (item["label"], item["changes"]) == ("before merge", {"added": 1, "changed": 1, "deleted": 1})
    assert item["size"] == 3000 + len(ws.read("a.txt"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [((), "this workspace has no save"), (("--all",), "this repository has no save")],
)
def test_log_of_an_empty_history_says_so(ws: Workspace, words: tuple[str, ...], expected: str) -> None:
    run = ws.gitstate("log", *words)
    assert (run.exit_status, run.stdout) == (0, b"")
    assert run.stderr.splitlines() == [expected, "  next: gitstate save"]


def test_empty_log_names_the_saves_of_others(ws: Workspace) -> None:
    ws.append("a.txt")
    ws.save()
    linked = ws.outside / "linked"
    ws.git("worktree", "add", "-q", "--detach", str(linked))
    assert run_gitstate("log", cwd=linked).stderr.splitlines()[-1] == "  next: gitstate log --all"


def test_log_tells_how_many_it_did_not_list(ws: Workspace) -> None:
    for number in range(3):
        ws.append("a.txt")
        assert ws.gitstate("checkpoint", "--label", f"n{number}").exit_status == 0
    assert ws.gitstate("log", "-n", "1").stderr == "2 older: gitstate log -n 3\n"
    assert ws.gitstate("log", "-n", "3").stderr == ""


def test_log_reads_no_save_that_it_does_not_list(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    ws.append("a.txt")
    assert ws.save().exit_status == 0
    assert ws.recover().exit_status == 0
    assert ws.save().exit_status == 0
    read, entry = [], listing._entry

    def counted(*args: Any, **named: Any) -> Any:
        read.append(args)
        return entry(*args, **named)

    monkeypatch.setattr(listing, "_entry", counted)
    newest, older = listing.newest_saves(open_repository(bytes(ws.path)), 1, everything=False)
    assert (len(newest), older, len(read)) == (1, 1, 1)


def test_log_with_patches_prints_each_save_and_its_change(ws: Workspace) -> None:
    ws.write("new.txt", "new\n")
    made = ws.save().json["save_id"]
    text = ws.gitstate("log", "-p").text
    assert text.startswith(f"{made}  save") and "+++ b/new.txt\n" in text
    (item,) = log(ws, "--patch")
    assert "+new" in item["patch"]


def test_log_escapes_what_an_agent_wrote(ws: Workspace) -> None:
    ws.append("a.txt")
    assert ws.save("--label", "a\x1b[31m", "--task-id", "T\n9").exit_status == 0
    text = ws.gitstate("log").text
    assert "\x1b" not in text and "T\\n9" in text and len(text.splitlines()) == 2


def test_log_has_colours_on_a_terminal_alone(ws: Workspace) -> None:
    ws.append("a.txt")
    ws.save()
    assert "\x1b[1mSAVE" in on_terminal(ws, "log", env={"TERM": "xterm"})
    assert "\x1b" not in on_terminal(ws, "log", env={"TERM": "xterm", "NO_COLOR": "1"})
    assert "\x1b" not in ws.gitstate("log").text


def on_terminal(ws: Workspace, *args: str, env: dict[str, str]) -> str:
    """What a command prints on a terminal."""
    ours, theirs = os.openpty()
    environment = {**os.environ, **env}
    if "NO_COLOR" not in env:
        environment.pop("NO_COLOR", None)
    try:
        with subprocess.Popen(
            [sys.executable, "-m", "gitstate", "-C", str(ws.path), *args], stdout=theirs, stderr=theirs, env=environment
        ) as process:
            os.close(theirs)
            text = b""
            with contextlib.suppress(OSError):
                while part := os.read(ours, 4096):
                    text += part
        assert process.returncode == 0, text
        return text.decode()
    finally:
        os.close(ours)


def test_log_lists_the_latest_checkpoint(ws: Workspace) -> None:
    ws.append("a.txt")
    made = ws.gitstate("checkpoint", "--json").json["save_id"]
    assert [(item["save_id"], item["manifest"]["kind"]) for item in log(ws)] == [(made, "checkpoint")]


def test_log_of_a_linked_worktree_omits_saves_of_the_others(ws: Workspace) -> None:
    ws.append("a.txt")
    made = ws.save().json["save_id"]
    linked = ws.outside / "linked"
    ws.git("worktree", "add", "-q", "--detach", str(linked))
    assert run_gitstate("log", "--json", cwd=linked).json["saves"] == []
    assert [item["save_id"] for item in run_gitstate("log", "--all", "--json", cwd=linked).json["saves"]] == [made]


def test_unreadable_save_is_listed_with_its_problem(ws: Workspace) -> None:
    ws.append("a.txt")
    made = ws.save().json
    (ref,) = ws.refs("refs/gitstate/saves/")
    ws.git("update-ref", ref, made["wip_commit"])
    (item,) = log(ws)
    assert (item["save_id"], item["manifest"]) == (made["save_id"], None)
    assert "unreadable" in item["problem"]
    assert "  unreadable: " in ws.gitstate("log").text


def test_changes_of_a_save_with_a_missing_tree_are_not_those_of_another(ws: Workspace, tmp_path: Path) -> None:
    """The commit that both saves stand on, and the other one, are whole."""
    for name in ("a.txt", "new.txt"):
        ws.write(name, f"{name}\n")
        saved = ws.save().json
        assert ws.recover().exit_status == 0
    unpack(ws, tmp_path / "packs")
    oid = ws.out("rev-parse", f"{saved['wip_commit']}^{{tree}}")
    (ws.git_dir / "objects" / oid[:2] / oid[2:]).unlink()
    newer, older = log(ws)
    assert newer["changes"] is None and older["changes"] == {"added": 0, "changed": 1, "deleted": 0}


def test_diff_prints_the_change_of_a_save(ws: Workspace) -> None:
    ws.write("new.txt", "new\n")
    made = ws.save().json["save_id"]
    patch = ws.gitstate("diff", made).text
    assert "+++ b/new.txt\n" in patch and "\n+new\n" in patch


def test_diff_of_an_unknown_save_exits_4(ws: Workspace) -> None:
    run = ws.gitstate("diff", "20260101T000000.000000Z-000000")
    assert run.exit_status == 4
    assert run.stderr.splitlines()[-1] == f"  next: gitstate -C {ws.path} log --all"


def test_diff_of_two_saves_prints_what_the_second_has_otherwise(ws: Workspace) -> None:
    ws.write("a.txt", "one\n")
    ws.gitstate("checkpoint", "--label", "first")
    ws.write("a.txt", "two\n")
    ws.gitstate("checkpoint", "--label", "second")
    patch = ws.gitstate("diff", "first", "second").text
    assert "\n-one\n+two\n" in patch
    assert ws.gitstate("diff", "first", "second", "--json").json["other"] == log(ws)[0]["save_id"]


def test_patch_runs_no_program_of_a_repository_inside(ws: Workspace, tmp_path: Path) -> None:
    """With `diff.submodule=diff` git compares in it, with its own configuration."""
    inside = ws.path / "inside"
    run_git(ws.path, "init", "-q", "inside")
    for text in ("one", "two"):
        (inside / "f").write_text(text)
        run_git(inside, "add", "f")
        run_git(inside, "commit", "-q", "-m", text)
        if text == "one":
            ws.git("add", "inside")
            ws.commit("inside")
    canary = tmp_path / "canary"
    run_git(inside, "config", "diff.external", f"touch {canary};:")
    ws.config("diff.submodule", "diff")
    ws.append("a.txt")
    save_id = ws.save().json["save_id"]
    before, after = (run_git(inside, "rev-parse", name).decode().strip() for name in ("HEAD~1", "HEAD"))
    for command in (("diff", save_id), ("log", "--patch")):
        run = ws.gitstate(*command)
        assert f"-Subproject commit {before}\n+Subproject commit {after}\n" in run.text, run
    assert not canary.exists()
    ws.git("diff", "HEAD~1", "HEAD")
    assert canary.exists(), "git runs it"
