"""What a run has left behind: whether it changed anything."""

from __future__ import annotations

from ..errors import GitError, GitstateError, words_of
from ..format.archive import pending_archive, read_save
from ..git.repository import Repository
from ..objects.reader import ObjectReader
from ..save.request import SaveRequest
from ..save.save import save


def work_state(repository: Repository) -> str:
    """The commit that the work stands on and the tree of all files: of the pending save where there is one.

    It is the same before an interruption and after its recovery. Takes a checkpoint where nothing is pending.
    """
    try:
        archive = pending_archive(repository)
        if archive is not None:
            with ObjectReader(repository.git) as reader:
                found = read_save(archive, reader)
            return f"{found.manifest.base} {found.wip_tree}"
        taken = save(repository.toplevel, SaveRequest(kind="checkpoint"))
        tree = _name(repository, (taken.wip_commit or "HEAD") + "^{tree}")
        return f"{_name(repository, 'HEAD')} {tree}"
    except (GitstateError, OSError) as error:
        return f"unreadable: {words_of(error)}"


def _name(repository: Repository, what: str) -> str:
    try:
        return repository.git.run("rev-parse", "-q", "--verify", what).decode("ascii", "replace").strip()
    except GitError:
        return "none"
