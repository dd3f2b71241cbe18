"""A method's name is its own: two files with one name would train one method under the other's records."""

from dataclasses import dataclass

import pytest

from core.errors import UserError
from methods.base import REGISTERED, register
from methods.lora import LoRA


def test_a_second_file_with_a_methods_name_is_refused():
    @dataclass
    class Copy(LoRA):
        name: str = "lora"

    with pytest.raises(UserError, match=r"test_registry.py and methods/lora.py both name their method 'lora'"):
        register(Copy)
    assert REGISTERED["lora"] is LoRA


def test_a_method_without_a_name_of_its_own_is_refused():
    @dataclass
    class Nameless(LoRA):
        pass

    with pytest.raises(UserError, match=r"Nameless needs a name of its own: name: str = "):
        register(Nameless)
