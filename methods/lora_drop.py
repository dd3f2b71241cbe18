"""LoRA-drop (Zhou et al. 2024, arXiv 2402.07721): LoRA whose unimportant layers share one pair A, B.

  probe   LoRA trains for a few steps on D_s, a sample of the task's training set with every label in its proportion
  judge   g_i = Σ over x in D_s of ‖ΔW_i·x_i‖²,  ΔW_i = s·B_i·A_i;   I_i = g_i / Σ_j g_j
  drop    in falling order of I, layers are kept until their I sum to T; all others share one A and one B
  train   LoRA starts again in that shape, over the whole training set

            x  (batch, seq, in)
          ┌─┴─┐
          │   │ A_i (rank, in), B_i (out, rank)   of a layer's own if it is kept
        W │   │ A, B                              else the same tensors in every layer: counted once, saved once
  frozen  └─+─┘
            h = W·x + s·B·A·x

x_i are the layer's inputs in evaluation mode, at every token, never at padding. I_i is saved beside the layer's pair:
the shape follows from it and from T, so that a saved state says which layers share. The run's record lists both.

No authors' code is known, and we know the paper by its abstracts and by what others quote of it. What that leaves open:
- How many steps the probe has, at which rate and on what share of the data: 100 steps at the run's own rate and batch size,
  with a schedule of their own, on a tenth. The head trains along. All that the probe trained is then put back to its start.
- What a layer is: one adapted matrix. Query and value matrices are ranked together.
- How the shared pair starts: as that of the first layer that shares it, so with B = 0.
- Layers of other shapes cannot share tensors: there is one shared pair for each shape. Query and value matrices have one
  shape, so those that are dropped share one pair; the paper may mean one pair for queries and one for values.
- When the sum of I reaches T: the layer that reaches it is the last one kept.

A run that begins from another run's state keeps its shape, without a probe. PEFT's format knows no shared tensors: an adapter
has a copy of the pair in each layer, so no run can begin from one. The record's seconds include the probe;
speed and memory are of the run after it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from core.checks import COUNT, number
from core.errors import UserError
from methods.base import Probe, register
from methods.lora import LoRA, LoRALinear


class LoRADropLinear(LoRALinear):
    """h = W·x + b + s·B·A·drop(x); A and B may be other layers' too.

    Attributes:
        importance: I_i, (); 0 in every layer until the probe has judged them.
    """

    importance: Tensor

    def __init__(self, base: nn.Linear, config: "LoRADrop"):
        super().__init__(base, config)
        self.register_buffer("importance", torch.zeros((), device=base.weight.device))


@register
@dataclass
class LoRADrop(LoRA):
    """T as quoted of the paper, and LoRA's settings for all else: r = alpha = 8 on query and value. The count is the
    probe's, in which all n layers train; then, with k < n kept and all of one shape (out, in), (k + 1)·r·(in + out) train.

    Attributes:
        threshold: T.
        probe_steps: steps of the probe.
        sample: the share of the training set that the probe trains on and judges by.
    """

    label: ClassVar[str] = "LoRA-drop"
    layer: ClassVar[type[LoRALinear]] = LoRADropLinear

    name: str = "lora_drop"
    threshold: Annotated[float, number(above=0, at_most=1)] = 0.9
    probe_steps: Annotated[int, COUNT] = 100
    sample: Annotated[float, number(above=0, at_most=1)] = 0.1

    @property
    def probe(self) -> Probe:
        return Probe(self.probe_steps, self.sample)

    def judge(
        self, model: nn.Module, sample: Iterable[dict[str, Tensor]], total: Callable[[Tensor], Tensor]
    ) -> dict[str, Tensor]:
        own = layers(model)
        g = torch.zeros(len(own), dtype=torch.float64, device=next(model.parameters()).device)

        def add(place: int, layer: LoRADropLinear) -> Callable[..., None]:
            def hook(_: nn.Module, inputs: tuple[Tensor]) -> None:
                g[place] += layer.low_rank(inputs[0]).square().sum(dtype=torch.float64)

            return hook

        hooks = [layer.register_forward_pre_hook(add(i, layer)) for i, layer in enumerate(own.values())]
        for inputs in sample:
            model(**inputs)
        for hook in hooks:
            hook.remove()
        g = total(g)
        return {f"{name}.importance": share for name, share in zip(own, (g / g.sum()).float(), strict=True)}

    def shape(self, model: nn.Module, state: dict[str, Tensor]) -> None:
        own = layers(model)
        for name, layer in own.items():
            layer.importance.copy_(state.get(f"{name}.importance", layer.importance))
        share([layer for name, layer in own.items() if name not in self.kept(own)])

    def kept(self, own: dict[str, LoRADropLinear]) -> list[str]:
        """The layers with a pair of their own, the most important first; all of them before they are judged."""
        shares = {name: float(layer.importance) for name, layer in own.items()}
        order = sorted(own, key=lambda name: -shares[name])
        return [name for i, name in enumerate(order) if sum(shares[above] for above in order[:i]) < self.threshold]

    def findings(self, model: nn.Module) -> dict[str, Any]:
        own = layers(model)
        return {"importance": {name: float(layer.importance) for name, layer in own.items()}, "kept": self.kept(own)}

    def from_peft(self, theirs: dict[str, Tensor]) -> dict[str, Tensor]:
        raise UserError(
            "an adapter in PEFT's format does not say which layers share a pair: name a run's folder instead"
        )


def share(others: Iterable[LoRADropLinear]) -> None:
    """Gives these layers the pair of the first of them that has their shape."""
    pairs: dict[tuple[int, int], LoRADropLinear] = {}
    for layer in others:
        first = pairs.setdefault((layer.in_features, layer.out_features), layer)
        layer.A, layer.B = first.A, first.B


def layers(model: nn.Module) -> dict[str, LoRADropLinear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, LoRADropLinear)}
