"""What a command prints: errors and warnings on the error stream, and lines above the progress bar."""

import logging
import math
import os
import sys
from contextlib import suppress

from tqdm import tqdm

from core.redact import redacted


class Console(logging.Handler):
    """Logs `error: ...` and `warning: ...` to the error stream, without secrets, even in a traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        return os.environ.get("RANK", "0") == "0"  # under `accelerate launch` all processes meet the same mistake

    def format(self, record: logging.LogRecord) -> str:
        text = redacted(super().format(record))
        return text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}"

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):  # the pipe is closed, which is no reason to stop
            print(self.format(record), file=sys.stderr, flush=True)


log = logging.getLogger("peft_glue")
log.setLevel(logging.INFO)
log.propagate = False
log.addHandler(Console())


def say(text: str, bar: tqdm | None = None) -> None:
    """Prints a line on the output stream, above the progress bar. A closed pipe, as after `| head`, stops nothing."""
    with suppress(OSError):
        try:
            (bar or tqdm).write(text)
            sys.stdout.flush()
        except BrokenPipeError:  # else Python would fail again at exit, on its unwritten output
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def duration(seconds: float) -> str:
    """`3 h 20 min`, `12 min`, `1 min 5 s` or `45 s`; rounded up."""
    if seconds < 600:
        minutes, rest = divmod(math.ceil(seconds), 60)
        return " ".join([f"{minutes} min"] * (minutes > 0) + [f"{rest} s"] * (rest > 0 or not minutes))
    hours, minutes = divmod(math.ceil(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def counted(number: int, noun: str) -> str:
    """`1 run`, or `1,200 runs`."""
    return f"{number:,} {noun}" + "s" * (number != 1)
