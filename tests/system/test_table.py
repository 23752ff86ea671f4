"""Tables are aligned and fit the terminal, for characters of any width."""

from __future__ import annotations

from gitstate.system.terminal import table
from tests.support.terminal import columns

ROWS = [["waiting", "/a/very/long/path/to/some/workspace", "main", "T-1"], ["idle", "/b", "日本語", "T-2"]]

HEADER = ("STATUS", "WORKSPACE", "BRANCH", "TASK")


def test_columns_are_aligned() -> None:
    lines = table(HEADER, ROWS, None)
    assert [line.split()[0] for line in lines] == ["STATUS", "waiting", "idle"]
    last = zip(lines, ("TASK", "T-1", "T-2"), strict=True)
    assert len({columns(line[: line.rindex(word)]) for line, word in last}) == 1


def test_wide_cell_is_shortened_in_the_middle() -> None:
    lines = table(HEADER, ROWS, 40)
    assert max(map(columns, lines)) <= 40
    assert "…" in lines[1] and lines[1].startswith("waiting  /") and "space  main" in lines[1]
