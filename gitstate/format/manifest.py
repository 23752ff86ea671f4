"""Manifest and save: frozen data, and their JSON. This docstring specifies what a save writes.

**Format 1.** A save is an *archive commit*. Its first parent is the WIP commit; further parents are the archive of the
save below it in a stack, and whatever commits an unfinished operation needs. Its tree:

    context.json        the context (`Context`), UTF-8
    manifest.json       the manifest (`Manifest`), UTF-8
    index               the index file as it was, byte for byte; not a large one that the trees can rebuild
    staged              the tree of the index
    sharedindex         the shared index file that a split index leans on
    sparse-checkout     the sparse-checkout patterns
    stages/1 … 3        trees that mirror the unmerged stages, so that gc leaves their blobs alone
    operation/…         files of an unfinished merge, rebase, cherry-pick, revert, am or bisect, below the git dir
    keep/N              trees and blobs that those files name
    raw/…               bytes of worktree files that the WIP commit can't give back: filtered, hidden, ignored but kept

A path in JSON is an object `{"path": text}`, with `"path_base64"` beside it where the bytes are not UTF-8 (then `path`
is for people). What is unknown is `null`. Readers refuse a `format` that is newer than theirs, and ignore keys that
they do not know. All of it was written by agents, or came from another host: types, sizes and paths are checked before
use.
"""

from __future__ import annotations

import os

from ..errors import CorruptSave, UnsupportedSave
from ..git.command import Oid, is_oid
from ..objects.tree import is_safe_path
from ..system.jsonio import Items, Json, clean_text, loads, path_to_json
from ..system.stdlib import TYPE_CHECKING, Record
from .context import Context
from .names import is_save_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any, Literal

    SaveKind = Literal["save", "checkpoint", "safety"]
    RawReason = Literal["filter", "clean", "hidden", "ignored", "symlink"]

FORMAT = 1
#: No manifest of more bytes than this is read. It names each staged file, in some 150 bytes, and each one with an
#: unusual mode, but no other.
MAX_MANIFEST = 128 << 20
#: A label may have this many characters.
MAX_LABEL = 200
#: The value of a setting may have this many characters.
MAX_SETTING = 1000


class Reason(Record):
    """Why a save was made. All fields are None where the caller gave no reason."""

    signal: str | None = None
    """The name of the signal that ended the run, without `SIG`; None where none did."""
    exit_code: int | None = None
    """The exit status of the run; None where a signal ended it, or it goes on."""
    detail: str | None = None
    """What the caller says about it, such as an exception's message."""

    def to_json(self) -> dict[str, Json]:
        return {"signal": self.signal, "exit_code": self.exit_code, "detail": self.detail}


class LeftOut(Record):
    """A path that a save does not hold, or not in full."""

    path: bytes
    """Relative to the top; empty where something else than a file is missing."""
    reason: str
    """For people."""
    lost: bool
    """Whether bytes are missing that a save should hold."""

    def to_json(self) -> dict[str, Json]:
        return {**path_to_json(self.path), "reason": self.reason, "lost": self.lost}


class Nested(Record):
    """A repository inside the workspace: a workspace of its own, and saved as such."""

    path: bytes
    """Relative to the top of the outer worktree."""
    save_id: str | None
    """Its own save; None where it could not be saved, or had nothing to save."""
    archive: Oid | None
    """The archive of that save, in the nested repository; None as `save_id`."""

    def to_json(self) -> dict[str, Json]:
        return {**path_to_json(self.path), "save_id": self.save_id, "archive": self.archive}


#: The reason in the list of what was skipped for a name that git refuses on one file system or another.
REFUSED_NAME = "git refuses this file name"
#: How the reason begins for a nested repository whose save is in itself alone.
SAVED_INSIDE = "it is a repository of its own: its save is inside it, and goes where the repository goes"


def is_incomplete(left_out: Iterable[LeftOut]) -> bool:
    """Whether something was skipped; a nested repository that was saved whole may be listed, and was not."""
    return any(item.lost or not item.reason.startswith(SAVED_INSIDE) for item in left_out)


class Manifest(Record):
    """Everything about a save but the content of files. In JSON modes are octal texts, times nanoseconds since 1970."""

    save_id: str
    """Part of the name of the save's ref, see `names.new_save_id`. Saves sort by `names.age_key`."""
    kind: SaveKind
    """`save`, `checkpoint`, or `safety` (taken by recover before it writes)."""
    workspace_id: str
    """The workspace, as it is named in refs."""
    created: str
    """When the save was made: UTC, ISO 8601 with a trailing Z."""
    head_ref: str | None
    """The full name of the checked-out branch; None where HEAD is detached."""
    head: Oid | None
    """The commit that HEAD was on; None on an unborn branch."""
    base: Oid | None
    """Where recovery puts the branch back: `head` of the lowest save of a stack; None on an unborn branch."""
    index_commit: Oid | None
    """The commit that holds the staged tree; None where nothing is staged, or the branch is unborn."""
    moves_branch: bool
    """Whether the branch was to be moved to the WIP commit: not while HEAD is detached or an operation unfinished."""
    below: Oid | None
    """The archive of the save that this one is stacked on; None at the bottom of a stack."""
    previous: str | None
    """The pending save from which this one took the marker without standing on it; None where there was none."""
    operation: str | None
    """The unfinished operation: `merge`, `rebase` and so on (`git.gitdir`); None where there is none."""
    operation_files: tuple[bytes, ...]
    """Its files, relative to the git directory; empty where no operation left any."""
    index_size: int | None
    """Bytes of the index file; None where there was none. With checksum and mtime it tells which file it was."""
    index_checksum: str | None
    """The last 20 bytes of the index file in hex; None as `index_size`."""
    index_mtime_ns: int | None
    """The mtime of the index file; None as `index_size`."""
    shared_index: str | None
    """The id of the shared index that a split index needs; None where the index is not split."""
    staged: Mapping[bytes, tuple[int, Oid] | None]
    """Index against HEAD: mode and oid, None for a path that is staged as deleted. Empty where nothing is staged."""
    intent_to_add: tuple[bytes, ...]
    """Paths of `git add -N`; empty where there are none."""
    modes: Mapping[bytes, int]
    """Permissions that git does not keep, by path; empty where all are 644 or 755, or there are too many files."""
    directories: Mapping[bytes, int]
    """Permissions of empty directories, and of those with unusual ones; empty where there are none."""
    raw: Mapping[bytes, RawReason]
    """Paths below raw/ and why they are there; empty where the WIP commit gives back every file.

    `filter`: changed, and a conversion may not give it back; `clean`: git sees no change, yet a checkout would write
    other bytes; `hidden`: git was told not to look; `ignored`: ignored, but asked for; `symlink`: the target of a
    symlink of a name under which git takes none into a tree (`.gitmodules`).
    """
    absent: tuple[bytes, ...]
    """Tracked paths that are hidden from git (skip-worktree, assume-unchanged) and were missing on the disk."""
    sparse: Mapping[str, str]
    """The settings of a sparse checkout, by name; empty where there is none."""
    nested: tuple[Nested, ...]
    """The repositories inside the workspace; empty where there are none."""
    left_out: tuple[LeftOut, ...]
    """What was skipped, with the reason; empty in a complete save."""
    ignored: tuple[bytes, ...]
    """Ignored paths that were not asked for, in no save; a directory means all below it."""
    reason: Reason
    """Why the save was made."""
    special: Mapping[bytes, int] = {}
    """Setuid, setgid and sticky bits (0o7000) of files and directories; empty where none has any."""
    label: str | None = None
    """How the user calls it (`--label`); None where it has no label, and in saves of version 0.1."""
    sparse_directories: tuple[bytes, ...] = ()
    """The directories of a sparse index, of which no file was on the disk; empty where the index is not sparse."""
    absent_submodules: tuple[bytes, ...] = ()
    """Submodules of the index that were not checked out; empty where all were, and in saves of version 0.1."""
    worktree_settings: Mapping[str, str | None] = {}
    """What the configuration of a linked worktree alone sets, None for what a save does not keep; else empty."""
    index_is_plain: bool = False
    """Whether the index is known to hide nothing from git (skip-worktree, assume-unchanged)."""

    @property
    def incomplete(self) -> bool:
        """Whether something was skipped; a nested repository that was saved whole was not."""
        return is_incomplete(self.left_out)

    @property
    def lost(self) -> bool:
        """Whether bytes that a save should hold are not in it."""
        return any(item.lost for item in self.left_out)

    def without_paths(self) -> Manifest:
        """The same without its long lists, but what was skipped: to be held beside those of many other saves."""
        return self._replace(staged={}, intent_to_add=(), modes={}, directories={}, raw={}, absent=(), ignored=())

    def to_json(self, listed: Callable[[Iterable[Json]], Json] = list) -> dict[str, Json]:
        """The content of manifest.json; `listed` makes its lists."""
        plain = {
            name: getattr(self, name)
            for name in (
                "save_id",
                "kind",
                "workspace_id",
                "created",
                "head",
                "base",
                "index_commit",
                "moves_branch",
                "below",
                "previous",
                "operation",
                "index_size",
                "index_checksum",
                "index_mtime_ns",
                "shared_index",
                "index_is_plain",
                "incomplete",
            )
        }
        return {
            "format": FORMAT,
            **plain,
            "head_ref": None if self.head_ref is None else path_to_json(os.fsencode(self.head_ref)),
            "operation_files": listed(path_to_json(path) for path in self.operation_files),
            "staged": listed(
                {**path_to_json(path), "mode": f"{entry[0]:o}" if entry else None, "oid": entry[1] if entry else None}
                for path, entry in self.staged.items()
            ),
            "intent_to_add": listed(path_to_json(path) for path in self.intent_to_add),
            "modes": listed({**path_to_json(path), "mode": f"{mode:o}"} for path, mode in self.modes.items()),
            "directories": listed(
                {**path_to_json(path), "mode": f"{mode:o}"} for path, mode in self.directories.items()
            ),
            "raw": listed({**path_to_json(path), "why": why} for path, why in self.raw.items()),
            "absent": listed(path_to_json(path) for path in self.absent),
            "sparse": dict(self.sparse),
            "nested": listed(item.to_json() for item in self.nested),
            "left_out": listed(item.to_json() for item in self.left_out),
            "ignored": listed(path_to_json(path) for path in self.ignored),
            "reason": self.reason.to_json(),
            "sparse_directories": listed(path_to_json(path) for path in self.sparse_directories),
            "absent_submodules": listed(path_to_json(path) for path in self.absent_submodules),
            "special": listed({**path_to_json(path), "mode": f"{bits:o}"} for path, bits in self.special.items()),
            "worktree_settings": dict(self.worktree_settings),
            "label": self.label,
        }


class Save(Record):
    """A save that was read back."""

    archive: Oid
    """The archive commit; the WIP commit itself where every ref was lost and the save is made up from its trailers."""
    wip: Oid
    """The WIP commit."""
    wip_tree: Oid
    """Its tree: the whole worktree."""
    files: Mapping[bytes, tuple[int, Oid]]
    """The top level of the archive's tree: mode and oid by name; empty where the archive was lost."""
    context: Context
    """Empty where it can't be read."""
    manifest: Manifest
    """What else the save says."""
    lacks_context: bool = False
    """The context can't be read; the note on the WIP commit holds it once more."""


def read_manifest(data: bytes | None, limit: int) -> Manifest:
    """A manifest from the bytes of manifest.json. Raises BadJson, also for more than `limit` bytes, and as below."""
    return manifest_from_json(loads(data, limit, "the manifest", _ITEMS))


def manifest_from_json(value: Mapping[str, Json]) -> Manifest:
    """A manifest from untrusted JSON that `loads` gives. Raises CorruptSave, or UnsupportedSave for a newer format."""
    written = value.get("format")
    if not isinstance(written, int) or isinstance(written, bool) or written < 1:
        raise CorruptSave("the manifest names no format")
    if written > FORMAT:
        raise UnsupportedSave(
            f"this save was written in format {written}; this gitstate reads up to {FORMAT}",
            hint="install a newer gitstate; nothing was touched",
        )
    try:
        return _manifest(value)
    except KeyError as error:
        raise CorruptSave(f"the manifest is damaged: it has no {str(error)[:80]}") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise CorruptSave(f"the manifest is damaged: {str(error)[:80]}") from None


def _manifest(value: Mapping[str, Json]) -> Manifest:
    return Manifest(
        save_id=_checked(value["save_id"], is_save_id),
        kind=_checked(value["kind"], lambda kind: kind in ("save", "checkpoint", "safety")),
        workspace_id=_checked(value["workspace_id"], is_save_id),
        created=_checked(value["created"], lambda text: isinstance(text, str) and len(text) < 64),
        head_ref=_optional(
            None if value["head_ref"] is None else os.fsdecode(path_from_json(value["head_ref"])),
            lambda ref: ref.startswith("refs/"),
        ),
        head=_optional(value["head"], is_oid),
        base=_optional(value["base"], is_oid),
        index_commit=_optional(value["index_commit"], is_oid),
        moves_branch=_checked(value["moves_branch"], lambda flag: isinstance(flag, bool)),
        below=_optional(value["below"], is_oid),
        previous=_optional(value["previous"], is_save_id),
        operation=_optional(value["operation"], lambda text: isinstance(text, str) and len(text) < 64),
        operation_files=tuple(_list(value, "operation_files")),
        index_size=_optional(value["index_size"], lambda size: isinstance(size, int) and 0 <= size < 1 << 40),
        index_checksum=_optional(value["index_checksum"], lambda text: isinstance(text, str) and len(text) == 40),
        index_mtime_ns=_optional(value["index_mtime_ns"], lambda time: isinstance(time, int) and 0 <= time < 1 << 63),
        shared_index=_optional(value["shared_index"], is_oid),
        staged=dict(_list(value, "staged")),
        intent_to_add=tuple(_list(value, "intent_to_add")),
        modes=dict(_list(value, "modes")),
        directories=dict(_list(value, "directories")),
        raw=dict(_list(value, "raw")),
        absent=tuple(_list(value, "absent")),
        sparse={
            str(name): _checked(setting, lambda text: isinstance(text, str) and len(text) < 256)
            for name, setting in _mapping(value["sparse"]).items()
        },
        nested=tuple(_list(value, "nested")),
        left_out=tuple(_list(value, "left_out")),
        ignored=tuple(_list(value, "ignored")),
        reason=_reason(_mapping(value.get("reason") or {})),
        special={path_from_json(item): _mode(item["mode"], 0o7000) & 0o7000 for item in value.get("special") or ()},
        sparse_directories=tuple(path_from_json(item) for item in value.get("sparse_directories") or ()),
        absent_submodules=tuple(path_from_json(item) for item in value.get("absent_submodules") or ()),
        worktree_settings={
            str(name): _optional(setting, lambda text: isinstance(text, str) and len(text) <= MAX_SETTING)
            for name, setting in _mapping(value.get("worktree_settings") or {}).items()
        },
        index_is_plain=value.get("index_is_plain") is True,
        label=_optional(value.get("label"), lambda text: isinstance(text, str) and len(text) <= MAX_LABEL),
    )


def _list(value: Mapping[str, Json], name: str) -> list[Json]:
    """The items of a list, converted; those of a large manifest were, while it was read."""
    found = value[name]
    if isinstance(found, Exception):
        raise found
    return found if isinstance(found, Items) else [_ITEMS[name](item) for item in found]


def _reason(value: Mapping[str, Json]) -> Reason:
    return Reason(
        signal=_optional(value.get("signal"), lambda text: isinstance(text, str)),
        exit_code=_optional(value.get("exit_code"), lambda code: isinstance(code, int)),
        detail=_optional(value.get("detail"), lambda text: isinstance(text, str)),
    )


def _checked(value: Json, good: Callable[[Any], bool]) -> Json:
    if not good(value):
        raise ValueError(f"unexpected value {str(value)[:40]!r}")
    return value


def _optional(value: Json, good: Callable[[Any], bool]) -> Json:
    return None if value is None else _checked(value, good)


def _mapping(value: Json) -> Mapping[str, Json]:
    if not isinstance(value, dict):
        raise ValueError("expected an object")
    return value


def _mode(text: Json, most: int) -> int:
    mode = int(_checked(text, lambda octal: isinstance(octal, str) and len(octal) <= 6), 8)
    if not 0 <= mode <= most:
        raise ValueError(f"mode {text}")
    return mode


def path_from_json(item: Json, *, safe: bool = True) -> bytes:
    """The path that `path_to_json` wrote. Raises ValueError, KeyError and their like, for an unsafe one too."""
    encoded = item.get("path_base64")
    if encoded is None:
        path: bytes = item["path"].encode("utf-8")
    else:
        import binascii

        path = binascii.a2b_base64(encoded, strict_mode=True)
    if safe and not is_safe_path(path):
        raise ValueError(f"unsafe path {path[:40]!r}")
    return bytes(path)


def _any_path(item: Json) -> bytes:
    return path_from_json(item, safe=False)


def _staged(item: Json) -> tuple[bytes, tuple[int, Oid] | None]:
    oid = item["oid"]
    return path_from_json(item), None if oid is None else (_mode(item["mode"], 0o177777), _checked(oid, is_oid))


def _permissions(item: Json) -> tuple[bytes, int]:
    return path_from_json(item), _mode(item["mode"], 0o777)


def _raw(item: Json) -> tuple[bytes, RawReason]:
    return path_from_json(item), _checked(
        item["why"], lambda why: why in ("filter", "hidden", "ignored", "clean", "symlink")
    )


def _nested(item: Json) -> Nested:
    return Nested(path_from_json(item), _optional(item["save_id"], is_save_id), _optional(item["archive"], is_oid))


def _left_out(item: Json) -> LeftOut:
    return LeftOut(_any_path(item), clean_text(str(item["reason"]))[:1000], bool(item["lost"]))


#: How the items of each list are read.
_ITEMS: Mapping[str, Callable[[Json], Any]] = {
    "operation_files": path_from_json,
    "staged": _staged,
    "intent_to_add": path_from_json,
    "modes": _permissions,
    "directories": _permissions,
    "raw": _raw,
    "absent": path_from_json,
    "nested": _nested,
    "left_out": _left_out,
    "ignored": _any_path,
}
