"""Repositories within the workspace: submodules and nested repositories."""

from __future__ import annotations

from tests.states.merges import stop_merging
from tests.states.ordinary import DIRTY, dirty
from tests.states.registry import EVERYWHERE, HERE, LOCAL, NO_PLAIN, Loss, operation, state
from tests.support.repositories import lines
from tests.support.workspace import Workspace, run_git


def add_submodule(ws: Workspace, name: str = "sub") -> Workspace:
    """Commit a submodule with two commits of its own; returns its worktree."""
    origin = ws.outside / f"{name}-origin"
    run_git(ws.outside, "init", "-q", "-b", "main", origin)
    for number in ("1", "2"):
        (origin / "inner.txt").write_text(lines(int(number) + 3))
        run_git(origin, "add", "inner.txt")
        run_git(origin, "commit", "-q", "-m", number)
    ws.git("submodule", "--quiet", "add", str(origin), name)
    ws.commit(f"submodule {name}")
    return Workspace(ws.path / name, ws.outside)


NESTED = {"status_says_more": True, "save_exits": (0, 4), "losses": HERE | {Loss.REMOVED, Loss.BASE, Loss.CLONED}}


@state(**NESTED | {"losses": HERE | {Loss.REMOVED, Loss.BASE}}, quick=HERE | {Loss.REMOVED})
def submodule_clean(ws: Workspace) -> None:
    add_submodule(ws)
    dirty(ws)
    ws.expect_exactly(*DIRTY)


@state(**NESTED)
def submodule_moved_and_staged(ws: Workspace) -> None:
    add_submodule(ws).git("checkout", "-q", "HEAD~1")
    ws.git("add", "sub")
    ws.append("a.txt")
    ws.expect_exactly("M  sub", " M a.txt")


@state(**NESTED)
def submodule_moved_not_staged(ws: Workspace) -> None:
    add_submodule(ws).git("checkout", "-q", "HEAD~1")
    ws.expect_exactly(" M sub")


@state(**NESTED)
def submodule_with_new_commit(ws: Workspace) -> None:
    sub = add_submodule(ws)
    sub.append("inner.txt")
    sub.commit("only here")
    ws.expect_exactly(" M sub")


@state(**NESTED, quick=HERE | {Loss.REMOVED})
def submodule_dirty(ws: Workspace) -> None:
    sub = add_submodule(ws)
    sub.append("inner.txt")
    sub.write("staged.txt")
    sub.add("staged.txt")
    sub.write("untracked.txt")
    sub.mkdir("hollow")
    ws.append("a.txt")
    ws.expect_exactly(" M sub", " M a.txt")


@state(**NESTED)
def submodule_with_untracked_only(ws: Workspace) -> None:
    add_submodule(ws).write("untracked.txt")
    ws.expect_exactly(" M sub")


@state(**NESTED)
def submodule_dirty_but_ignored_by_config(ws: Workspace) -> None:
    sub = add_submodule(ws)
    sub.append("inner.txt")
    sub.write("untracked.txt")
    ws.config("diff.ignoreSubmodules", "all")
    ws.config("submodule.sub.ignore", "all")
    ws.append("a.txt")
    ws.expect_exactly(" M sub", " M a.txt")
    assert b" sub" not in ws.git("status", "--porcelain")


@state(**NESTED | {"losses": NO_PLAIN})
def submodule_deleted(ws: Workspace) -> None:
    add_submodule(ws)
    ws.remove("sub")
    ws.expect_exactly(" D sub")


@state(**NESTED | {"losses": NO_PLAIN})
def submodule_replaced_by_file(ws: Workspace) -> None:
    add_submodule(ws)
    ws.remove("sub")
    ws.write("sub", "a file now\n")
    ws.expect_exactly(" T sub")


@state(losses=EVERYWHERE - {Loss.PLAIN}, status_says_more=True)
def submodule_replaced_by_directory(ws: Workspace) -> None:
    """Plain files stand where the submodule was; git calls them modified content, or sees nothing at all."""
    add_submodule(ws)
    ws.remove("sub")
    ws.write("sub/plain.txt")
    ws.write("sub/deep/er.txt", "deep\n")
    ws.append("a.txt")
    ws.expect(" M a.txt")


@state(losses=EVERYWHERE - {Loss.PLAIN}, status_says_more=True)
def submodule_replaced_by_directory_partly_staged(ws: Workspace) -> None:
    add_submodule(ws)
    ws.git("rm", "-q", "--cached", "sub")
    ws.remove("sub")
    ws.write("sub/plain.txt")
    ws.write("sub/staged.txt", "staged\n")
    ws.add("sub/staged.txt")
    ws.append("sub/staged.txt")
    ws.expect_exactly("D  sub", "AM sub/staged.txt", "?? sub/plain.txt")


@state(losses=EVERYWHERE - {Loss.PLAIN}, status_says_more=True)
def submodule_not_initialised_with_files(ws: Workspace) -> None:
    """Files that were written into the empty directory of a submodule."""
    add_submodule(ws)
    ws.git("submodule", "--quiet", "deinit", "-f", "sub")
    ws.write("sub/plain.txt")
    ws.append("a.txt")
    ws.expect(" M a.txt")


@state(losses=LOCAL)
def submodule_not_initialised(ws: Workspace) -> None:
    add_submodule(ws)
    ws.git("submodule", "--quiet", "deinit", "-f", "sub")
    ws.append("a.txt")
    ws.expect_exactly(" M a.txt")


def empty_submodule(ws: Workspace, name: str) -> None:
    """As after `git switch` from a branch without the submodule: its repository is known, nothing of it is there."""
    add_submodule(ws, name)
    ws.remove(name)
    (ws.path / name).mkdir()


@state(status_says_more=True)
def submodules_emptied(ws: Workspace) -> None:
    empty_submodule(ws, "sub")
    empty_submodule(ws, "deep/sub")
    ws.append("a.txt")
    ws.expect_exactly(" M a.txt")


@state(losses=NO_PLAIN, moves=None)
def submodule_emptied_and_nothing_else(ws: Workspace) -> None:
    empty_submodule(ws, "sub")
    ws.git("checkout", "-q", "--detach")
    ws.expect_exactly()


@state(**NESTED, quick=HERE | {Loss.BASE})
def submodule_in_place_of_a_directory(ws: Workspace) -> None:
    """It has files of the names that the commit has there: one the same, one of another content."""
    ws.write("sub/same.txt", "the same\n")
    ws.write("sub/other.txt", "of the commit\n")
    ws.commit("a directory")
    before = ws.out("rev-parse", "HEAD")
    ws.git("rm", "-rq", "sub")
    ws.commit("none")
    inside = add_submodule(ws)
    ws.git("reset", "-q", "--soft", before)
    inside.write("same.txt", "the same\n")
    inside.write("other.txt", "of the submodule\n")
    ws.expect("A  .gitmodules", "D  sub/other.txt", "D  sub/same.txt")


@state(**NESTED)
def submodule_added_not_committed(ws: Workspace) -> None:
    add_submodule(ws)
    ws.git("reset", "-q", "--soft", "HEAD~1")
    ws.expect_exactly("A  .gitmodules", "A  sub")


@operation(losses={Loss.IN_PLACE, Loss.WIPED, Loss.STRIPPED})
def submodule_deleted_in_a_merge(ws: Workspace) -> None:
    add_submodule(ws)
    ws.remove("sub")
    stop_merging(ws, "side-content")
    ws.expect(" D sub", "UU a.txt")


@state(**NESTED, quick=HERE | {Loss.REMOVED}, moves=False)
def submodule_of_a_later_commit(ws: Workspace) -> None:
    """HEAD went back to before the submodule was added: its worktree is still there."""
    sub = add_submodule(ws)
    sub.append("inner.txt")
    ws.git("checkout", "-q", "--detach", "HEAD~1")
    ws.expect_exactly("?? sub/")


@operation(losses={Loss.IN_PLACE, Loss.WIPED, Loss.STRIPPED}, may_leave_out=["sub"], save_exits=(0, 4))
def submodule_merge_conflict(ws: Workspace) -> None:
    sub = add_submodule(ws)
    ws.git("branch", "-q", "other")
    tips = []
    for name in ("ours", "theirs"):
        sub.git("checkout", "-q", "-B", name, "HEAD~1" if name == "theirs" else "HEAD")
        sub.write("inner.txt", name)
        tips.append(sub.commit(name))
    ws.git("update-index", "--cacheinfo", f"160000,{tips[0]},sub")
    ws.git("commit", "-q", "-m", "ours")
    ws.git("checkout", "-q", "other")
    ws.git("update-index", "--cacheinfo", f"160000,{tips[1]},sub")
    ws.git("commit", "-q", "-m", "theirs")
    ws.git("checkout", "-q", "agent/work")
    ws.fails("merge", "-q", "other")
    ws.expect("UU sub")


@operation(losses={Loss.IN_PLACE, Loss.WIPED, Loss.STRIPPED, Loss.REMOVED}, may_leave_out=["sub"], save_exits=(0, 4))
def submodule_dirty_in_a_merge_conflict(ws: Workspace) -> None:
    submodule_merge_conflict(ws)
    sub = Workspace(ws.path / "sub", ws.outside)
    sub.append("inner.txt")
    sub.write("untracked.txt")
    ws.expect("UU sub")


def nested_repository(ws: Workspace, path: str, *, commit: bool) -> Workspace:
    run_git(ws.path, "init", "-q", "-b", "inner", path)
    inner = Workspace(ws.path / path, ws.outside)
    inner.write("inner.txt")
    if commit:
        inner.commit("inner")
    return inner


@state(**NESTED)
def nested_repository_without_commits(ws: Workspace) -> None:
    nested_repository(ws, "nested", commit=False)
    ws.append("a.txt")
    ws.write("untracked.txt")
    ws.expect(" M a.txt", "?? untracked.txt", "?? nested/")


@state(**NESTED)
def nested_repository_with_commits(ws: Workspace) -> None:
    nested_repository(ws, "nested", commit=True)
    ws.append("a.txt")
    ws.expect_exactly(" M a.txt", "?? nested/")


@state(**NESTED)
def nested_repositories_with_work(ws: Workspace) -> None:
    dirty(nested_fresh(ws, "nested"))
    inner = nested_repository(ws, "fresh/nested", commit=True)
    inner.append("inner.txt")
    inner.write("untracked.txt")
    ws.write("fresh/beside.txt")
    ws.expect("?? nested/", "?? fresh/nested/", "?? fresh/beside.txt")


def nested_fresh(ws: Workspace, path: str) -> Workspace:
    """A clone of the workspace inside of itself, with all of its files."""
    run_git(ws.outside, "clone", "-q", ws.path, ws.path / path)
    return Workspace(ws.path / path, ws.outside)


@state(**NESTED)
def nested_repository_staged_as_a_link(ws: Workspace) -> None:
    nested_repository(ws, "nested", commit=True)
    ws.git("-c", "advice.addEmbeddedRepo=false", "add", "nested")
    ws.expect_exactly("A  nested")


@state(**NESTED, may_leave_out=["wt"])
def nested_worktree_of_the_same_repository(ws: Workspace) -> None:
    ws.git("worktree", "add", "-q", "-b", "agent/second", "wt")
    ws.append("a.txt")
    ws.expect(" M a.txt", "?? wt/")


@state(**NESTED | {"losses": HERE | {Loss.CLONED}}, quick=HERE | {Loss.CLONED}, moves=False, may_leave_out=["wt"])
def nested_worktree_on_a_branch_in_a_detached_one(ws: Workspace) -> None:
    """A clone of it checks out that branch: it is at the same commit."""
    ws.git("checkout", "-q", "--detach")
    for name in ws.refs("refs/heads"):
        ws.git("update-ref", "-d", name)
    ws.git("worktree", "add", "-q", "-b", "agent/second", "wt")
    ws.append("a.txt")
    ws.append("wt/b.txt")
    ws.expect(" M a.txt", "?? wt/")


@state(losses=NO_PLAIN)
def nested_repository_ignored(ws: Workspace) -> None:
    """An agent's worktrees below .worktrees/: ignored, so none of this workspace's business."""
    ws.append(".gitignore", "/.worktrees/\n")
    ws.git("worktree", "add", "-q", "-b", "agent/second", ".worktrees/second")
    ws.append("a.txt")
    ws.expect_exactly(" M .gitignore", " M a.txt")


@state()
def bare_repository_among_the_files(ws: Workspace) -> None:
    run_git(ws.path, "init", "-q", "--bare", "--template=", "fixtures/bare.git")
    assert b"?? fixtures/bare.git/HEAD" in ws.status()


@state(losses=NO_PLAIN)
def gitlink_in_place_of_a_directory(ws: Workspace) -> None:
    """Staged, and not checked out: an empty directory stands there."""
    ws.git("rm", "-rq", "--cached", "docs")
    ws.remove("docs")
    ws.mkdir("docs")
    ws.git("update-index", "--add", "--cacheinfo", f"160000,{ws.out('rev-parse', 'HEAD')},docs")
    ws.expect_exactly("A  docs", "D  docs/guide.md")


@state(losses=NO_PLAIN)
def gitlink_in_place_of_a_file(ws: Workspace) -> None:
    ws.git("rm", "-q", "--cached", "b.txt")
    ws.remove("b.txt")
    ws.mkdir("b.txt")
    ws.git("update-index", "--add", "--cacheinfo", f"160000,{ws.out('rev-parse', 'HEAD')},b.txt")
    ws.expect_exactly("T  b.txt")


@state(losses=NO_PLAIN)
def gitlink_in_place_of_a_symlink(ws: Workspace) -> None:
    ws.git("rm", "-q", "--cached", "link")
    ws.remove("link")
    ws.mkdir("link")
    ws.git("update-index", "--add", "--cacheinfo", f"160000,{ws.out('rev-parse', 'HEAD')},link")
    ws.expect_exactly("T  link")


NO_REPOSITORY = {"save_exits": (4,), "losses": HERE, "status_says_more": True}


@state(**NO_REPOSITORY, left_out=["broken/.git"])
def git_directory_with_a_broken_head(ws: Workspace) -> None:
    """Git takes what is beside it for ordinary files of this worktree."""
    nested_repository(ws, "broken", commit=False)
    ws.write("broken/.git/HEAD", "ref: .broken\n")
    ws.write("broken/deep/file.txt")
    ws.expect("?? broken/inner.txt", "?? broken/deep/file.txt")


@state(**NO_REPOSITORY, left_out=["stale/.git"])
def git_file_that_is_stale(ws: Workspace) -> None:
    ws.write("stale/.git", "gitdir: /nonexistent\n")
    ws.write("stale/file.txt")
    ws.expect("?? stale/file.txt")


@state(**NO_REPOSITORY, left_out=["src/.git"])
def git_file_that_is_stale_among_tracked_files(ws: Workspace) -> None:
    ws.write("src/.git", "gitdir: ../nonexistent\n")
    ws.append("src/app.py", "# more\n")
    ws.write("src/new.py")
    ws.expect(" M src/app.py", "?? src/new.py")


@state(**NO_REPOSITORY, left_out=["back/.git"])
def git_link_back_to_our_own(ws: Workspace) -> None:
    ws.mkdir("back")
    ws.symlink("../.git", "back/.git")
    ws.write("back/file.txt")
    ws.append("a.txt")
    ws.expect(" M a.txt")


@state(**NO_REPOSITORY, left_out=["back/.git"])
def git_file_back_to_our_own(ws: Workspace) -> None:
    ws.write("back/.git", "gitdir: ../.git\n")
    ws.write("back/file.txt")
    ws.append("a.txt")
    ws.expect(" M a.txt", "?? back/")


@state()
def head_as_a_symlink(ws: Workspace) -> None:
    (ws.git_dir / "HEAD").unlink()
    ws.symlink("refs/heads/agent/work", ".git/HEAD")
    dirty(ws)
    ws.expect_exactly(*DIRTY)
