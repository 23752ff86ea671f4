"""Hold the lease of a workspace: for a run, for a guard, and for a loop that has no keeper between its runs.

And what becomes of the task that is there when a run begins or ends.
"""

from __future__ import annotations

import os
import sys

from ..errors import CorruptSave, NeedsPerson, TryAgain, UnsupportedSave
from ..format.archive import pending_archive, read_save, read_stack
from ..format.context import Context
from ..format.manifest import Manifest, Reason
from ..format.names import dismissed_ref, own_marker, workspace_id
from ..git import refs
from ..git.refs import RefUpdate
from ..git.repository import Repository, head_of, read_head
from ..objects.reader import ObjectReader
from ..system import files
from ..system.clock import Deadline
from ..system.jsonio import text_to_json
from ..system.process import Process, ancestors, is_alive, parent, process, send
from ..system.stdlib import TYPE_CHECKING, signal, suppress
from ..workspace import lease
from ..workspace.lease import Holder, presence, this_holder
from ..workspace.live_context import (
    ACTIVE,
    FINISHED,
    begin,
    finish,
    read_live_context,
    refuse_while_others_work,
    with_measured_fields,
    write_state,
)
from ..workspace.ownership import clear_journal, locked_workspace, ref_locks, write_journal
from ..workspace.run_record import read_run_record
from ..workspace.settings import require, with_filter_limit
from .channel import read_times

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..recover.request import RecoverResult

#: Holds the descriptor of a lease until a process (its pid and its start time) has ended; where the lease's file (its
#: path) was replaced, it holds the one that is there: see `lease.take_again`. Imports next to nothing.
_HOLDER = """\
import fcntl, os, select, sys
lease, pid, start, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], os.fsencode(sys.argv[4])
def take_again():
    held, own = os.fstat(lease), os.stat(os.path.dirname(path))
    if held.st_dev != own.st_dev or (os.path.lexists(path) and os.path.samestat(os.lstat(path), held)):
        return
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    try:
        if os.geteuid() == 0:
            os.fchown(fd, own.st_uid, own.st_gid)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.dup2(fd, lease)
    finally:
        os.close(fd)
def lives():
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return False
    return fields[0] not in (b"Z", b"X") and fields[19].decode() == start
try:
    watched = [os.pidfd_open(pid)]
except (AttributeError, OSError):
    watched = []
while lives():
    try:
        take_again()
    except OSError:
        pass
    select.select(watched, [], [], 1.0 if watched else 0.2)
"""


class Hold:
    """The lease, taken for a run whose owner is `owner`. Inside a loop or a guard of ours their record stays.

    Raises TryAgain where another run works here.
    """

    def __init__(self, repository: Repository, owner: Process, run_id: str | None, agent: str | None) -> None:
        self._repository = repository
        who = presence(repository)
        inside = who.live and who.holder is not None and (who.ours or who.holder.owner == owner)
        self.lease: int | None = lease.take(repository, inside=inside)
        os.register_at_fork(after_in_child=self._close)
        self._holder: Holder | None = None
        if not inside:
            self._holder = this_holder("keeper", owner, run_id=run_id, agent=agent)
            lease.write_holder(repository, self._holder)

    def release(self, *, clears: bool = True) -> None:
        """The work has ended: nobody works here. Idempotent.

        With `clears` the record goes too; without it the kernel tells the same, and no disk can hold this process.
        """
        if clears and self.lease is not None and self._holder is not None:
            lease.clear_holder(self._repository, self._holder)
        self._close()

    def _close(self) -> None:
        fd, self.lease = self.lease, None
        if fd is not None:
            with suppress(OSError):
                os.close(fd)


def begin_loop(repository: Repository, values: Mapping[str, str], owner_pid: int) -> Context:
    """A task of a loop begins: as `begin`, and the lease is held for as long as the loop lives.

    Raises UsageError for a setting that the loop's runs can't read: they would leave a crashed task of nothing.
    """
    from ..recover.request import SETTINGS

    read_times(repository, {})
    require(repository, *SETTINGS)
    refuse_while_own_run_works(repository)
    context = begin(repository, values, owner_pid)
    _hold_for(repository, owner_pid, context.agent)
    return context


def refuse_while_own_run_works(repository: Repository) -> None:
    """Raises TryAgain where a run is at work that this process is not part of, as in the background of its own loop.

    Else its last save would be one of the next task, or of none.
    """
    keeper = read_run_record(repository).keeper
    if keeper is None or not is_alive(keeper):
        return
    front = parent(keeper.pid)
    if front and front not in ancestors():
        raise TryAgain(
            f"an agent is still at work in this workspace (gitstate run, pid {front}); nothing was changed",
            hint=lease.way_to_end(None),
        )


def finish_task(repository: Repository) -> Context:
    """The task is done: as `finish`, and nobody works here. Raises TryAgain where others work here."""
    refuse_while_others_work(repository)
    context = finish(repository)
    _let_go(repository)
    return context


def end_well(repository: Repository, *, finished: bool) -> RecoverResult | None:
    """A run has ended with status 0: recover what was saved in the middle of it, as `gitstate finish` does.

    The files stay as they are now, the save stays in the log, and what the context says counts. Then the task is
    done, where `finished`. Returns what recovery answered, None where no save was pending; with an exit status other
    than 0 the save stays pending and the task is not done. Raises GitstateError, OSError.
    """
    result = None
    if pending_archive(repository) is not None:
        from ..recover.recover import recover
        from ..recover.request import RecoverRequest
        from ..save.request import SaveRequest
        from ..save.save import save

        # What was deleted since the first save would come back with it.
        save(repository.toplevel, SaveRequest(reason=Reason(None, None, "the run has ended")))
        context, status = read_live_context(repository)
        result = recover(repository.toplevel, RecoverRequest(waiting_only=True))
        if result.exit_status:
            return result
        if status is not None:
            write_state(repository, context, ACTIVE, durable=False)
    if finished:
        finish(repository)
    return result


def made_by_hand(repository: Repository) -> str | None:
    """The id of the pending save, where no end of a run has made it: it has neither signal nor exit status."""
    archive = pending_archive(repository)
    if archive is None:
        return None
    with ObjectReader(repository.git) as reader, suppress(CorruptSave, UnsupportedSave):
        manifest = read_save(archive, reader).manifest
        ended = manifest.reason.signal is not None or manifest.reason.exit_code is not None
        return None if ended else manifest.save_id
    return None


#: Why a save was made that keeps a task aside: `log` and `status` know it by that.
ASIDE = "set aside"


def set_aside(repository: Repository, next_task: str) -> RecoverResult:
    """Keep the work of the task that is here aside, so that the task `next_task` begins on its base commit.

    All is saved first. Then git takes the tree back to the base: what is in no save stays, as ignored files do. The
    marker goes last: a kill before leaves the save pending, and a recovery brings it back. A dismissed ref holds the
    save from then on. Returns the recovery of what was pending; with an exit status other than 0, nothing was set
    aside. Raises NeedsPerson where the branch can't go back to the base,
    or the save lacks something.
    """
    from ..recover.recover import recover
    from ..recover.request import RecoverRequest, hints_for
    from ..save.request import SaveRequest
    from ..save.save import save

    # The half of an earlier try is undone first.
    result = recover(repository.toplevel, RecoverRequest())
    if result.exit_status:
        return result
    reason = Reason(None, None, f"{ASIDE}: {text_to_json(next_task)[:200]}")
    saved = save(repository.toplevel, SaveRequest(reason=reason))
    if saved.save_id is None or saved.archive is None:
        return result
    if saved.lost:
        message = f"the task can't be set aside: the save {saved.save_id} lacks files that are here"
        raise NeedsPerson(message, hint="gitstate recover (then move what it names as skipped)")
    with (
        hints_for(repository.toplevel),
        locked_workspace(repository, Deadline(60.0)) as git,
        ObjectReader(repository.git) as reader,
    ):
        stack = read_stack(saved.archive, reader)
        base = stack[-1].manifest.head
        if head_of(repository.toplevel) != stack[0].wip or base is None:
            why = saved.why_not_moved or "the branch has no commit"
            message = f"the task can't be set aside: {why}; it is saved as {saved.save_id}"
            raise NeedsPerson(message, hint="gitstate recover")
        marker = own_marker(repository)
        kept = dismissed_ref(workspace_id(repository), saved.save_id)
        branch = stack[0].manifest.head_ref or "HEAD"
        write_journal(repository, ref_locks(repository, [marker, kept, branch]))
        # Git stops where a file differs from the save.
        env = with_filter_limit(repository).filter_env()
        git.run("update-index", "-q", "--refresh", ok_codes=(0, 1), env=env)
        git.run("reset", "--keep", base, env=env)
        files.sync_filesystem(repository.own)
        write_state(repository, with_measured_fields(repository, Context(), read_head(repository.git_dir)), FINISHED)
        updates = [RefUpdate(kept, saved.archive, None), RefUpdate(marker, None, saved.archive)]
        refs.move_refs(repository, git, updates, ASIDE)
        clear_journal(repository)
    return result._replace(save_id=saved.save_id, context=stack[0].context)


def is_aside(manifest: Manifest) -> bool:
    """Whether a save was made to set a task aside."""
    return (manifest.reason.detail or "").startswith(f"{ASIDE}: ")


def _hold_for(repository: Repository, owner_pid: int, agent: str | None) -> None:
    """Have a process of its own hold the lease for as long as `owner_pid` lives; idempotent.

    For a loop: between the runs of its agents no keeper holds it. Raises TryAgain where another run works here.
    """
    owner = process(owner_pid)
    who = presence(repository)
    if owner.start is None or (who.live and who.holder is not None and (who.ours or who.holder.owner == owner)):
        return
    fd = lease.take(repository)
    try:
        import subprocess

        place = lease.lease_file(repository)
        holder = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _HOLDER, str(fd), str(owner.pid), owner.start, place],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(fd,),
            start_new_session=True,
            cwd="/",
        )
        keeper = process(holder.pid)
        lease.write_holder(repository, this_holder("keeper", owner, keeper=keeper, agent=agent))
    finally:
        os.close(fd)


def _let_go(repository: Repository) -> None:
    """The loop has finished: the process that holds the lease for it ends, and nobody works here."""
    who = presence(repository)
    holder = who.holder
    if holder is not None and who.ours and holder.run_id is None and holder.keeper is not None:
        lease.clear_holder(repository, holder)
        send(holder.keeper, signal.SIGTERM)
