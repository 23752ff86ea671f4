"""The order of one save: facts → plan → build → publish.

The marker is the commit point. A kill before it changes nothing that anyone sees; a kill after it leaves a save that
`recover` brings back in full.

| step | durable after it | who completes it after a kill |
|---|---|---|
| 1. write the journal; freeze the index | nothing | the next owner of the workspace: it removes both |
| 2. look at worktree, index, HEAD; pack large files; save nested repositories | the same as 4 | nobody: git prunes |
| 3. build objects in memory; keep the index file; journal the ref locks | nothing | the next owner |
| 4. write the pack; sync it, the kept index, unsynced files of others | objects without a ref | nobody: git prunes |
| 5. move the save's ref, the marker, refs that they replace | **the save** | `recover` brings it back |
| 6. write the state file, which is a cache | nothing | `recover` writes it again |
| 7. move notes and branch together, or one by one | the WIP commit and its note | `recover` needs neither |
| 8. rename an index into place that matches the WIP commit | the index | `recover` puts the kept one back |
| 9. move the refs that hold the repositories inside | what makes them again | the next save |
| 10. pack what is new of the agent's transcript; move its ref | the conversation | the next save |
| 11. remove the frozen index and the journal | nothing | the next owner |

A step begins when the one before it is durable, but for 6, which runs while git does 7. Step 5 is one transaction, and
a kill inside it may leave the save's ref without the marker: then the earlier marker stands. A checkpoint and a safety
save end after step 5, with one ref of their own; a checkpoint may keep the one that it replaces.

Rare parts are imported where they are met: an import costs more than most of them do.
"""

from __future__ import annotations

from ..errors import GitError, GitstateError, words_of
from ..format.manifest import SAVED_INSIDE, LeftOut
from ..format.names import NOTES, branch_name, new_save_id, next_number, parse_trailers, workspace_id
from ..git.refs import RefUpdate, read_refs
from ..objects.pack import PackWriter
from ..objects.reader import ObjectReader
from ..system import files
from ..system.stdlib import TYPE_CHECKING
from .build import Builder, Built, holds_all, same_flags
from .facts import check_index, gather, look
from .plan import SAME_AS_CHECKPOINT, SAME_AS_SAVE, first_refs, holds_the_same, plan_save
from .request import SaveResult, unconverted_words

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..format.manifest import Save
    from ..git.command import Git, Oid
    from ..git.index import IndexFile
    from ..git.repository import Repository
    from ..git.status import StatusQuery
    from .facts import Scene
    from .index import IndexSwap
    from .plan import SavePlan
    from .publish import Publisher
    from .request import SaveRequest


class SaveAttempt:
    """One attempt at a save. With `insist` an index that keeps changing is saved as it was seen."""

    def __init__(
        self, repository: Repository, git: Git, request: SaveRequest, seen: IndexFile | None, *, insist: bool
    ) -> None:
        """`seen`: the identity of the index when it was frozen."""
        self.repository = repository
        self.git = git
        self.request = request
        self.insist = insist
        self._seen = seen
        own = workspace_id(repository)
        # Nobody waits for a checkpoint, and there are many of them: there is time to make it small.
        deflates = request.kind == "checkpoint"
        self.writer = PackWriter(repository.objects, repository.object_format, own, deflates=deflates)
        self.reader = ObjectReader(repository.git)
        save_id = new_save_id(next_number(repository, self._id_of))
        self.builder = Builder(repository, save_id, self.writer, self.reader)
        self.publisher: Publisher | None = None
        self.swap: IndexSwap | None = None
        #: The refs that hold the repositories inside; empty where there are none.
        self._inside: Sequence[RefUpdate] = ()
        #: A git of ours was killed: it may have left locks.
        self.child_killed = False

    def _id_of(self, archive: Oid) -> str | None:
        """The id of an earlier save; None for one that can't be read."""
        try:
            content = self.reader.commit(archive)
        except GitError:
            self.reader.restart()
            return None
        return None if content is None else parse_trailers(content).save_id

    def run(self, query: StatusQuery | None, save: Callable[[bytes, SaveRequest], SaveResult]) -> SaveResult:
        """Take the save. `query` is what git was asked about the frozen index; `save` saves nested repositories."""
        try:
            if self.request.expected is not None and not self.request.stay:
                from .index import IndexSwap

                # On a large index git needs as long as for a look at all files. As a rule nothing changes meanwhile.
                self.swap = IndexSwap(self.repository, self.git)
                self.swap.start(self.request.expected)
            scene = look(self.builder, self.request, query, save, check=self._check_index, meanwhile=self._begin)
            known = self.request.known
            if self.publisher is not None and (known is None or scene.taken.scan is not known.snapshot.scan):
                # All was looked at anew after that, and may be newer.
                self.publisher.begin_again()
            result = self._with_conversation(self._with_inside(self._act(scene), scene), scene)
            if scene.taken.nested:
                from .nested import begin_with_outer, save_nested

                if begin_with_outer(self.request) is not self.request:
                    save_nested(self.repository, self.request, scene.taken, save)
            return result
        finally:
            self.reader.close()
            for part in (self.publisher, self.swap):
                if part is not None:
                    part.close()
            self.writer.release()

    def _check_index(self) -> None:
        if not self.insist:
            check_index(self.repository, self._seen)

    def _begin(self) -> None:
        """Do what takes its time and needs no answer of git, while git starts: a quick save is expected."""
        if self.request.kind == "save":
            self._publisher().begin()

    def _act(self, scene: Scene) -> SaveResult:
        facts, earlier = gather(self.builder, self.request, scene, insist=self.insist)
        plan = plan_save(facts)
        upon = earlier.get(plan.upon or "")
        beside, problem = self._beside(scene)
        hold = self._holder(scene)
        if plan.result != "saved":
            hold(plan.upon)
            self._move(beside)
            return self._answer(_with_message(plan, problem), scene, upon)
        if plan.renews and upon is not None:
            hold(self.builder.save_id)
            return self._renew(_with_message(plan, problem), scene, upon, beside)
        built = self._build(plan, scene)
        if upon is not None and self._holds(upon, plan, built, scene):
            why = SAME_AS_CHECKPOINT if self.request.kind == "checkpoint" else SAME_AS_SAVE
            hold(plan.upon)
            self._move(beside)
            return self._answer(_with_message(plan._replace(result="unchanged", message=why), problem), scene, upon)
        hold(self.builder.save_id)
        plan = _with_message(plan, problem)
        if plan.follows:
            return self._publish(plan, scene, built, beside)
        if upon is not None and self.request.kind == "checkpoint":
            self.builder.omit_held(upon, scene.taken)
        publisher = self._publisher()
        publisher.replace(upon, self.builder, scene, [*beside, *first_refs(plan, built.archive, scene.seen)])
        return self._answer(plan, scene, built)

    def _beside(self, scene: Scene) -> tuple[Sequence[RefUpdate], str]:
        """The refs of what is to stand beside the save, and why there are none: nothing of it can cost the save."""
        if self.request.beside is None:
            return [], ""
        try:
            return self.request.beside(self.builder, self.request, scene), ""
        except (GitstateError, OSError) as error:
            self.reader.restart()
            return [], f"what was destroyed before it could not be kept: {words_of(error)}"

    def _holder(self, scene: Scene) -> Callable[[str | None], None]:
        """Pack what makes the repositories inside again; what is returned prepares the refs for it beside a save.

        Nothing of it can cost the save.
        """
        if not scene.nested or self.request.kind == "safety":
            return lambda _: None
        from .inside import InsideHolder

        def note(error: Exception) -> None:
            self.reader.restart()
            scene.taken.left_out += _not_held(scene, error)

        def hold(save_id: str | None) -> None:
            try:
                self._inside = holder.updates(save_id)
            except (GitstateError, OSError) as error:
                note(error)

        try:
            holder = InsideHolder(self.builder, self.request, scene)
        except (GitstateError, OSError) as error:
            note(error)
            return lambda _: None
        return hold

    def _with_inside(self, result: SaveResult, scene: Scene) -> SaveResult:
        """Move the refs that hold the repositories inside, once the save stands."""
        try:
            if self._inside:
                self._publisher().move_each(self._inside)
        except (GitstateError, OSError) as error:
            return result._replace(left_out=(*result.left_out, *_not_held(scene, error)))
        return result

    def _move(self, beside: Sequence[RefUpdate]) -> None:
        """Publish what stands beside a save that is not made."""
        if beside:
            publisher = self._publisher()
            publisher.journal_locks(*(update.ref for update in beside))
            publisher.move(beside)

    def _with_conversation(self, result: SaveResult, scene: Scene) -> SaveResult:
        """Keep what is new of the agent's transcript, once the save stands: nothing of it can cost the save."""
        request = self.request
        is_whole = request.kind != "safety" and not request.depth and request.largest is None
        if scene.context.session_id is None or not is_whole:
            return result
        from ..conversation.pieces import keep_conversation
        from ..workspace.settings import boolean

        try:
            if boolean(self.repository, "conversation"):
                stamp = self.builder.stamp()
                deflates = request.kind == "checkpoint"
                keep_conversation(self.repository, self.git, scene.context, stamp, deflates=deflates)
        except (GitstateError, OSError) as error:
            problem = f"the agent's conversation could not be kept: {words_of(error)}"
            return result._replace(message="; ".join(part for part in (result.message, problem) if part))
        return result

    def _build(self, plan: SavePlan, scene: Scene) -> Built:
        taken = scene.taken
        if plan.ignores_deletions:
            taken.worktree = {path: leaf for path, leaf in taken.worktree.items() if leaf is not None}
        manifest = self.builder.manifest(self.request, plan, taken, scene.nested)
        return self.builder.build(plan, taken, scene.context, manifest)

    def _holds(self, earlier: Save, plan: SavePlan, built: Built, scene: Scene) -> bool:
        """Whether an earlier save holds all that was built."""
        if self.request.label not in (None, earlier.manifest.label):
            return False
        if earlier.wip_tree != built.tree or earlier.context.work() != scene.context.work():
            return False
        if not same_flags(earlier, built.manifest, self.builder, stacks=plan.stacks):
            return False
        if plan.stacks:
            return holds_all(earlier, built, self.builder, scene.taken)
        return holds_the_same(earlier, built.manifest, built.entries())

    def _publisher(self) -> Publisher:
        if self.publisher is None:
            from .publish import Publisher

            self.publisher = Publisher(self.repository, self.git, self.builder.save_id, self.writer, self.reader)
            self.publisher.until = self.request.end
        return self.publisher

    def _publish(self, plan: SavePlan, scene: Scene, built: Built, beside: Sequence[RefUpdate]) -> SaveResult:
        """Steps 3 to 8 of a save that sets the marker."""
        from .index import IndexSwap, keep_index
        from .publish import AfterMarker

        taken, publisher, repository = scene.taken, self._publisher(), self.repository
        after = AfterMarker(publisher, self.builder, self.request)
        branch = None if plan.branch is None else RefUpdate(plan.branch, built.wip, taken.head)
        if branch is None and self.swap is not None:
            self.swap.close()
            self.swap = None
        if branch is not None:
            # Git works on the index while the objects come to the disk.
            self.swap = self.swap or IndexSwap(repository, self.git)
            self.swap.start(taken)
        note = after.build_note(built, scene.context, scene.seen.get(NOTES))
        publisher.journal_locks(plan.branch, *(ref for ref, _ in plan.deletes), *(update.ref for update in beside))
        kept = keep_index(repository, publisher.save_id, taken) if plan.keeps_index else None
        updates = [*beside, *first_refs(plan, built.archive, scene.seen)]
        try:
            publisher.make_durable(updates, kept)
            self._check_index()
            publisher.refs.carry_out()
        except (GitstateError, OSError):
            if kept is not None and not self._may_stand(updates, built.archive):
                # No other save knows this name.
                files.discard(kept)
            raise
        publisher.refs.sync(updates)
        # The marker stands: what fails from here on is reported, and takes nothing back.
        moved = after.carry_out(branch, note, built, scene.context)
        publisher.refs.end()
        self.child_killed = after.child_killed
        troubles = [*after.troubles]
        if self.swap is not None:
            troubles.append(self.swap.finish(moved, publisher.save_id, self.request.end))
        plan = plan._replace(message="; ".join(trouble for trouble in (plan.message, *troubles) if trouble))
        return self._answer(plan, scene, built, moved=moved)

    def _may_stand(self, updates: Sequence[RefUpdate], archive: Oid) -> bool:
        """Whether a ref of a save that failed is there all the same, or nobody can tell."""
        try:
            return archive in read_refs(self.repository, [update.ref for update in updates]).values()
        except (GitstateError, OSError):
            return True

    def _renew(self, plan: SavePlan, scene: Scene, old: Save, beside: Sequence[RefUpdate]) -> SaveResult:
        from .publish import renew

        built, after = renew(old, plan, scene, self.request, self._publisher(), self.builder, beside)
        self.child_killed = after.child_killed
        plan = plan._replace(message="; ".join([plan.message, *after.troubles]))
        return self._answer(plan, scene, built)

    def _answer(
        self, plan: SavePlan, scene: Scene, held: Save | Built | None = None, *, moved: bool = False
    ) -> SaveResult:
        """The result; `held` is what holds the work now: the save that was built, or an earlier one."""
        taken, message = scene.taken, plan.message
        if taken.unconverted and held is not None:
            message = "; ".join(part for part in (message, unconverted_words(taken.unconverted)) if part)
        return SaveResult(
            result=plan.result,
            workspace=self.repository.toplevel,
            branch=None if taken.head_ref is None else branch_name(taken.head_ref),
            save_id=held.manifest.save_id if held else None,
            wip_commit=held.wip if held else None,
            base_commit=held.manifest.base if held else None,
            index_commit=held.index_commit if isinstance(held, Built) else None,
            archive=held.archive if held else None,
            branch_moved=moved or (plan.result == "unchanged" and plan.stacks),
            why_not_moved=plan.why_not_moved,
            left_out=tuple(taken.left_out),
            message=message,
            taken=taken,
            written=self.writer.written,
        )


def _not_held(scene: Scene, error: Exception) -> list[LeftOut]:
    """What is to be said where the repositories inside could be saved, and not held."""
    words = f"{SAVED_INSIDE}; this repository does not hold it: {words_of(error)}"[:1000]
    return [LeftOut(path, words, False) for path in scene.inside]


def _with_message(plan: SavePlan, more: str) -> SavePlan:
    return plan._replace(message="; ".join(part for part in (plan.message, more) if part)) if more else plan
