"""How many adapters fit into memory beside one base model, counted on the architecture without its weights.

The base is what all adapters share: the encoder (or decoder) below the head. Heads, activations and a decoder's KV cache are
not counted, so the number is an upper bound. GB and MB are 10⁹ and 10⁶ bytes.
"""

import math
import re
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pandas as pd
from omegaconf import OmegaConf
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from analysis.records import ROOT
from analysis.render import Table
from analysis.reported import read_reported
from core.errors import UserError
from methods.base import (
    ALL_LINEAR,
    QUERY_AND_VALUE,
    Method,
    head_parameters,
    head_prefixes,
    linear_layers,
    parameter_counts,
    trained_state,
)
from methods.lora import LoRA
from methods.qlora import QLoRA
from methods.vera import VeRA
from models.random_init import build
from models.settings import BackboneConfig
from tasks.glue import GLUE

BASE_BITS = (4, 16, 32)
OTHER_QUERY_AND_VALUE = {"llama": r"(q_proj|v_proj)$"}  # architectures with other names for query and value


@dataclass(frozen=True)
class Plan:
    """The sizes of a base and its adapters.

    Attributes:
        base_parameters, base_bytes: of the base.
        trained: parameters that the method trains, without the head.
        adapter_parameters, adapter_bytes: the adapter as a run saves it, with LoRA-FA's frozen A, without the head.
        shared_bytes: what all adapters read and none saves: VeRA's A and B (of one seed), DoRA's ‖W‖².
        adapters: how many fit beside the base.
    """

    base_parameters: int
    base_bytes: int
    trained: int
    adapter_parameters: int
    adapter_bytes: int
    shared_bytes: int
    adapters: int

    @property
    def share(self) -> float:
        """Trained parameters divided by the base's."""
        return self.trained / self.base_parameters


def plan(
    backbone: BackboneConfig, method: Method, memory_bytes: float, base_bits: int, adapter_bytes_per_parameter: int
) -> Plan:
    """Counts the tensors of `backbone.architecture` before and after `method.apply`.

    Args:
        base_bits: 32, 16, or 4: linear layers as QLoRA keeps them, the rest in 16.

    Raises:
        UserError: the architecture is missing or does not build, the method does not fit it, or memory is too small for it.
    """
    method = for_architecture(method, backbone)
    # Fake tensors have shapes without values, as on the meta device. But their device is `cpu`: DoRA's norm asks for
    # autocast, which does not know the meta device.
    with FakeTensorMode():
        model = build(backbone, GLUE["stsb"])  # one output
        head = set(head_parameters(model))
        base_parameters = sum(p.numel() for p in model.parameters() if p not in head)
        base_bytes = weight_bytes(model, base_parameters, base_bits, getattr(method, "double_quant", True))
        own_buffers = dict(model.named_buffers()).keys()
        if isinstance(method, QLoRA):  # its adapters are LoRA's, and quantizing would need weights
            LoRA.apply(method, model)
        else:
            method.apply(model)
    if base_bytes > memory_bytes:
        raise UserError(
            f"{backbone.name} takes {base_bytes / 1e9:.4g} GB in {base_bits} bits: {memory_bytes / 1e9:g} GB do not hold it"
        )
    saved = {name: t.numel() for name, t in trained_state(model).items() if not name.startswith(head_prefixes(model))}
    if not saved:
        raise UserError(f"method={method.name} trains the head alone: there is no adapter to plan for")
    shared = [t for name, t in model.named_buffers() if name not in saved and name not in own_buffers]
    adapter_bytes = sum(saved.values()) * adapter_bytes_per_parameter
    shared_bytes = sum(
        t.numel() * (adapter_bytes_per_parameter if t.is_floating_point() else t.itemsize) for t in shared
    )
    return Plan(
        base_parameters=base_parameters,
        base_bytes=base_bytes,
        trained=parameter_counts(model, {})["trained_without_head"],
        adapter_parameters=sum(saved.values()),
        adapter_bytes=adapter_bytes,
        shared_bytes=shared_bytes,
        adapters=max(0, int((memory_bytes - base_bytes - shared_bytes) // adapter_bytes)),
    )


def for_architecture(method: Method, backbone: BackboneConfig) -> Method:
    """The method with the architecture's own names for query and value, where it adapts these by default."""
    names = OTHER_QUERY_AND_VALUE.get(backbone.architecture.get("model_type", ""))
    if names and isinstance(method, LoRA | VeRA) and method.target_modules == QUERY_AND_VALUE:
        return replace(method, target_modules=names)
    return method


def weight_bytes(model: nn.Module, parameters: int, bits: int, double_quant: bool) -> int:
    """Bytes of the base's `parameters`. With 4 bits, only the linear layers' weights are in 4, the rest is in 16."""
    if bits > 4:
        return parameters * bits // 8
    weights = [layer.weight.numel() for _, layer in linear_layers(model)]
    return sum(quantized_bytes(n, double_quant) for n in weights) + 2 * (parameters - sum(weights))


def quantized_bytes(weights: int, double_quant: bool) -> int:
    """Bytes that `methods.qlora.Linear4bit` keeps for a layer with `weights` weights.

    Each block of 64 weights has a scale of 32 bits. With double quantization the scale has 8 bits, each block of 256 scales
    has its own scale of 32 bits, and the scales' mean is stored. Decoding 4 bits takes a table of 16 numbers, 8 bits 256.
    """
    packed, scales = math.ceil(weights / 2), math.ceil(weights / 64)
    if not double_quant:
        return packed + 4 * (scales + 16)
    return packed + scales + 4 * (math.ceil(scales / 256) + 1 + 16 + 256)


MEMORY = 40e9
LAYERS = {"q v": OTHER_QUERY_AND_VALUE["llama"], "all": ALL_LINEAR}
UNITS = {"": 1, "%": 0.01, "k": 1e3, "M": 1e6, "MB": 1e6, "GB": 1e9}
SHOW = {
    "trained": lambda number: f"{number / 1e6:.1f}M",
    "share": lambda number: f"{number:.2%}",
    "memory": lambda number: f"{number / 1e9:.2f}GB" if number >= 1e9 else f"{number / 1e6:.1f}MB",
    "adapters": lambda number: f"{number:,}",
}


@cache
def table() -> Table:
    """The published table of adapters beside Llama 7B, and ours."""
    reported = read_reported("adapters_beside_a_model")
    published = {
        row: dict(zip(cells["column"], cells["value"], strict=True))
        for row, cells in reported.groupby("row", sort=False)
    }
    yaml = OmegaConf.load(ROOT / "conf/backbone/llama-7b.yaml")
    llama: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(BackboneConfig), yaml))
    plans = {
        row: plan(llama, LoRA(rank=int(match[1]), target_modules=LAYERS[match[2]]), MEMORY, 16, 2)
        for row in published
        if (match := re.fullmatch(r"Q?LoRA r = (\d+), (.+)", row))
    }
    ours = {
        row: {"trained": p.trained, "share": p.share, "memory": p.adapter_bytes, "adapters": p.adapters}
        for row, p in plans.items()
    }
    ours["base model"] = {"memory": next(iter(plans.values())).base_bytes}
    lines = [
        [
            row,
            *(cell for c in SHOW for cell in (published[row][c], SHOW[c](ours[row][c]) if c in ours[row] else "")),
            published[row]["performance"],
        ]
        for row in published
    ]
    columns = ["", *(f"{name}, {side}" for name in SHOW for side in ("published", "ours")), "performance, published"]
    [source], [protocol] = set(reported["source"]), set(reported["protocol"])
    notes = [
        f"Published: {source}; {protocol}. Its performance is relative, at the best alpha, and not reproduced here; it says "
        "that LoRA's is not comparable with the base model's, since it includes more fine-tuning.",
        *explanations(llama, next(iter(plans.values()))),
        *differences(published, ours),
    ]
    title = "How many adapters fit beside Llama 7B on 40 GB: published, and by arithmetic"
    return Table("adapters_beside_a_model", title, pd.DataFrame(lines, columns=columns), notes)


def explanations(llama: BackboneConfig, first: Plan) -> list[str]:
    """Notes on our columns; `first` is the smallest adapter's plan."""
    lm_head = 2 * llama.architecture["vocab_size"] * llama.architecture["hidden_size"]
    quantized = plan(llama, LoRA(), MEMORY, 4, 2)
    return [
        "Ours: counted on the architecture, base and adapters in fp16 (2 bytes a parameter); share: of the base; adapters: "
        "40 GB (40·10⁹ bytes) less the base, over an adapter. No activations, no KV cache, no heads: an upper bound.",
        f"The base is the decoder below its head. Llama's language-model head would take {lm_head / 1e9:.2f} GB more, and "
        f"{int((MEMORY - first.base_bytes - lm_head) // first.adapter_bytes):,} of the smallest adapters would fit, not "
        f"{first.adapters:,}.",
        f"QLoRA's adapters are LoRA's, and its rows, too, count the base in fp16. In 4 bits the base takes "
        f"{quantized.base_bytes / 1e9:.2f} GB, and {quantized.adapters:,} of the smallest fit.",
    ]


def differences(published: dict[str, dict[str, str]], ours: dict[str, dict[str, float]]) -> list[str]:
    """Notes on published numbers that differ from the arithmetic, a line for each column."""
    notes = []
    for name, show in SHOW.items():
        off = [
            f"{row}: {texts[name]} against {show(ours[row][name])}"
            for row, texts in published.items()
            if texts[name] and differs(texts[name], ours[row][name])
        ]
        notes.append(f"Published {name} off by more than a tenth of ours and its rounding: {'; '.join(off) or 'none'}.")
    base = published["base model"]["memory"]
    follows = [
        f"{(MEMORY - parse(base)[0]) / parse(row['memory'])[0]:,.0f} for {row['adapters']}"
        for row in published.values()
        if row["adapters"]
    ]
    return [*notes, f"Adapters by the document's own figures, (40 GB - {base}) / memory: {', '.join(follows)}."]


def differs(text: str, number: float) -> bool:
    """Whether a published number differs from `number` by more than a tenth and by more than its own rounding."""
    value, half_digit = parse(text)
    return abs(value - number) > max(half_digit, 0.1 * number)


def parse(text: str) -> tuple[float, float]:
    """`~1.6GB`: its value and half of its last digit, in bytes."""
    if not (parts := re.fullmatch(r"~?([\d.]+)(\D*)", text)):
        raise ValueError(f"'{text}' is not a number with a unit")
    number, unit = parts.groups()
    return float(number) * UNITS[unit], 0.5 * UNITS[unit] / 10 ** len(number.partition(".")[2])
