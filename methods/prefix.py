"""Prefix-embedding and prefix-layer tuning, as LoRA's paper defines them (Hu et al. 2021, arXiv 2106.09685, section 5.1).

  [p1 ... pl]  <s> w1 ... wn </s>  [i1 ... il]     the same places for every text: a prefix before its first real token,
  l_p places   the text            l_i places      an infix after its last

  PreEmbed   the places' word embeddings train                  d · (l_p + l_i)
  PreLayer   their activations train, one set for each layer:   L · d · (l_p + l_i)
             what the layer below computed there is replaced

PreLayer is computed as a key/value prefix, which is the same: in each layer a place's vector P gives K = W_k·P + b_k and
V = W_v·P + b_v, and its query and output are left out, since nothing reads them. So there are L sets: the embeddings' output
and those of all layers except the last. The head reads `<s>`, as without a prefix, and not the first place.

Positions are RoBERTa's: a text's start after l_p, the infix's after the text's last real token. So a text may have
512 - l_p - l_i tokens under PreEmbed, and 512 - l_p under PreLayer, whose infix has no position. In memory the places lie
behind the padding: attention tells places apart by their position embeddings alone.

The model takes the plain path (`trainer.forward=padded`), whatever `trainer.forward` says, and does not merge.

Deviations, and what the paper leaves open:
- It runs both on GPT-3 alone (its PreLayer rows on GPT-2 are Li and Liang's), whose best sizes are l_p = 256, l_i = 8 and
  l_p = l_i = 8 (D.4). None is published for RoBERTa.
- It states no start. PreEmbed starts at embeddings of words, all equally likely (Lester et al. 2021, arXiv 2104.08691, draw
  common ones); PreLayer at a Gaussian as wide as that of the encoder's weights before pretraining. So at the start
  neither computes what the pretrained model does.
- Its rates are for GPT-3: 5e-4 and 1e-4 (table 12). Ours, 5e-3, is that of a key/value prefix on RoBERTa-large (the script of
  P-tuning v2's authors for RTE). We do not know which rate suits PreEmbed or PreLayer on RoBERTa.
- It trains the activations "after every Transformer layer". Nothing would read those of the last layer, so the L sets here
  are the embeddings' output and layers 1 to L - 1, which gives its count.
- In an encoder every token sees every other, so PreLayer's infix differs from its prefix in that it shifts no position.
- PreEmbed's places go through the embeddings' LayerNorm and dropout as words do; PreLayer's vectors stand behind both.
- BERT's token types: the prefix has that of the first token, the infix that of the last.
- Its table 15 prints 5.1M to 76.1M for PreLayer, where the formula gives 4.7M to 75.5M, and 0.4M for PreEmbed's first row,
  where it gives 0.5M. We count by the formula.
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from core.checks import number
from core.errors import UserError
from methods.base import Method, encoder, freeze_encoder, register

KNOWN = ("bert", "roberta", "xlm-roberta", "camembert")  # of `config.model_type`: one way of positions and of attention
INPUTS = ("input_ids", "attention_mask", "token_type_ids")  # of their forward pass, in this order

Length = Annotated[int, number(at_least=0, at_most=4096)]


class Places(nn.Module):
    """Changes the inputs of the encoder whose child it is.

    Attributes:
        P: (..., l_p + l_i, d), the prefix first.
    """

    def __init__(self, P: Tensor, l_p: int, l_i: int):
        super().__init__()
        self.P, self.l_p, self.l_i = nn.Parameter(P), l_p, l_i

    def widen(self, encoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]]:
        """A forward pre-hook: the inputs of a batch of texts, (batch, n) each, with the places behind them."""
        given = dict(zip(INPUTS, args, strict=False)) | kwargs
        ids, types = given["input_ids"], given.get("token_type_ids")
        if (mask := given.get("attention_mask")) is None:
            mask = torch.ones_like(ids)
        own = self.inputs(encoder, ids, mask, types)
        given["attention_mask"] = torch.cat([mask, mask.new_ones(len(ids), self.l_p + self.l_i)], dim=1)
        return (), given | own

    def inputs(self, encoder: Any, ids: Tensor, mask: Tensor, types: Tensor | None) -> dict[str, Any]:
        """The inputs that change, besides the mask."""
        raise NotImplementedError


class EmbeddingPlaces(Places):
    """Word embeddings, P (l_p + l_i, d)."""

    def inputs(self, encoder: Any, ids: Tensor, mask: Tensor, types: Tensor | None) -> dict[str, Any]:
        embeddings, count = encoder.embeddings, len(ids)
        words = embeddings.word_embeddings(ids)
        P = self.P.to(words.dtype).expand(count, -1, -1)
        first, last = first_position(encoder), mask.sum(1, keepdim=True) - 1  # of the positions; of each text's tokens
        text = positions(encoder, ids, self.l_p)
        prefix = torch.arange(first, first + self.l_p, device=ids.device).expand(count, -1)
        infix = (text * mask).amax(1, keepdim=True) + torch.arange(1, 1 + self.l_i, device=ids.device)
        own = {
            "input_ids": None,
            "inputs_embeds": torch.cat([words, P], dim=1),  # (batch, n + l_p + l_i, d)
            "position_ids": torch.cat([text, prefix, infix], dim=1),
        }
        if types is not None:
            ends = types[:, :1].expand(-1, self.l_p), types.gather(1, last).expand(-1, self.l_i)
            own["token_type_ids"] = torch.cat([types, *ends], dim=1)
        return own


def first_position(encoder: Any) -> int:
    """RoBERTa's positions start after its padding id."""
    padding_id = encoder.embeddings.position_embeddings.padding_idx
    return 0 if padding_id is None else padding_id + 1


def positions(encoder: Any, ids: Tensor, l_p: int) -> Tensor:
    """A text's positions after l_p places, (batch, n), as transformers counts them: RoBERTa leaves its padding id out."""
    padding_id = encoder.embeddings.position_embeddings.padding_idx
    if padding_id is None:
        return torch.arange(l_p, l_p + ids.shape[1], device=ids.device).expand(len(ids), -1)
    counted = (ids != padding_id).long()
    return (counted.cumsum(1) + l_p) * counted + padding_id


class LayerPlaces(Places):
    """What each layer takes in, P (L, l_p + l_i, d)."""

    def inputs(self, encoder: Any, ids: Tensor, mask: Tensor, types: Tensor | None) -> dict[str, Any]:
        return {
            "past_key_values": KeysAndValues(
                self.P, [layer.attention.self for layer in encoder.encoder.layer], self.l_p
            )
        }


@dataclass(frozen=True)
class KeysAndValues:
    """The places' keys and values, under the names that transformers asks a cache by."""

    P: Tensor
    attentions: list[Any]
    l_p: int

    def get_seq_length(self) -> int:
        """By how much the text's positions shift."""
        return self.l_p

    def update(self, K: Tensor, V: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """K and V (batch, heads, n, d / heads) of a layer's text, and behind it the places'."""
        own, joined = self.attentions[layer], []
        for text, linear in ((K, own.key), (V, own.value)):
            places = (
                linear(self.P[layer]).unflatten(-1, (text.shape[1], -1)).transpose(0, 1)
            )  # (heads, l_p + l_i, d / heads)
            joined.append(torch.cat([text, places.expand(len(text), -1, -1, -1)], dim=2))
        return joined[0], joined[1]


@dataclass
class PrefixMethod(Method):
    """Settings that the two share.

    Attributes:
        l_p: how many places the prefix has.
        l_i: how many the infix has.
    """

    starts_pretrained: ClassVar[bool] = False
    takes_plain_path: ClassVar[bool] = True

    l_p: Length = 8
    l_i: Length = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.l_p + self.l_i == 0:
            raise UserError("method.l_p and method.l_i are both 0, so nothing would train: give at least one place")

    def apply(self, model: nn.Module) -> None:
        own = encoder(model)
        if own.config.model_type not in KNOWN or own.config.is_decoder:
            raise UserError(
                f"method={self.name} knows the positions and the attention of BERT and RoBERTa alone, not of "
                f"{type(own).__name__}: use another method"
            )
        rows = own.embeddings.position_embeddings.num_embeddings - first_position(own)
        if self.positions >= rows:
            raise UserError(
                f"method.l_p and method.l_i take {self.positions} of {rows} positions: leave some for a text"
            )
        freeze_encoder(model)
        own.prefix = self.places(own).train(model.training)
        own.register_forward_pre_hook(own.prefix.widen, with_kwargs=True)

    def places(self, encoder: Any) -> Places:
        """The trained places, at their start."""
        raise NotImplementedError


@register
@dataclass
class PrefixEmbed(PrefixMethod):
    """The shortest prefix of table 15: GPT-3's best, 256, would take half of RoBERTa's positions."""

    label: ClassVar[str] = "PreEmbed"
    learning_rate: ClassVar[float] = 5e-3

    name: str = "prefix_embed"
    l_p: Length = 32

    @property
    def positions(self) -> int:
        return self.l_p + self.l_i

    def places(self, encoder: Any) -> Places:
        words = encoder.embeddings.word_embeddings.weight
        drawn = torch.randint(len(words), (self.l_p + self.l_i,), device=words.device)
        return EmbeddingPlaces(words.detach()[drawn], self.l_p, self.l_i)


@register
@dataclass
class PrefixLayer(PrefixMethod):
    """GPT-3's best sizes (D.4)."""

    label: ClassVar[str] = "PreLayer"
    learning_rate: ClassVar[float] = 5e-3

    name: str = "prefix_layer"

    @property
    def positions(self) -> int:
        return self.l_p

    def places(self, encoder: Any) -> Places:
        shape = encoder.config.num_hidden_layers, self.l_p + self.l_i, encoder.config.hidden_size
        P = torch.empty(shape, device=encoder.embeddings.word_embeddings.weight.device)
        return LayerPlaces(nn.init.normal_(P, std=encoder.config.initializer_range), self.l_p, self.l_i)
