"""Checks of settings: declared on a field, and kept by every class that declares the field again."""

import math
import re
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Annotated, get_type_hints

import pytest
from hydra.core.config_store import ConfigStore

from core.checks import FRACTION, check, generator_seed, number, one_of
from core.errors import UserError
from experiments.config import RunConfig

METHODS = [
    ConfigStore.instance().load(f"schema/method/{name}").node._metadata.object_type
    for name in ConfigStore.instance().list("schema/method")
]


@pytest.mark.parametrize(
    ("bounds", "good", "bad", "told"),
    [
        ({"at_least": 1}, (1, 10**9), (0, -1, math.inf, math.nan), "it must be at least 1 and finite"),
        ({"above": 0}, (1e-300, 1.0), (0, -1e-9, math.inf, math.nan), "it must be above 0 and finite"),
        ({"at_least": 0, "below": 1}, (0, 0.999), (1, -0.1, math.nan), "it must be at least 0 and below 1"),
        ({"above": 0, "at_most": 1e18}, (1e18,), (0, 1.1e18), "it must be above 0 and at most 1e+18"),
    ],
)
def test_a_number_is_within_its_bounds(bounds, good, bad, told):
    for value in good:
        number(**bounds)("key", value)
    for value in bad:
        with pytest.raises(UserError, match=re.escape(f"key is {value}")) as raised:
            number(**bounds)("key", value)
        assert str(raised.value).endswith(told)


def test_a_generators_seed_fits_into_int64():
    generator_seed("seed", 2**63 - 1)
    for value in (-1, 2**63):
        with pytest.raises(UserError, match=f"seed is {value}; it must be at least 0 and below"):
            generator_seed("seed", value)


def test_a_field_is_checked_by_its_annotation_and_none_is_accepted():
    @dataclass
    class Inner:
        x: int = 0

    @dataclass
    class Settings:
        kind: Annotated[str, one_of("a", "b")] = "a"
        share: Annotated[float | None, FRACTION] = None
        inner: Inner = field(default_factory=Inner)
        free: str = ""

    check(Settings())
    for settings, told in (
        (Settings(kind="c"), r"s\.kind is 'c'; choose one of: a, b"),
        (Settings(share=1.0), r"s\.share is 1\.0; it must be at least 0 and below 1"),
        (Settings(inner=7), r"s\.inner is '7'; it must be a mapping of settings"),
    ):
        with pytest.raises(UserError, match=told):
            check(settings, "s.")


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_field_that_is_declared_again_keeps_its_check(method):
    for base in method.__mro__[1:]:
        if is_dataclass(base):
            own, inherited = (get_type_hints(kind, include_extras=True) for kind in (method, base))
            assert {f.name: own[f.name] for f in fields(base)} == {f.name: inherited[f.name] for f in fields(base)}


def test_every_number_of_the_trainer_is_checked():
    hints = get_type_hints(get_type_hints(RunConfig)["trainer"], include_extras=True)
    bare = [f.name for f in fields(get_type_hints(RunConfig)["trainer"]) if not hasattr(hints[f.name], "__metadata__")]
    assert bare == ["similar_length"]
