"""What git converts between worktree and objects: filters, encodings, line ends, ident (`man 5 gitattributes`)."""

from __future__ import annotations

import os

from ..errors import GitError
from ..system.clock import Deadline
from ..system.stdlib import TYPE_CHECKING
from .command import try_in_halves
from .oid import Oid, object_id
from .repository import Repository

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_CONVERTING = ("filter", "text", "crlf", "eol", "ident", "working-tree-encoding")
_LISTED_AT_ONCE = 200


class Conversions:
    """Asks git about the conversions of one worktree; `extra` are variables for each git, as which index to use."""

    def __init__(self, repository: Repository, extra: Mapping[str, str]) -> None:
        self._repository = repository
        self._extra = extra

    def are_possible(self, paths: Iterable[bytes], *, attributes: bool) -> bool:
        """Whether anything could name a conversion: then git is asked. `attributes`: attributes are tracked."""
        repository = self._repository
        if attributes or repository.setting("core.attributesfile") or self._crlf():
            return True
        config_home = os.environb.get(b"XDG_CONFIG_HOME") or os.path.expanduser(b"~/.config")
        places = (
            os.path.join(repository.common_dir, b"info", b"attributes"),
            os.path.join(config_home, b"git", b"attributes"),
            b"/etc/gitattributes",
        )
        return any(os.path.exists(place) for place in places) or any(
            path.rpartition(b"/")[2] == b".gitattributes" for path in paths
        )

    def converting_attributes(self, paths: list[bytes]) -> dict[bytes, dict[bytes, bytes]]:
        """The attributes that name a conversion, by path; a path that nothing converts is missing."""
        out = self._repository.git.run(
            "check-attr", "-z", "--stdin", *_CONVERTING, input=b"".join(p + b"\0" for p in paths), env=self._extra
        )
        found: dict[bytes, dict[bytes, bytes]] = {}
        off: set[bytes] = set()
        for path, name, value in _threes(out.split(b"\0")):
            if name == b"text" and value == b"unset":
                off.add(path)
            elif value not in (b"unspecified", b"unset"):
                found.setdefault(path, {})[name] = value
        if self._crlf():
            for path in paths:
                if path not in off:
                    found.setdefault(path, {})
        return found

    def checkout_oids(self, wanted: dict[bytes, Oid]) -> dict[bytes, Oid]:
        """What git would write for each path, as the blob that it would be; paths that it can't write are missing."""
        found: dict[bytes, Oid] = {}
        mark = b"gitstate-" + os.urandom(12).hex().encode("ascii")
        paths = [path for path in wanted if b"\n" not in path]
        for start in range(0, len(paths), _LISTED_AT_ONCE):
            some = paths[start : start + _LISTED_AT_ONCE]
            given = b"".join(b"%s %s\n" % (wanted[path].encode("ascii"), path) for path in some)
            # The size that git prints is the one before the conversion, so a mark of our own parts the answers.
            out = self._repository.git.run(
                *("cat-file", "--filters", b"--batch=" + mark), input=given, ok_codes=range(256), env=self._extra
            )
            for path, content in zip(some, out.split(mark + b"\n")[1:], strict=False):
                found[path] = object_id(self._repository.object_format, "blob", content.removesuffix(b"\n"))
        return found

    def hash_files(self, paths: list[bytes], extra: Mapping[str, str], deadline: Deadline) -> dict[bytes, Oid]:
        """The oid of each file as git takes it in, whose blob it writes where `extra` says.

        A path whose conversion fails (a required filter) is missing from the answer.
        """
        command = ("-c", "core.safecrlf=false", "hash-object", "-w", "--stdin-paths")

        def hash_files(some: Sequence[bytes]) -> list[bytes] | None:
            given = b"".join(quote_c(path) + b"\n" for path in some)
            try:
                out = self._repository.git.run(*command, input=given, env=extra, timeout=min(deadline.left(), 600.0))
            except GitError:
                return None
            oids = out.split()
            return oids if len(oids) == len(some) else None

        return {
            path: oid.decode("ascii")
            for some, oids in try_in_halves(paths, hash_files)
            for path, oid in zip(some, oids or (), strict=False)
        }

    def may_change_on_checkout(self, named: dict[bytes, bytes]) -> bool:
        """Whether a checkout may write other bytes than the blob's, as `convert_to_working_tree` decides it."""
        if b"ident" in named or b"working-tree-encoding" in named:
            return True
        if b"eol" in named:
            return named[b"eol"] != b"lf"
        if named.get(b"crlf") == b"input":
            return False
        crlf = (self._repository.setting("core.autocrlf") or "false").lower()
        return crlf in ("true", "yes", "on", "1") or (self._repository.setting("core.eol") or "").lower() == "crlf"

    def _crlf(self) -> bool:
        return (self._repository.setting("core.autocrlf") or "false").lower() not in ("false", "no", "off", "0")


def _threes(words: list[bytes]) -> Iterable[tuple[bytes, bytes, bytes]]:
    return zip(words[0::3], words[1::3], words[2::3], strict=False)


def quote_c(path: bytes) -> bytes:
    """A path in git's C-style quotes."""
    return b'"' + b"".join(bytes((c,)) if 48 <= c < 123 and c != 92 else b"\\%03o" % c for c in path) + b'"'
