"""Ignored files."""

from __future__ import annotations

from tests.states.ordinary import DIRTY, dirty
from tests.states.registry import EVERYWHERE, LOCAL, state
from tests.support.workspace import Workspace


@state()
def tracked_but_ignored(ws: Workspace) -> None:
    ws.write("tracked.log")
    ws.write("build/tracked.txt")
    ws.add("tracked.log", "build/tracked.txt")
    ws.commit("ignored but tracked")
    ws.append("tracked.log")
    ws.remove("build/tracked.txt")
    ws.write("build/really-ignored.txt")
    ws.write("forced.log")
    ws.add("forced.log")
    ws.expect_exactly(" M tracked.log", " D build/tracked.txt", "A  forced.log")


@state()
def gitignore_newly_ignores(ws: Workspace) -> None:
    ws.write("notes.tmp")
    ws.write("fresh/notes.tmp")
    ws.write("fresh/file.txt")
    ws.append(".gitignore", "*.tmp\n")
    ws.expect_exactly(" M .gitignore", "?? fresh/file.txt")


@state(quick=EVERYWHERE)
def gitignore_no_longer_ignores(ws: Workspace) -> None:
    ws.write("notes.log")
    ws.write("build/out.txt")
    ws.write(".gitignore", "nothing\n")
    ws.expect_exactly(" M .gitignore", "?? notes.log", "?? build/out.txt")


@state()
def gitignore_deleted(ws: Workspace) -> None:
    ws.write("notes.log")
    ws.remove(".gitignore")
    ws.expect_exactly(" D .gitignore", "?? notes.log")


@state()
def ignored_files_beside(ws: Workspace) -> None:
    """Ignored files stay where they are in place; nobody asked to keep them beyond that."""
    ws.write("x.log")
    ws.write("build/a/b/out.o")
    ws.write("src/lib/only/ignored.log")
    ws.mkdir("build/hollow")
    ws.append("a.txt")
    ws.expect_exactly(" M a.txt")


@state(losses=LOCAL)
def excluded_by_other_files(ws: Workspace) -> None:
    (ws.outside / "excludes").write_text("*.mine\n")
    ws.config("core.excludesFile", ws.outside / "excludes")
    (ws.git_dir / "info").mkdir(exist_ok=True)
    with (ws.git_dir / "info" / "exclude").open("a") as file:
        file.write("/local/")  # and no newline at the end
    ws.write("x.mine")
    ws.write("local/x.txt")
    ws.append("a.txt")
    ws.expect_exactly(" M a.txt")


@state(losses=LOCAL)
def untracked_files_not_shown(ws: Workspace) -> None:
    ws.config("status.showUntrackedFiles", "no")
    dirty(ws)
    ws.expect_exactly(*DIRTY)
