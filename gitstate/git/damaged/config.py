"""Settings of a repository at whose values git ends."""

from __future__ import annotations

import os

from ...system import files
from ...system.stdlib import TYPE_CHECKING
from ..command import Git

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Commands of git that need no commit and no file: each reads settings of its own.
_PROBES = (("status", "--porcelain"), ("update-ref", "-d", "refs/none"), ("read-tree", "--empty"))


def refused_settings(lines: list[bytes]) -> Iterator[tuple[bytes, str]]:
    """The settings of a configuration at whose values git ends, each with git's words, in a repository that is empty.

    Git names the setting, or its value alone: then it is the one without which git says something else.
    """
    with files.temporary_directory("gitstate-config-") as directory:
        probe = _ConfigProbe(os.fsencode(directory))
        said = probe.ask(lines)
        while said:
            listed = Git(b"/").start("config", "--no-includes", "--file", "-", "-z", "--list")
            pairs = [item.partition(b"\n") for item in listed.communicate(b"\n".join(lines))[0].split(b"\0")[:-1]]
            named = [key for key, _, _ in pairs if b"'" + key.lower() + b"'" in said.lower()]
            named += [key for key, _, value in pairs if value and value in said]
            for key in dict.fromkeys(named):
                left = [line for line in lines if not sets(line, key)]
                now = probe.ask(left)
                if now != said:
                    yield key, said.strip().splitlines()[0].decode("utf-8", "replace").partition(": ")[2]
                    lines, said = left, now
                    break
            else:
                return


class _ConfigProbe:
    """An empty repository that is given one configuration after the other."""

    def __init__(self, directory: bytes) -> None:
        self._git_dir, tree = os.path.join(directory, b"git"), os.path.join(directory, b"tree")
        for name in (tree, self._git_dir, *(os.path.join(self._git_dir, part) for part in (b"objects", b"refs"))):
            os.mkdir(name)
        files.write_new_file(
            os.path.join(self._git_dir, b"HEAD"), (b"ref: refs/heads/main\n",), mode=0o600, durable=False
        )
        self._git = Git(tree)
        self._env = {"GIT_DIR": os.fsdecode(self._git_dir), "GIT_WORK_TREE": os.fsdecode(tree)}

    def ask(self, lines: list[bytes]) -> bytes:
        """What git says as it ends at this configuration; empty where it does not."""
        config = os.path.join(self._git_dir, b"config")
        files.remove(config)
        files.write_new_file(config, (b"\n".join(lines),), mode=0o600, durable=False)
        for argv in _PROBES:
            process = self._git.start(*argv, env=self._env)
            _, said = process.communicate()
            if process.returncode:
                return said
        return b""


def sets(line: bytes, key: bytes) -> bool:
    """Whether a line of the configuration sets a key, by the last part of its name: sections are not looked at."""
    return line.partition(b"=")[0].strip().lower() == key.rpartition(b".")[2].lower()
