"""The command's entry. What runs in a trap, a hook, a prompt or at a loop's start runs without click."""

from __future__ import annotations

import gc
import os
import sys

from .bundle import Bundle
from .errors import EXIT_AGAIN

#: The commands that are short enough for it to matter.
_BUNDLED = ("save", "checkpoint", "recover", "status", "hook", "begin", "set", "finish")


def main() -> None:
    """Run the command line in sys.argv and exit."""
    try:
        _main()
    except KeyboardInterrupt:
        # Before anything was begun, or after all was done.
        from .cli.quick import EXIT_ON_INTERRUPT

        os._exit(EXIT_ON_INTERRUPT)


def _main() -> None:
    # A crash path makes many objects, none in cycles that matter, and ends.
    gc.disable()
    _fill_closed_streams()
    # Compiling all this anew takes longer than a save: what PYTHONDONTWRITEBYTECODE forbids would be done each time.
    sys.dont_write_bytecode = False
    bundle = Bundle(next((word for word in sys.argv[1:] if word in _BUNDLED), "other"))
    if bundle.name in _BUNDLED:
        bundle.use()
    from .system.stdlib import signal

    # Where the caller ignores it, the kernel keeps the exit status of every git from us.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if sys.argv[1:2] == ["keep"] and sys.argv[2:3] and sys.argv[2].isdigit():
        gc.enable()
        from .cli.quick import guarded
        from .run.keeper import keep

        sys.exit(guarded(lambda: keep(int(sys.argv[2])), "keep", False))
    if sys.argv[1:2] == ["hook"] and len(sys.argv) > 2 and not sys.argv[2].startswith("-"):
        from .cli.quick import run_hook

        status = run_hook(sys.argv[2], sys.argv[3:])
        bundle.renew()
        os._exit(status)
    if sys.argv[1:] == ["--version"]:
        from . import __version__
        from .system.terminal import print_answer, say

        try:
            print_answer(f"gitstate, version {__version__}\n")
        except OSError as error:
            say(f"gitstate: stdout: {error.strerror}")
            os._exit(1)
        os._exit(0)
    from .cli.options import parse

    quick = parse(sys.argv[1:])
    if quick is not None and quick.command == "run":
        from .cli.running import run_quick

        gc.enable()
        ended = run_quick(quick)
        if ended is not None:
            os._exit(ended)
    elif quick is not None:
        if quick.command in ("save", "checkpoint"):
            from .cli.quick import run_save as run
        elif quick.command in ("begin", "set", "finish"):
            from .cli.tasks import run_quick as run
        else:
            from .cli.recovering import run_quick as run
        status = run(quick)
        if "watch" not in quick.given and status != EXIT_AGAIN:
            # A prompt, which asks for the status too, would read what only a live table needs. And a disk that did not
            # take a save in time may not take this either.
            bundle.renew()
        # All is on the disk and nothing is left to tidy: tearing down the interpreter would only cost time.
        os._exit(status)
    _run_click()


def _run_click() -> None:
    """Run a command that takes its time, and exit."""
    gc.enable()
    if sys.flags.no_site:
        # `bin/gitstate` leaves it out: only the paths that it adds lead to what is not Python's own.
        import site

        site.main()
    from .cli.main import main as click_main

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
