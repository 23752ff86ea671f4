"""Give a transcript back where it is missing, or where a power cut left it torn or zeroed; never over a longer one.

What stood there before is kept in gitstate's own directory, for its owner alone.
"""

from __future__ import annotations

import errno
import os

from ..agents.registry import agent_named
from ..agents.sessions import Place, is_session_id, is_transcript, place_for
from ..errors import BadJson, CorruptSave, GitstateError, words_of
from ..format.context import Context
from ..format.names import FETCHED, OWN, conversation_ref
from ..git import refs
from ..git.command import Oid, object_id
from ..git.repository import Repository
from ..objects.reader import ObjectReader
from ..system import files
from ..system.jsonio import read_value
from ..system.stdlib import TYPE_CHECKING, Record
from ..workspace.files import Worktree
from .record import MOST_BYTES, Kept, is_of_lines, is_torn_copy, read_file, read_kept, whole_lines

if TYPE_CHECKING:
    from collections.abc import Sequence


class GivenBack(Record):
    """What was done for one conversation."""

    context: Context
    """The context, with the place where the transcript is now."""
    message: str = ""
    """For a person; empty where nothing was written."""


def give_back(
    repository: Repository, context: Context, was: Context, workspaces: Sequence[str], remote: str | None = None
) -> GivenBack:
    """Give back the conversation of the context's session, if one is kept under one of these workspace ids.

    `was` is the context as it was saved, maybe in another directory; `remote` the one that the save was fetched from,
    as it is named in refs. Whatever fails here is said: the files are recovered all the same.
    """
    session = context.session_id
    if session is None or not is_session_id(session):
        return GivenBack(context)
    directory = _directory(repository, was, remote)
    try:
        with ObjectReader(repository.git) as reader:
            found = _longest(repository, reader, session, workspaces, remote)
            if found is None:
                return GivenBack(_elsewhere(context, was, remote, directory))
            kept, tree = found
            place = place_for(
                agent_named(kept.agent.lower()),
                kept.root,
                kept.transcript,
                kept.directory,
                directory,
                os.environ,
                fetched=remote is not None,
            )
            written = _Writer(repository, reader, kept, tree, place, directory).write()
    except (GitstateError, OSError) as error:
        why = words_of(error)
        return GivenBack(_elsewhere(context, was, remote, directory), f"its conversation was not given back: {why}")
    extra = {**context.extra, "agent_cwd": directory}
    if len(kept.files) == 1 or "transcript_path" in extra:
        extra["transcript_path"] = _transcript_path(kept, place, extra.get("transcript_path"))
    message = f"the agent's conversation was given back: {', '.join(written)}" if written else ""
    return GivenBack(context._replace(extra=extra), message)


def _directory(repository: Repository, was: Context, remote: str | None) -> str:
    """Where the agent works from now on: the directory of before, seen from the top of this worktree.

    What was fetched leads nowhere else: whoever can push has chosen it.
    """
    top = os.fsdecode(repository.toplevel)
    before = was.extra.get("agent_cwd")
    if not isinstance(before, str) or not before or not was.workspace_path:
        return top
    inside = os.path.relpath(before, was.workspace_path)
    here = before if inside.startswith("..") else os.path.normpath(os.path.join(top, inside))
    return here if os.path.isdir(here) and (remote is None or _is_within(here, top)) else top


def _is_within(path: str, directory: str) -> bool:
    """Whether `path` is `directory` or a place in it: a symlink of the worktree may lead out of that."""
    return os.path.join(os.path.realpath(path), "").startswith(os.path.join(os.path.realpath(directory), ""))


def _elsewhere(context: Context, was: Context, remote: str | None, directory: str) -> Context:
    """The context without a path of another host: nothing there is ours to read."""
    if remote is None and was.workspace_path == context.workspace_path:
        return context
    extra = {name: value for name, value in context.extra.items() if name != "transcript_path"}
    return context._replace(extra={**extra, "agent_cwd": directory} if "agent_cwd" in extra else extra)


def _transcript_path(kept: Kept, place: Place, before: object) -> str:
    """Where the transcript is now; inside of a session the same file as before."""
    old = os.path.join(kept.root, kept.transcript)
    inside = os.path.relpath(before, old) if before and isinstance(before, str) else "."
    path = os.path.join(place.root, place.transcript)
    return path if inside == "." or inside.startswith("..") else os.path.join(path, inside)


def _longest(
    repository: Repository, reader: ObjectReader, session: str, workspaces: Sequence[str], remote: str | None
) -> tuple[Kept, Oid] | None:
    """The longest of those that are kept here or came from the remote. Raises CorruptSave where none may be written."""
    own = [conversation_ref(name, session) for name in dict.fromkeys(workspaces)]
    theirs = [f"{FETCHED}{remote}/{ref.removeprefix(OWN)}" for ref in own] if remote is not None else []
    found, refused = [], ""
    for tip in refs.read_refs(repository, [*own, *theirs]).values():
        try:
            kept, tree = read_kept(reader, tip)
        except CorruptSave:
            reader.restart()
            continue
        agent, names = agent_named(kept.agent.lower()), [item.name for item in kept.files]
        if kept.session_id != session:
            continue
        if is_transcript(agent, session, kept.transcript, names, fetched=remote is not None):
            found.append((kept, tree))
        else:
            refused = ", ".join(dict.fromkeys([kept.transcript, *names]))[:200]
    if refused and not found:
        raise CorruptSave(f"it has no name of a transcript ({refused})")
    return max(found, key=lambda item: item[0].size, default=None)


class _Writer:
    """Writes the files of one conversation."""

    def __init__(
        self, repository: Repository, reader: ObjectReader, kept: Kept, tree: Oid, place: Place, directory: str
    ) -> None:
        self.repository = repository
        self.reader = reader
        self.kept = kept
        self.tree = tree
        self.place = place
        self.directory = directory

    def write(self) -> list[str]:
        """Write what is missing or damaged; returns the paths that were written."""
        written = []
        for number, item in enumerate(self.kept.files):
            data = _rewritten(read_file(self.reader, self.tree, self.kept, number), self.place)
            inside = os.path.relpath(item.name, self.kept.transcript)
            name = self.place.transcript if inside == "." else f"{self.place.transcript}/{inside}"
            if self._write(name, data):
                written.append(os.path.join(self.place.root, name))
        if written:
            for name, line in self.place.lists:
                self._list(name, line)
        return written + self._for_import()

    def _for_import(self) -> list[str]:
        """Write what the agent's own import reads, where its database lacks the session, or has it elsewhere."""
        agent = agent_named(self.kept.agent.lower())
        database = None if agent is None else agent.sessions.database
        if database is None or database.holds(self.place.root, self.kept.session_id, self.directory):
            return []
        path = os.path.join(self.place.root, self.place.transcript)
        text = database.pack(files.read_limited(os.fsencode(path), MOST_BYTES) or b"")
        name = database.import_file.format(id=self.kept.session_id)
        if text is None or os.path.islink(os.path.join(self.place.root, name)):
            return []
        there = files.read_limited(os.fsencode(os.path.join(self.place.root, name)), MOST_BYTES)
        self._replace(name, there, text)
        return [os.path.join(self.place.root, name)]

    def _write(self, name: str, data: bytes) -> bool:
        full = os.fsencode(os.path.join(self.place.root, name))
        if os.path.islink(full):
            raise GitstateError(f"{os.fsdecode(full)} is a symlink")
        there = files.read_limited(full, MOST_BYTES)
        if there is None and os.path.lexists(full):
            # Larger than anything that is kept, or no file.
            return False
        wanted = mended(name, there, data)
        if wanted is None:
            return False
        if there is not None:
            self._set_aside(name, there)
        self._replace(name, there, wanted)
        return True

    def _replace(self, name: str, there: bytes | None, data: bytes) -> None:
        """Write a file below the agent's own directory, durably, for its owner alone.

        Raises FileExistsError where it does not hold `there` any more (None: it was missing): an agent has written it.
        """
        root = os.fsencode(self.place.root)
        os.makedirs(root, 0o700, exist_ok=True)
        disk = Worktree(root, self.repository.own, self.repository.object_format)
        path = os.fsencode(name)
        seen = disk.look(path)
        if seen.oid != (None if there is None else object_id(self.repository.object_format, "blob", there)):
            raise FileExistsError(errno.EEXIST, "it changed in the meantime", os.path.join(root, path))
        disk.write_file(path, (data,), 0o600, seen)
        disk.sync()

    def _set_aside(self, name: str, data: bytes) -> None:
        """Keep what is about to be replaced, beside what earlier recoveries have replaced."""
        base = os.fsencode(os.path.basename(name))[-100:]
        path = first = os.path.join(self.repository.own, b"conversation-before-" + base)
        number = 1
        while os.path.lexists(path):
            if files.read_limited(path, MOST_BYTES) == data:
                # A recovery that was killed has kept it.
                return
            number += 1
            path = b"%s.%d" % (first, number)
        files.write_atomic(path, data, staging=self.repository.own)

    def _list(self, name: str, line: bytes) -> None:
        """Add a line to a file that all sessions of the agent share: another one may add its own meanwhile."""
        full = os.fsencode(os.path.join(self.place.root, name))
        for attempt in range(_ATTEMPTS):
            there = files.read_limited(full, MOST_BYTES)
            if (there is None and os.path.lexists(full)) or (there is not None and line in there):
                return
            gap = b"\n" if there and not there.endswith(b"\n") else b""
            try:
                return self._replace(name, there, (there or b"") + gap + line)
            except FileExistsError:
                if attempt == _ATTEMPTS - 1:
                    raise


#: So often a line is added to a file that others keep changing.
_ATTEMPTS = 10


def mended(name: str, there: bytes | None, kept: bytes) -> bytes | None:
    """What a file should hold; None where it stays as it is. `there` is what it holds now, None where it is missing.

    Lines that came after what is kept stay, up to the first one that is torn.
    """
    if there is None:
        return kept
    if not is_of_lines(name):
        is_cut = len(there) < len(kept) and kept.startswith(there)
        return None if _is_whole(name, there) and not is_cut else kept
    if not is_torn_copy(there, kept):
        return None
    more = _good_lines(name, there[len(kept) :])
    wanted = kept + more
    return None if wanted == there else wanted


def _good_lines(name: str, data: bytes) -> bytes:
    """The lines at the beginning that are JSON objects."""
    end = 0
    for line in whole_lines(data).splitlines(True):
        try:
            if not isinstance(read_value(line, name), dict):
                break
        except BadJson:
            break
        end += len(line)
    return data[:end]


def _is_whole(name: str, data: bytes) -> bool:
    if not data or b"\0" in data:
        return False
    if not name.endswith(".json"):
        return True
    try:
        read_value(data, name)
    except BadJson:
        return False
    return True


def _rewritten(data: bytes, place: Place) -> bytes:
    """The text with the directories of here, where it named those of before."""
    for old, new in place.rewrites:
        for before, after in ((b'"', b'"'), (b'"', b"/"), (b" ", b"\n")):
            data = data.replace(before + old + after, before + new + after)
    return data
