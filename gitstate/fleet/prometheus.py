"""The state of a fleet as metrics, in the text format that the textfile collector of Prometheus' node_exporter reads.

Times are seconds since the epoch, so that a file that nobody writes any more tells nothing false: the age of a copy is
`time() - gitstate_newest_copy_timestamp_seconds`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence

from ..system import files
from ..system.stdlib import suppress
from ..system.terminal import escape
from .board import STATES, Row


def write_metrics(path: bytes, rows: Sequence[Row], now_ns: int) -> None:
    """Replace the file at `path`, which everybody may read, as a whole or not at all. Raises OSError.

    A link or special file there is neither followed nor replaced: FileExistsError.
    """
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise FileExistsError(errno.EEXIST, "it is not a regular file", path)
    data = metrics(rows, now_ns).encode("utf-8", "backslashreplace")
    files.write_and_rename(files.temporary_name(path), path, data, mode=0o644, durable=False)


def metrics(rows: Sequence[Row], now_ns: int) -> str:
    """The metrics of some workspaces, each with one row, that were looked at `now_ns` nanoseconds after the epoch."""
    return "".join(f"{line}\n" for line in _lines(rows, now_ns))


def _lines(rows: Sequence[Row], now_ns: int) -> Iterator[str]:
    yield from _head("gitstate_workspaces", "Workspaces in each state of gitstate status.")
    counts = dict.fromkeys(STATES, 0)
    for row in rows:
        counts[row.state] += 1
    for state, count in counts.items():
        yield f'gitstate_workspaces{{state="{state}"}} {count}'
    yield from _head("gitstate_pending_saves", "Workspaces with a pending save.")
    yield f"gitstate_pending_saves {sum(row.is_pending for row in rows)}"
    yield from _head("gitstate_status_timestamp_seconds", "When the workspaces were looked at, since the epoch.")
    yield f"gitstate_status_timestamp_seconds {now_ns / 1e9:.3f}"
    yield from _head("gitstate_workspace_info", "What each workspace is doing: always 1.")
    for row in rows:
        info = {"state": row.state, "agent": row.agent, "task": row.task, "stage": row.stage}
        yield f"gitstate_workspace_info{_labels(row, info)} 1"
    name = "gitstate_newest_copy_timestamp_seconds"
    yield from _head(name, "When the newest save or checkpoint was made, since the epoch.")
    for row in rows:
        if row.copied_ns is not None:
            yield f"{name}{_labels(row, {})} {row.copied_ns / 1e9:.3f}"


def _head(name: str, meaning: str) -> Iterator[str]:
    yield f"# HELP {name} {meaning}"
    yield f"# TYPE {name} gauge"


def _labels(row: Row, more: dict[str, str | None]) -> str:
    # Two workspaces never get one name: the collector would refuse the whole file.
    named = {"workspace": escape(row.workspace.replace(b"\\", b"\\\\"))}
    named |= {name: escape(value or "") for name, value in more.items()}
    return "{" + ",".join(f'{name}="{_label_value(value)}"' for name, value in named.items()) + "}"


def _label_value(text: str) -> str:
    """A value as it stands between double quotes."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
