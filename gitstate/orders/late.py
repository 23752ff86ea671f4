"""A save with a deadline, in a child: a process that waits for a disk can't be ended, so it must not be the caller's.

The child goes on where the disk has not answered in time. Its marker stands when all of it is durable, as always.
"""

from __future__ import annotations

import os

from ..errors import GitstateError, NotAWorkspace, TryAgain
from ..format.archive import pending_save_id
from ..format.manifest import Reason
from ..git.opening import Opening, open_repository, start_opening
from ..save.request import SaveRequest, save_answer
from ..save.save import bounded, save
from ..system import forkpool
from ..system.clock import Deadline
from ..system.process import inherited_descriptors
from ..system.stdlib import TYPE_CHECKING, suppress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

#: A save is late so many seconds after its deadline: a machine under load may need some of them. At once where a disk
#: holds it.
_MARGIN = 2.0
#: The repository must have been opened after so many seconds, where its settings have the deadline.
_OPENED = 4.0
#: Which save is pending is asked for so long, in seconds: to read from a dead disk takes for ever, too.
_LOOK = 0.5


def save_in_time(
    path: bytes, words: Mapping[str, Any], early: str | None, *, is_rest: bool = False
) -> Mapping[str, Any] | None:
    """The answer to a save of the workspace that `path` is in; None where the caller has to take it by itself.

    `words` and `early` are what the command line says, and an earlier save of the same order. `is_rest`: their deadline
    is what a keeper has left of it, and no number that anybody has named. Raises TryAgain where the
    disk did not take it in time: it goes on, and the workspace is locked until it ends. Raises GitstateError, OSError
    of the save.
    """
    request = SaveRequest(**{**words, "reason": Reason(*words["reason"]), "replaces": early})
    try:
        child = forkpool.Child(lambda send: _work(path, request, send))
    except OSError:
        return None
    seconds = request.deadline or _OPENED
    end, before = Deadline(seconds), list[str | None]()
    while child.answers(end.left(), _MARGIN):
        values, more = child.receive()
        for kind, value in values:
            if kind == "begun":
                seconds, before = value[0] or seconds, [value[1]]
                end = Deadline(seconds)
                continue
            child.end(kill=False)
            if kind == "answer":
                return dict(value)
            raise _error(*value)
        if not more:
            child.end(kill=False)
            return None
    child.leave()
    raise _late(path, seconds, before, is_rest=is_rest)


def _work(path: bytes, request: SaveRequest, send: Callable[[Any], None]) -> None:
    """In the child: save, and send what comes of it."""
    _let_go()

    def tell(value: tuple[str, Any]) -> None:
        with suppress(OSError):
            # Nobody reads it where the disk was late: the save goes on all the same.
            send(value)

    try:
        opening = None
        with suppress(NotAWorkspace):
            repository = start_opening(path).finish()
            opening = Opening(repository.toplevel, None, None, repository)
            request = bounded(request, repository)
            tell(("begun", (request.deadline, pending_save_id(repository))))
        tell(("answer", save_answer(save(path, request, opening), request)))
    except GitstateError as error:
        tell(("error", (error.message, error.hint, error.exit_status)))
    except OSError as error:
        tell(("error", (error,)))


def _let_go() -> None:
    """In a child: close the caller's streams, and all that it let us inherit.

    Others read those to their end, or wait for a lock on one of them: that of a loop, which must start again.
    """
    null = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(null, stream)
    for fd in inherited_descriptors():
        with suppress(OSError):
            os.close(fd)


def _error(*told: Any) -> Any:
    """The error that the child was told of."""
    if len(told) == 1:
        return told[0]
    message, hint, status = told
    error = GitstateError(message, hint=hint)
    error.exit_status = status
    return error


def _late(path: bytes, seconds: float, before: list[str | None], *, is_rest: bool) -> TryAgain:
    """Why a save is late, and whether it stands: `before` holds the id of the pending save when it began, if it has."""
    found: list[str | None] = []

    def look(send: Callable[[Any], None]) -> None:
        _let_go()
        send((pending_save_id(open_repository(path)),))

    with suppress(OSError):
        # Of one that has not begun nothing stands, whatever is pending.
        child = forkpool.Child(look if before else lambda send: send((None,)))
        if child.answers(0.0, _LOOK):
            found = [save_id for values in child.receive()[0] for save_id in values]
            child.end(kill=True)
        else:
            child.leave()
    if not found:
        what = "cannot determine whether a save stands"
    elif found[0] in (None, *before):
        what = "nothing is saved yet"
    else:
        what = f"the save {found[0]} stands, but may not be durable yet"
    within = "the deadline" if is_rest else f"{seconds:g} seconds"
    how = f"the disk did not answer within {within}"
    return TryAgain(f"{how}: {what}; the save goes on until the disk answers", hint="gitstate status")
