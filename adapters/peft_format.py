"""PEFT's adapter folder, written and read: `adapter_config.json` beside `adapter_model.safetensors`.

Each method names its settings and tensors in PEFT's words itself (`Method.peft_config`, `Method.to_peft`). This module
never imports peft and never unpickles.
"""

import json
import os
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from adapters import peft_check
from core.errors import UserError
from core.io import read_foreign_header, read_foreign_tensors, write_json, write_tensors
from methods.base import AdaptedLinear, Method, head_modules, tied, trained_state
from models.settings import why_other

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
PREFIX = "base_model.model."
# PEFT's settings that concern training alone, or that an adapter's tensors show; any other that is set is refused
HARMLESS = """
    auto_mapping base_model_name_or_path bias corda_config ensure_weight_tying eva_config exclude_modules
    inference_mode init_lora_weights init_weights layers_pattern layers_to_transform loftq_config lora_bias
    lora_ga_config megatron_config megatron_core modules_to_save peft_version qalora_group_size revision
    target_modules target_parameters task_type trainable_token_indices velora_config
""".split()
INITS = (True, False, None, "gaussian", "kaiming", "eva", "orthogonal")  # the others change the backbone's weights too


def split(model: nn.Module, state: dict[str, Tensor]) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """A trained state's tensors by adapted layer and name in it, tied ones in each of their layers; and the others."""
    layers: dict[str, dict[str, Tensor]] = {
        name: {} for name, module in model.named_modules() if isinstance(module, AdaptedLinear)
    }
    others = {}
    copies = {
        name: state[own].clone()
        for name, own in tied(model).items()
        if own in state and name.rpartition(".")[0] in layers
    }
    for name, tensor in (state | copies).items():
        layer, _, own = name.rpartition(".")
        if layer in layers:
            layers[layer][own] = tensor
        else:
            others[name] = tensor
    return layers, others


def to_peft(model: nn.Module, method: Method, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A trained state in PEFT's tensors, by PEFT's names."""
    layers, others = split(model, state)
    tensors = {f"{PREFIX}{name}": tensor for name, tensor in others.items()}
    for layer, own in layers.items():
        tensors |= {f"{PREFIX}{layer}.{theirs}": tensor for theirs, tensor in method.to_peft(own).items()}
    return tensors


def from_peft(
    model: nn.Module, method: Method, state: dict[str, Tensor], tensors: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The trained state that PEFT's tensors hold; what they lack is taken from `state`."""
    layers, others = split(model, state)
    read = {name: tensors[f"{PREFIX}{name}"] for name in others if f"{PREFIX}{name}" in tensors}
    for layer, own in layers.items():
        theirs = {name: tensors[f"{PREFIX}{layer}.{name}"] for name in method.to_peft(own)}
        read |= {f"{layer}.{name}": tensor for name, tensor in method.from_peft(theirs).items()}
    return state | read


def write_adapter(
    folder: Path,
    model: nn.Module,
    method: Method,
    record: dict[str, Any],
) -> None:
    """Writes an adapter that `peft.PeftModel.from_pretrained(backbone, folder)` loads, head included.

    Args:
        model: in the state that is written, the best one, say.
        record: the run's; the header of the tensors' file keeps where they come from.

    Raises:
        UserError: PEFT would compute something else from it.
    """
    if why := peft_check.difference(model, method):
        raise UserError(why)
    backbone = record["provenance"]["backbone"]
    kept = {"backbone": backbone, "method": record["config"]["method"]}
    kept |= {key: record[key] for key in ("task", "seed", "config_hash", "metric", "best")}
    adapted = [name for name, module in model.named_modules() if isinstance(module, AdaptedLinear)]
    config = method.peft_config() | {
        "task_type": "SEQ_CLS",
        "base_model_name_or_path": backbone["source"],
        "revision": backbone["revision"],
        "target_modules": adapted,
        "modules_to_save": [name.rpartition(".")[2] for name in head_modules(model)],
        "inference_mode": True,
    }
    tensors = to_peft(model, method, trained_state(model)) | method.peft_shared(model)
    write_tensors(folder / WEIGHTS, tensors, kept)
    write_json(folder / CONFIG, config)


def read_adapter(folder: Path, model: nn.Module, method: Method, backbone: dict[str, Any]) -> dict[str, Tensor]:
    """The trained state, in our names, of an adapter that `write_adapter` or PEFT wrote; shapes are not checked here.

    Args:
        model: after `method.apply`.
        backbone: where its weights come from.

    Raises:
        UserError: the folder holds no adapter, a damaged one, or one of another method, setting or backbone.
    """
    config = read_config(folder)
    check_settings(folder, config, method)
    tensors, _ = read_foreign_tensors(folder / WEIGHTS)
    check_backbone(folder, config, backbone)
    for name, own in method.peft_shared(model).items():
        their = tensors.pop(name, own)
        if their.shape != own.shape or not their.equal(own.to(their)):
            raise UserError(f"{folder}: {name} is not what this run's settings draw: its adapter would mean another ΔW")
    state = trained_state(model)
    check_names(folder, tensors, to_peft(model, method, state), f"{PREFIX}{model.base_model_prefix}.pooler.")
    return from_peft(model, method, state, tensors)


def check_names(folder: Path, tensors: dict[str, Tensor], ours: dict[str, Tensor], pooler: str) -> None:
    """Raises a UserError unless the tensors are those that train here; PEFT often leaves BERT's pooler out."""
    for name in ours:
        if name not in tensors and not name.startswith(pooler):
            raise UserError(_other_layers(folder, "lacks", name))
    for name in tensors:
        if name not in ours:
            raise UserError(_other_layers(folder, "also has", name))


def _other_layers(folder: Path, verb: str, name: str) -> str:
    return f"{folder / WEIGHTS} {verb} {name}: it was trained with another target_modules, or other layers"


def require_adapter(folder: Path) -> None:
    """Raises a UserError if a file is missing, or the weights are a pickle."""
    if not (folder / WEIGHTS).exists() and (folder / PICKLE).exists():
        raise UserError(f"{folder / PICKLE} is a pickle, which is never read: save the adapter again, as safetensors")
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(f"{folder} holds neither a run nor an adapter: there is no {name}")


def read_config(folder: Path) -> dict[str, Any]:
    """The settings of the adapter in a folder.

    Raises:
        UserError: it holds none, or damaged ones.
    """
    require_adapter(folder)
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{folder / CONFIG} is damaged: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"{folder / CONFIG} is damaged: it holds no settings")
    return config


def check_settings(folder: Path, config: dict[str, Any], method: Method) -> None:
    """Raises a UserError unless every setting that changes what the adapter computes agrees with the method's."""
    if not method.peft_names:
        raise UserError(
            f"{folder} holds an adapter, and method={method.name} has none that PEFT knows: use another method"
        )
    settings = method.peft_config()
    for key, own in settings.items():
        if key in method.peft_ignored_keys:
            continue
        their = config.get(key, False if own is False else None)
        if their != own:
            raise UserError(f"{folder} has {key} {their}, method={method.name} as set here has {own}: make them agree")
    if unknown := [key for key, value in config.items() if value and key not in (*settings, *HARMLESS)]:
        raise UserError(f"{folder} was trained with {unknown[0]}, which no method here knows")
    if config.get("init_lora_weights", True) not in INITS:
        raise UserError(
            f"{folder} began with init_lora_weights={config['init_lora_weights']}, which changes the backbone"
        )


def header(folder: Path) -> dict[str, Any] | None:
    """What `write_adapter` kept beside the tensors; None if we did not write them.

    Raises:
        UserError: the file is damaged.
    """
    kept = read_foreign_header(folder / WEIGHTS)
    return kept if kept.keys() >= {"backbone", "method", "task"} else None


def check_backbone(folder: Path, config: dict[str, Any], backbone: dict[str, Any]) -> None:
    """Raises a UserError if the adapter is another backbone's: by checksum if we wrote it, by name or path if PEFT did."""
    ours = header(folder)
    if not ours:
        _check_name(folder, config, backbone)
        return
    if ours["backbone"].get("tokenizer") != backbone.get("tokenizer"):
        raise UserError(
            f"{folder} was trained with another tokenizer than this backbone's: give backbone.tokenizer as it was there"
        )
    if (there := ours["backbone"]["sha256"]) != backbone["sha256"]:
        raise UserError(
            f"{folder} was trained on a backbone with sha256 '{there}'; use that one, this one's is "
            f"'{backbone['sha256']}'{why_other(ours['backbone'], backbone)}"
        )


def _check_name(folder: Path, config: dict[str, Any], backbone: dict[str, Any]) -> None:
    """Of an adapter of PEFT's own, which keeps no checksum of its backbone."""
    source, here = config.get("base_model_name_or_path"), backbone["source"]
    if _place(source) != _place(here):
        raise UserError(
            f"{folder} was trained on a backbone with source '{source}', this one's is '{here}': use that one or, if it "
            f"only moved, set base_model_name_or_path in {folder / CONFIG} to '{here}'"
        )
    revision = config.get("revision")
    if revision and backbone["revision"] and revision != backbone["revision"]:
        raise UserError(
            f"{folder} was trained on a backbone with revision '{revision}'; use that one, this one's is "
            f"'{backbone['revision']}'"
        )


def _place(source: Any) -> str:
    """A source, in one spelling if it is a folder; a hub's name stays as it is."""
    path = os.path.expanduser(str(source))
    return os.path.realpath(path) if os.path.isdir(path) else str(source)
