"""Ending a process from outside like Ctrl-C would, so that a step saves what it has."""

import signal
import sys
import threading

EXIT_TERMINATED = 143
"""128 + SIGTERM, as shells and schedulers expect."""

TERMINATED = threading.Event()
"""Set when the process was asked to end; frameworks wrap the exception that unwinds a step into one of their own."""


def unwind_on_sigterm() -> None:
    """Makes SIGTERM raise SystemExit where the program is."""
    signal.signal(signal.SIGTERM, _terminate)


def _terminate(*_: object) -> None:
    TERMINATED.set()
    sys.exit(EXIT_TERMINATED)
