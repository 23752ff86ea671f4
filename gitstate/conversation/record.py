"""What is kept of one conversation, and how it is read again.

`refs/gitstate/conversations/<workspace id>/<session id>` points to a commit. Its tree:

    conversation.json    `Kept`, UTF-8: which agent and session, where the files were, how much of each is kept
    N/PPPP/pp            piece PPPPpp of file N: bytes that follow those of the piece before it

A file that only grows adds pieces, and none is ever written again: many checkpoints of it cost its size once. Where a
file was replaced by another text its pieces begin anew, and the commit of before becomes the parent.

No save reaches it: a push sends it only where it is asked for. It may have come from another host, so it is not
trusted: sizes and names are checked before use.
"""

from __future__ import annotations

import os

from ..errors import BadJson, CorruptSave, GitError
from ..format.context import MAX_CONTEXT
from ..git.command import Oid
from ..objects.reader import ObjectReader, commit_head
from ..objects.tree import TreeReader, is_safe_path
from ..system.jsonio import Json, dumps, loads
from ..system.stdlib import TYPE_CHECKING, Record

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT = 1
RECORD = b"conversation.json"
SUBJECT = "conversation(gitstate): "
#: No more of one file is kept, or given back, in bytes.
MOST_BYTES = 256 << 20
#: No piece has more bytes.
PIECE = 1 << 20
#: So many bytes before the end of what is kept tell whether a file has only grown.
TAIL = 4096
MOST_FILES = 8
_MOST_PIECES = 1_000_000


class KeptFile(Record):
    """How much of one file is kept."""

    name: str
    """Relative to `Kept.root`."""
    size: int = 0
    """Bytes; of a file of lines all of them are whole lines."""
    pieces: int = 0
    tail: str = ""
    """The SHA-256 of the last `TAIL` bytes that are kept, in hex."""


class Kept(Record):
    """One conversation."""

    agent: str
    session_id: str
    root: str
    """The agent's own directory: absolute."""
    transcript: str
    """The transcript, or the directory of the session, relative to `root`."""
    directory: str
    """The directory that the agent worked in."""
    files: tuple[KeptFile, ...] = ()
    generation: int = 0
    """How often its text was replaced."""

    def to_bytes(self) -> bytes:
        """The content of conversation.json."""
        return dumps({"format": FORMAT, **self._asdict(), "files": [item._asdict() for item in self.files]})

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(item.size for item in self.files)


def kept_from_json(value: Mapping[str, Json]) -> Kept:
    """A record from untrusted JSON. Raises CorruptSave."""
    try:
        files = tuple(
            KeptFile(
                _relative(item["name"]),
                _number(item["size"], MOST_BYTES),
                _number(item["pieces"], _MOST_PIECES),
                _text(item["tail"]),
            )
            for item in value["files"][:MOST_FILES]
        )
        return Kept(
            _text(value["agent"]),
            _text(value["session_id"]),
            _text(value["root"]),
            _relative(value["transcript"]),
            _text(value["directory"]),
            files,
            _number(value["generation"], 1 << 30),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptSave(f"a conversation is damaged: {str(error)[:80]}", hint="gitstate log") from None


def _text(value: Json) -> str:
    if not isinstance(value, str) or len(value) > 4096 or "\0" in value:
        raise ValueError("unexpected text")
    return value


def _relative(value: Json) -> str:
    text = _text(value)
    if not is_safe_path(os.fsencode(text)):
        raise ValueError(f"unsafe path {text[:40]!r}")
    return text


def _number(value: Json, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise ValueError("unexpected number")
    return value


def piece_path(file: int, piece: int) -> bytes:
    """Where a piece stands in the tree."""
    return b"%d/%04d/%02d" % (file, piece // 100, piece % 100)


def read_kept(reader: ObjectReader, commit: Oid) -> tuple[Kept, Oid]:
    """The record and the tree of a conversation. Raises CorruptSave."""
    try:
        data = reader.commit(commit, MAX_CONTEXT)
        tree = commit_head(data or b"").tree
        leaf = TreeReader(reader).tree(tree).get(RECORD)
        found = None if leaf is None else reader.contents([leaf.oid], MAX_CONTEXT)[0]
        return kept_from_json(loads(None if found is None else found[1], MAX_CONTEXT, "a conversation")), tree
    except (GitError, BadJson, ValueError) as error:
        raise CorruptSave(f"the conversation {commit[:12]} can't be read: {str(error)[:200]}") from None


def read_file(reader: ObjectReader, tree: Oid, kept: Kept, file: int) -> bytes:
    """What is kept of one file. Raises CorruptSave."""
    item = kept.files[file]
    paths = [piece_path(file, number) for number in range(item.pieces)]
    try:
        leaves = TreeReader(reader).lookup(tree, paths)
        oids = [leaves[path].oid for path in paths]
        infos = reader.kinds(oids)
        if sum(info[1] if info else MOST_BYTES for info in infos) != item.size:
            raise ValueError("its pieces have another size")
        data = b"".join(content[1] for content in reader.contents(oids) if content is not None)
    except (GitError, KeyError, ValueError) as error:
        raise CorruptSave(f"a conversation is damaged: {str(error)[:200]}") from None
    return data


def is_of_lines(name: str) -> bool:
    """Whether a file holds one JSON object on each line, and only grows."""
    return name.endswith(".jsonl")


def whole_lines(data: bytes) -> bytes:
    """The lines at the beginning that are whole: ended, and without the zeros that a power cut leaves."""
    zero = data.find(b"\0")
    return data[: data.rfind(b"\n", 0, len(data) if zero < 0 else zero) + 1]


def is_torn_copy(data: bytes, kept: bytes) -> bool:
    """Whether `data` is `kept` cut short, or with zeros in it, or with more behind it: nothing else differs."""
    size = min(len(data), len(kept))
    if data[:size] == kept[:size]:
        return True
    masked = bytearray(kept[:size])
    start = data.find(b"\0", 0, size)
    while start >= 0:
        end = start + 1
        while end < size and data[end] == 0:
            end += 1
        masked[start:end] = bytes(end - start)
        start = data.find(b"\0", end, size)
    return data[:size] == masked
