"""Signals that ask a process to stop. A run notes them, obeys at its next checkpoint and passes them on; a sweep stops."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class StopRequest:
    """Inside the context Ctrl-C, a scheduler's warning or a closed terminal sets `signal`; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __enter__(self) -> "StopRequest":
        self.before = _handle(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        _restore(self.before)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        if number == signal.SIGINT:
            signal.signal(number, self.before[signal.SIGINT])

    def pass_on(self) -> None:
        """Raises the signal again for the previous handler: submitit's then queues the job again."""
        if self.signal and signal.getsignal(self.signal) not in (
            signal.SIG_DFL,
            signal.SIG_IGN,
            signal.default_int_handler,
        ):
            signal.raise_signal(self.signal)


@contextmanager
def as_ctrl_c() -> Iterator[None]:
    """Inside the context each signal that asks a process to stop raises KeyboardInterrupt."""
    before = _handle(signal.default_int_handler)
    try:
        yield
    finally:
        _restore(before)


def _handle(handler: Callable[[int, FrameType | None], Any]) -> dict[signal.Signals, Any]:
    """Sets a handler for each signal that is not ignored, as nohup ignores SIGHUP; returns the former ones."""
    before = {number: signal.getsignal(number) for number in STOPS}
    for number in [number for number, former in before.items() if former is not signal.SIG_IGN]:
        signal.signal(number, handler)
    return before


def _restore(before: dict[signal.Signals, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)
