"""A save that was ordered, in a forked child of the keeper: what is known to have changed, then all of the worktree.

The keeper watches the files, so the first save costs what its changes cost, and its marker stands after some
milliseconds at any size of the tree. Events of files can be lost, so that a second save looks at everything before
anybody is told that all is saved. It takes the place of the first, as at the end of a run.
"""

from __future__ import annotations

import gc
import os

from ..errors import GitstateError
from ..format.manifest import Reason
from ..git.opening import Opening
from ..git.repository import Repository
from ..save.request import SaveRequest, SaveResult, save_answer
from ..save.save import bounded, save
from ..snapshot.incremental import Baseline, allows
from ..system.clock import Deadline
from ..system.stdlib import TYPE_CHECKING, Record, suppress
from .client import send

if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable, Mapping
    from typing import Any

#: Files of more bytes than this wait for the second save.
_SMALL = 4 << 20
#: The second save has this many seconds in any case.
_LEAST = 0.1
#: What shells and Python set for themselves between an announcement and its order.
_OF_SHELL = (b"_", b"SHLVL", b"PWD", b"OLDPWD", b"LC_CTYPE")


class Announced(Record):
    """How the child that saves what was announced meets its client."""

    wake: Callable[[], None]
    """Lets the client start its Python."""
    await_order: Callable[[], tuple[socket, Mapping[str, Any]] | None]
    """The connection and the order of the client; None where there is none."""


def carry_out(connection: socket, order: Mapping[str, Any], repository: Repository, known: Baseline | None) -> None:
    """Carry out the order of the client at the other end. Where anything fails it reads no answer, and saves itself.

    `known` is the keeper's last checkpoint, and what may have changed since.
    """
    # The child ends after this save: a search through all that the keeper knows would only take time.
    gc.disable()
    request, end = _taken_on(order, repository, connection)
    try:
        early = None if known is None else _save_known(repository, request, known)
        if early is not None:
            send(connection, early=early.save_id)
        result = _save_all(repository, request, end, early)
    except (GitstateError, OSError):
        return
    send(connection, **save_answer(result, request))


def carry_out_announced(
    client: Announced, order: Mapping[str, Any], repository: Repository, known: Baseline | None
) -> None:
    """Save for a client that has given no order yet; `order` is what it exports. Then answer the order that it gives.

    Where that save fails, or the order says something else, it is carried out as any other.
    """
    gc.disable()
    request, end = _taken_on(order, repository, None)
    early = result = None
    with suppress(GitstateError, OSError):
        early = None if known is None else _save_known(repository, request, known)
    client.wake()
    with suppress(GitstateError, OSError):
        result = _save_all(repository, request, end, early)
    given = client.await_order()
    if given is None:
        return
    connection, wanted = given
    if result is None or not says_the_same(order, wanted):
        carry_out(connection, wanted, repository, None)
        return
    if early is not None:
        send(connection, early=early.save_id)
    send(connection, **save_answer(result, request))


def _save_all(repository: Repository, request: SaveRequest, end: Deadline, early: SaveResult | None) -> SaveResult:
    """Look at everything, and take the place of the early save. Raises GitstateError, OSError."""
    if early is not None:
        request = request._replace(replaces=early.save_id, expected=early.taken, older=early.taken)
    if request.deadline is not None:
        request = request._replace(deadline=max(_LEAST, end.left()))
    return save(repository.toplevel, request)


def says_the_same(announced: Mapping[str, Any], order: Mapping[str, Any]) -> bool:
    """Whether an order says what was announced, in the same environment."""
    environments = [
        {name: value for name, value in one["environ"].items() if name not in _OF_SHELL} for one in (announced, order)
    ]
    return _request(announced) == _request(order) and environments[0] == environments[1]


def _request(order: Mapping[str, Any]) -> SaveRequest:
    words = order["words"]
    return SaveRequest(**{**words, "reason": Reason(*words.get("reason", ()))})


def _taken_on(
    order: Mapping[str, Any], repository: Repository, connection: socket | None
) -> tuple[SaveRequest, Deadline]:
    """What an order asks for, and until when. This process has the client's environment from now on.

    Who is in a hurry is told until when: a disk that does not answer holds this process, and never its client.
    """
    os.environb.clear()
    os.environb.update(order["environ"])
    request = bounded(_request(order), repository)
    if request.hurries and connection is not None:
        send(connection, ends=request.deadline)
    return request, Deadline(request.deadline)


def opened_for(known: Baseline | None, repository: Repository) -> Opening | None:
    """The repository as it was opened when the run began, for a first save of what is known to have changed.

    None where everything would have to be looked at. The second save opens it anew: git's configuration may have
    changed since.
    """
    if known is None or not allows(known, repository):
        return None
    return Opening(repository.toplevel, None, None, repository)


def _save_known(repository: Repository, request: SaveRequest, known: Baseline) -> SaveResult | None:
    """Save what is known to have changed, and leave branch and index to the second save.

    None where it was not taken: everything would have to be looked at, or there is nothing new.
    """
    opened = None if request.keep_ignored else opened_for(known, repository)
    if opened is None:
        return None
    request = request._replace(known=known, largest=_SMALL, stay=True, strict=False)
    early = save(repository.toplevel, request, opened)
    return early if early.result == "saved" else None
