"""All adapters in host memory, the used ones on the device (S-LoRA, Sheng et al. 2023, section 5).

An adapter is one block of memory, so that one copy brings it to the device. Deviation: the paper's pool has pages, because
it shares them with a KV cache that grows by the token. An encoder has no such cache, so adapters are moved as a whole.
"""

import re
from collections import OrderedDict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adapters import peft_format
from core.errors import UserError
from core.io import read_foreign_tensors
from experiments.record import RECORD
from experiments.run_folder import ADAPTER
from methods.base import head_prefixes, linear_layers
from methods.lora import LoRA


@dataclass(frozen=True)
class Adapter:
    """The trained tensors of a LoRA or LoRA-FA run.

    Attributes:
        layers: A (r, in) and B (out, r) by the name of the linear layer that they adapt; ranks may differ.
        scale: s.
        head: the classification head by the model's own names, BERT's pooler included; without one, it is the backbone's.
    """

    layers: dict[str, tuple[Tensor, Tensor]]
    scale: float
    head: dict[str, Tensor]


def from_state(state: dict[str, Tensor], scale: float) -> Adapter:
    """The adapter in a run's `trained_state`.

    Args:
        scale: s, which the state does not hold: `run.method.scale`.

    Raises:
        UserError: an adapted layer has other tensors than A and B.
    """
    layers = sorted(name.removesuffix(".A") for name in state if name.endswith(".A"))
    pairs = {f"{layer}.{letter}" for layer in layers for letter in "AB"}
    low_rank = {name for name in state if name.rpartition(".")[0] in layers}
    if not layers or low_rank != pairs:
        raise UserError("only adapters of an A and a B for each layer can be served, as LoRA's are")
    head = {name: tensor for name, tensor in state.items() if name not in pairs}
    return Adapter({layer: (state[f"{layer}.A"], state[f"{layer}.B"]) for layer in layers}, scale, head)


def from_folder(folder: Path, backbone: dict[str, Any]) -> Adapter:
    """The adapter in a finished run's folder, or in one of PEFT's.

    Args:
        backbone: `Backbone.provenance` of the model that will serve it.

    Raises:
        UserError: the adapter is missing, damaged, of another backbone, or not of LoRA's kind.
    """
    if (folder / RECORD).exists() and not (folder / ADAPTER).is_dir():
        raise UserError(
            f"{folder} is a run without an adapter; only LoRA's and LoRA-FA's can be served: export it merged"
        )
    folder = folder / ADAPTER if (folder / ADAPTER).is_dir() else folder
    config = peft_format.read_config(folder)
    try:
        method = LoRA(rank=config["r"], alpha=config["lora_alpha"], rank_stabilized=config.get("use_rslora", False))
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder} holds no LoRA adapter, and no other kind can be served") from error
    if config.get("use_dora"):
        raise UserError(f"{folder} holds a DoRA adapter; only LoRA's and LoRA-FA's can be served: export it merged")
    peft_format.check_settings(folder, config, method)
    peft_format.check_backbone(folder, config, backbone)
    state = {}
    for name, tensor in read_foreign_tensors(folder / peft_format.WEIGHTS)[0].items():
        for ours, theirs in LoRA.peft_names.items():
            name = re.sub(rf"\.{re.escape(theirs)}$", f".{ours}", name)
        state[name.removeprefix(peft_format.PREFIX)] = tensor
    return from_state(state, method.scale)


@dataclass(frozen=True)
class Block:
    """Tensors in one block of memory.

    Attributes:
        flat: all of them, end to end.
        shapes: by name, in their order.
        outputs: how many the head has.
    """

    flat: Tensor
    shapes: dict[str, torch.Size]
    outputs: int

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Views of `flat`: `LAYER.A` (r, in), `LAYER.B` (out, r) times s, and the head's by their own names."""
        parts = self.flat.split([shape.numel() for shape in self.shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    @property
    def nbytes(self) -> int:
        return self.flat.nbytes

    def to(self, device: torch.device) -> "Block":
        return Block(self.flat.to(device, non_blocking=True), self.shapes, self.outputs)


class AdapterStore:
    """The adapters of one backbone; the most recently used ones, at most `budget` bytes, are on its device.

    Attributes:
        unfit: layers that no adapter may adapt, because their input is not a row for each example.
        resident: the adapters on the device, the least recently used first. On a CPU it is the same memory, counted alike.
        resident_bytes: their size.
        loads, evictions: how many adapters were copied to the device, and how many were removed from it.
    """

    def __init__(self, model: nn.Module, budget: int, unfit: Collection[str] = ()):
        """
        Args:
            model: the plain classifier, before anything wraps its layers.
        """
        self.unfit = unfit
        parameter, prefixes = next(model.parameters()), head_prefixes(model)
        self.device, self.dtype, self.budget = parameter.device, parameter.dtype, budget
        self.layers = {name: (layer.in_features, layer.out_features) for name, layer in linear_layers(model)}
        self.head = {name: p.shape for name, p in model.named_parameters() if name.startswith(prefixes)}
        self.pooler = {name for name in self.head if name.startswith(f"{model.base_model_prefix}.")}
        linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        last = [name for name in linear if f"{name}.".startswith(prefixes)][-1]
        self.last = (f"{last}.weight", f"{last}.bias")
        self.host: dict[str, Block] = {}
        self.resident: OrderedDict[str, Block] = OrderedDict()
        self.resident_bytes = self.loads = self.evictions = 0

    @property
    def nbytes(self) -> int:
        """Size of all adapters."""
        return sum(block.nbytes for block in self.host.values())

    def add(self, name: str, adapter: Adapter) -> None:
        """Takes a copy of an adapter into host memory.

        Raises:
            UserError: the name is taken, or the adapter is not of this backbone.
        """
        if name in self.host:
            raise UserError(f"there is an adapter '{name}' already: give this one another name")
        self.check_layers(name, adapter)
        self.check_head(name, adapter)
        tensors: dict[str, Tensor] = {}
        for layer, (A, B) in adapter.layers.items():
            tensors |= {f"{layer}.A": A, f"{layer}.B": adapter.scale * B}
        tensors |= adapter.head
        flat = torch.cat([tensor.detach().to("cpu", self.dtype).flatten() for tensor in tensors.values()])
        if self.device.type == "cuda":
            flat = flat.pin_memory()  # copies from pinned memory are asynchronous
        outputs = len(adapter.head[self.last[0]])
        self.host[name] = Block(flat, {key: tensor.shape for key, tensor in tensors.items()}, outputs)

    def check_layers(self, name: str, adapter: Adapter) -> None:
        """Raises a UserError unless A and B fit the layers that they are for."""
        for layer, (A, B) in adapter.layers.items():
            if layer not in self.layers:
                raise UserError(
                    f"adapter '{name}' adapts {layer}, which the backbone lacks: was it trained on another?"
                )
            if layer in self.unfit:
                raise UserError(
                    f"adapter '{name}' adapts {layer}, whose input is not a row for each example in this architecture: "
                    "serve the run merged (export.py)"
                )
            inputs, outputs = self.layers[layer]
            if A.shape != (len(A), inputs) or B.shape != (outputs, len(A)):
                raise UserError(
                    f"adapter '{name}' has A {tuple(A.shape)} and B {tuple(B.shape)} for {layer}, "
                    f"which takes (r, {inputs}) and ({outputs}, r): was it trained on another backbone?"
                )

    def check_head(self, name: str, adapter: Adapter) -> None:
        """Raises a UserError unless the head has the model's shapes, apart from the number of outputs.

        A run saves no pooler that its head does not read (BigBird's), and PEFT often saves no pooler that it did not train.
        """
        untrained = set() if adapter.head.keys() & self.pooler else self.pooler
        if odd := sorted(adapter.head.keys() ^ (self.head.keys() - untrained)):
            raise UserError(f"adapter '{name}' has another head than this backbone: {odd[0]} is on one side only")
        outputs = len(adapter.head[self.last[0]])
        for key, tensor in adapter.head.items():
            shape = (outputs, *self.head[key][1:]) if key in self.last else tuple(self.head[key])
            if tuple(tensor.shape) != shape:
                raise UserError(
                    f"adapter '{name}' has {key} of shape {tuple(tensor.shape)}, where the head takes {shape}"
                )

    def fetch(self, names: Iterable[str]) -> dict[str, Block]:
        """These adapters, on the device; the least recently used others make room for them.

        Raises:
            UserError: a name is unknown, or they exceed the budget together.
        """
        needed = dict.fromkeys(names)
        if missing := [name for name in needed if name not in self.host]:
            raise UserError(f"there is no adapter '{missing[0]}' among the {len(self.host)} in the store: add it first")
        size = sum(self.host[name].nbytes for name in needed)
        if size > self.budget:
            raise UserError(
                f"the batch's {len(needed)} adapters take {size:,} bytes, the budget is {self.budget:,}: "
                "use a smaller batch or a larger budget"
            )
        incoming = [name for name in needed if name not in self.resident]
        for name in filter(self.resident.__contains__, needed):
            self.resident.move_to_end(name)  # so that make_room does not remove it
        self.make_room(sum(self.host[name].nbytes for name in incoming))
        for name in incoming:
            self.resident[name] = self.host[name].to(self.device)
            self.resident_bytes += self.host[name].nbytes
        self.loads += len(incoming)
        return {name: self.resident[name] for name in needed}

    def make_room(self, size: int) -> None:
        """Removes the least recently used adapters until `size` more bytes fit into the budget."""
        while self.resident_bytes + size > self.budget:
            _, block = self.resident.popitem(last=False)
            self.resident_bytes -= block.nbytes
            self.evictions += 1
