"""No test needs a network; every method and architecture is a fixture."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"

import pytest
from support.tiny import METHODS, SHAPES

from methods.base import Method


@pytest.fixture(params=METHODS, ids=list(METHODS))
def method(request) -> Method:
    return METHODS[request.param]


@pytest.fixture(params=SHAPES)
def architecture(request) -> str:
    return request.param
