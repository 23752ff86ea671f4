"""Repositories inside a workspace: each is saved as a workspace of its own, in itself."""

from __future__ import annotations

import os

from ..errors import GitstateError
from ..format.manifest import LeftOut, Nested
from ..git.repository import open_repository
from ..system.stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..git.repository import Repository
    from .request import SaveRequest, SaveResult

#: Repositories nested more deeply than this are listed, not saved.
_DEEPEST = 8


def save_nested(
    repository: Repository,
    request: SaveRequest,
    paths: Sequence[bytes],
    save: Callable[[bytes, SaveRequest], SaveResult],
) -> tuple[tuple[Nested, ...], list[LeftOut]]:
    """Save the repository in each of `paths` with `save`; what to record of each, and what was skipped."""
    nested = []
    skipped = []
    inner = request._replace(depth=request.depth + 1, strict=False, problems=())
    for path in paths:
        full = os.path.join(repository.toplevel, path)
        try:
            if request.depth >= _DEEPEST:
                raise GitstateError("it is nested too deeply")
            inside = open_repository(full)
            if inside.toplevel != os.path.realpath(full):
                raise GitstateError("its .git file points outside the directory")
            result = save(full, inner)
            nested.append(Nested(path, result.save_id, result.archive))
            if inside.common_dir.startswith(os.path.realpath(full) + b"/"):
                why = "it is a repository of its own: its save is inside it, and goes where the repository goes"
                skipped.append(LeftOut(path, why, False))
            if result.lost:
                skipped.append(LeftOut(path, "the repository in it was saved, but not all of it", True))
        except (GitstateError, OSError) as error:
            skipped.append(LeftOut(path, f"the repository in it could not be saved: {error}"[:300], True))
            nested.append(Nested(path, None, None))
    return tuple(nested), skipped
