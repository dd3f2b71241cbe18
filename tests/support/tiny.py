"""A small model, its inputs, every method at a small size, and a few steps of training."""

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from methods.adapter import Houlsby, Lin, Pfeiffer
from methods.adapterdrop import AdapterDrop
from methods.base import REGISTERED, AdaptedLinear, Method, head_parameters
from methods.bitfit import BitFit
from methods.delta_lora import DeltaLoRA
from methods.dora import DoRA
from methods.dylora import DyLoRA
from methods.full import Full
from methods.head import Head
from methods.intrinsic_dimension import IntrinsicDimension
from methods.ladder_side import LadderSide
from methods.lora import LoRA
from methods.lora_drop import LoRADrop, layers, share
from methods.lora_fa import LoRAFA, LoRAFACorrected
from methods.lora_plus import LoRAPlus
from methods.prefix import PrefixEmbed, PrefixLayer
from methods.qlora import QLoRA
from methods.top_layers import TopLayers
from methods.vera import VeRA
from models.batches import Encoded
from tasks.loading import Split


class Dropped(LoRADrop):
    """LoRA-drop in the shape that follows a probe: of each shape the first layer is kept, the others share a pair."""

    def apply(self, model: torch.nn.Module) -> None:
        super().apply(model)
        own = list(layers(model).values())
        first = {(layer.in_features, layer.out_features): layer for layer in reversed(own)}.values()
        for layer in first:
            layer.importance.fill_(0.95 / len(first))
        share([layer for layer in own if layer not in first])


METHODS: dict[str, Method] = {
    "head": Head(),
    "full": Full(),
    "lora": LoRA(rank=4),
    "lora_gaussian_all": LoRA(rank=4, rank_stabilized=True, init_A="gaussian", target_modules="."),
    "lora_plus": LoRAPlus(rank=4),
    "lora_plus_a0": LoRAPlus(rank=4, ratio=16.0, zero="A"),
    "dylora": DyLoRA(rank=2),
    "dylora_together": DyLoRA(rank=4, alpha=6, frozen=False),
    "delta_lora": DeltaLoRA(rank=4),
    "delta_lora_moved": DeltaLoRA(rank=4, update_ratio=0.5, start_steps=0, target_modules="."),
    "lora_drop": LoRADrop(rank=4),
    "lora_drop_shared": Dropped(rank=4),
    "lora_drop_shared_all": Dropped(rank=4, target_modules="."),
    "dora": DoRA(rank=4, alpha=16),
    "dora_all": DoRA(rank=4, target_modules="."),
    "lora_fa": LoRAFA(rank=4),
    "lora_fa_corrected": LoRAFACorrected(rank=4),
    "vera": VeRA(rank=48),
    "vera_all": VeRA(rank=48, target_modules="."),
    "qlora": QLoRA(rank=4),
    "qlora_fp4": QLoRA(rank=4, quant_type="fp4", double_quant=False, target_modules="query|value"),
    "intrinsic_dimension": IntrinsicDimension(d=70),
    "intrinsic_dimension_direct": IntrinsicDimension(d=64, structured=False),
    "prefix_embed": PrefixEmbed(l_p=3, l_i=2),
    "prefix_layer": PrefixLayer(l_p=3, l_i=2),
    "ladder_side": LadderSide(reduction=4),
    "ladder_side_random": LadderSide(reduction=2, init="random"),
    "bitfit": BitFit(),
    "top_layers": TopLayers(layers=1),
    "houlsby": Houlsby(bottleneck=4),
    "houlsby_own": Houlsby(bottleneck=4, layer_norms=False),
    "lin": Lin(bottleneck=4),
    "pfeiffer": Pfeiffer(bottleneck=4),
    "adapterdrop": AdapterDrop(bottleneck=4, dropped_layers=1),
}
TESTED = {method.name for method in METHODS.values()}
METHODS |= {
    name: method(name) for name, method in REGISTERED.items() if name not in TESTED
}  # a user's own, at its defaults
SHAPES = {
    "roberta": {"model_type": "roberta", "max_position_embeddings": 66, "type_vocab_size": 1, "pad_token_id": 1},
    "bert": {"model_type": "bert", "max_position_embeddings": 64, "type_vocab_size": 2, "pad_token_id": 0},
}


def tiny_model(
    architecture: str = "roberta", labels: int = 3, seed: int = 0, dropout: float = 0.0, width: int = 32
) -> torch.nn.Module:
    """Two layers, with biases that are not zero, so that a mistake with them shows."""
    config = AutoConfig.for_model(
        **SHAPES[architecture],
        vocab_size=300,
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=width * 3 // 2,
        num_labels=labels,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
            elif "LayerNorm" not in name:
                parameter.mul_(5)  # transformers starts at 0.02, where everything is close to everything
    return model.eval()


def tiny_inputs(seed: int = 0, batch: int = 4, length: int = 12) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 120, (batch, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, length // 2 :] = 0
    return {"input_ids": ids, "attention_mask": mask}


def shake(model: torch.nn.Module, seed: int = 1) -> None:
    """Moves every trained parameter below the head off its start, as training would."""
    torch.manual_seed(seed)
    head = set(head_parameters(model))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter not in head:
                parameter.add_(torch.randn_like(parameter) * 0.1)


def adapted_layers(model: torch.nn.Module) -> list[AdaptedLinear]:
    return [module for module in model.modules() if isinstance(module, AdaptedLinear)]


def train_steps(model: torch.nn.Module, method: Method, steps: int = 3, lr: float = 1e-2) -> None:
    """A few steps of AdamW, the method's hooks included."""
    from training.optimizers import build_optimizer
    from training.settings import TrainerConfig

    config = TrainerConfig(learning_rate=lr, head_learning_rate=lr)
    optimizer = build_optimizer(model, method, config)
    model.train()
    for step in range(steps):
        method.before_step(model, step + 1, seed=0)
        logits = model(**tiny_inputs(seed=step)).logits
        torch.nn.functional.cross_entropy(logits, torch.arange(4) % logits.shape[1]).backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(model, step + 1)
    model.eval()


LENGTHS = [5, 5, 9, 12, 3, 20, 20, 20, 7, 31]


def encoded(architecture: str, lengths: list[int] = LENGTHS) -> Encoded:
    """Random ids, never the padding id."""
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(5, 120, (length,), generator=generator).tolist() for length in lengths]
    inputs = {"input_ids": ids}
    if architecture == "bert":
        inputs["token_type_ids"] = [[0] * (len(row) // 2) + [1] * (len(row) - len(row) // 2) for row in ids]
    pad = {"input_ids": 1 if architecture == "roberta" else 0, "token_type_ids": 0}
    texts = [("",)] * len(ids)
    split = Split("train", texts, [i % 3 for i in range(len(ids))], list(range(len(ids))))
    return Encoded(split, inputs, {name: pad[name] for name in inputs}, torch.int64)
