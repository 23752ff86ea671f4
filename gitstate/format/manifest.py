"""Context, manifest and save: frozen data, and their JSON. This docstring is the format's specification.

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
they do not know. Everything read here was written by agents or came from another host: types, sizes and paths are
checked before use.

"""

from __future__ import annotations

import os

from ..errors import CorruptSave, UnsupportedSave
from ..git.oid import Oid, is_oid
from ..objects.tree import is_safe_path
from ..system.jsonio import Json, clean_text, path_to_json
from ..system.stdlib import TYPE_CHECKING, Record
from .context import Context
from .names import is_save_id

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

FORMAT = 1
#: A manifest names every file with an unusual mode, and all that was left out.
MAX_MANIFEST = 256 << 20


class Reason(Record):
    """Why a save was made."""

    signal: str | None = None
    exit_code: int | None = None
    detail: str | None = None

    def to_json(self) -> dict[str, Json]:
        return {"signal": self.signal, "exit_code": self.exit_code, "detail": self.detail}


class LeftOut(Record):
    """A path that a save does not hold, or not in full. `lost` says that bytes of a regular file are missing."""

    path: bytes
    reason: str
    lost: bool

    def to_json(self) -> dict[str, Json]:
        return {**path_to_json(self.path), "reason": self.reason, "lost": self.lost}


class Nested(Record):
    """A repository inside the workspace: a workspace of its own, saved as one."""

    path: bytes
    save_id: str | None
    archive: Oid | None

    def to_json(self) -> dict[str, Json]:
        return {**path_to_json(self.path), "save_id": self.save_id, "archive": self.archive}


class Manifest(Record):
    """Everything about a save that is not content. Oids are hex, times nanoseconds since the epoch, modes octal."""

    save_id: str
    kind: str
    """`save`, `checkpoint`, or `safety` (taken by recover before it writes)."""
    workspace_id: str
    created: str
    head_ref: str | None
    """The full name of the checked-out branch; None where HEAD is detached."""
    head: Oid | None
    """The commit that HEAD was on; None on an unborn branch."""
    base: Oid | None
    """The first H of a stack: where the branch goes back to."""
    index_commit: Oid | None
    moves_branch: bool
    below: Oid | None
    """The archive of the save that this one is stacked on."""
    previous: str | None
    """The unrecovered save that this one took the marker from without standing on it."""
    operation: str | None
    operation_files: tuple[bytes, ...]
    index_size: int | None
    """Bytes of the index file; None where there was none. With checksum and time stamp it tells which file it was."""
    index_checksum: str | None
    index_mtime_ns: int | None
    shared_index: str | None
    staged: Mapping[bytes, tuple[int, Oid] | None]
    """Index against HEAD: mode and oid, None for a path that is staged as deleted."""
    intent_to_add: tuple[bytes, ...]
    modes: Mapping[bytes, int]
    """Permissions that git does not keep."""
    directories: Mapping[bytes, int]
    """Empty directories, and untracked ones with unusual permissions."""
    raw: Mapping[bytes, str]
    """Paths below raw/ and why they are there.

    `filter`: changed, and a conversion may not give it back; `clean`: git sees no change, yet a checkout would write
    other bytes; `hidden`: git was told not to look; `ignored`: ignored, but asked for.
    """
    absent: tuple[bytes, ...]
    """Tracked paths that are hidden from git (skip-worktree, assume-unchanged) and were not on the disk."""
    sparse: Mapping[str, str]
    nested: tuple[Nested, ...]
    left_out: tuple[LeftOut, ...]
    ignored: tuple[bytes, ...]
    """Ignored paths that were not asked for; a directory stands for all below it."""
    reason: Reason

    @property
    def incomplete(self) -> bool:
        """Whether anything of the tree is not in the save."""
        return bool(self.left_out)

    @property
    def lost(self) -> bool:
        """Whether bytes that a save should hold are not in it."""
        return any(item.lost for item in self.left_out)

    def to_json(self) -> dict[str, Json]:
        """As it stands in manifest.json."""
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
                "incomplete",
            )
        }
        return {
            "format": FORMAT,
            **plain,
            "head_ref": None if self.head_ref is None else path_to_json(os.fsencode(self.head_ref)),
            "operation_files": [path_to_json(path) for path in self.operation_files],
            "staged": [
                {**path_to_json(path), "mode": f"{entry[0]:o}" if entry else None, "oid": entry[1] if entry else None}
                for path, entry in self.staged.items()
            ],
            "intent_to_add": [path_to_json(path) for path in self.intent_to_add],
            "modes": [{**path_to_json(path), "mode": f"{mode:o}"} for path, mode in self.modes.items()],
            "directories": [{**path_to_json(path), "mode": f"{mode:o}"} for path, mode in self.directories.items()],
            "raw": [{**path_to_json(path), "why": why} for path, why in self.raw.items()],
            "absent": [path_to_json(path) for path in self.absent],
            "sparse": dict(self.sparse),
            "nested": [item.to_json() for item in self.nested],
            "left_out": [item.to_json() for item in self.left_out],
            "ignored": [path_to_json(path) for path in self.ignored],
            "reason": self.reason.to_json(),
        }


class Save(Record):
    """A save as it was read back."""

    archive: Oid
    wip: Oid
    wip_tree: Oid
    files: Mapping[bytes, tuple[int, Oid]]
    """The top level of the archive's tree: mode and oid by name."""
    context: Context
    manifest: Manifest


def manifest_from_json(value: Mapping[str, Json]) -> Manifest:
    """A manifest from JSON that nobody vouches for. Raises CorruptSave, or UnsupportedSave for a newer format."""
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
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptSave(f"the manifest is damaged: {type(error).__name__} {str(error)[:80]}") from None


def _manifest(value: Mapping[str, Json]) -> Manifest:
    reason = _mapping(value.get("reason") or {})
    return Manifest(
        save_id=_checked(value["save_id"], is_save_id),
        kind=_checked(value["kind"], lambda kind: kind in ("save", "checkpoint", "safety")),
        workspace_id=_checked(value["workspace_id"], is_save_id),
        created=_checked(value["created"], lambda text: isinstance(text, str) and len(text) < 64),
        head_ref=_optional(
            None if value["head_ref"] is None else os.fsdecode(_path(value["head_ref"])),
            lambda ref: ref.startswith("refs/"),
        ),
        head=_optional(value["head"], is_oid),
        base=_optional(value["base"], is_oid),
        index_commit=_optional(value["index_commit"], is_oid),
        moves_branch=_checked(value["moves_branch"], lambda flag: isinstance(flag, bool)),
        below=_optional(value["below"], is_oid),
        previous=_optional(value["previous"], is_save_id),
        operation=_optional(value["operation"], lambda text: isinstance(text, str) and len(text) < 64),
        operation_files=tuple(_path(item) for item in value["operation_files"]),
        index_size=_optional(value["index_size"], lambda size: isinstance(size, int) and 0 <= size < 1 << 40),
        index_checksum=_optional(value["index_checksum"], lambda text: isinstance(text, str) and len(text) == 40),
        index_mtime_ns=_optional(value["index_mtime_ns"], lambda time: isinstance(time, int) and 0 <= time < 1 << 63),
        shared_index=_optional(value["shared_index"], is_oid),
        staged={
            _path(item): None if item["oid"] is None else (_mode(item["mode"], 0o177777), _checked(item["oid"], is_oid))
            for item in value["staged"]
        },
        intent_to_add=tuple(_path(item) for item in value["intent_to_add"]),
        modes={_path(item): _mode(item["mode"], 0o777) for item in value["modes"]},
        directories={_path(item): _mode(item["mode"], 0o777) for item in value["directories"]},
        raw={
            _path(item): _checked(item["why"], lambda why: why in ("filter", "hidden", "ignored", "clean"))
            for item in value["raw"]
        },
        absent=tuple(_path(item) for item in value["absent"]),
        sparse={
            str(name): _checked(setting, lambda text: isinstance(text, str) and len(text) < 256)
            for name, setting in _mapping(value["sparse"]).items()
        },
        nested=tuple(
            Nested(_path(item), _optional(item["save_id"], is_save_id), _optional(item["archive"], is_oid))
            for item in value["nested"]
        ),
        left_out=tuple(
            LeftOut(_path(item, safe=False), clean_text(str(item["reason"]))[:1000], bool(item["lost"]))
            for item in value["left_out"]
        ),
        ignored=tuple(_path(item, safe=False) for item in value["ignored"]),
        reason=Reason(
            signal=_optional(reason.get("signal"), lambda text: isinstance(text, str)),
            exit_code=_optional(reason.get("exit_code"), lambda code: isinstance(code, int)),
            detail=_optional(reason.get("detail"), lambda text: isinstance(text, str)),
        ),
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


def _path(item: Json, *, safe: bool = True) -> bytes:
    encoded = item.get("path_base64")
    if encoded is None:
        path: bytes = item["path"].encode("utf-8")
    else:
        import binascii

        path = binascii.a2b_base64(encoded, strict_mode=True)
    if safe and not is_safe_path(path):
        raise ValueError(f"unsafe path {path[:40]!r}")
    return bytes(path)
