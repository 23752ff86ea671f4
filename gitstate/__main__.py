"""The command's entry. `save` and `checkpoint` run without click: in a trap, every millisecond is grace spent."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line in sys.argv and exit."""
    from .arguments import parse

    quick = parse(sys.argv[1:])
    if quick is not None:
        from .report import run_save

        sys.exit(run_save(quick))
    from .cli import main as click_main

    click_main()


if __name__ == "__main__":
    main()
