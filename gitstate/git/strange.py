"""A configuration that includes something else than a file: at a FIFO git waits for ever, and at a directory it ends.

Imported only where a configuration file includes another one, or is no regular file itself.
"""

from __future__ import annotations

import os

from ..system import files
from ..system.files import strange_kind
from ..system.stdlib import TYPE_CHECKING, quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


#: A longer file is not looked at.
_LONGEST = 16 << 20
#: Git includes no deeper.
_DEEPEST = 10


def lines_of(path: bytes) -> list[bytes]:
    """The lines of a configuration file; none where it can't be read."""
    return (files.read_limited(path, _LONGEST) or b"").split(b"\n")


def includes(lines: list[bytes], directory: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Each `include.path` and `includeIf.….path` of a configuration that is in `directory`: the number of its line, its
    value, and the path that it means.
    """
    inside = False
    for number, line in enumerate(lines):
        head, rest = split_section(line)
        if head:
            inside = head.strip().lower().startswith(b"[include")
        key, equals, value = rest.partition(b"=")
        if inside and equals and key.strip().lower() == b"path":
            name = value_of(value)
            yield number, name, os.path.join(directory, os.path.expanduser(name))


#: What a letter after a backslash stands for in a value; any other stands for itself.
_ESCAPED = {ord("n"): b"\n", ord("t"): b"\t", ord("b"): b"\b"}


def value_of(text: bytes) -> bytes:
    """The value that git reads behind the `=` of a setting: without quotes, escapes, comment, and spaces around it."""
    value, spaces = bytearray(), bytearray()
    is_quoted = is_escaped = False
    for letter in text.strip():
        if is_escaped:
            value += spaces + _ESCAPED.get(letter, bytes((letter,)))
            spaces.clear()
            is_escaped = False
        elif letter == ord("\\"):
            is_escaped = True
        elif letter == ord('"'):
            is_quoted = not is_quoted
        elif letter in b"#;" and not is_quoted:
            break
        elif letter in b" \t" and not is_quoted:
            spaces.append(letter)
        else:
            value += spaces + bytes((letter,))
            spaces.clear()
    return bytes(value)


def strange_lines(path: bytes, *, lines: list[bytes] | None = None) -> dict[int, tuple[bytes, str]]:
    """The lines of a configuration file that include something that is no regular file, themselves or deeper down.

    The number of each is mapped to what it is: path and kind. `lines` are those that are left of the file.
    """
    return _strange_lines(path, lines_of(path) if lines is None else lines, 0, {})


def _strange_lines(
    path: bytes, lines: list[bytes], depth: int, known: dict[bytes, tuple[bytes, str] | None]
) -> dict[int, tuple[bytes, str]]:
    """`known` has what was found in each file that was looked at: files may include each other many times."""
    found = {}
    for number, _, target in includes(lines, os.path.dirname(path)):
        if target not in known:
            kind = strange_kind(target)
            known[target] = (target, kind) if kind else None
            if kind is None and depth < _DEEPEST:
                deeper = _strange_lines(target, lines_of(target), depth + 1, known)
                known[target] = next(iter(deeper.values()), None)
        what = known[target]
        if what is not None:
            found[number] = what
    return found


def readable_lines(path: bytes) -> list[bytes]:
    """The lines of a configuration file without those at which git would wait, wherever it is read from."""
    lines = lines_of(path)
    for number in strange_lines(path, lines=lines):
        lines[number] = b""
    return list(with_absolute_includes(lines, os.path.dirname(path)))


#: The memory that holds what git can read of the user's configuration, and those bytes.
_held: tuple[int, bytes] | None = None


def readable_configuration(paths: Iterable[bytes]) -> dict[str, str]:
    """The variables with which git reads what it can of the user's configuration, which is at `paths`."""
    global _held
    if not hasattr(os, "memfd_create"):
        return {"GIT_CONFIG_GLOBAL": os.devnull}
    data = b"\n".join(line for path in paths if os.path.isfile(path) for line in readable_lines(path))
    if _held is None or _held[1] != data:
        fd = os.memfd_create("gitstate-config")
        files.write_all(fd, data)
        _held = fd, data
    return {"GIT_CONFIG_GLOBAL": f"/proc/{os.getpid()}/fd/{_held[0]}"}


def unused_configuration(paths: Iterable[bytes]) -> list[tuple[str, str]]:
    """What git can't read of the user's configuration at `paths`, each with the command that mends it.

    Git reads that configuration whatever it is asked, and would wait while it mends it.
    """
    found = []
    for path in paths:
        name, kind = os.fsdecode(path), strange_kind(path)
        if kind:
            found.append((f"{name} is {kind}", f"mv {quote(name)} {quote(name + '.aside')}"))
        else:
            found += [
                (
                    f"{name} includes {os.fsdecode(target)}, which is {kind}",
                    f"GIT_CONFIG_GLOBAL=/dev/null {command}",
                )
                for target, kind, command in strange_includes(path, lines_of(path))
            ]
    return found


def strange_includes(path: bytes, lines: list[bytes]) -> list[tuple[bytes, str, str]]:
    """What a configuration file includes that is no regular file, each with the command that removes the line."""
    named = {number: value for number, value, _ in includes(lines, os.path.dirname(path))}
    found = []
    for number, item in strange_lines(path, lines=lines).items():
        key = _key_of(lines, number)
        words = (os.fsdecode(word) for word in (path, key, named[number]))
        file, key_word, value = map(quote, words)
        found.append((*item, f"git -C / config --file {file} --fixed-value --unset-all {key_word} {value}"))
    return found


def _key_of(lines: list[bytes], number: int) -> bytes:
    """The full name of the setting `path` in a line: that of its section before it."""
    head = next(line for line in reversed(lines[: number + 1]) if line.lstrip().startswith(b"["))
    section, _, condition = head.strip().partition(b"]")[0][1:].partition(b" ")
    return b".".join(word for word in (section.lower(), condition.strip().strip(b'"'), b"path") if word)


def with_absolute_includes(lines: list[bytes], directory: bytes) -> Iterator[bytes]:
    """Lines of a configuration that name the same files wherever the configuration stands."""
    inside = False
    for line in lines:
        head, rest = split_section(line)
        if head:
            inside = head.strip().lower().startswith(b"[include")
        key, equals, value = rest.partition(b"=")
        name = value.strip()
        is_relative = not name.removeprefix(b'"').startswith((b"/", b"~"))
        if inside and equals and key.strip().lower() == b"path" and name and is_relative:
            quote_mark = b'"' if name.startswith(b'"') else b""
            rest = key + equals + b" " + quote_mark + directory + b"/" + name.removeprefix(quote_mark)
        yield head + rest


def split_section(line: bytes) -> tuple[bytes, bytes]:
    """What a line of the configuration has of a section's name, with its brackets, and what comes after that."""
    if not line.lstrip().startswith(b"["):
        return b"", line
    close = b'"]' if b'"' in line.partition(b"]")[0] else b"]"
    head, end, rest = line.partition(close)
    return head + end, rest
