"""All figures of docs/speed.md in one run of `look.py`, `save.py`, `run.py`, `fleet.py` and `growth.py`.

    python bench/speed.py [--quick] [--write]

A quick one has small sizes and one round: to see that all works.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

import fleet
import growth
import look
import run
import save
from place import add_arguments

#: Each program with its options, and those of a quick run.
_ALL: list[tuple[Callable[[Sequence[str] | None], int], str, str]] = [
    (look.main, "", "--sizes 200 --runs 1"),
    (save.main, "--only save,stash-push,status", "--sizes 200 --runs 1 --big-mb 1"),
    (run.main, "", "--sizes 200 --runs 1"),
    (fleet.main, "", "--workspaces 20 --waiting 3 --runs-at-once 2"),
    (growth.main, "", "--sizes 10,20 --axis changed --runs 1"),
]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, one round")
    add_arguments(parser)
    args = parser.parse_args(argv)
    given = ["--write"] if args.write else []
    given += ["--gitstate", args.gitstate] if args.gitstate else []
    given += ["--workdir", str(args.workdir)] if args.workdir else []
    status = 0
    for measure, options, quick in _ALL:
        status |= measure([*options.split(), *(quick.split() if args.quick else ()), *given])
    return status


if __name__ == "__main__":
    sys.exit(main())
