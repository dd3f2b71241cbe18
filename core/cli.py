"""Arguments of a command line: `key=value`, and the rest; train.py's flags, which are Hydra's."""

import difflib
from collections.abc import Sequence
from typing import NoReturn

from hydra._internal.utils import get_args_parser

from core.errors import UserError, unknown

SLIP = 0.75  # similarity from which a key counts as a misspelt option: fle of file does, init_from of into does not


def parse(
    words: Sequence[str], options: dict[str, str | None], required: tuple[str, ...] = ()
) -> tuple[dict[str, str | None], list[str]]:
    """The options with what the words set, and the words that set none.

    Args:
        options: each with its default.

    Raises:
        UserError: a required option is missing, or a word is nearly one.
    """
    chosen, rest = dict(options), []
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key in options:
            chosen[key] = value
        elif equals and difflib.get_close_matches(key, options, n=1, cutoff=SLIP):
            raise UserError(unknown("option", key, options))
        else:
            rest.append(word)
    if missing := [key for key in required if not chosen[key]]:
        raise UserError(f"{missing[0]}=... is missing")
    return chosen, rest


def require_flags() -> None:
    """Raises a UserError for flags to which Hydra would print its whole usage."""
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{message}; flags stand before all overrides, --hydra-help lists them")

    parser.error = refuse
    if parser.parse_args().experimental_rerun:
        raise UserError(
            "--experimental-rerun reads a pickle, which this project never does: give the run's overrides again"
        )
