"""The fast path: a forward pass without padding, with the same mathematics as `model(**padded).logits`.

Layers that look at one token at a time (embeddings, linear layers, norms, dropout) take a batch's examples end to end, as
(tokens, width). Only attention needs the examples apart: it takes neighbours of similar length together, in a grid
(examples, longest) with a mask over the gaps. The last layer computes keys and values for all tokens, and the rest for each
example's first token only, since the classifier reads no other.

All layers are the model's own modules, so that a method's layers take part. Without dropout the two paths agree up to
rounding; with dropout they draw different masks from the same distribution.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.bert import modeling_bert as bert
from transformers.models.roberta import modeling_roberta as roberta

from models.batches import Batch, Encoded, collate
from models.cpu_dropout import Dropout, dropout

GRID_COST = {"cpu": 100}  # what one more grid costs, in tokens of padding; on a GPU it costs more than it saves
MULTIPLE = 8  # a compiled path pads to multiples of it, in tokens: few lengths, so few graphs


class Kinds(NamedTuple):
    """The classes that the fast path replaces."""

    model: type
    encoder: type
    layer: type
    attention: type
    own: type


KNOWN = {
    bert.BertForSequenceClassification: Kinds(
        bert.BertModel, bert.BertEncoder, bert.BertLayer, bert.BertAttention, bert.BertSelfAttention
    ),
    roberta.RobertaForSequenceClassification: Kinds(
        *(roberta.RobertaModel, roberta.RobertaEncoder, roberta.RobertaLayer),
        *(roberta.RobertaAttention, roberta.RobertaSelfAttention),
    ),
}


@dataclass(frozen=True)
class Span:
    """Neighbours in a packed batch whose attention is computed together.

    Attributes:
        examples, tokens: where they lie.
        longest: in tokens.
        places: of their tokens in the (examples · longest) grid; None: it has no gaps.
        gaps: (examples, 1, 1, longest), true where there is no token; None likewise.
    """

    examples: slice
    tokens: slice
    longest: int
    places: Tensor | None
    gaps: Tensor | None

    def to(self, device: torch.device) -> "Span":
        places, gaps = (x if x is None else x.to(device, non_blocking=True) for x in (self.places, self.gaps))
        return replace(self, places=places, gaps=gaps)


@dataclass(frozen=True)
class PackedBatch:
    """Examples end to end.

    Attributes:
        inputs: each (tokens): `input_ids`, `position_ids`, for BERT `token_type_ids`.
        first: (examples), where each begins, in the order in which they lie.
        places: (examples), for each label, its example's index in `first`.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    first: Tensor
    places: Tensor
    spans: list[Span]

    @property
    def tokens(self) -> int:
        return len(self.inputs["input_ids"])

    @property
    def padded_tokens(self) -> int:
        return self.tokens

    def to(self, device: torch.device) -> "PackedBatch":
        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        spans = [span.to(device) for span in self.spans]
        inputs = {name: move(ids) for name, ids in self.inputs.items()}
        return PackedBatch(inputs, move(self.labels), move(self.first), move(self.places), spans)


def pack(
    data: Encoded, indices: list[int], grid_cost: float, sort: bool = True, padding_id: int | None = None
) -> PackedBatch:
    """Lays the examples at `indices` end to end, and cuts them for attention at the lowest cost.

    Args:
        grid_cost: of one grid, in tokens of padding.
        sort: the shortest first, so that neighbours are of similar length; else as they come.
        padding_id: see `positions`.
    """
    labels = torch.tensor([data.split.labels[i] for i in indices], dtype=data.label_type)
    order = list(range(len(indices)))
    if sort:
        order.sort(key=lambda place: data.lengths[indices[place]])
    laid = [indices[place] for place in order]
    lengths = [data.lengths[i] for i in laid]
    inputs = {name: torch.tensor([token for i in laid for token in ids[i]]) for name, ids in data.inputs.items()}
    inputs["position_ids"] = torch.cat([positions(data.inputs["input_ids"][i], padding_id) for i in laid])
    starts = [0, *accumulate(lengths)]
    spans = list(cut(lengths, starts, cheapest_size(lengths, grid_cost)))
    return PackedBatch(inputs, labels, torch.tensor(starts[:-1]), torch.tensor(order).argsort(), spans)


def positions(ids: list[int], padding_id: int | None) -> Tensor:
    """transformers' positions: from 0, or after RoBERTa's padding id, which is not counted."""
    if padding_id is None:
        return torch.arange(len(ids))
    if padding_id not in ids:
        return torch.arange(padding_id + 1, padding_id + 1 + len(ids))
    counted = (torch.tensor(ids) != padding_id).long()  # a text may spell the padding token
    return counted.cumsum(0) * counted + padding_id


def cheapest_size(lengths: list[int], grid_cost: float) -> int:
    """Examples in a grid: the batch is cut into one to four grids, whichever costs least, places and grids together."""

    def cost(size: int) -> float:
        own = [lengths[begin : begin + size] for begin in range(0, len(lengths), size)]
        return sum(len(part) * max(part) + grid_cost for part in own)

    sizes = [-(-len(lengths) // grids) for grids in (1, 2, 3, 4)]
    return min(sizes, key=cost)


def cut(lengths: list[int], starts: list[int], size: int) -> Iterator[Span]:
    """Spans of `size` examples."""
    for begin in range(0, len(lengths), size):
        own = lengths[begin : begin + size]
        end, longest, places, gaps = begin + len(own), max(own), None, None
        if min(own) < longest:
            gaps = (torch.arange(longest) >= torch.tensor(own).unsqueeze(1)).view(len(own), 1, 1, longest)
            places = gaps.logical_not().flatten().nonzero().squeeze(1)
        yield Span(slice(begin, end), slice(starts[begin], starts[end]), longest, places, gaps)


class Padded(nn.Module):
    """The plain path: transformers' own forward pass over a padded batch."""

    def __init__(self, model: nn.Module, multiple: int = 1):
        """
        Args:
            multiple: what lengths are rounded up to, in tokens.
        """
        super().__init__()
        self.model, self.multiple = model, multiple

    def collate(self, data: Encoded, indices: list[int]) -> Batch:
        """A batch padded to its longest example."""
        return collate(data, indices, self.multiple)

    @staticmethod
    def cost(lengths: list[int]) -> int:
        """Tokens that a batch of examples of these lengths comes to."""
        return len(lengths) * max(lengths)

    def forward(self, batch: Batch) -> Tensor:
        """Logits, (examples, outputs)."""
        return self.model(**batch.inputs).logits


class Packed(nn.Module):
    """The fast path, for BERT's and RoBERTa's classifiers.

    Attributes:
        model: of a class in KNOWN.
    """

    model: Any

    def __init__(self, model: nn.Module, sort: bool = True):
        """
        Args:
            sort: see `pack`.
        """
        super().__init__()
        self.model, self.sort = model, sort

    def collate(self, data: Encoded, indices: list[int]) -> PackedBatch:
        """The batch of the examples at `indices`."""
        padding_id = self.model.base_model.embeddings.position_embeddings.padding_idx
        grid_cost = GRID_COST.get(next(self.model.parameters()).device.type, math.inf)
        return pack(data, indices, grid_cost, self.sort, padding_id)

    @staticmethod
    def cost(lengths: list[int]) -> int:
        """Tokens that a batch of examples of these lengths comes to."""
        return sum(lengths)

    def forward(self, batch: PackedBatch) -> Tensor:
        """Logits, (examples, outputs)."""
        encoder = self.model.base_model
        *layers, last = encoder.encoder.layer
        inputs = {name: ids.unsqueeze(0) for name, ids in batch.inputs.items()}
        x = encoder.embeddings(**inputs).squeeze(0)  # (tokens, width)
        for layer in layers:
            x = encoder_layer(layer, x, x, batch.spans)
        first = encoder_layer(last, x.index_select(0, batch.first), x, batch.spans)  # (examples, width)
        first = first.index_select(0, batch.places).unsqueeze(1)
        if encoder.pooler is None:
            return self.model.classifier(first)
        return self.model.classifier(self.model.dropout(encoder.pooler(first)))


def encoder_layer(layer: Any, x: Tensor, context: Tensor, spans: list[Span]) -> Tensor:
    """One layer for the tokens in x, all or each example's first, which attend to `context` (tokens, width)."""
    own = layer.attention.self
    heads, p = own.num_attention_heads, own.dropout.p if own.training else 0.0
    q, k, v = own.query(x), own.key(context), own.value(context)
    attended = torch.cat([attention(q, k, v, span, heads, p) for span in spans])
    x = layer.attention.output(attended, x)
    return layer.output(layer.intermediate(x), x)


def attention(q: Tensor, k: Tensor, v: Tensor, span: Span, heads: int, p: float) -> Tensor:
    """Attention within each example of one span: (its tokens or examples, width)."""
    examples = span.examples.stop - span.examples.start

    def split(x: Tensor) -> Tensor:  # (examples · length, width) -> (examples, heads, length, width / heads)
        return x.view(examples, -1, heads, x.shape[-1] // heads).transpose(1, 2)

    def grid(x: Tensor) -> Tensor:  # (its tokens, width) -> (examples · longest, width)
        if span.places is None:
            return x
        return x.new_zeros(examples * span.longest, x.shape[1]).index_copy(0, span.places, x)

    all_tokens = len(q) == len(k)
    q = grid(q[span.tokens]) if all_tokens else q[span.examples]
    k, v = grid(k[span.tokens]), grid(v[span.tokens])
    mixed = mix(split(q), split(k), split(v), span.gaps, p)
    mixed = mixed.transpose(1, 2).reshape(len(q), -1)
    return mixed.index_select(0, span.places) if all_tokens and span.places is not None else mixed


def mix(q: Tensor, k: Tensor, v: Tensor, gaps: Tensor | None, p: float) -> Tensor:
    """softmax(q·kᵀ / √width)·v for each head, with dropout of the weights; all (examples, heads, length, width)."""
    if q.is_cuda or not p:
        return F.scaled_dot_product_attention(q, k, v, None if gaps is None else ~gaps, p)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if gaps is not None:
        scores.masked_fill_(gaps, -torch.inf)
    return dropout(scores.softmax(-1).to(v.dtype), p) @ v


def forward_path(model: nn.Module, forward: str, sort: bool = True) -> Packed | Padded:
    """The path that `trainer.forward` names; the fast one only if it knows the model: its own classes, without hooks."""
    if forward == "packed" and is_known(model):
        return Packed(model, sort)
    return Padded(model, MULTIPLE if forward == "compiled" else 1)


def is_known(model: Any) -> bool:
    """Whether the modules that the fast path replaces are transformers' own, without hooks."""
    if type(model) not in KNOWN or model.config.is_decoder:
        return False
    kinds, encoder = KNOWN[type(model)], model.base_model.encoder
    stood_in = [(model, type(model)), (model.base_model, kinds.model), (encoder, kinds.encoder)]
    layers = list(getattr(encoder, "layer", []))
    for layer in layers:
        attention = getattr(layer, "attention", None)
        own = getattr(attention, "self", None)
        stood_in += [(layer, kinds.layer), (attention, kinds.attention), (own, kinds.own)]
        if type(getattr(own, "dropout", None)) not in (nn.Dropout, Dropout) or layer.gradient_checkpointing:
            return False
    return bool(layers) and all(type(module) is kind and not is_watched(module) for module, kind in stood_in)


def is_watched(module: Any) -> bool:
    """Whether the module has a hook or a forward pass of its own, which the fast path would skip."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return "forward" in vars(module) or any(getattr(module, name) for name in hooks)
