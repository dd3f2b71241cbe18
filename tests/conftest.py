"""Small models and settings that the tests share. Nothing here needs a network."""

import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import methods  # noqa: E402, F401
from methods.adapter import Houlsby, Lin, Pfeiffer  # noqa: E402
from methods.adapterdrop import AdapterDrop  # noqa: E402
from methods.base import AdaptedLinear, Method, head_parameters  # noqa: E402
from methods.bitfit import BitFit  # noqa: E402
from methods.dora import DoRA  # noqa: E402
from methods.full import Full  # noqa: E402
from methods.head import Head  # noqa: E402
from methods.lora import LoRA  # noqa: E402
from methods.lora_fa import LoRAFA, LoRAFACorrected  # noqa: E402
from methods.qlora import QLoRA  # noqa: E402
from methods.top_layers import TopLayers  # noqa: E402
from methods.vera import VeRA  # noqa: E402

METHODS: dict[str, Method] = {
    "head": Head(),
    "full": Full(),
    "lora": LoRA(rank=4),
    "lora_gaussian_all": LoRA(rank=4, rank_stabilized=True, init_A="gaussian", target_modules="."),
    "dora": DoRA(rank=4, alpha=16),
    "dora_all": DoRA(rank=4, target_modules="."),
    "lora_fa": LoRAFA(rank=4),
    "lora_fa_corrected": LoRAFACorrected(rank=4),
    "vera": VeRA(rank=48),
    "vera_all": VeRA(rank=48, target_modules="."),
    "qlora": QLoRA(rank=4),
    "qlora_fp4": QLoRA(rank=4, quant_type="fp4", double_quant=False, target_modules="query|value"),
    "bitfit": BitFit(),
    "top_layers": TopLayers(layers=1),
    "houlsby": Houlsby(bottleneck=4),
    "houlsby_own": Houlsby(bottleneck=4, layer_norms=False),
    "lin": Lin(bottleneck=4),
    "pfeiffer": Pfeiffer(bottleneck=4),
    "adapterdrop": AdapterDrop(bottleneck=4, dropped_layers=1),
}
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
        logits = model(**tiny_inputs(seed=step)).logits
        torch.nn.functional.cross_entropy(logits, torch.arange(4) % logits.shape[1]).backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(model, step + 1)
    model.eval()


@pytest.fixture(params=METHODS, ids=list(METHODS))
def method(request) -> Method:
    return METHODS[request.param]


@pytest.fixture(params=SHAPES)
def architecture(request) -> str:
    return request.param


def compose(*overrides: str):
    """The typed settings of a command line."""
    import hydra

    from experiments.config import from_hydra

    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return from_hydra(hydra.compose("config", list(overrides)))
