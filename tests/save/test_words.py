"""What a save prints: for a person, for a program."""

from __future__ import annotations

from typing import Any

import pytest

from gitstate.format.manifest import LeftOut
from gitstate.save.request import (
    SaveResult,
    failed_look_lines,
    failed_save_lines,
    listed_lines,
    save_json,
    save_lines,
    skipped_lines,
)

WIP = "f13666a9abcadeadbeefdeadbeefdeadbeefdead"
SKIPPED = LeftOut(b"odd\x1b\xff", "it is a FIFO", False)


def result(**given: Any) -> SaveResult:
    usual = {"result": "saved", "workspace": b"/w", "branch": "main", "save_id": "ID", "wip_commit": WIP}
    return SaveResult(**{**usual, **given})


@pytest.mark.parametrize(
    ("given", "command", "line"),
    [
        ({"branch_moved": True}, "save", "saved ID (f13666a9abca on main)"),
        (
            {"why_not_moved": "a merge is in progress"},
            "save",
            "saved ID (f13666a9abca; branch not moved: a merge is in progress)",
        ),
        (
            {"branch": None, "why_not_moved": "HEAD is detached"},
            "save",
            "saved ID (f13666a9abca; branch not moved: HEAD is detached)",
        ),
        ({}, "save", "saved ID (f13666a9abca; branch not moved)"),
        ({}, "checkpoint", "saved ID (f13666a9abca as a checkpoint)"),
        (
            {"left_out": (SKIPPED,), "branch_moved": True},
            "save",
            "saved ID (f13666a9abca on main) -- incomplete: 1 skipped",
        ),
        ({"result": "nothing", "message": "nothing to save"}, "save", "nothing to save"),
        ({"result": "unchanged", "message": "nothing changed"}, "checkpoint", "nothing changed"),
    ],
)
def test_first_line_says_what_was_saved_and_where(given: dict[str, Any], command: str, line: str) -> None:
    assert save_lines(result(**given), command)[0] == line


def test_what_failed_and_what_was_skipped_follow() -> None:
    lines = save_lines(
        result(branch_moved=True, message="no note", left_out=(SKIPPED,), warnings=("bad value",)), "save"
    )
    assert lines[1] == "no note"
    assert lines[2].startswith("  skipped: ") and lines[2].endswith(": it is a FIFO") and "\x1b" not in lines[2]
    assert lines[3:] == ["  bad value"]


def test_a_message_without_a_save_is_printed_once() -> None:
    assert save_lines(result(result="nothing", message="nothing to save"), "save") == ["nothing to save"]


@pytest.mark.parametrize(("count", "shown"), [(0, 0), (1, 1), (20, 20), (21, 21), (100_000, 21)])
def test_long_lists_are_cut(count: int, shown: int) -> None:
    paths = [b"p%d" % number for number in range(count)]
    lines = listed_lines("restored:", paths)
    assert len(lines) == shown == len(skipped_lines([LeftOut(path, "why", True) for path in paths]))
    assert (lines[-1:] == [f"  restored: … and {count - 20} more"]) == (count > 20)


def test_skipped_without_a_path_is_about_the_workspace() -> None:
    assert skipped_lines([LeftOut(b"", "why", True)]) == ["  skipped: the workspace: why"]


def test_json_keeps_its_keys() -> None:
    value = save_json(result(branch_moved=True, left_out=(SKIPPED,)), "save")
    assert value["left_out"][0]["reason"] == "it is a FIFO" and value["incomplete"] is True
    assert (value["result"], value["save_id"], value["branch_moved"], value["message"]) == ("saved", "ID", True, None)
    assert "why_not_moved" not in value and "taken" not in value


def test_failed_save_names_what_holds_the_work_and_what_to_type() -> None:
    assert failed_save_lines("no space", None, None) == [
        "gitstate: not saved: no space",
        "  the files are as they are on the disk",
        "  next: gitstate save",
    ]
    assert "the latest checkpoint is C (gitstate diff C)" in failed_save_lines("no space", None, "C")[1]
    later, failed = (failed_save_lines("no space", "P", "C", whole=whole) for whole in (False, True))
    assert later[0] == "gitstate: saved P; later changes are not saved: no space"
    assert failed[0] == "gitstate: saved P; a later step failed: no space"
    assert later[1:] == failed[1:] == ["  next: gitstate recover (brings back that save)"]


def test_failed_second_save_names_what_the_early_one_skipped() -> None:
    early = result(why_not_moved="the agent is still at work", left_out=(SKIPPED,))
    lines = failed_look_lines("no space", early)
    assert lines[1] == "saved ID (f13666a9abca; branch not moved: the agent is still at work) -- incomplete: 1 skipped"
    assert lines[2].startswith("  skipped: ") and lines[-1] == "  next: gitstate recover"
