"""The two forms of the tests: `make test`, and `make faults` with all that takes too long for each change."""

from collections.abc import Iterable
from typing import Any

import pytest


def short(kept: Iterable[Any], of: Iterable[Any]) -> list[Any]:
    """The values of a parameter; only those in `kept` are tried in the short form."""
    kept = list(kept)
    return [value if value in kept else pytest.param(value, marks=pytest.mark.long) for value in of]
