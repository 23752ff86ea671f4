"""The command's entry. `save` and `checkpoint` run without click: in a trap, every millisecond is grace spent."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line in sys.argv and exit."""
    from .arguments import parse

    quick = parse(sys.argv[1:])
    if quick is not None:
        from .report import run_save

        status = run_save(quick)
        sys.stdout.flush()
        # All is on the disk and nothing is left to tidy: tearing down the interpreter would only cost time.
        os._exit(status)
    from .cli import main as click_main

    click_main()


if __name__ == "__main__":
    main()
