"""What a setting may be, declared on its field: `rank: Annotated[int, number(at_least=1)] = 8`.

A check takes a key and a value, and raises a UserError that names both and the way out. pydantic is not used: OmegaConf
checks types already, and pydantic's messages are in its own words.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, get_origin, get_type_hints

from core.errors import UserError

Check = Callable[[str, Any], None]


def check(settings: Any, path: str = "") -> None:
    """Checks each field of a dataclass by its annotation; None means no value, and passes.

    Raises:
        UserError: a check fails, or `${...}` replaced a mapping by something else.
    """
    for name, hint in get_type_hints(type(settings), include_extras=True).items():
        value, kind = getattr(settings, name, None), get_origin(hint) or hint
        is_mapping = isinstance(kind, type) and (kind is dict or dataclasses.is_dataclass(kind))
        if is_mapping and not isinstance(value, kind):
            raise UserError(f"{path}{name} is '{value}'; it must be a mapping of settings")
        for refuse in getattr(hint, "__metadata__", ()):
            if value is not None:
                refuse(path + name, value)


def one_of(*choices: str) -> Check:
    """A check that the value is one of the choices."""

    def refuse(key: str, value: str) -> None:
        if value not in choices:
            raise UserError(f"{key} is '{value}'; choose one of: {', '.join(choices)}")

    return refuse


def number(
    *, at_least: float = -math.inf, above: float = -math.inf, below: float = math.inf, at_most: float = math.inf
) -> Check:
    """A check that the value is finite and within the bounds."""
    bounds = {"at least": at_least, "above": above, "below": below, "at most": at_most}
    parts = [f"{word} {bound}" for word, bound in bounds.items() if math.isfinite(bound)]
    if min(below, at_most) == math.inf:
        parts.append("finite")

    def refuse(key: str, value: float) -> None:
        if not (at_least <= value <= at_most and above < value < below):
            raise UserError(f"{key} is {value}; it must be {' and '.join(parts)}")

    return refuse


def generator_seed(key: str, value: int) -> None:
    """Raises a UserError for a seed that torch's generators do not take."""
    if not 0 <= value < 2**63:
        raise UserError(f"{key} is {value}; it must be at least 0 and below 2**63")


FRACTION = number(at_least=0, below=1)
POSITIVE = number(above=0)
COUNT = number(at_least=1)
