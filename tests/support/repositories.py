"""Fresh repositories: two small ones, and templates with a history that are built once and copied."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.support.workspace import Workspace, run_git


def lines(count: int = 20, **changed: str) -> str:
    """A text of numbered lines; ``lines(l5="other")`` has another fifth line."""
    return "".join(changed.get(f"l{number}", f"line {number}") + "\n" for number in range(1, count + 1))


def initialized(tmp_path: Path) -> Workspace:
    """A repository without a commit, and a directory outside of it."""
    path, outside = tmp_path / "repo", tmp_path / "outside"
    path.mkdir()
    outside.mkdir()
    ws = Workspace(path, outside)
    ws.git("init", "-q", "-b", "main", ".")
    return ws


def three_files(tmp_path: Path) -> Workspace:
    """A repository with one commit of three small files."""
    ws = initialized(tmp_path)
    for name in ("a", "b", "d/x"):
        ws.write(name, name[-1] + "0\n")
    ws.commit("base")
    return ws


class Templates:
    """Repositories with a few commits, by kind: ``sha1``, ``sha256``, ``empty`` (no commit at all)."""

    def __init__(self, top: Path, environment: Mapping[str, str]) -> None:
        self._top = top
        self._environment = dict(environment)

    def copy(self, kind: str, to: Path) -> None:
        self.copy_built(kind, lambda path: _build_template(path, kind), to)
        run_git(to, "update-index", "-q", "--refresh")

    def copy_built(self, name: str, build: Callable[[Path], object], to: Path) -> None:
        """Copy what `build` makes in an empty directory; it is called once for each name."""
        template = self._top / name
        if not template.exists():
            template.mkdir(parents=True)
            before = dict(os.environ)
            os.environ.clear()
            os.environ.update(self._environment)
            try:
                build(template)
            finally:
                os.environ.clear()
                os.environ.update(before)
        shutil.copytree(template, to, symlinks=True, dirs_exist_ok=True)


def _commit_base(ws: Workspace) -> None:
    ws.write(".gitignore", "*.log\n/build/\n")
    for name in ("README.md", "a.txt", "b.txt", "c.txt", "d.txt", "gone.txt", "docs/guide.md"):
        ws.write(name, f"{name}\n" + lines())
    ws.write("moved.txt", "moved\n" + lines(l7="moved", l9="moved too"))
    ws.write("src/app.py", "print('hello')\n")
    ws.write("src/lib/util.py", "def util():\n    return 1\n")
    ws.write("src/lib/deep/x.txt", lines(3))
    ws.write("bin/run.sh", "#!/bin/sh\necho run\n", 0o755)
    ws.write("data.bin", bytes(range(256)) * 4)
    ws.write("empty.txt", "")
    ws.symlink("a.txt", "link")
    ws.commit("base")


def _build_template(path: Path, kind: str) -> None:
    ws = Workspace(path, path.parent)
    if kind == "empty":
        ws.git("init", "-q", "-b", "agent/work", ".")
        _forget_sample_hooks(path)
        return
    ws.git("init", "-q", f"--object-format={kind}", "-b", "base", ".")
    _forget_sample_hooks(path)
    _commit_base(ws)

    def branch(name: str, change: Callable[[], object]) -> None:
        ws.git("checkout", "-q", "-b", name, "base")
        change()
        ws.commit(name)

    branch("side-content", lambda: ws.write("a.txt", "a.txt\n" + lines(l5="theirs")))
    branch("side-deletes", lambda: ws.remove("b.txt"))
    branch("side-modifies", lambda: ws.append("gone.txt"))
    branch("side-adds", lambda: ws.write("added.txt", "their\ntext\n"))
    branch("side-binary", lambda: ws.write("data.bin", b"\0theirs" * 100))
    branch("side-directory", lambda: ws.write("thing/inner.txt"))
    branch("side-renames", lambda: ws.git("mv", "moved.txt", "theirs.txt"))
    branch("side-links", lambda: ws.symlink("c.txt", "link"))
    branch("calm", lambda: ws.write("calm.txt"))
    branch("calm2", lambda: ws.write("calm2.txt"))
    branch("seq", lambda: ws.write("seq1.txt"))
    ws.write("a.txt", "a.txt\n" + lines(l5="from the sequence"))
    ws.commit("seq 2")
    ws.write("seq3.txt")
    ws.commit("seq 3")
    ws.git("checkout", "-q", "-b", "main", "base")
    ws.append("README.md")
    ws.commit("main")
    ws.git("checkout", "-q", "-b", "agent/work", "base")
    ws.write("a.txt", "a.txt\n" + lines(l5="ours"))
    ws.symlink("b.txt", "link")
    ws.commit("work 1")
    ws.append("b.txt")
    ws.remove("gone.txt")
    ws.git("mv", "moved.txt", "ours.txt")
    ws.commit("work 2")
    ws.write("added.txt", "our\ntext\n")
    ws.write("data.bin", b"\0ours" * 100)
    ws.write("thing", "a file\n")
    ws.commit("work 3")
    ws.git("repack", "-q", "-a", "-d")


def _forget_sample_hooks(path: Path) -> None:
    for sample in (path / ".git" / "hooks").glob("*.sample"):
        sample.unlink()


def unpack(ws: Workspace, aside: Path) -> None:
    """Make each object a file; the packs go to the directory `aside`."""
    packs = ws.git_dir / "objects" / "pack"
    shutil.move(packs, aside)
    packs.mkdir()
    for pack in aside.glob("*.pack"):
        ws.git("unpack-objects", "-q", stdin=pack.read_bytes())
