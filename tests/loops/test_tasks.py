"""What a line means, and who may take it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gitstate.loops.tasks import FileTasks, parse_task


def never() -> bool:
    return False


@pytest.mark.parametrize(
    ("line", "text", "values"),
    [
        ("Fix the rounding", "Fix the rounding", {"task_id": "Fix the rounding"}),
        ("  two blanks before", "  two blanks before", {"task_id": "  two blanks before"}),
        ("task_id=T-1 issue_number=7 Fix it\r", "Fix it", {"task_id": "T-1", "issue_number": "7"}),
        ("task_id='T 1' memory_refs=a,b", "T 1", {"task_id": "T 1", "memory_refs": "a,b"}),
        ("issue_number=7 Fix it", "Fix it", {"task_id": "Fix it", "issue_number": "7"}),
        ("issue_number=7", "issue_number=7", {"task_id": "issue_number=7", "issue_number": "7"}),
        ("other=7 is no value", "other=7 is no value", {"task_id": "other=7 is no value"}),
        ('{"prompt": "Do", "issue_number": 3}', "Do", {"task_id": "Do", "issue_number": "3"}),
        ("{not json}", "{not json}", {"task_id": "{not json}"}),
    ],
)
def test_line(line: str, text: str, values: dict[str, str]) -> None:
    task = parse_task(line)
    assert task is not None and (task.text, task.values) == (text, values)


def test_equal_lines_are_taken_as_often_as_they_stand_there(tmp_path: Path) -> None:
    path = tmp_path / "tasks"
    path.write_text("# none\nsame\nsame\nother\n")
    sources = [FileTasks(bytes(path), bytes(tmp_path / f"w{number}")) for number in range(4)]
    taken = [source.take(never) for source in sources]
    assert [task.task_id if task else None for task in taken] == ["same", "same", "other", None]
    first = taken[0]
    assert first is not None and sources[0].take(never) == first, "a loop that starts again has its own task"
    sources[0].done(first)
    assert path.read_text() == "# none\nsame\nother\n"
    assert sources[3].take(never) is None


TAKER = """\
import os, sys, time
from gitstate.loops.tasks import FileTasks
read = FileTasks._read_claims
def slowly(self):
    claims = read(self)
    time.sleep(0.002)
    return claims
FileTasks._read_claims = slowly
path, workspace, taken = map(os.fsencode, sys.argv[1:])
os.makedirs(workspace)
source = FileTasks(path, workspace)
while task := source.take(lambda: False):
    with open(taken, "a") as file:
        file.write(task.task_id + "\\n")
    time.sleep(0.01)
    source.done(task)
"""


def test_each_line_is_taken_once_by_many_at_once(tmp_path: Path) -> None:
    """On a disk that is a little slow, between the reading of the claims and the writing."""
    tasks, taken = tmp_path / "tasks", tmp_path / "taken"
    names = [f"T-{number}" for number in range(60)]
    tasks.write_text("".join(f"{name}\n" for name in names))
    places = [tmp_path / f"w{number}" for number in range(6)]
    takers = [subprocess.Popen([sys.executable, "-c", TAKER, tasks, place, taken]) for place in places]
    assert [taker.wait() for taker in takers] == [0] * 6
    assert sorted(taken.read_text().split()) == sorted(names)
    assert tasks.read_text() == ""
