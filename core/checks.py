"""Checks of single settings: each raises a UserError that names the key, the value and the way out."""

import dataclasses
import math
from typing import Any, get_origin

from core.errors import UserError


def choose(key: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises a UserError that lists the choices."""
    if value not in choices:
        raise UserError(f"{key} is '{value}'; choose one of: {', '.join(choices)}")


def at_least(key: str, value: float | None, least: float) -> None:
    """Raises a UserError for a number below `least`, or not finite; None passes."""
    if value is not None and not least <= value < math.inf:
        raise UserError(f"{key} is {value}; it must be at least {least} and finite")


def above_zero(key: str, value: float | None) -> None:
    """Raises a UserError for a number that is not positive, or not finite; None passes."""
    if value is not None and not 0 < value < math.inf:
        raise UserError(f"{key} is {value}; it must be above 0 and finite")


def fraction(key: str, value: float) -> None:
    """Raises a UserError for a number outside [0, 1)."""
    if not 0 <= value < 1:
        raise UserError(f"{key} is {value}; it must be at least 0 and below 1")


def check_seed(key: str, value: int) -> None:
    """Raises a UserError for what no generator takes."""
    at_least(key, value, 0)
    if value >= 2**63:
        raise UserError(f"{key} is {value}; it must be below 2**63")


def require_mappings(config: Any, path: str = "") -> None:
    """Raises a UserError where `${...}` put something else in the place of settings or of a mapping."""
    for known in dataclasses.fields(config):
        kind, value = get_origin(known.type) or known.type, getattr(config, known.name)
        if (kind is dict or dataclasses.is_dataclass(kind)) and not isinstance(value, kind):
            raise UserError(f"{path}{known.name} is '{value}'; it must be a mapping of settings")
