"""What the scripts' command lines share: help, options as `key=value`, and errors as one sentence."""

import difflib
import functools
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from core.console import log
from core.errors import USER_ERRORS, Diverged, UserError, no_folder, unknown
from core.mistakes import sentence

SLIP = 0.75  # at least so similar is a misspelt option: fle is (file), init_from is not (into)


def command(main: Callable[[list[str]], None]) -> Callable[[], int]:
    """Wraps a script's main function, which takes the command line's words, so that it returns the exit status.

    1: the run diverged; 2: a user's mistake, printed in one sentence. `--help` prints the script's docstring.
    """

    @functools.wraps(main)
    def run() -> int:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # a terminal of ASCII alone shows † as \u2020
        words = sys.argv[1:]
        try:
            if {"-h", "--help"}.isdisjoint(words):
                main(words)
            else:
                print(sys.modules[main.__module__].__doc__)
            sys.stdout.flush()
        except BrokenPipeError:  # the reader, such as `head`, has ended
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except (Diverged, OSError, *USER_ERRORS) as error:
            log.error(sentence(error))
            return 1 if isinstance(error, Diverged) else 2
        return 0

    return run


def parse(
    words: Sequence[str], options: dict[str, str | None], required: tuple[str, ...] = (), rest_are: str = "words"
) -> tuple[dict[str, str | None], list[str]]:
    """Splits the command line's words into options, with their defaults filled in, and the other words.

    Args:
        options: each with its default.
        rest_are: what the other words are. "paths": those with `=` or `--` must exist; "none": no others are allowed.

    Raises:
        UserError: a required option is missing, an option is empty, or a word is nearly one, or meant as one.
    """
    chosen, rest = dict(options), []
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key in options:
            if not value:
                raise UserError(f"{word} is empty: give a value" + ", or leave it out" * (key not in required))
            chosen[key] = value
        elif word.startswith("--") and key[2:].replace("-", "_") in options:
            name = key[2:].replace("-", "_")
            raise UserError(f"options have no dashes: write {name}={value or 'VALUE'}")
        elif rest_are == "none" and required and os.path.lexists(word):
            raise UserError(f"write {required[0]}={word}")
        elif rest_are == "none" or (
            rest_are == "paths" and (equals or word.startswith("--")) and not os.path.lexists(word)
        ):
            raise UserError(unknown("option", key.lstrip("-"), options))
        elif rest_are == "paths" and not word:
            raise UserError("a path is empty: leave it out")
        elif equals and difflib.get_close_matches(key, options, n=1, cutoff=SLIP):
            raise UserError(unknown("option", key, options))
        else:
            rest.append(word)
    if missing := [key for key in required if not chosen[key]]:
        meant = next((word for word in rest if os.path.lexists(word)), None)
        why = f"{missing[0]}=... is missing; --help shows how" if meant is None else f"write {missing[0]}={meant}"
        raise UserError(why)
    return chosen, rest


def new_folder(key: str, value: str) -> Path:
    """A folder to write to, which may be there.

    Raises:
        UserError: a file is there.
    """
    if Path(value).is_file():
        raise UserError(f"{key}: {no_folder(Path(value))}")
    return Path(value)


def whole(key: str, value: str) -> int:
    """A whole number of at least one.

    Raises:
        UserError: it is not one.
    """
    if not value.isdecimal() or int(value) < 1:
        raise UserError(f"{key} is '{value}'; give a whole number of at least 1")
    return int(value)
