"""Ctrl-C, before and during a command. It imports next to nothing, to be active before everything else."""

import os
import signal


def _leave(signum: int, frame: object) -> None:
    """End the process at once: there is nothing to clean up yet."""
    os.write(2, b"\ninterrupted\n")
    os._exit(130)


def leave_at_once() -> None:
    """Let Ctrl-C end the process at once, unless it is ignored (`nohup`, `&` in a script).

    Within an import Python's own KeyboardInterrupt would end in a traceback, or be swallowed by a library.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def end_at_once() -> None:
    """Let a second Ctrl-C end the process silently while the first is handled."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def raise_again() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again, so that a command can finish its outputs."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)
