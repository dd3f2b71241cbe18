"""Encoded examples and the batches they are trained in: a function of seed and epoch alone, the same for every method."""

import random
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from core.errors import UserError
from core.seeding import named_seed
from tasks.loading import Split

BATCHES_PER_SORT = 50


@dataclass(frozen=True)
class Encoded:
    """One split as token ids.

    Attributes:
        inputs: for each of the model's inputs (`input_ids`, for BERT `token_type_ids` too), a list of ids per example.
        pad: the padding id of each input.
        label_type: float for a regression.
        masked: whether the model takes an attention mask.
    """

    split: Split
    inputs: dict[str, list[list[int]]]
    pad: dict[str, int]
    label_type: torch.dtype
    masked: bool = True

    @cached_property
    def lengths(self) -> list[int]:
        """In tokens, special ones included."""
        return [len(ids) for ids in self.inputs["input_ids"]]

    @cached_property
    def longest(self) -> int:
        """In tokens, of the longest example."""
        return max(self.lengths)


@dataclass(frozen=True)
class Batch:
    """Tensors of one forward pass, and how many of their tokens are real."""

    inputs: dict[str, Tensor]
    labels: Tensor
    tokens: int

    @property
    def padded_tokens(self) -> int:
        return self.inputs["input_ids"].numel()

    def to(self, device: torch.device) -> "Batch":
        inputs = {name: ids.to(device, non_blocking=True) for name, ids in self.inputs.items()}
        return Batch(inputs, self.labels.to(device, non_blocking=True), self.tokens)


def encode(split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
    """Tokenizes a split once; longer examples are cut to `max_length`.

    Raises:
        UserError: a text has no token.
    """
    columns = [list(column) for column in zip(*split.texts, strict=True)]
    inputs = tokenizer(*columns, truncation=True, max_length=max_length, return_attention_mask=False)
    return as_encoded(split, dict(inputs), tokenizer)


def is_longer(text: tuple[str, ...], tokenizer: PreTrainedTokenizerBase, max_length: int) -> bool:
    """Whether a text is cut at `max_length` tokens."""
    return len(tokenizer(*text, truncation=False, verbose=False)["input_ids"]) > max_length


def as_encoded(split: Split, inputs: dict[str, list[list[int]]], tokenizer: PreTrainedTokenizerBase) -> Encoded:
    """A split and what its tokenizer made of it.

    Raises:
        UserError: a text has no token, as an empty one has for tokenizers that add none of their own.
    """
    if empty := [idx for idx, ids in zip(split.idx, inputs["input_ids"], strict=True) if not ids]:
        raise UserError(f"{split.name}, idx {empty[0]}: the text has no token for this backbone's tokenizer")
    pad = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
    label_type = torch.float32 if isinstance(split.labels[0], float) else torch.int64
    masked = "attention_mask" in tokenizer.model_input_names
    return Encoded(split, inputs, {name: pad[name] for name in inputs}, label_type, masked)


def collate(data: Encoded, indices: list[int], multiple: int = 1) -> Batch:
    """Pads the examples at `indices` to their longest, or a little more: to a multiple, at most the split's longest."""
    lengths = [data.lengths[i] for i in indices]
    longest = min(-(-max(lengths) // multiple) * multiple, data.longest)
    inputs = {
        name: torch.tensor([ids[i] + [data.pad[name]] * (longest - len(ids[i])) for i in indices])
        for name, ids in data.inputs.items()
    }
    if data.masked:
        inputs["attention_mask"] = (torch.arange(longest) < torch.tensor(lengths).unsqueeze(1)).long()
    labels = torch.tensor([data.split.labels[i] for i in indices], dtype=data.label_type)
    return Batch(inputs, labels, sum(lengths))


def epoch_batches(lengths: list[int], batch_size: int, seed: int, epoch: int, similar_length: bool) -> list[list[int]]:
    """Every example once, in random batches of `batch_size`; the last one may be smaller.

    With `similar_length`, examples are shuffled, then sorted by length within stretches of 50 batches, and the batches
    shuffled again: little padding, and yet other batches each epoch.
    """
    generator = random.Random(named_seed(seed, f"order/{epoch}"))
    order = list(range(len(lengths)))
    generator.shuffle(order)
    if similar_length:
        stretch = batch_size * BATCHES_PER_SORT
        order = [
            i
            for start in range(0, len(order), stretch)
            for i in sorted(order[start : start + stretch], key=lengths.__getitem__)
        ]
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    if similar_length:
        generator.shuffle(batches)
    return batches


def sorted_batches(lengths: list[int], batch_size: int) -> list[list[int]]:
    """Every example once, the longest first: the least padding, for evaluation."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
