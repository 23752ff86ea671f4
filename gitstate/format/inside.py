"""What is held of a repository inside a workspace: enough to make it again where it is destroyed with the tree.

The commit behind a ref `refs/gitstate/inside/…` has a tree with one directory for each repository: `N/repository.json`,
`N/packs/K` (packs of the repository's own objects, as blobs: nothing in them can be taken for an object of the
repository around it), and a few files of its git directory, `N/exclude`, `N/attributes` and `N/stash`. All of it was
written by who worked in that repository: types, sizes, names and paths are checked before use, and no setting that may
name a program is held.
"""

from __future__ import annotations

from ..errors import BadJson, GitError, GitstateError
from ..git import refs
from ..git.command import Oid, is_oid
from ..git.repository import Repository
from ..objects.tree import DIRECTORY, REGULAR, Leaf, Tree, TreeReader
from ..system.jsonio import Json, dumps, loads, path_to_json
from ..system.stdlib import TYPE_CHECKING, Record
from .manifest import path_from_json
from .names import inside_ref, is_save_id

if TYPE_CHECKING:
    from ..objects.reader import ObjectReader
    from .manifest import Save

FORMAT = 1
RECORD, PACKS = b"repository.json", b"packs"
#: Files of a git directory that are held too: how git treats files, and which stashes there are.
HELD_FILES = {b"exclude": b"info/exclude", b"attributes": b"info/attributes", b"stash": b"logs/refs/stash"}
#: One of them that has more bytes is not.
MOST_FILE = 1 << 20
#: A record of more bytes, or names, is not read.
MOST_RECORD, MOST_REFS, MOST_SETTINGS = 4 << 20, 20_000, 200
#: So many repositories are held of one workspace.
MOST_HELD = 100
#: A repository is held in so many packs at most: then all of it is packed anew.
MOST_PACKS = 12
#: The fields of a record that are JSON as they are.
_PLAIN = ("workspace_id", "object_format", "is_submodule", "is_cut", "head", "elsewhere")


class HeldRepository(Record):
    """A repository inside a workspace, as it was at a save."""

    path: bytes
    """Relative to the top of the workspace."""
    workspace_id: str
    """The id by which its own saves are named."""
    object_format: str
    """`sha1` or `sha256`."""
    is_submodule: bool
    """Whether its git directory stood in that of the repository around it."""
    head: str
    """The full name of its branch, or the commit on which HEAD was detached."""
    refs: tuple[tuple[str, Oid], ...]
    """Its refs; what a remote holds of a large repository is not among them."""
    shallow: tuple[Oid, ...]
    """Commits whose parents are not held: a remote has them; empty where all of it is held."""
    settings: tuple[tuple[str, str], ...]
    """Settings that name no program and hold no secret; the URLs of remotes without a password."""
    is_cut: bool
    """Whether what its remotes have of the history is not held."""
    needs: tuple[Oid, ...]
    """Commits on which the rest stands and whose files are too large to be held: a remote has them; empty as a rule."""
    elsewhere: str | None
    """Where the repository is whose worktree it is, and which has its saves: then no object is held; else None."""
    sizes: tuple[int, ...]
    """Bytes of each pack, in the order in which they are numbered."""

    def to_bytes(self) -> bytes:
        """The content of repository.json."""
        value = {name: getattr(self, name) for name in _PLAIN}
        pairs = {name: [list(pair) for pair in getattr(self, name)] for name in ("refs", "settings")}
        lists = {name: list(getattr(self, name)) for name in ("shallow", "needs", "sizes")}
        return dumps({"format": FORMAT, **path_to_json(self.path), **value, **pairs, **lists})


class Held(Record):
    """A held repository, and where its packs are."""

    record: HeldRepository
    tree: Oid
    """The directory of it in the tree of the commit that holds it."""
    files: dict[bytes, Leaf]
    """What stands in that directory."""


def read_inside(repository: Repository, reader: ObjectReader, ref: str) -> dict[bytes, Held]:
    """The repositories that a ref holds, by their paths; none where there is no such ref. Raises GitError, OSError."""
    tip = refs.read_refs(repository, [ref]).get(ref)
    return {} if tip is None else read_held(reader, tip)


def read_held(reader: ObjectReader, tip: Oid) -> dict[bytes, Held]:
    """The repositories that a commit holds, by their paths; one that can't be read is missing. Raises GitError."""
    trees = TreeReader(reader)
    found: dict[bytes, Held] = {}
    for leaf in list(trees.tree(reader.tree_of(tip)).leaves().values())[:MOST_HELD]:
        if leaf.mode != DIRECTORY:
            continue
        try:
            held = _read_one(reader, trees.tree(leaf.oid), leaf.oid)
        except (GitError, ValueError, KeyError, TypeError, AttributeError):
            reader.restart()
            continue
        found[held.record.path] = held
    return found


def held_for(repository: Repository, reader: ObjectReader, save: Save) -> dict[bytes, Held]:
    """What is held of the repositories inside the workspace of a save: beside it; or, of a checkpoint, the latest.

    Never raises: what can't be read is not held.
    """
    own, save_id = save.manifest.workspace_id, save.manifest.save_id
    found: dict[bytes, Held] = {}
    for ref in (inside_ref(own), inside_ref(own, save_id)):
        try:
            found.update(read_inside(repository, reader, ref))
        except (GitstateError, OSError, ValueError):
            reader.restart()
    return found


def _read_one(reader: ObjectReader, tree: Tree, oid: Oid) -> Held:
    """Raises GitError, or ValueError and its like for a record that nobody may use."""
    files = tree.leaves()
    content = reader.contents([files[RECORD].oid], MOST_RECORD)[0]
    value = loads(None if content is None else content[1], MOST_RECORD, "the record")
    if value["format"] != FORMAT:
        raise BadJson("the record is of another format")
    head = value["head"]
    record = HeldRepository(
        path_from_json(value),
        _checked(value["workspace_id"], is_save_id(value["workspace_id"])),
        _checked(value["object_format"], value["object_format"] in ("sha1", "sha256")),
        value["is_submodule"] is True,
        _checked(head, is_oid(head) or (isinstance(head, str) and head.startswith("refs/heads/"))),
        tuple(_pair(item) for item in _list(value["refs"], MOST_REFS)),
        tuple(_checked(item, is_oid(item)) for item in _list(value["shallow"], MOST_REFS)),
        tuple(_pair(item) for item in _list(value["settings"], MOST_SETTINGS)),
        value["is_cut"] is True,
        tuple(_checked(item, is_oid(item)) for item in _list(value["needs"], MOST_REFS)),
        _checked(value["elsewhere"], isinstance(value["elsewhere"], str | None)),
        tuple(_checked(item, isinstance(item, int) and item > 0) for item in _list(value["sizes"], MOST_PACKS)),
    )
    return Held(record, oid, {name: leaf for name, leaf in files.items() if leaf.mode in (REGULAR, DIRECTORY)})


def _checked(value: Json, is_good: bool) -> Json:
    if not is_good:
        raise BadJson(f"the record has an unexpected value: {str(value)[:40]!r}")
    return value


def _list(value: Json, most: int) -> list[Json]:
    found: list[Json] = _checked(value, isinstance(value, list) and len(value) <= most)
    return found


def _pair(value: Json) -> tuple[str, str]:
    first, second = value
    return _checked(first, isinstance(first, str)), _checked(second, isinstance(second, str))
