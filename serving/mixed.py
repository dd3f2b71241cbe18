"""One forward pass over rows of many adapters (S-LoRA, Sheng et al. 2023, arXiv 2311.03285, section 4).

    x  (tokens, in)    adapter 1 | adapter 2 | ...     the examples of one adapter lie together
    h  (tokens, out) = W·x + b                         one product for all of them
    h[own] += s·B·A·x[own]                             for each adapter, with its own rank, on its own slice

Each adapter has its own head, with its own number of outputs, for its examples' first tokens.

Deviation: the paper computes the low-rank part with GPU kernels; here it is a loop over slices. On two cores, in MiniLM's
layers, with 28 adapters among 32 requests, the loop adds 0.2 to 0.4 ms to a product W·x of 0.6 to 6 ms. One padded product
of stacked A and B takes more than twice the loop's time; one product with all A and a mask four to twenty times.
"""

from collections.abc import Iterable
from itertools import accumulate, groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from methods.base import head_prefixes, linear_layers, replace
from models.batches import Encoded
from models.packed import Padded, forward_path, is_known
from serving.adapters import AdapterStore, Block


class Mixture:
    """Which rows of the present batch belong to which adapter; every mixed layer of a model reads it."""

    def lay(self, names: list[str], lengths: list[int], adapters: dict[str, Block]) -> None:
        """
        Args:
            names: the adapter of each example; those of one adapter lie together.
            lengths: of each example, in tokens.
        """
        starts, examples, tokens = [0, *accumulate(lengths)], [], []
        for name, places in groupby(range(len(names)), names.__getitem__):
            begin, *rest = places
            end = begin + 1 + len(rest)
            examples.append((slice(begin, end), adapters[name]))
            tokens.append((slice(starts[begin], starts[end]), adapters[name]))
        self.slices = {starts[-1]: tokens, len(names): examples}  # equal numbers are equal slices
        self.tensors = {tensor for adapter in adapters.values() for tensor in adapter.tensors}

    def of(self, x: Tensor) -> list[tuple[slice, Block]]:
        """Each adapter's slice of x, whose first dimension counts the batch's examples or, end to end, their tokens."""
        return self.slices[len(x)]


class MixedLinear(nn.Module):
    """h = W·x + b + s·B·A·x, with s, A and B of the adapter that each row of x belongs to, if it adapts this layer."""

    def __init__(self, base: nn.Module, name: str, mixture: Mixture):
        super().__init__()
        self.base, self.mixture = base, mixture
        self.A, self.B = f"{name}.A", f"{name}.B"
        self.weight, self.bias = base.weight, base.bias  # T5 asks for a weight's type

    def forward(self, x: Tensor) -> Tensor:
        h = self.base(x)
        if self.A not in self.mixture.tensors:
            return h
        for own, adapter in self.mixture.of(x):
            if self.A in adapter.tensors:
                A, sB = adapter.tensors[self.A], adapter.tensors[self.B]
                low = x[own].flatten(0, -2) @ A.T  # (tokens, in) -> (tokens, r)
                h[own].flatten(0, -2).addmm_(low, sB.T)  # flatten is a view: adds in place
        return h


class MixedHead(nn.Module):
    """Runs a module of the head with the weights of the adapter that each row belongs to; its own where that has none."""

    def __init__(self, base: nn.Module, name: str, mixture: Mixture):
        super().__init__()
        self.base, self.mixture = base, mixture
        self.names = {own: f"{name}.{own}" for own, _ in base.named_parameters()}

    def forward(self, x: Tensor) -> Tensor:
        """(examples, ...) -> (examples, most outputs); NaN where an adapter has fewer."""
        parts = []
        for own, adapter in self.mixture.of(x):
            weights = {name: adapter.tensors[full] for name, full in self.names.items() if full in adapter.tensors}
            parts.append(functional_call(self.base, weights, (x[own],)))
        widest = max(part.shape[-1] for part in parts)
        return torch.cat([F.pad(part, (0, widest - part.shape[-1]), value=torch.nan) for part in parts])


@torch.no_grad()
def unfit_layers(model: nn.Module, names: Iterable[str], sample: Encoded) -> set[str]:
    """The layers whose input is not (examples, tokens, width) or (examples, width) in a padded batch.

    DeBERTa's take relative positions too, Longformer's count tokens first, OPT's lay tokens end to end.

    Args:
        sample: see `Server`.
    """
    path, found = Padded(model), set()
    batch = path.collate(sample, [0, 1]).to(next(model.parameters()).device)
    examples, tokens = batch.inputs["input_ids"].shape

    def look(name: str, x: Tensor) -> None:
        if x.shape[:-1] not in {(examples, tokens), (examples,)}:
            found.add(name)

    hooks = [
        model.get_submodule(name).register_forward_pre_hook(lambda _, args, name=name: look(name, args[0]))
        for name in names
    ]
    path(batch)
    for hook in hooks:
        hook.remove()
    return found


def by_adapter(names: list[str], lengths: list[int]) -> list[int]:
    """An order of the batch with each adapter's examples together, and short ones first, so that attention pads less."""
    longest = dict.fromkeys(names, 0)
    for name, length in zip(names, lengths, strict=True):
        longest[name] = max(longest[name], length)
    return sorted(range(len(names)), key=lambda i: (longest[names[i]], names[i], lengths[i]))


class Server:
    """A classifier that answers batches of requests to many adapters, one batch at a time."""

    def __init__(self, model: nn.Module, budget: int, sample: Encoded, forward: str = "packed"):
        """
        Args:
            model: the plain classifier; its layers are wrapped in place, its own head is not used, except a
                pooler that an adapter lacks.
            budget: bytes of adapters that the device may hold.
            sample: two texts or more that the model takes; a pass over the first two shows what each layer is given.
            forward: packed or padded.
        """
        is_plain = not (is_known(model) and forward == "packed")
        unfit = unfit_layers(model.eval(), dict(linear_layers(model)), sample) if is_plain else set()
        self.store, self.mixture = AdapterStore(model.eval(), budget, unfit), Mixture()
        heads = [prefix for prefix in head_prefixes(model) if any(key.startswith(prefix) for key in self.store.head)]
        for name in self.store.layers:
            replace(model, name, MixedLinear(model.get_submodule(name), name, self.mixture))
        for name in (prefix.removesuffix(".") for prefix in heads):
            replace(model, name, MixedHead(model.get_submodule(name), name, self.mixture))
        self.path = forward_path(model, forward, sort=False)

    @torch.inference_mode()
    def logits(self, data: Encoded, indices: list[int], names: list[str]) -> list[Tensor]:
        """Logits (outputs) for each of the examples at `indices`, by the adapter that `names` has at its place.

        Raises:
            UserError: an adapter is unknown, or they exceed the budget together.
        """
        adapters = self.store.fetch(names)
        lengths = [data.lengths[i] for i in indices]
        order = by_adapter(names, lengths)
        self.mixture.lay([names[i] for i in order], [lengths[i] for i in order], adapters)
        batch = self.path.collate(data, [indices[i] for i in order])
        logits = self.path(batch.to(self.store.device))
        answers = {i: row[: adapters[names[i]].outputs] for i, row in zip(order, logits, strict=True)}
        return [answers[i] for i in range(len(indices))]
