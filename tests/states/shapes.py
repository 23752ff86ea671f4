"""Symbolic links, and files that become directories."""

from __future__ import annotations

import os

from tests.states.registry import EVERYWHERE, state
from tests.support.workspace import Workspace


@state(quick=EVERYWHERE, linked=True)
def symlinks(ws: Workspace) -> None:
    (ws.outside / "secret.txt").write_text("not ours\n")
    ws.symlink("nowhere", "dangling")
    ws.symlink("docs", "to-directory")
    ws.symlink(str(ws.outside), "to-outside")
    ws.symlink(str(ws.outside / "secret.txt"), "to-secret")
    ws.symlink("/etc/passwd", "absolute")
    ws.symlink("itself", "itself")
    ws.symlink(".git", "to-git")
    ws.symlink("..", "src/up")
    ws.symlink(b"caf\xe9\nnew line", "odd-target")
    ws.symlink("x" * 4000, "long-target")
    ws.symlink("c.txt", "link")
    ws.symlink("a.txt", "staged-link")
    ws.add("staged-link")
    ws.symlink("b.txt", "staged-link")
    ws.expect(" M link", "AM staged-link", "?? dangling", "?? to-directory", "?? to-outside", "?? to-git", "?? src/up")


SHAPES = ("file", "directory", "symlink")


def _shape(ws: Workspace, path: str, shape: str) -> None:
    if os.path.lexists(ws.at(path)):
        ws.remove(path)
    if shape == "file":
        ws.write(path, f"{path} as a file\n")
    elif shape == "symlink":
        ws.symlink("docs", path)  # the directory has a guide.md as well: whoever follows the link hits the wrong one
    else:
        ws.write(f"{path}/guide.md", f"{path} as a directory\n")
        ws.write(f"{path}/sub/x.txt")


def _swaps(ws: Workspace) -> list[tuple[str, str, str]]:
    """Commit one path for each pair of shapes, in the first of them."""
    pairs = [(f"{one}-to-{other}", one, other) for one in SHAPES for other in SHAPES if one != other]
    for path, one, _ in pairs:
        _shape(ws, path, one)
    ws.commit("shapes")
    return pairs


@state(quick=EVERYWHERE)
def swaps_unstaged(ws: Workspace) -> None:
    for path, _, other in _swaps(ws):
        _shape(ws, path, other)
    ws.expect(" D directory-to-file/guide.md", "?? directory-to-file", " T file-to-symlink", " D file-to-directory")


@state()
def swaps_staged(ws: Workspace) -> None:
    for path, _, other in _swaps(ws):
        _shape(ws, path, other)
    ws.git("add", "-A")
    ws.expect("D  directory-to-file/guide.md", "A  directory-to-file", "T  file-to-symlink", "D  file-to-directory")


@state()
def swaps_staged_then_swapped_back(ws: Workspace) -> None:
    pairs = _swaps(ws)
    for path, _, other in pairs:
        _shape(ws, path, other)
    ws.git("add", "-A")
    for path, one, _ in pairs:
        _shape(ws, path, one)
    ws.expect("AD directory-to-file", "?? directory-to-file/guide.md", "TT file-to-symlink", "?? file-to-directory")


@state()
def swaps_staged_then_into_the_third_shape(ws: Workspace) -> None:
    pairs = _swaps(ws)
    for path, _, other in pairs:
        _shape(ws, path, other)
    ws.git("add", "-A")
    for path, one, other in pairs:
        _shape(ws, path, next(shape for shape in SHAPES if shape not in (one, other)))
    ws.expect("AT directory-to-file")


@state()
def directory_to_empty_directory_and_back(ws: Workspace) -> None:
    ws.remove("src/lib")
    ws.mkdir("src/lib")
    ws.remove("a.txt")
    ws.mkdir("a.txt")
    ws.expect(" D src/lib/util.py", " D a.txt")
