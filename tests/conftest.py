"""Fixtures for every test: no network, and every method and architecture as a parameter."""

import gc
import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"

import hypothesis  # noqa: F401  # registers generators, for which it asks the collector, before that is frozen
import pytest
from support.tiny import METHODS, SHAPES

from methods.base import Method

os.fsync = lambda descriptor: None  # only a power failure would show its lack; the processes that tests kill have it


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="`make faults`: what takes too long for each change")
    parser.addoption("--slurm", action="store_true", help="`make test-slurm`: sweeps through a real Slurm of one node")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skips what the long form alone runs, before any fixture is made for it."""
    for item in items:
        if item.get_closest_marker("long") and not config.getoption("--long"):
            item.add_marker(pytest.mark.skip(reason="by `make faults`"))


def pytest_collection_finish() -> None:
    """Freezes the libraries' objects: each run collects garbage, which is slow with them."""
    import support.preloaded  # noqa: F401

    gc.freeze()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Freezes what a slow test has imported or cached."""
    if report.when == "call" and report.duration > 0.2:
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session")
def is_long(request) -> bool:
    return request.config.getoption("--long")


@pytest.fixture(params=METHODS, ids=list(METHODS))
def method(request) -> Method:
    return METHODS[request.param]


@pytest.fixture(params=SHAPES)
def architecture(request) -> str:
    return request.param
