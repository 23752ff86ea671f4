"""The protocol, broken on purpose: each mutation is one exact replacement, with the test that must notice it.

`test_mutations.py` applies each to a copy of the package. A text that is not found exactly once is a failure there, so
that this list stays true. `docs/reliability.md` shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Mutation(NamedTuple):
    """Replace `old` by `new` in `gitstate/<file>`; `test` (below `tests/`) must fail, run with `env` set."""

    name: str
    file: str
    old: str
    new: str
    test: str
    env: Mapping[str, str] = {}


POWER = "faults/test_power.py::test_power_cut_at_sampled_writes_loses_nothing"
KILL = "faults/test_kill.py::test_kill_at_sampled_system_calls_loses_nothing"
ERRORS = "faults/test_errors.py::test_failure_of_sampled_system_calls_is_handled"

MUTATIONS = (
    # -- what has to be on the disk before success is reported
    Mutation(
        "git syncs no ref",
        "git/command.py",
        "core.fsync=reference,loose-object,pack,pack-metadata",
        "core.fsync=none",
        f"{POWER}[ext4-checkpoint]",
    ),
    Mutation(
        "a pack gets its name before it is on the disk",
        "objects/pack.py",
        "        for fd in fds:\n            sync(fd)\n",
        "",
        "objects/test_pack.py::test_pack_and_its_index_are_on_the_disk_before_they_have_a_name",
    ),
    Mutation(
        "the directories of refs are not synced",
        "save/publish.py",
        "        self.refs.sync(updates)\n",
        "",
        f"{POWER}[ext4-checkpoint]",
    ),
    Mutation(
        "objects that the agent's git never synced are taken for durable",
        "objects/durable.py",
        "start_sync_since([packs, *places], stamp, (",
        "start_sync_since([], stamp, (",
        f"{POWER}[ext4-save]",
    ),
    Mutation(
        "objects are not synced one by one",
        "objects/durable.py",
        "    for path in dict.fromkeys((*found, *changed, *others)):\n",
        "    for path in dict.fromkeys(others):\n",
        "objects/test_durable.py::test_save_syncs_what_an_agent_staged_by_one_call_where_little_else_waits[much]",
    ),
    Mutation(
        "the one sync that stands for many is left out",
        "objects/durable.py",
        "            syncs = [FilesystemSync(place) for place in devices.values()]\n",
        "            syncs = []\n",
        f"{POWER}[ext4-checkpoint-many]",
    ),
    Mutation(
        "nobody waits for the sync that goes on beside a save",
        "save/publish.py",
        "            self._others.finish()\n",
        "            pass\n",
        "objects/test_durable.py::test_refs_move_when_what_an_agent_staged_is_on_the_disk[True]",
    ),
    Mutation(
        "recover writes files without fsync",
        "restore/files.py",
        "                    sync_new(list(staged.values()), self._load_digest)\n",
        "                    pass\n",
        "recover/test_cost.py::test_written_files_are_synced_by_one_call_or_once_each",
    ),
    Mutation(
        "a file that a power cut left short is taken for an edit",
        "restore/paths.py",
        "target.saved is not None and self.is_cut_short(target)",
        "False",
        "faults/test_cut_short.py::test_file_shortened_by_a_power_cut_is_restored",
    ),
    Mutation(
        "an older file moved into place is taken for one that a power cut left short",
        "workspace/files.py",
        "max(info.st_mtime_ns, info.st_ctime_ns)",
        "info.st_mtime_ns",
        "faults/test_cut_short.py::test_older_beginning_put_there_by_a_person_is_kept",
    ),
    Mutation(
        "a power cut is thought of where the machine never went down",
        "restore/paths.py",
        "if boot is not None and boot == save.context.boot_id:",
        "if False:",
        "faults/test_cut_short.py::test_older_directory_moved_there_by_a_person_is_kept",
    ),
    Mutation(
        "recover relies on files that nobody synced",
        "recover/steps.py",
        "        to_disk.finish([*(target.path for target in targets), *newest.manifest.directories])\n",
        "",
        "objects/test_durable.py::test_marker_goes_when_what_a_recovery_found_right_is_on_the_disk",
    ),
    Mutation(
        "files that a power cut left short in a run stay so",
        "recover/steps.py",
        '        if self.facts.owner == "gone":\n',
        "        if False:\n",
        "faults/test_cut_short.py::test_file_shortened_in_a_run_comes_back_from_the_checkpoint",
    ),
    Mutation(
        "the next checkpoint drops the only ref to lost work",
        "save/publish.py",
        "        self.move([*keeping, *updates])\n",
        "        self.move(updates)\n",
        "save/test_keep.py::test_work_that_is_undone_keeps_its_checkpoint",
    ),
    Mutation(
        "the files of an unfinished merge are not synced",
        "objects/durable.py",
        "    for name in operation_paths(git_dir, common):\n",
        "    for name in ():\n",
        f"{POWER}[ext4-save-merge]",
    ),
    # -- the order of the steps
    Mutation(
        "the marker goes before the files are back",
        "recover/steps.py",
        "            recovery.carry_out(choices)\n",
        "            if self.facts.marker is not None:\n"
        "                update = RefUpdate(self.facts.marker, None, newest.archive)\n"
        "                refs.move_refs(self.repository, workspace.git, [update], '')\n"
        "            recovery.carry_out(choices)\n",
        f"{KILL}[recover-undone]",
        {"CRASH_POINT": "gitstate:(link|rename|linkat|renameat).*"},
    ),
    Mutation(
        "the branch moves before the marker is set",
        "save/protocol.py",
        "        publisher.make_durable(updates, kept)\n",
        "        publisher.make_durable([RefUpdate(taken.head_ref or '', built.wip, taken.head)], kept)\n"
        "        publisher.refs.carry_out()\n        publisher.refs.prepare(updates)\n",
        f"{KILL}[save]",
        {"CRASH_POINT": "update-ref.*:rename:.*"},
    ),
    Mutation(
        "the marker moves before the objects are on the disk",
        "save/publish.py",
        "            writer.prepare(updates)\n        ours = ",
        "            writer.prepare(updates)\n            writer.carry_out()\n"
        "            writer.carry_out = lambda: None\n        ours = ",
        f"{POWER}[ext4-checkpoint]",
        {"POWER_POINT": "155"},
    ),
    # -- compare and swap, locks, who holds what
    Mutation(
        "refs are moved from any value",
        "git/refs.py",
        "        zero = self._repository.zero\n",
        "        zero = self._repository.zero\n"
        "        there = read_refs(self._repository, [update.ref for update in updates])\n"
        "        updates = [update._replace(old=there.get(update.ref)) for update in updates]\n",
        "faults/test_concurrency.py::test_branch_that_moves_during_a_save_is_kept",
    ),
    Mutation(
        "what git takes for the value of a locked ref is not read again",
        "git/refs.py",
        "                self._refuse_moved_refs()\n",
        "",
        "git/test_refs.py::test_ref_that_moved_in_packed_refs_unseen_by_git_is_not_moved",
    ),
    Mutation(
        "the workspace is not locked",
        "system/locks.py",
        "                return flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        "                return fd\n",
        "faults/test_concurrency.py::test_save_and_recover_in_one_workspace_take_turns",
    ),
    Mutation(
        "a pack has no .keep while no ref holds it",
        "objects/pack.py",
        "        self._hold(name)\n        pack = ",
        "        pack = ",
        "faults/test_concurrency.py::test_gc_before_the_refs_move_loses_no_object",
    ),
    Mutation(
        "an index that moved under the save is exchanged all the same",
        "save/index.py",
        "            if not is_frozen_index(self._index, self.frozen) or "
        "identify_index_at(self._index) != self._seen:\n                return\n",
        "",
        "faults/test_concurrency.py::test_file_staged_during_a_save_stays_staged",
    ),
    Mutation(
        "locks of a killed git stay",
        "workspace/ownership.py",
        "            _remove_dead_lock(lock, int(first), repository)\n",
        "            pass\n",
        f"{KILL}[save]",
        {"CRASH_POINT": "update-ref.*:rename:.*"},
    ),
    Mutation(
        "half-written packs of a killed save stay",
        "workspace/ownership.py",
        "    sweep_litter(repository.objects, workspace_id(repository))\n",
        "",
        f"{KILL}[save]",
        {"CRASH_POINT": "gitstate:fsync:[1-6]"},
    ),
    # -- nothing is overwritten, nothing is passed over
    Mutation(
        "no safety save before files are replaced",
        "recover/steps.py",
        "            outcome.safety = save_for_safety(workspace, choices)\n",
        "",
        "recover/test_newer_work.py::test_ignored_file_is_saved_before_it_is_overwritten",
    ),
    Mutation(
        "an edited file is overwritten",
        "restore/choices.py",
        'return "write" if overwrite else "look"',
        'return "write"',
        "stories/test_later_work.py::test_file_edited_after_the_save_is_kept",
    ),
    Mutation(
        "the marker goes though a file could not be written",
        "recover/steps.py",
        "if marker is not None and marker_goes(outcome):",
        "if marker is not None:",
        "recover/test_incomplete.py::test_unwritable_path_is_reported_and_stays_pending",
    ),
    Mutation(
        "the marker goes, and nothing names a repository inside that is not back",
        "recover/steps.py",
        "            self._mover().commit(updates, is_last=False)\n",
        "            pass\n",
        "recover/test_unfinished.py::test_recovery_that_was_killed_between_its_steps_goes_on",
    ),
    Mutation(
        "a good index is put away because git failed",
        "restore/index.py",
        "not is_torn_index(self._current, object_format):\n                raise",
        "not os.path.exists(self._current):\n                raise",
        f"{ERRORS}[recover]",
        {"ERROR_POINT": r"diff-index\.1:openat:.*\+"},
    ),
    Mutation(
        "a failed fsync is passed over",
        "system/files.py",
        "        if error.errno not in UNSUPPORTED:\n            raise _named(error, fd) from None\n",
        "        pass\n",
        f"{ERRORS}[save]",
        {"ERROR_POINT": r"gitstate:fsync:.*=EIO"},
    ),
    Mutation(
        "a save that left bytes out says that all is well",
        "cli/quick.py",
        "    return EXIT_PERSON if lost else EXIT_DONE\n",
        "    return EXIT_DONE\n",
        "faults/test_limits.py::test_unreadable_file_is_reported_as_skipped",
    ),
    Mutation(
        "a note is tried once, and nobody takes turns",
        "objects/notes.py",
        "            for _ in range(_TRIES):\n                tip =",
        "            for _ in range(1):\n                tip =",
        "faults/test_concurrency.py::test_note_written_during_a_save_is_kept",
    ),
    Mutation(
        "an order to save trusts the events of files",
        "orders/saving.py",
        "        result = _save_all(repository, request, end, early)\n    except",
        "        result = _save_all(repository, request._replace(known=known), end, early)\n    except",
        "orders/test_save.py::test_store_without_an_event_is_saved_too",
    ),
    Mutation(
        "an order is answered with the save of what was announced",
        "orders/saving.py",
        "    if result is None or not says_the_same(order, wanted):\n",
        "    if result is None:\n",
        "orders/test_announced.py::test_order_wins_over_what_was_announced",
    ),
    Mutation(
        "whoever listens at the socket is the keeper",
        "orders/client.py",
        "peer(connection)[1] == os.geteuid() and",
        "True and",
        "orders/test_save.py::test_socket_of_another_user_is_told_nothing",
    ),
    Mutation(
        "a keeper saves its workspace for whoever asks",
        "orders/listener.py",
        '            return tuple(message["own"]) == identity(self._repository.own)\n',
        "            return True\n",
        "orders/test_save.py::test_keeper_of_another_workspace_saves_nothing",
    ),
    Mutation(
        "the keeper believes each number of a process",
        "orders/announced.py",
        "    return found if process.process_start(found.pid) == found.start else None\n",
        "    return process.process(found.pid)\n",
        "orders/test_announced.py::test_announcement_of_no_process_begins_nothing",
    ),
    Mutation(
        "what a tool changed in the interval waits for the next event",
        "agent_hooks/background.py",
        "    _wait_for_interval(repository)\n",
        "",
        "agent_hooks/test_background.py::test_tool_in_the_interval_brings_a_checkpoint_at_its_end",
    ),
    Mutation(
        "the keeper does not wait for the last events of the hooks",
        "run/keeper.py",
        "        wait_until_empty(self.repository, _HOOKS)\n",
        "",
        "agent_hooks/test_background.py::test_turn_that_was_closed_last_is_known_at_the_end_of_the_run",
    ),
    # -- what others wrote is data
    Mutation(
        "every path of a save is trusted",
        "objects/tree.py",
        '    return plain not in (".git", "git~1")\n',
        "    return True\n",
        "faults/test_fuzz.py::test_every_disguise_of_dot_git_is_rejected",
    ),
    Mutation(
        "the repository's hooks run",
        "git/command.py",
        ' "-c", "core.hooksPath=/dev/null",',
        "",
        "faults/test_programs.py::test_programs_of_configuration_and_hooks_never_run",
    ),
    Mutation(
        "the repository's file system monitor runs",
        "git/command.py",
        '"-c", "core.fsmonitor=false", ',
        "",
        "faults/test_programs.py::test_programs_of_configuration_and_hooks_never_run",
    ),
    Mutation(
        "names and values reach the terminal raw",
        "system/terminal.py",
        'return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in plain)',
        "return plain",
        "faults/test_fuzz.py::test_control_characters_never_reach_the_terminal",
    ),
    Mutation(
        "a journal may name any lock",
        "workspace/ownership.py",
        '    if not inside or not path.endswith(b".lock"):\n        return\n',
        "",
        "faults/test_fuzz.py::test_journal_removes_only_locks_of_this_repository",
    ),
    # -- what an agent destroys itself
    Mutation(
        "what is destroyed while a checkpoint is taken is let go",
        "holding/held.py",
        "version.is_given and path not in missed",
        "path not in missed",
        "holding/test_held.py::test_file_that_goes_between_question_and_release_is_given_next",
    ),
    Mutation(
        "a save does not ask what was destroyed",
        "save/protocol.py",
        'return self.request.beside(self.builder, self.request, scene), ""',
        'return [], ""',
        "holding/test_window.py::test_what_is_destroyed_after_it_was_held_is_kept[reset]",
    ),
)

#: Tried in an ordinary run: those whose test is quick and needs no strace.
QUICK = (
    "a pack has no .keep while no ref holds it",
    "a file that a power cut left short is taken for an edit",
    "every path of a save is trusted",
)
