"""The command's entry. `save` and `checkpoint` run without click: in a trap, every millisecond is grace spent."""

from __future__ import annotations

import gc
import os
import sys


def main() -> None:
    """Run the command line in sys.argv and exit."""
    _fill_closed_streams()
    if sys.argv[1:2] == ["keep"] and sys.argv[2:3] and sys.argv[2].isdigit():
        from .keeper import keep

        keep(int(sys.argv[2]))
        return
    from .arguments import parse

    quick = parse(sys.argv[1:])
    if quick is not None:
        from .report import run_save

        # A save makes many objects, none in cycles that matter, and ends.
        gc.disable()
        status = run_save(quick)
        # All is on the disk and nothing is left to tidy: tearing down the interpreter would only cost time.
        os._exit(status)
    from .cli import main as click_main

    click_main()


def _fill_closed_streams() -> None:
    """Where the caller closed a standard stream, let /dev/null take its number: no lock or pack may get it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


if __name__ == "__main__":
    main()
