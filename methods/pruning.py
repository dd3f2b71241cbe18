"""The start of ladder side-tuning (Sung, Cho and Bansal 2022): layers of width d/k, cut out of the backbone's layers.

Going up from the word embeddings, each matrix keeps the columns whose rows the matrix before it kept, and 1/k of its own
rows, those of largest L1 norm of importance; query, key and value keep the same rows, by the product of their three
importances.

Deviations:
- A matrix's importance is its magnitude here, |W|; in the authors' code for T5 it is the Fisher information over 1,024
  training samples, and `apply` sees no data. Their code for BART and for BERT ranks by the L1 norm of its logarithms,
  which favours rows of small Fisher information.
- 1/k of each attention head's rows are kept, so that heads stay heads; the authors' code ranks all rows together.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


def prune(layers: list[Any], sides: list[Any], words: Tensor, k: int) -> None:
    """Fills the side network's layers with rows and columns of the backbone's; `words` (vocabulary, d).

    `rows` are those of the present matrix that are kept; `columns`, those of the matrix before it, whose output it reads.
    """
    columns = strongest(words.T, 1, k)
    for layer, side in zip(layers, sides, strict=True):
        own, heads = layer.attention.self, layer.attention.self.num_attention_heads
        three = [getattr(own, name).weight[:, columns].abs() for name in ("query", "key", "value")]
        rows = strongest(three[0] * three[1] * three[2], heads, k)
        for name in ("query", "key", "value"):
            cut(getattr(own, name), getattr(side.attention.self, name), rows, columns)
        for part, there in parts(layer, side):
            columns, rows = rows, strongest(part.dense.weight[:, rows], 1, k)
            cut(part.dense, there.dense, rows, columns)
            if hasattr(part, "LayerNorm"):
                cut(part.LayerNorm, there.LayerNorm, rows)
        columns = rows


def parts(layer: Any, side: Any) -> Iterator[tuple[Any, Any]]:
    """The parts of a layer after its attention, in the order in which they read each other, with the side layer's."""
    yield layer.attention.output, side.attention.output
    yield layer.intermediate, side.intermediate
    yield layer.output, side.output


def strongest(importance: Tensor, blocks: int, k: int) -> Tensor:
    """The indices of 1/k of the rows in each of `blocks` equal blocks: those of largest L1 norm, in their order."""
    norms = importance.abs().sum(1).view(blocks, -1)
    best = norms.topk(norms.shape[1] // k).indices.sort().values
    return (best + norms.shape[1] * torch.arange(blocks, device=best.device).unsqueeze(1)).flatten()


def cut(of: Any, into: Any, rows: Tensor, columns: Tensor | None = None) -> None:
    """Copies the weight's rows and columns, and the bias' rows."""
    into.weight.copy_(of.weight[rows] if columns is None else of.weight[rows][:, columns])
    into.bias.copy_(of.bias[rows])
