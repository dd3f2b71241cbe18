"""Ladder side-tuning, LST (Sung, Cho and Bansal 2022, arXiv 2206.06522): a small network beside the frozen encoder trains.

      backbone, frozen      side network, trained: the same layers, every width divided by k

  h_L ── D_L ── · (1 - μ_L) ──> + ── g_L ──> s_L ── U ──> to the head
   ↑                            ↑ · μ_L
  ...                          ...
  h_1 ── D_1 ── · (1 - μ_1) ──> + ── g_1 ──> s_1
   ↑                            ↑ · μ_1
  h_0 ── D_0 ────────────────> s_0

  s_0 = D_0·h_0                                    h_0: the embeddings' output;  D_i (d/k, d) with a bias
  s_i = g_i(μ_i·s_(i-1) + (1 - μ_i)·D_i·h_i)       h_i: the output of the backbone's layer i
  μ_i = sigmoid(α_i / T)                           T = 0.1; one α_i for each layer, 0 at the start: half and half
  out = U·s_L                                      U (d, d/k) with a bias; the head reads no state of the backbone

Nothing that trains lies below a D, so no gradient enters the backbone, and autograd keeps none of its activations: the h_i
alone, for the gradients of D. Every h_i is cut off from what might train below it.

g_i starts as a pruned copy of the backbone's layer i (`init=pruned`, methods/pruning.py). D and U are drawn as the
encoder draws its own linear layers: weights with a standard deviation of 0.02, biases 0; so does the authors' code for
BART, and for BERT.

The model takes the plain path (`trainer.forward=padded`), whatever `trainer.forward` says, and does not merge. Training does
not start at what the pretrained model computes: U is random. The formulas, T and α's start are those of the authors' code.

Deviations, and what the paper leaves open:
- Pruning ranks rows by |W|, within each attention head; in the authors' code by Fisher information, over all rows
  (methods/pruning.py).
- No side layer is dropped. The authors drop every fourth one of T5-base, every second one of T5-large, all except the last of
  T5-3B, and none of BART.
- Neither paper nor code has a RoBERTa. Both have T5 and BART, and the code side networks of BERT's layers for vision and
  language, with k = 4 and without biases in D and U; its published script starts the side layers at random. For T5 it
  draws D and U with a standard deviation of 0.01. T5's and BART's side networks read embeddings behind a dropout of their
  own, ours behind the backbone's. T5 has a LayerNorm and a dropout before U; BART has neither, nor do we. The backbone's
  own dropout stays on in training, as there.
"""

import copy
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from core.checks import number, one_of
from core.errors import UserError
from methods.base import Method, encoder, encoder_layers, freeze_encoder, register
from methods.prefix import KNOWN
from methods.pruning import prune

T = 0.1


class Rung(nn.Module):
    """s_i = g(μ·s_(i-1) + (1 - μ)·D·h_i), (batch, seq, d/k)."""

    def __init__(self, D: nn.Linear, g: nn.Module):
        super().__init__()
        self.D, self.g, self.alpha = D, g, nn.Parameter(torch.zeros((), device=D.weight.device))

    def forward(self, s: Tensor, h: Tensor, *mask: Any, **more: Any) -> Tensor:
        """`mask` and `more`: what the backbone's layer takes besides its input."""
        mu = torch.sigmoid(self.alpha / T)
        return self.g(mu * s + (1 - mu) * self.D(h), *mask, **more)


class Ladder(nn.Module):
    """The side network, a child of the encoder, which it follows by hooks.

    Attributes:
        s: the side state while a batch goes up; None between batches.
    """

    def __init__(self, D: nn.Linear, rungs: list[Rung], U: nn.Linear):
        super().__init__()
        self.D, self.U = D, U
        self.rungs = nn.ModuleDict({str(i): rung for i, rung in enumerate(rungs, start=1)})  # a list would be layers
        self.s: Tensor | None = None

    def watch(self, encoder: Any, layers: list[nn.Module]) -> None:
        layers[0].register_forward_pre_hook(self.begin)
        for layer, rung in zip(layers, self.rungs.values(), strict=True):
            layer.register_forward_hook(Climb(self, rung), with_kwargs=True)
        encoder.register_forward_hook(self.end)

    def begin(self, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.s = self.D(inputs[0].detach())

    def end(self, encoder: Any, _: Any, output: Any) -> Any:
        """The encoder's output, with U·s_L (batch, seq, d) in the place of its last state."""
        output.last_hidden_state, self.s = self.U(self.s), None
        if encoder.pooler is not None:
            output.pooler_output = encoder.pooler(output.last_hidden_state)
        return output


@dataclass
class Climb:
    """A layer's forward hook: the ladder's state goes one rung up. Not a closure, which would not be copied with a model."""

    ladder: Ladder
    rung: nn.Module

    def __call__(self, _: nn.Module, inputs: tuple[Any, ...], more: dict[str, Any], h: Tensor) -> None:
        self.ladder.s = self.rung(self.ladder.s, h.detach(), *inputs[1:], **more)


@register
@dataclass
class LadderSide(Method):
    """k (the paper's r) = 8, as in its runs on GLUE (tables 1, 2); the rate is T5's, and BART's on MRPC, RTE and SST-2.

    Attributes:
        reduction: k.
        init: of the side network's layers: pruned, or random as the encoder's weights before pretraining.
    """

    label: ClassVar[str] = "LST"
    learning_rate: ClassVar[float] = 3e-3
    starts_pretrained: ClassVar[bool] = False
    takes_plain_path: ClassVar[bool] = True

    name: str = "ladder_side"
    reduction: Annotated[int, number(at_least=1, at_most=1024)] = 8
    init: Annotated[str, one_of("pruned", "random")] = "pruned"

    def apply(self, model: nn.Module) -> None:
        own, k = encoder(model), self.reduction
        if own.config.model_type not in KNOWN or own.config.is_decoder:
            raise UserError(
                f"method={self.name} knows the layers of BERT and RoBERTa alone, not of {type(own).__name__}: "
                "use another method"
            )
        layers, config = encoder_layers(model), copy.deepcopy(own.config)
        d, head = config.hidden_size, config.hidden_size // config.num_attention_heads
        if head % k or config.intermediate_size % k:
            raise UserError(
                f"method.reduction is {k}; it must divide the width of a head, {head}, and {config.intermediate_size}"
            )
        config.hidden_size, config.intermediate_size = d // k, config.intermediate_size // k
        device = own.embeddings.word_embeddings.weight.device
        with device:
            sides = [type(layer)(config).apply(own._init_weights).train(model.training) for layer in layers]
            D = [nn.Linear(d, d // k).apply(own._init_weights) for _ in range(len(layers) + 1)]
            rungs = [Rung(down, side) for down, side in zip(D[1:], sides, strict=True)]
            ladder = Ladder(D[0], rungs, nn.Linear(d // k, d).apply(own._init_weights)).train(model.training)
        if self.init == "pruned":
            with torch.no_grad():
                prune(layers, sides, own.embeddings.word_embeddings.weight, k)
        freeze_encoder(model)
        own.ladder = ladder
        ladder.watch(own, layers)
