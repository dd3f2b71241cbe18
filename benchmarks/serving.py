"""Requests to many LoRA adapters beside one backbone, served in four ways, in turns."""

import copy
import random
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from analysis.serving import BARE, LABELS, MERGED, MIXED, SWITCHED, ratio
from core.errors import UserError
from core.seeding import named_seed, seeded
from experiments.config import RunConfig, to_dict
from experiments.record import git_state, hardware, versions, without_paths
from methods.base import matching_layers
from methods.lora import LoRA, draw
from models.batches import Encoded
from models.packed import forward_path
from serving.adapters import Adapter, AdapterStore
from serving.mixed import Server
from tasks.loading import fingerprint

RANKS, OUTPUTS = (4, 8, 16), (1, 2, 3)
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}  # on logits, between the ways


class Ways:
    """The four ways to serve the requests at `indices`, whose adapters are `names`; each returns their logits."""

    def __init__(self, model: nn.Module, data: Encoded, pattern: str, budget: int):
        self.data = data
        self.path = forward_path(copy.deepcopy(model).eval(), "packed")
        self.adapted = {name: layer.weight for name, layer in matching_layers(self.path.model, pattern).items()}
        self.plain = {name: weight.detach().clone() for name, weight in self.adapted.items()}
        self.server = Server(model, budget, data)
        self.store = self.server.store

    def mixed(self, indices: list[int], names: list[str]) -> list[Tensor]:
        return self.server.logits(self.data, indices, names)

    def switched(self, indices: list[int], names: list[str]) -> list[Tensor]:
        def serve(own: list[int], name: str) -> list[Tensor]:
            return self.server.logits(self.data, own, [name] * len(own))

        return one_at_a_time(serve, indices, names)

    def merged(self, indices: list[int], names: list[str]) -> list[Tensor]:
        return one_at_a_time(self.serve_merged, indices, names)

    @torch.inference_mode()
    def bare(self, indices: list[int], names: list[str]) -> list[Tensor]:
        return list(self.path(self.path.collate(self.data, indices).to(self.store.device)))

    @torch.inference_mode()
    def serve_merged(self, indices: list[int], name: str) -> list[Tensor]:
        tensors = self.store.fetch([name])[name].tensors
        for layer, W in self.adapted.items():
            W.addmm_(tensors[f"{layer}.B"], tensors[f"{layer}.A"])
        head = {f"model.{key}": tensors[key] for key in self.store.head}
        logits = functional_call(self.path, head, (self.path.collate(self.data, indices).to(self.store.device),))
        for layer, W in self.adapted.items():
            W.copy_(self.plain[layer])  # subtracting the update would leave rounding errors
        return list(logits)


def one_at_a_time(
    serve: Callable[[list[int], str], list[Tensor]], indices: list[int], names: list[str]
) -> list[Tensor]:
    """Calls `serve` with each adapter's requests; returns the logits in the order of the batch."""
    answers: dict[int, Tensor] = {}
    for name in dict.fromkeys(names):
        places = [place for place, other in enumerate(names) if other == name]
        answers |= zip(places, serve([indices[place] for place in places], name), strict=True)
    return [answers[place] for place in range(len(names))]


def draw_adapter(store: AdapterStore, layers: list[str], number: int, seed: int) -> Adapter:
    """A random adapter whose B is not zero, as after training; ranks and outputs cycle."""
    rank, outputs = RANKS[number % len(RANKS)], OUTPUTS[number // len(RANKS) % len(OUTPUTS)]
    pairs = {}
    with seeded(seed, f"adapter/{number}"):
        for name in layers:
            inputs, width = store.layers[name]
            pairs[name] = draw(torch.empty(rank, inputs), "kaiming", rank), 0.02 * torch.randn(width, rank)
        shapes = {key: (outputs, *shape[1:]) if key in store.last else shape for key, shape in store.head.items()}
        return Adapter(pairs, 1.0, {key: 0.02 * torch.randn(shape) for key, shape in shapes.items()})


def draw_requests(rng: random.Random, examples: int, adapters: int, batch: int) -> tuple[list[int], list[str]]:
    """Examples, and the names of the adapters that they are for."""
    return [rng.randrange(examples) for _ in range(batch)], [str(rng.randrange(adapters)) for _ in range(batch)]


def measure(run: RunConfig, counts: list[int], batch: int, rounds: int, budget: int) -> dict[str, Any]:
    """The record, for all numbers of adapters.

    Raises:
        UserError: the method is not LoRA, matches no layer, or a batch's adapters exceed the budget.
    """
    if type(run.method) is not LoRA:
        raise UserError(f"method is '{run.method.name}'; serving is measured with method=lora")
    from experiments.inputs import load_inputs
    from training.accelerator import (  # seconds to import: a user's mistake should not wait for it
        describe_machine,
        make_accelerator,
    )

    accelerator, inputs = make_accelerator(run.trainer, run.deterministic), load_inputs(run)
    backbone, splits = inputs.backbone, inputs.splits
    dtype = torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32
    data = inputs.encoded[run.task.row.validation[0]]
    model = backbone.model.to(accelerator.device, dtype).requires_grad_(False)
    model_bytes = sum(p.nbytes for p in model.parameters())
    ways, steps = Ways(model, data, run.method.target_modules, budget), []
    rng = random.Random(named_seed(run.seed, "requests"))
    for count in counts:
        for number in range(len(ways.store.host), count):
            ways.store.add(str(number), draw_adapter(ways.store, list(ways.adapted), number, run.seed))
        requests = [draw_requests(rng, len(data.lengths), count, batch) for _ in range(rounds)]
        require_equal(ways, *requests[0])
        steps.append({"adapters": count, "adapter_bytes": ways.store.nbytes} | take_turns(ways, requests, rng))
        print(verdict(steps[-1]), flush=True)
    provenance = {"git": git_state(), "versions": versions(), "hardware": hardware() | describe_machine(accelerator)}
    settings = {"ranks": RANKS, "target_modules": run.method.target_modules}
    return {
        "serving": 1,
        **{"backbone": run.backbone.name, "task": run.task.name, "seed": run.seed, "config_hash": run.hash},
        "settings": settings | {"batch": batch, "rounds": rounds, "budget_bytes": budget},
        "config": without_paths(to_dict(run)),
        "provenance": provenance | {"backbone": backbone.provenance, "data_fingerprint": fingerprint(splits)},
        "model_bytes": model_bytes,
        "steps": steps,
    }


def take_turns(ways: Ways, requests: list[tuple[list[int], list[str]]], rng: random.Random) -> dict[str, Any]:
    """Each way's seconds for each batch, in a random order each time."""
    each = {MIXED: ways.mixed, SWITCHED: ways.switched, MERGED: ways.merged, BARE: ways.bare}
    seconds: dict[str, list[float]] = {way: [] for way in each}
    loads, evictions = ways.store.loads, ways.store.evictions
    for indices, names in requests:
        for way in rng.sample(list(each), len(each)):
            begin = time.perf_counter()
            each[way](indices, names)
            if ways.store.device.type == "cuda":
                torch.cuda.synchronize()
            seconds[way].append(time.perf_counter() - begin)
    return {
        "adapters_a_batch": [len(set(names)) for _, names in requests],
        "tokens": [sum(ways.data.lengths[i] for i in indices) for indices, _ in requests],
        "seconds": seconds,
        "loads": ways.store.loads - loads,
        "evictions": ways.store.evictions - evictions,
    }


def require_equal(ways: Ways, indices: list[int], names: list[str]) -> None:
    """Raises a UserError if the ways answer differently. It is also the first, unmeasured pass of all of them."""
    ways.bare(indices, names)
    answers = [torch.cat(way(indices, names)) for way in (ways.mixed, ways.switched, ways.merged)]
    apart = max((answers[0] - other).abs().max().item() for other in answers[1:])
    if not apart <= TOLERANCE[answers[0].dtype]:
        raise UserError(
            f"the ways do not serve the same adapters, their logits are {apart} apart: nothing was measured"
        )


def verdict(step: dict[str, Any]) -> str:
    """The result in words; in capitals where we are behind."""
    ratios = {way: ratio(step, way) for way in (SWITCHED, MERGED, BARE)}
    words = [f"{number:.2f} times the requests/s of '{LABELS[way]}'" for way, number in ratios.items()]
    behind = ", NOT FASTER" if step["adapters"] > 1 and min(ratios[SWITCHED], ratios[MERGED]) <= 1 else ""
    return f"{step['adapters']} adapters: {', '.join(words)}{behind}"
