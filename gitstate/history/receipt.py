"""The receipt that `verify` leaves in gitstate's own directory, for `status` and `doctor`."""

from __future__ import annotations

import os

from ..errors import BadJson
from ..system import files
from ..system.jsonio import dumps, loads, text_to_json
from ..system.stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..git.repository import Repository

RECEIPT = b"verified.json"
_MOST_BYTES = 1 << 20


def read_receipt(git_dir: bytes) -> tuple[str | None, str, list[str]] | None:
    """The save of the last `verify`, when that was, and what was wrong; None where there is no receipt."""
    data = files.read_limited(os.path.join(git_dir, b"gitstate", RECEIPT), _MOST_BYTES)
    try:
        value = loads(data, _MOST_BYTES, "the receipt")
    except BadJson:
        return None
    save_id, at, problems = value.get("save_id"), value.get("at"), value.get("problems")
    if not isinstance(at, str) or not isinstance(problems, list) or not isinstance(save_id, str | None):
        return None
    return save_id, at, [str(item) for item in problems]


def keep_receipt(repository: Repository, save_id: str | None, at: str, problems: Sequence[str]) -> None:
    """Leave what a `verify` found. Raises OSError."""
    files.make_directory(repository.own, top=repository.git_dir)
    value = {"save_id": save_id, "at": at, "problems": [text_to_json(item) for item in problems]}
    files.write_atomic(os.path.join(repository.own, RECEIPT), dumps(value), staging=repository.own)
