"""The commands that run without click, but for those of tasks: save, checkpoint, recover, status and hook.

Errors become lines and statuses.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import time

from ..errors import EXIT_BUG, EXIT_DONE, EXIT_FAILED, EXIT_PERSON, GitstateError, words_of
from ..format.context import SCHEMA_VERSION
from ..system.jsonio import write
from ..system.stdlib import TYPE_CHECKING, contextmanager, signal, suppress
from ..system.terminal import OutputClosed, escape, escape_lines, give_up, print_to, quoted, say
from .options import Quick, context_values

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Any

    from ..errors import ExitStatus
    from ..git.opening import Opening


#: The exit status after Ctrl-C.
EXIT_ON_INTERRUPT = 130


def emit(value: Mapping[str, Any], printing: Callable[[str], None] | None = None) -> None:
    """Print one JSON object on stdout, with its schema version; `printing` may raise where it can't."""
    write({"schema_version": SCHEMA_VERSION, **value}, printing or (lambda text: print_to(sys.stdout, text)))


def working_directory(directory: str) -> bytes:
    """What `-C` names, or the current directory, as an absolute path. Raises GitstateError."""
    try:
        return os.fsencode(os.path.abspath(directory))
    except FileNotFoundError:
        hint = "cd to a directory that exists, or: gitstate -C PATH …"
        raise GitstateError("the current directory does not exist any more; nothing was changed", hint=hint) from None


def absolute(directory: bytes, paths: Iterable[str]) -> list[bytes]:
    """Paths of the command line, seen from `directory`. Raises UsageError for an empty one.

    It is a variable that is not set: what stands here may be a workspace that was not meant.
    """
    named = list(paths)
    if "" in named:
        from ..errors import UsageError

        raise UsageError("a path is empty; nothing was changed", hint="the current directory is . (a dot)")
    return [os.path.abspath(os.path.join(directory, os.fsencode(path))) for path in named]


def guarded(
    run: Callable[[], int],
    command: str,
    as_json: bool,
    where: str = ".",
    failed: Callable[[Mapping[str, Any]], None] | None = None,
) -> int:
    """Run one command. An error becomes one line, a hint and an exit status; a traceback goes to a file.

    `where` is what `-C` names: the hint works in the current directory. `failed` gets what `as_json` would print,
    where a command goes on with the next of many workspaces.
    """
    try:
        return run()
    except GitstateError as error:
        message, hint, status = error.message, located(error.hint, where), error.exit_status
    except OutputClosed:
        # A pipe to a git that was killed is another matter.
        give_up(sys.stdout)
        return EXIT_DONE
    except OSError as error:
        message, hint, status = f"{words_of(error)}; nothing was lost", _way_out(error), EXIT_FAILED
        drop_unwritten()
    except ImportError as error:
        # No descriptor is left for it, or the disk can't be read.
        message, hint, status = f"a module could not be loaded: {error}; nothing was lost", None, EXIT_FAILED
    except RecursionError:
        message, hint, status = "the data is nested too deeply; nothing was changed", None, EXIT_FAILED
    except Exception as error:
        message, hint, status = _bug(error)
    told = {"error": escape(message), "hint": hint and escape(hint), "exit_status": status}
    if failed is not None:
        failed(told)
    elif as_json:
        emit({"command": command, **told})
    say(f"gitstate: {message}", *([f"  next: {hint}"] if hint else []))
    return status


#: A command that says so is the same everywhere.
_EVERYWHERE = ("recover --all", "status --all", "boot enable", "--global")


def located(hint: str | None, where: str) -> str | None:
    """A hint that works in the current directory; `where` is what `-C` names."""
    if hint is None or where == "." or any(words in hint for words in _EVERYWHERE):
        return hint
    from ..recover.request import locate

    return locate(hint, os.fsencode(os.path.abspath(where)))


def each_of_many(command: str, path: bytes, run: Callable[[bytes], int], rows: list[Mapping[str, Any]]) -> int:
    """Run one of many workspaces, as `guarded` does: an error becomes a row of `rows`, which are printed as JSON."""

    def failed(error: Mapping[str, Any]) -> None:
        rows.append({"workspace": escape(path), **error})

    return guarded(lambda: run(path), command, False, os.fsdecode(path), failed)


def drop_unwritten() -> None:
    """Drop what is buffered for a stdout that takes no more: on a full disk its last flush would end with 120."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        give_up(sys.stdout)


#: What the system says of a path where a file, or a directory, is another kind of thing.
_OF_ANOTHER_KIND = (errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.EEXIST, errno.ENOTEMPTY, errno.ENXIO)


def _way_out(error: OSError) -> str | None:
    """The command that helps where this user may not use a file, or something else is in the place of a directory or
    of a file of ours: a ref `refs/gitstate`, a directory `.git/gitstate/lock`.
    """
    if isinstance(error, PermissionError) and isinstance(error.filename, str | bytes):
        from ..git.damaged.files import way_to_use

        return way_to_use(os.path.abspath(os.fsencode(error.filename)))
    if error.errno not in _OF_ANOTHER_KIND:
        # What a disk refuses, or a process without a descriptor, may be the directory of the saves that wait.
        return None
    for path in (error.filename2, error.filename):
        if not isinstance(path, str | bytes) or not path:
            continue
        place = os.path.abspath(os.fsdecode(path))
        if isinstance(error, NotADirectoryError):
            place = os.path.dirname(place)
            while not os.path.lexists(place) and len(place) > 1:
                place = os.path.dirname(place)
            is_other = not os.path.isdir(place)
        else:
            is_ours = os.path.basename(os.path.dirname(place)) == "gitstate" and os.path.lexists(place)
            is_other = is_ours and (os.path.islink(place) or not os.path.isfile(place))
        if is_other:
            from ..system.stdlib import quote

            return f"{place} is in the way: mv {quote(place)} {quote(place + '.aside')}"
    return None


def _bug(error: Exception) -> tuple[str, str | None, ExitStatus]:
    details = "no log of it could be written"
    with suppress(OSError, ImportError):
        details = f"the details are in {_bug_log(error)}"
    return f"this is a bug in gitstate ({type(error).__name__}); {details}", None, EXIT_BUG


def _bug_log(error: Exception) -> str:
    """The path of the log of a bug: one, however often a loop or a hook meets it. Raises OSError, ImportError."""
    import tempfile
    import traceback

    from ..system.stdlib import digest

    calls = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    known = repr((os.geteuid(), type(error).__name__, calls)).encode("ascii", "backslashreplace")
    path = os.path.join(tempfile.gettempdir(), f"gitstate-bug-{digest('sha256', known).hexdigest()[:16]}.log")
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        info = os.lstat(path)
        if stat.S_ISREG(info.st_mode) and info.st_uid == os.geteuid() and info.st_size:
            return path
        # Of another user, who may know the name; or the disk was full.
        fd, path = tempfile.mkstemp(prefix="gitstate-bug-", suffix=".log")
    with open(fd, "w", encoding="utf-8", errors="backslashreplace") as file:
        traceback.print_exception(error, file=file)
    return path


# -- save


def run_save(quick: Quick) -> int:
    """Carry out `save` or `checkpoint`. Signals are ignored meanwhile, so that a save that began is completed."""
    as_json = bool(quick.given.get("json"))
    with _ignoring_signals((signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE)):
        return guarded(lambda: _save(quick, as_json), quick.command, as_json, quick.directory)


@contextmanager
def _ignoring_signals(signals: Iterable[int]) -> Iterator[None]:
    """Block `signals` for this process and every child that it starts; pending ones are delivered at the end.

    An ignored signal would not protect a git child, which installs handlers of its own; a blocked one does.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, list(signals))
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            # It ends who was interrupted, as SIGTERM does: all that was asked for is done, and was told.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _save(quick: Quick, as_json: bool) -> int:
    path = working_directory(quick.directory)
    real = os.path.realpath(path)
    if quick.command == "save" and "owner_pid" in quick.given:
        _refuse_beside_others(real, quick.given["owner_pid"])
    own = _with_keeper(real) if quick.command == "save" else None
    opening = None
    hurries = quick.command == "save" and "signal" in quick.given
    if own is None and not hurries and "deadline" not in quick.given:
        from ..git.opening import start_opening

        # Git opens the repository while the rest is imported: imports take a quarter of the time of a small save.
        opening = start_opening(path)
    given: Mapping[str, Any] = quick.given
    words = {
        "kind": "checkpoint" if quick.command == "checkpoint" else "save",
        "values": context_values(quick.given, os.environ),
        "reason": (given.get("signal"), given.get("exit_code"), given.get("reason")),
        "label": _checked_label(given.get("label")),
        "deadline": given.get("deadline"),
        "wait": given.get("wait", 60.0),
        "keep_ignored": given.get("include_ignored", ()),
        "owner_pid": given.get("owner_pid"),
        # A trap names the signal, or the status that ended the run: it has no second chance, so the save comes first.
        "strict": "signal" not in given and "exit_code" not in given,
    }
    if hurries:
        words["hurries"] = True
    begun = time.monotonic()
    answer = _saved(path, own, words, opening)
    if as_json:
        emit(answer["json"])
    say(*answer["lines"])
    lost = answer["lost"]
    if words["kind"] == "save" and words["owner_pid"] is not None and not words["strict"]:
        lost = _save_worktrees(path, words, begun) or lost
    return EXIT_PERSON if lost else EXIT_DONE


def _saved(path: bytes, own: bytes | None, words: dict[str, Any], opening: Opening | None) -> Mapping[str, Any]:
    """What there is to print of a save: that of the keeper which listens in `own`, or one of this process.

    `words` are what the command line says, as `SaveRequest` names it.
    """
    early, is_rest = None, False
    if own is not None:
        # As little as possible is imported before the order: the marker waits for it.
        from ..orders.client import order_save

        order = order_save(own, words)
        if order.last is not None:
            return order.last
        early = order.early
        if order.left is not None:
            # Not the whole deadline once more.
            words, is_rest = {**words, "deadline": max(_LEAST, order.left)}, True
    if words["deadline"] is not None or words.get("hurries"):
        from ..orders.late import save_in_time

        answer = save_in_time(path, words, early, is_rest=is_rest)
        if answer is not None:
            return answer
    from ..format.manifest import Reason
    from ..save.request import SaveRequest, save_answer
    from ..save.save import save

    request = SaveRequest(**{**words, "reason": Reason(*words["reason"]), "replaces": early})
    return save_answer(save(path, request, opening), request)


def _with_keeper(path: bytes) -> bytes | None:
    """gitstate's own directory of the worktree that `path` is in, where a keeper has its socket. As a rule: one look.

    Only the keeper's answer tells that it is alive.
    """
    return _own_directory(path, b"/keeper.sock")


def _own_directory(path: bytes, name: bytes = b"") -> bytes | None:
    """gitstate's own directory of the worktree that `path` is in, where it and its file `/name` exist."""
    while True:
        own = path + b"/.git/gitstate"
        try:
            os.lstat(own + name)
            return own
        except NotADirectoryError:
            with suppress(OSError), open(path + b"/.git", "rb") as file:
                link = file.read(4096)
                own = os.path.join(path, link[8:].rstrip(b"\r\n"), b"gitstate")
                if link.startswith(b"gitdir: ") and os.path.lexists(own + name):
                    return own
            return None
        except OSError:
            if len(path) < 2 or os.path.lexists(path + b"/.git"):
                return None
        path = os.path.dirname(path)


def _refuse_beside_others(path: bytes, owner_pid: object) -> None:
    """A loop of `owner_pid` ends in the worktree that `path` is in. Raises TryAgain where another run works there.

    Its save would move the branch below that one, and give its work the name of this loop's task.
    """
    from ..system.process import is_alive
    from ..workspace.lease import describe, is_visible, presence_in, way_to_end

    own = _own_directory(path)
    who = None if own is None else presence_in(os.path.dirname(own))
    if who is None or not who.live or who.ours or who.holder is None or who.holder.owner.pid == owner_pid:
        return
    if is_alive(who.holder.owner) or not is_visible(who.holder):
        from ..errors import TryAgain

        message = f"another run works in this workspace ({describe(who.holder)}), and saves it; nothing was changed"
        raise TryAgain(message, hint=way_to_end(who.holder))


#: A save that the keeper did not answer in time, and the worktrees that agents have added, have this many seconds.
_LEAST = 0.1


def _save_worktrees(path: bytes, words: Mapping[str, Any], begun: float) -> bool:
    """A loop ends: save the worktrees that its agents have added too, until the deadline of the save that `begun` then.

    Returns whether bytes of them were skipped.
    """
    from ..git.opening import open_repository

    repository = open_repository(path)
    if not os.path.isdir(os.path.join(repository.common_dir, b"worktrees")):
        return False
    from ..format.manifest import Reason
    from ..run.worktrees import save_worktrees
    from ..save.request import SaveRequest
    from ..save.save import bounded

    request = SaveRequest(deadline=words["deadline"], hurries=bool(words.get("hurries")))
    seconds = bounded(request, repository).deadline
    left = None if seconds is None else max(_LEAST, seconds - (time.monotonic() - begun))
    saved = save_worktrees(repository, Reason(*words["reason"]), left)
    say(*saved.lines)
    return saved.lost or saved.failed


def _checked_label(text: str | None) -> str | None:
    """The label of the command line; None for none. Raises UsageError for one that could not be found again."""
    if text is None:
        return None
    from ..errors import UsageError
    from ..format.find import is_reserved
    from ..format.manifest import MAX_LABEL
    from ..system.jsonio import clean_text

    label = clean_text(text).strip()
    if not label or len(label) > MAX_LABEL or is_reserved(label):
        raise UsageError(
            f"{quoted(text[:40])} can't be a label; nothing was saved", hint="gitstate save --label before-merge"
        )
    return label


# -- hooks


def run_hook(name: str, arguments: Sequence[str]) -> int:
    """Carry out `hook NAME`: `git EVENT …`, or the event of an agent on stdin. A bug here stops neither of them."""
    try:
        if name == "git":
            from ..integrations import git_hooks

            return git_hooks.run(arguments[0] if arguments else "", arguments[1:], say)
        if list(arguments) == ["background"]:
            from ..system.process import give_way

            give_way()
            # Who ends the agent, and all of its session, must not end the checkpoint.
            with suppress(OSError):
                os.setsid()
            from ..agent_hooks import hook

            hook.run_queue()
            return EXIT_DONE
        from ..agent_hooks import hook

        answer = hook.run(name, escape_lines)
        if answer:
            print_to(sys.stdout, answer)
        return EXIT_DONE
    except Exception as error:
        message = _bug(error)[0]
        if name == "git":
            # An agent would read these words as its own input.
            say(f"gitstate: {message}; git goes on")
        return EXIT_DONE
