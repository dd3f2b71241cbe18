"""LoRA+ (Hayou, Ghosh and Yu 2024, arXiv 2402.12354): LoRA whose B learns faster than its A.

  η_A = the learning rate, η_B = λ · η_A        λ is `method.ratio`; all else as LoRA

With Adam, both factors learn features only if η_B / η_A grows with the layer's width (theorem 1). The paper measures λ = 16
on RoBERTa for A = 0 at the start, and advises 4 to 8 for the usual start, B = 0: `conf/method/lora_plus_a0.yaml` and
`lora_plus.yaml`.

Deviations: none in the method. The head has its own rate (`trainer.head_learning_rate`). In the authors' code and in PEFT's
`create_loraplus_optimizer` its matrices learn at η_A and its biases at η_B; their script for RoBERTa freezes the head's dense
layer at its random start. The paper's figure 3 shows on its axes which pair
of rates is best for a task, and we could not read it; the authors' script has η_A = 5e-5, λ = 80 and A = 0 at the start on
MNLI: `conf/method/lora_plus_script.yaml`, whose rate `experiment=lora_plus_figure3` sets. We know the paper by others' notes;
the authors' code we have read.
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from torch import nn

from core.checks import number, one_of
from methods.base import register
from methods.lora import LoRA, LoRALinear, draw


class LoRAPlusLinear(LoRALinear):
    """h = W·x + b + s·B·A·drop(x), with A or B zero at the start."""

    def __init__(self, base: nn.Linear, config: "LoRAPlus"):
        super().__init__(base, config)
        if config.zero == "A":
            nn.init.zeros_(self.A)
            draw(self.B.data, config.init_A, config.rank)


@register
@dataclass
class LoRAPlus(LoRA):
    """LoRA's settings, at half its rate for A, as the authors advise for hard tasks (their README).

    Attributes:
        ratio: λ.
        zero: A or B, the factor that starts at zero.
    """

    label: ClassVar[str] = "LoRA+"
    layer: ClassVar[type[LoRALinear]] = LoRAPlusLinear
    learning_rate: ClassVar[float] = 2e-4

    name: str = "lora_plus"
    ratio: Annotated[float, number(at_least=1, at_most=1e6)] = 4.0
    zero: Annotated[str, one_of("A", "B")] = "B"

    def param_groups(self, model: nn.Module, learning_rate: float) -> list[dict[str, Any]]:
        layers = [module for module in model.modules() if isinstance(module, LoRALinear)]
        A, B = ([p for layer in layers if (p := getattr(layer, name)).requires_grad] for name in "AB")
        return [{"params": A, "lr": learning_rate}, {"params": B, "lr": self.ratio * learning_rate}]
