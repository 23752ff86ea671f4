"""`log` lists saves and the latest checkpoint, and `diff` prints what one of them changed."""

from __future__ import annotations

from typing import Any

from tests.support.workspace import Workspace, run_gitstate


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
    lines = ws.gitstate("log").text.splitlines()
    assert lines[0].startswith(f"{second}  save  ") and lines[0].endswith("  pending")
    assert lines[1].startswith(f"{first}  save  ") and "pending" not in lines[1]


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


def test_diff_prints_the_change_of_a_save(ws: Workspace) -> None:
    ws.write("new.txt", "new\n")
    made = ws.save().json["save_id"]
    patch = ws.gitstate("diff", made).text
    assert "+++ b/new.txt\n" in patch and "\n+new\n" in patch


def test_diff_of_an_unknown_save_exits_4(ws: Workspace) -> None:
    run = ws.gitstate("diff", "20260101T000000.000000Z-000000")
    assert run.exit_status == 4
    assert run.stderr.splitlines()[-1] == "  next: gitstate log --all"
