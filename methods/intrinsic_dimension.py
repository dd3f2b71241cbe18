"""Intrinsic dimension (Aghajanyan et al. 2020, arXiv 2012.13255): the encoder moves in a random subspace of d dimensions.

  DID    θ^D = θ₀^D + P·θ^d                          Li et al. 2018 (arXiv 1804.08838), eq. 2
  SAID   θ_i^D = θ₀,i^D + λ_i · P_i·θ^(d-m)          i = 1 ... m layers; `method.structured`

  θ^d     trained, starts at 0, so that training starts at θ₀; one vector for the whole encoder
  λ_i     trained, starts at 1, as in the authors' code; they are m of the d parameters
  P       Fastfood, frozen (methods/fastfood.py): its diagonals are drawn from `projection_seed`, on the CPU, and never saved

The score over d shows the intrinsic dimension d₉₀: the least d that reaches 90 % of full fine-tuning's score. It is a
measure, not a cheap way to train: each step builds every weight, and its gradient, as full fine-tuning does.

θ^D is every parameter of the encoder: embeddings, biases and normalization layers too. P has a block of its own for each
tensor, ‖P_tensor·θ‖ = ‖θ‖ on average, as in the authors' code (copied in rabeehk/compacter): a bias moves as far as the word
embeddings. In the paper's equations P is one for all, and each tensor moves by its part.

We know the paper by others' notes; the authors' code, as rabeehk/compacter copied it, we have read.

Deviations:
- The paper does not say what a layer is. The authors' code gives each tensor a λ, 201 in RoBERTa-base and 393 in -large;
  the paper's d₉₀ of 207 on RoBERTa-large is below that. Here each layer of the encoder has one, and the embeddings another.
- The head trains beside the d parameters, as with every method here. The authors' code projects it too.
- Fastfood's blocks have d's size, as in its own paper; the authors' have the tensor's, and cut θ^d for a smaller tensor.
- The gradient is exact. The backward pass of the authors' transform is off by a factor that differs between tensors.
- The paper's rates and epochs are not known here. compacter has 3e-2 for SAID on T5 at d = 20,000. Ours, 1e-3, is a
  guess: the one recorded run, MiniLM on MRPC at 3e-3, learned nothing. Adam moves θ^d by up to √d times the rate a step,
  so a small d takes a higher rate.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from core.checks import generator_seed
from core.errors import UserError
from core.seeding import named_seed
from methods.base import Method, Width, encoder_layers, freeze_encoder, head_prefixes, register
from methods.fastfood import Fastfood


class Subspace(nn.Module):
    """θ^d and SAID's λ; one module for all tensors."""

    def __init__(self, d: int, layers: int, device: torch.device):
        """
        Args:
            d: of θ^d and λ together.
            layers: m; 0: DID, which has no λ.
        """
        super().__init__()
        if d <= layers:
            raise UserError(
                f"method.d is {d}, and {layers} of these parameters are SAID's factors: choose more, or "
                "method.structured=false"
            )
        self.theta = nn.Parameter(torch.zeros(d - layers, device=device))
        self.factors = nn.Parameter(torch.ones(layers, device=device)) if layers else None


class Moved(nn.Module):
    """θ₀ -> θ₀ + λ_i · P·θ^d, for a tensor of layer i."""

    def __init__(self, subspace: Subspace, P: Fastfood, layer: int):
        super().__init__()
        self.subspace, self.P, self.layer = subspace, P, layer

    def forward(self, theta_0: Tensor) -> Tensor:
        step = self.P(self.subspace.theta).view_as(theta_0)
        return theta_0 + (step if self.subspace.factors is None else self.subspace.factors[self.layer] * step)


@register
@dataclass
class IntrinsicDimension(Method):
    """SAID at the d₉₀ of RoBERTa-base on MRPC (table 1).

    Attributes:
        d: trained parameters below the head, λ among them.
        structured: SAID, with a λ for each layer; else DID.
        projection_seed: the seed of P; `conf/method/intrinsic_dimension.yaml` sets it to the run's seed.
    """

    label: ClassVar[str] = "Intrinsic dimension"
    learning_rate: ClassVar[float] = 1e-3

    name: str = "intrinsic_dimension"
    d: Width = 896
    structured: bool = True
    projection_seed: Annotated[int, generator_seed] = 0

    def apply(self, model: nn.Module) -> None:
        freeze_encoder(model)
        prefixes, places = head_prefixes(model), defaultdict(list)  # tied tensors have several
        for name, module in model.named_modules():
            for own, tensor in module.named_parameters(recurse=False):
                if not (full := f"{name}.{own}").startswith(prefixes):
                    places[tensor].append((full, module, own))
        layers = encoder_layers(model) if self.structured else []
        layer_of = {tensor: i for i, layer in enumerate(layers) for tensor in layer.parameters()}
        count = len(set(layer_of.values()))
        if layers and places.keys() - layer_of.keys():
            count += 1  # the embeddings
        device = next(iter(places)).device
        subspace = Subspace(self.d, count, device)
        for tensor, (first, *others) in places.items():
            P = Fastfood(len(subspace.theta), tensor.numel(), named_seed(self.projection_seed, first[0])).to(device)
            moved = Moved(subspace, P, layer_of.get(tensor, count - 1))
            for _, module, own in (first, *others):
                register_parametrization(module, own, moved, unsafe=True)  # the check of shapes would cost a projection
