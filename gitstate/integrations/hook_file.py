"""The content of a hook file: the block of lines that call gitstate, and the shim that the block calls."""

from __future__ import annotations

import os
import re
import shlex
from typing import NamedTuple

from ..system import child, files
from .git_hooks import READ_STDIN

SHIM = b"gitstate-hook"
#: The suffix of a hook of another program, which ours runs.
ORIGINAL = b".gitstate-original"
#: A larger hook file is run beside ours, never edited.
MAX_HOOK = 1 << 20
FIRST_LINE = b"#!/bin/sh\n"

_BEGIN = b"# >>> gitstate >>> "
_END = b"# <<< gitstate <<<\n"
_SHELL = re.compile(rb"#![ \t]*(?:/\S*/env[ \t]+(?:-S[ \t]+)?)?(?:\S*/)?(?:ba|da|a|k|mk|z)?sh(?:[ \t]+[!-~]+)*[ \t]*\n")
BLOCK = re.compile(re.escape(_BEGIN) + rb"(file|part|chain)\b.*?" + re.escape(_END), re.DOTALL)


class Step(NamedTuple):
    """What was done for one event. `outcome` is `installed`, `already`, `planned`, `by hand`, `removed` or `absent`.

    If it is `by hand`, a person has to add `lines` to the file `path`.
    """

    event: str
    outcome: str
    path: bytes | None
    lines: tuple[str, ...] = ()


def block(event: str, kind: str, original: bytes = b"") -> bytes:
    """The lines that call the shim. They print nothing, and leave stdin to the rest of the hook.

    `kind` says what else is in the file: nothing (`file`), a script (`part`), or a call of `original` (`chain`).
    """
    name = event.encode("ascii")
    call = b'"$gitstate_hook" %s "$@"' % name
    if event in READ_STDIN:
        call = (
            b"  gitstate_stdin=$(cat)\n"
            b"  %s <<GITSTATE || exit\n$gitstate_stdin\nGITSTATE\n"
            b'  if [ -n "$gitstate_stdin" ]; then\n'
            b"    exec <<GITSTATE\n$gitstate_stdin\nGITSTATE\n"
            b"  else\n    exec </dev/null\n  fi\n" % call
        )
    else:
        call = b"  %s </dev/null || exit\n" % call
    chained = b""
    if kind == "chain":
        place = b'"${0%%/*}/%s"' % original
        chained = b'if [ -x %s ]; then exec %s "$@"; fi\n' % (place, place)
    return (
        _BEGIN + kind.encode("ascii") + b": `gitstate uninstall` takes these lines out\n"
        b"gitstate_hook=${0%%/*}/%s\n"
        b'if [ -x "$gitstate_hook" ]; then\n%sfi\n%s' % (SHIM, call, chained)
    ) + _END


def with_block(content: bytes, event: str) -> bytes | None:
    """A shell script with the block of `event` after its first line; None if it is not a shell script."""
    first = _SHELL.match(content)
    return None if first is None else content[: first.end()] + block(event, "part") + content[first.end() :]


def without_block(content: bytes) -> tuple[str, bytes] | None:
    """The kind of the block in a hook file, and the file without it; None if there is no block."""
    found = BLOCK.search(content)
    if found is None:
        return None
    return found[1].decode("ascii"), content[: found.start()] + content[found.end() :]


def original_name(content: bytes) -> bytes | None:
    """The name of the file that a block of kind `chain` runs. It stays the same if another program moves the hook."""
    found = re.search(rb'if \[ -x "\$\{0%/\*\}/([^"/]+)" \]; then exec', content)
    return found[1] if found else None


def shim(*, made: bool) -> bytes:
    """The content of the shim. `made`: the directory of hooks was made for it."""
    values = {
        b"@PYTHON@": os.fsencode(shlex.quote(child.interpreter())),
        b"@PACKAGES@": os.fsencode(shlex.quote(child.packages())),
        b"@MADE_DIRECTORY@": b"yes" if made else b"no",
    }
    content = child.shipped("git/gitstate-hook")
    for name, value in values.items():
        content = content.replace(name, value)
    return content


def made_directory(content: bytes) -> bool:
    """Whether a shim says that the directory of hooks was made for it."""
    return b"\n# gitstate: made-directory=yes\n" in content


def read_hook(path: bytes) -> bytes | None:
    """The content of a hook that may be edited: a regular file that is not too large. None for any other."""
    return files.read_limited(path, MAX_HOOK)


def path_text(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")
