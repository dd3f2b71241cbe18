"""Fastfood (Le, Sarlós and Smola 2013): a random projection P of d numbers to n, in O(n log d) steps and O(n) memory.

  P·x = s · [H·G₁·Π₁·H·B₁·x', H·G₂·Π₂·H·B₂·x', ...], cut to n      section 4: a block of L numbers after the other

  x'  x and zeros, to L = 2^⌈log₂ d⌉ numbers
  H   Walsh-Hadamard matrix (L, L), entries ±1       B   diagonal of random signs
  Π   random permutation                             G   diagonal of N(0, 1)
  s = 1 / √(n · ΣG²), block by block, so that E‖P·x‖² = ‖x‖²

Fastfood's own product begins with one more diagonal, S, which gives the rows the lengths of a Gaussian matrix's. It is left
out here, as in Aghajanyan et al. 2020. H is a Kronecker product of matrices of at most 32 rows, which are multiplied one by
one; H and P are never built.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LARGEST_FACTOR = 32  # rows: few products, which still cost little beside reading the numbers


def sylvester(size: int) -> Tensor:
    """The Walsh-Hadamard matrix (size, size), size a power of two; its upper left corner is that of each smaller size."""
    H = torch.ones(1, 1, device="cpu")
    while len(H) < size:
        H = torch.cat([torch.cat([H, H], 1), torch.cat([H, -H], 1)])
    return H


def factors(size: int) -> Iterator[int]:
    """Of a power of two, each at most LARGEST_FACTOR."""
    while size > 1:
        yield (factor := min(size, LARGEST_FACTOR))
        size //= factor


def walsh_hadamard(x: Tensor, H: Tensor) -> Tensor:
    """Each row of x (rows, L) times H_L; `H`: that of LARGEST_FACTOR rows."""
    y = x
    for factor in factors(x.shape[1]):  # each turns the axes by one: after the last they are in their places again
        y = (y.reshape(-1, factor) @ H[:factor, :factor]).view(len(x), -1, factor).transpose(1, 2)
    return y.reshape(x.shape)


class Fastfood(nn.Module):
    """P (n, d); the same bits for the same seed. Only its diagonals and permutations are kept, 9 bytes a row."""

    H: Tensor
    B: Tensor
    Pi: Tensor
    G: Tensor

    def __init__(self, d: int, n: int, seed: int):
        super().__init__()
        self.d, self.n = d, n
        L = 1 << (d - 1).bit_length()
        shape = -(-n // L), L
        generator = torch.Generator().manual_seed(seed)
        B = torch.randint(2, shape, generator=generator, dtype=torch.int8, device="cpu") * 2 - 1
        Pi = torch.rand(shape, generator=generator, device="cpu").argsort(1).int()  # a permutation of each row
        Pi += torch.arange(0, shape[0] * L, L, dtype=torch.int32, device="cpu").unsqueeze(1)
        G = torch.randn(shape, generator=generator, device="cpu")
        G /= (n * G.square().sum(1, keepdim=True)).sqrt()  # s is part of it
        for name, tensor in (("H", sylvester(LARGEST_FACTOR)), ("B", B), ("Pi", Pi.flatten()), ("G", G)):
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """P·x, (d) -> (n)."""
        return _Project.apply(x, self)

    def project(self, x: Tensor) -> Tensor:
        y = walsh_hadamard(self.B * F.pad(x, (0, self.G.shape[1] - self.d)), self.H)
        y = y.flatten().index_select(0, self.Pi).view_as(self.G)
        return walsh_hadamard(self.G * y, self.H).flatten()[: self.n]

    def transposed(self, y: Tensor) -> Tensor:
        """Pᵀ·y, (n) -> (d): the same steps in reverse, since H is symmetric."""
        x = self.G * walsh_hadamard(F.pad(y, (0, self.G.numel() - self.n)).view_as(self.G), self.H)
        x = torch.empty_like(x).flatten().index_copy_(0, self.Pi.long(), x.flatten()).view_as(x)
        return (self.B * walsh_hadamard(x, self.H)).sum(0)[: self.d]


class _Project(torch.autograd.Function):
    """Keeps nothing for the backward pass, and stays in float32: autocast would round the products with H."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, fastfood: Fastfood) -> Tensor:
        ctx.fastfood = fastfood
        with torch.autocast(x.device.type, enabled=False):
            return fastfood.project(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        with torch.autocast(gradient.device.type, enabled=False):
            return ctx.fastfood.transposed(gradient), None
