"""The parts of a save, each alone: index swap, staged blobs, objects, the refs, nested repositories."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from gitstate.errors import GitError, MissingObject, RefChanged
from gitstate.format.context import Context
from gitstate.format.manifest import LeftOut, Nested
from gitstate.format.names import Trailers, parse_trailers
from gitstate.git.index import identify_index_at, link_or_copy
from gitstate.git.opening import open_repository
from gitstate.git.refs import RefUpdate
from gitstate.git.repository import Repository
from gitstate.objects.pack import PackWriter
from gitstate.objects.reader import ObjectReader, commit_head
from gitstate.objects.tree import REGULAR, Leaf
from gitstate.save.build import Builder, subject_of
from gitstate.save.index import IndexSwap, StagedBlobs, keep_index
from gitstate.save.nested import save_nested
from gitstate.save.plan import SavePlan
from gitstate.save.publish import Publisher
from gitstate.save.request import SaveRequest, SaveResult
from gitstate.snapshot.record import Snapshot
from gitstate.system.clock import Deadline
from gitstate.workspace.ownership import frozen_index, is_left_index
from tests.support.repositories import three_files
from tests.support.workspace import Workspace


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return three_files(tmp_path)


@pytest.fixture
def repository(ws: Workspace) -> Repository:
    found = open_repository(os.fsencode(ws.path))
    os.makedirs(found.own)
    link_or_copy(os.path.join(found.git_dir, b"index"), frozen_index(found))
    return found


@pytest.fixture
def builder(repository: Repository) -> Builder:
    writer = PackWriter(repository.objects, repository.object_format, "test")
    return Builder(repository, "ID", writer, ObjectReader(repository.git))


def snapshot(ws: Workspace, worktree: dict[bytes, Leaf | None]) -> Snapshot:
    """A snapshot of HEAD and these changes of the worktree."""
    found = Snapshot()
    found.head, found.head_ref = ws.out("rev-parse", "HEAD"), "refs/heads/main"
    found.index_file = identify_index_at(os.fsencode(ws.git_dir / "index"))
    found.worktree = worktree
    return found


def raw(builder: Builder, oid: str) -> bytes:
    """The bytes of an object that was built."""
    builder.writer.finish()
    found = builder.reader.contents([oid])[0]
    assert found is not None
    return found[1]


def index_of(ws: Workspace) -> str:
    return ws.out("ls-files", "-s")


def test_index_swap_takes_deletions_and_new_files(ws: Workspace, repository: Repository) -> None:
    blob = ws.out("rev-parse", "HEAD:a")
    swap = IndexSwap(repository, repository.git)
    swap.start(snapshot(ws, {b"a": None, b"new": Leaf(REGULAR, blob)}))
    assert swap.finish(True, "ID") == ""
    assert ws.out("diff", "--cached", "--no-renames", "--name-status").split("\n") == ["D\ta", "A\tnew"]
    assert is_left_index(repository, "ID")


@pytest.mark.parametrize("worktree", [{b"a": None}, {}], ids=["changed", "unchanged"])
@pytest.mark.parametrize("why", ["the branch stayed", "git replaced the index", "the index was written in place"])
def test_index_swap_leaves_the_index_alone_where(
    ws: Workspace, repository: Repository, why: str, worktree: dict[bytes, Leaf | None]
) -> None:
    swap = IndexSwap(repository, repository.git)
    swap.start(snapshot(ws, worktree))
    if why == "git replaced the index":
        ws.write("later", "later\n")
        ws.add("later")
    if why == "the index was written in place":
        index, other = ws.git_dir / "index", ws.git_dir / "other"
        shutil.copy2(index, other)
        ws.git("rm", "-q", "--cached", "b", env={"GIT_INDEX_FILE": str(other)})
        shutil.copyfile(other, index)
    before = index_of(ws)
    assert swap.finish(why != "the branch stayed", "ID") == ""
    assert index_of(ws) == before
    assert not is_left_index(repository, "ID")


def test_index_that_is_just_written_in_place_is_left_alone(ws: Workspace, repository: Repository) -> None:
    taken, index = snapshot(ws, {b"a": None}), ws.git_dir / "index"
    before = index.read_bytes()[:20]
    index.write_bytes(before)
    swap = IndexSwap(repository, repository.git)
    swap.start(taken)
    assert swap.finish(True, "ID") == ""
    assert index.read_bytes() == before


def test_index_that_stays_in_place_is_the_one_that_is_left(ws: Workspace, repository: Repository) -> None:
    swap = IndexSwap(repository, repository.git)
    swap.start(snapshot(ws, {}))
    assert swap.finish(True, "ID") == ""
    assert is_left_index(repository, "ID")


def test_index_swap_that_git_refuses_is_a_sentence(ws: Workspace, repository: Repository) -> None:
    swap = IndexSwap(repository, repository.git)
    taken = snapshot(ws, {b"a": None})
    frozen = Path(os.fsdecode(frozen_index(repository)))
    frozen.unlink()
    frozen.write_bytes(b"no index")
    swap.start(taken)
    before = index_of(ws)
    assert swap.finish(True, "ID").startswith("the save is complete, but the index could not be exchanged: ")
    assert index_of(ws) == before
    swap.close()


def test_kept_index_is_the_frozen_one(ws: Workspace, repository: Repository) -> None:
    kept = keep_index(repository, "ID", snapshot(ws, {}))
    assert kept is not None and os.path.samefile(kept, frozen_index(repository))
    without = snapshot(ws, {})
    without.index_file = None
    assert keep_index(repository, "ID", without) is None


def stage(ws: Workspace, name: str, content: str) -> Leaf:
    ws.write(name, content)
    ws.add(name)
    return Leaf(REGULAR, ws.out("rev-parse", f":{name}"))


def tear(ws: Workspace, leaf: Leaf) -> None:
    path = ws.git_dir / "objects" / leaf.oid[:2] / leaf.oid[2:]
    path.chmod(0o644)
    path.write_bytes(b"")


def test_staged_blobs_that_are_torn_come_from_the_file_or_are_skipped(
    ws: Workspace, repository: Repository, builder: Builder
) -> None:
    whole, same, edited, gone = (stage(ws, name, f"{name}\n" * 9) for name in ("whole", "same", "edited", "gone"))
    for leaf in (same, edited, gone):
        tear(ws, leaf)
    ws.write("edited", "edited since\n")
    ws.remove("gone")
    found = snapshot(ws, {b"gone": None})
    found.staged = {b"whole": whole, b"same": same, b"edited": edited, b"gone": gone}
    StagedBlobs(repository, builder.writer, builder.reader, found).pack()
    assert found.staged == {b"whole": whole, b"same": same}
    assert whole.oid in builder.writer and same.oid in builder.writer
    edit = found.worktree[b"edited"]
    assert edit is not None and raw(builder, edit.oid) == b"edited since\n"
    assert [(item.path, item.lost) for item in found.left_out] == [(b"edited", True), (b"gone", True)]


def test_builder_makes_an_index_commit_only_where_the_staged_tree_differs(ws: Workspace, builder: Builder) -> None:
    head = ws.out("rev-parse", "HEAD")
    other = Leaf(REGULAR, ws.out("rev-parse", "HEAD:b"))
    found = snapshot(ws, {b"b": None})
    plan = SavePlan("saved", base=head, index_commit=True)
    for staged, expected in (({b"a": other}, True), ({b"a": Leaf(REGULAR, ws.out("rev-parse", "HEAD:a"))}, False)):
        found.staged = dict(staged)
        manifest = builder.manifest(SaveRequest(), plan, found, ())
        built = builder.build(plan, found, Context(task_id="T"), manifest)
        assert (built.index_commit is not None) is expected
        parent = commit_head(raw(builder, built.wip)).parents
        assert parent == [built.index_commit or head]
        assert commit_head(raw(builder, built.archive)).parents == [built.wip]
        assert built.manifest.index_commit == built.index_commit


def test_builder_puts_the_save_below_into_the_archive(ws: Workspace, builder: Builder) -> None:
    head, below = ws.out("rev-parse", "HEAD"), "b" * 40
    plan = SavePlan("saved", base="a" * 40, below=below)
    found = snapshot(ws, {b"a": None})
    built = builder.build(plan, found, Context(), builder.manifest(SaveRequest(), plan, found, ()))
    assert commit_head(raw(builder, built.archive)).parents == [built.wip, below]
    wip = raw(builder, built.wip)
    assert commit_head(wip).parents == [head]
    assert parse_trailers(wip) == Trailers("ID", "a" * 40)
    assert set(built.entries()) == {b"context.json", b"manifest.json", b"staged"}


def test_builder_misses_a_commit_of_head(builder: Builder) -> None:
    assert builder.tree_of(None) is None and not builder.is_wip("f" * 40)
    with pytest.raises(MissingObject):
        builder.tree_of("f" * 40)


@pytest.mark.parametrize(
    ("task", "stage", "subject"),
    [
        (None, None, "work in progress"),
        ("T-1", None, "T-1"),
        ("T-1", "adding VAT", "T-1 adding VAT"),
        ("T\n\nSigned-off-by: x", "\x1b[31m", "T Signed-off-by: x [31m"),
        ("x" * 100, None, "x" * 60),
    ],
)
def test_subject_is_one_printable_line(task: str | None, stage: str | None, subject: str) -> None:
    assert subject_of(Context(task_id=task, progress_stage=stage)) == subject


def test_publisher_moves_all_refs_or_none(ws: Workspace, repository: Repository, builder: Builder) -> None:
    head = ws.out("rev-parse", "HEAD")
    new = builder.commit(ws.out("rev-parse", "HEAD^{tree}"), [head], "subject", head)
    publisher = Publisher(repository, repository.git, "ID", builder.writer, builder.reader)
    with pytest.raises(RefChanged):
        publisher.move([RefUpdate("refs/gitstate/x/one", new, None), RefUpdate("refs/heads/main", new, new)])
    assert ws.refs("refs/gitstate") == {} and ws.out("rev-parse", "HEAD") == head
    publisher.move([RefUpdate("refs/gitstate/x/one", new, None), RefUpdate("refs/heads/main", new, head)])
    publisher.close()
    assert ws.refs("refs/gitstate") == {"refs/gitstate/x/one": new} and ws.out("rev-parse", "HEAD") == new


def taken_with(*nested: bytes) -> Snapshot:
    found = Snapshot()
    found.nested = [*nested]
    return found


def test_nested_repositories_are_saved_or_said(ws: Workspace, repository: Repository) -> None:
    for name in ("good", "lost", "bad"):
        ws.git("init", "-q", name)
    saved: list[SaveRequest] = []

    def save(path: bytes, request: SaveRequest) -> SaveResult:
        saved.append(request)
        if path.endswith(b"bad"):
            raise GitError(["status"], 128, b"broken")
        skipped = (LeftOut(b"f", "why", True),) if path.endswith(b"lost") else ()
        return SaveResult("saved", path, "main", save_id="ID", archive="a" * 40, left_out=skipped)

    request = SaveRequest(depth=1, strict=True, problems=(LeftOut(b"", "why", True),))
    nested, skipped = save_nested(repository, request, taken_with(b"good", b"lost", b"bad", b"d"), save)
    assert [(item.path, item.save_id) for item in nested] == [
        (b"good", "ID"),
        (b"lost", "ID"),
        (b"bad", None),
        (b"d", None),
    ]
    assert [item.path for item in skipped if item.lost] == [b"lost", b"bad", b"d"]
    assert {(one.depth, one.strict, one.problems) for one in saved} == {(2, False, ())}


def test_nested_repositories_have_a_limit_of_depth(ws: Workspace, repository: Repository) -> None:
    ws.git("init", "-q", "inside")
    taken = taken_with(b"inside")
    nested, skipped = save_nested(repository, SaveRequest(depth=8), taken, lambda *_: pytest.fail("saved"))
    assert nested[0].save_id is None and "nested too deeply" in skipped[0].reason


def test_repositories_inside_share_the_time_of_a_look(ws: Workspace, repository: Repository) -> None:
    """One that is not reached is named, and stays recorded as it was."""
    names = (b"one", b"two", b"three", b"four")
    for name in names:
        ws.git("init", "-q", name)
    saved: list[tuple[bytes, SaveRequest]] = []

    class Look(Deadline):
        """All of its time has passed once two are saved."""

        def left(self) -> float:
            return 0.0 if len(saved) == 2 else super().left()

    def save(path: bytes, request: SaveRequest) -> SaveResult:
        saved.append((path, request))
        return SaveResult("saved", path, "main", save_id="ID", archive="a" * 40)

    request = SaveRequest(look=100.0, look_end=Look(100.0), deadline=500.0, end=Deadline(500.0))
    before = [Nested(name, "EARLIER", "b" * 40) for name in (b"one", b"three")]
    nested, skipped = save_nested(repository, request, taken_with(*names), save, lambda: before)
    assert [path.rpartition(b"/")[2] for path, _ in saved] == [b"one", b"two"]
    assert [(item.path, item.save_id) for item in nested] == [
        (b"one", "ID"),
        (b"two", "ID"),
        (b"three", "EARLIER"),
        (b"four", None),
    ]
    assert [item.path for item in skipped if item.lost] == [b"three", b"four"]
    seconds = [request.look or 0.0 for _, request in saved]
    assert 0 < seconds[0] <= 25 and 0 < seconds[1] <= 100 / 3


def test_repositories_inside_share_a_deadline(ws: Workspace, repository: Repository) -> None:
    ws.git("init", "-q", "one")
    ws.git("init", "-q", "two")
    seconds: list[float] = []

    def save(path: bytes, request: SaveRequest) -> SaveResult:
        seconds.append(request.deadline or 0.0)
        raise GitError(["status"], 128, b"broken")

    request = SaveRequest(deadline=100.0, end=Deadline(100.0))
    before = [Nested(b"two", "EARLIER", "b" * 40)]
    nested, _ = save_nested(repository, request, taken_with(b"one", b"two"), save, lambda: before)
    assert 0 < seconds[0] <= 50 and len(seconds) == 2
    assert [item.save_id for item in nested] == [None, "EARLIER"], "one that fails stays as it was, too"
    late = SaveRequest(deadline=100.0, end=Deadline(0.0))
    _, skipped = save_nested(repository, late, taken_with(b"one"), lambda *_: pytest.fail("saved"))
    assert [item.path for item in skipped if item.lost] == [b"one"]
