"""Let git fold the packs of checkpoints together, beside a run.

Each checkpoint is a pack, and most of them are replaced within minutes. Git folds packs by itself after a commit, but
an agent may not commit for hours. And a git before 2.41 then writes each object that nobody holds any more into a file
of its own, for two weeks; after some thousands it refuses to go on. Folded here in time, they stay in one pack.
"""

from __future__ import annotations

import os

from ..errors import GitError
from ..git.repository import Repository
from ..system.stdlib import suppress

#: From so many packs on git is asked to fold them; by itself it does so above 50.
MANY = 30
#: Settings for a git whose user has not made them.
_DEFAULTS = {
    "gc.autoPackLimit": str(MANY - 1),
    "gc.auto": "4000",
    # What nobody holds goes into a pack (git 2.37), not into files of its own.
    "gc.cruftPacks": "true",
    # A large history is not written anew for some small packs.
    "gc.bigPackThreshold": "64m",
}


def fold_packs(repository: Repository, above: int = 0) -> int:
    """Ask git to fold the packs where they are many, and more than `above`; it does so in the background.

    Returns what `above` is to be the next time: a git that folds nothing, as its user may want, is not asked at each
    checkpoint. Raises nothing: it is asked again, and git itself tells its user what is wrong.
    """
    if repository.stranger is not None:
        # Its owner could not remove what git writes for us.
        return above
    try:
        names = os.listdir(os.path.join(repository.objects, b"pack"))
    except OSError:
        return above
    count = sum(name.endswith(b".pack") for name in names)
    if count < MANY:
        return 0
    if count <= above:
        return above
    with suppress(OSError, GitError):
        repository.git.collect_garbage(_DEFAULTS)
    return count + MANY
