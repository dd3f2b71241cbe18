"""One seed, many named streams: what one part draws does not change what another part draws."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def named_seed(seed: int, name: str) -> int:
    """A separate seed for each name (`head`, `adapter`, `dropout`, `order/3`, ...); the same on every machine."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


@contextmanager
def seeded(seed: int, name: str) -> Iterator[None]:
    """Seeds torch's generators with the named seed inside the context, and restores their state after it."""
    with torch.random.fork_rng():
        torch.manual_seed(named_seed(seed, name))
        yield
