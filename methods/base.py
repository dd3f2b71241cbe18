"""The contract of a method, the layer it adapts, and the few lines that all methods share.

A method is a dataclass: its fields are its settings (`conf/method/NAME.yaml`), its `apply` changes a model in place.
After `apply`, `requires_grad` alone says what is trained.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from hydra.core.config_store import ConfigStore
from torch import Tensor, nn
from torch.nn.utils import parametrize

from core.checks import FRACTION, check, number
from core.errors import UserError

QUERY_AND_VALUE = r"(query|value)(_proj)?$"
ALL_LINEAR = r"."
LARGEST = 1e18  # a scale or a start value above it overflows float32 when it is squared


def pattern(key: str, value: str) -> None:
    """Raises a UserError for an invalid or empty pattern."""
    if not value:
        raise UserError(f"{key} is empty; use '.' for every linear layer")
    try:
        re.compile(value)
    except re.error as error:
        raise UserError(f"{key} is not a regular expression: '{value}' ({error})") from error


Width = Annotated[int, number(at_least=1, at_most=2**16)]  # a rank or a bottleneck
Dropout = Annotated[float, FRACTION]
Pattern = Annotated[str, pattern]


@dataclass(frozen=True)
class Probe:
    """A short training before the run, from which a method learns what it trains (training/probe.py).

    Attributes:
        steps: its optimizer steps.
        sample: the share of the training set that it takes.
    """

    steps: int
    sample: float


@dataclass
class Method:
    """Base of every method.

    Attributes:
        label: the method's name in tables and figures; `name` if a class sets none.
        name: the method's name in records and on the command line.
        learning_rate: the rate that suits the method on RoBERTa-base, in force unless the backbone's YAML names a better
            one or `trainer.learning_rate` is given.
        head_learning_rate: the classification head's rate; None: the method's.
        peft_names: what PEFT calls each tensor of an adapted layer; empty: PEFT does not know the method.
        peft_ignored_keys: keys of `peft_config` that a finished adapter does not depend on.
        trains_parts: whether a step may give some trained parameters no gradient, so that the optimizer skips them.
        starts_pretrained: whether a model computes what the pretrained one does, right after `apply`.
        takes_plain_path: whether `apply` changes a forward pass that the fast path (models/packed.py) replaces.
    """

    label: ClassVar[str]
    learning_rate: ClassVar[float]
    head_learning_rate: ClassVar[float | None] = None
    peft_names: ClassVar[dict[str, str]] = {}
    peft_ignored_keys: ClassVar[tuple[str, ...]] = ()
    trains_parts: ClassVar[bool] = False
    starts_pretrained: ClassVar[bool] = True
    takes_plain_path: ClassVar[bool] = False

    name: str

    def __post_init__(self) -> None:
        check(self, "method.")

    def apply(self, model: nn.Module) -> None:
        """Injects the method's parameters into `model` and freezes what it does not train."""
        raise NotImplementedError

    @property
    def probe(self) -> Probe | None:
        """The probe before a run, unless the run begins from another's state; None: `apply` alone decides what trains."""
        return None

    def judge(
        self, model: nn.Module, sample: Iterable[dict[str, Tensor]], total: Callable[[Tensor], Tensor]
    ) -> dict[str, Tensor]:
        """What the probe has shown, for `shape`: tensors by their names in `trained_state`.

        Args:
            model: as the probe trained it, in evaluation mode and without gradients.
            sample: the model's inputs, in batches without padding: this process's share of what the probe trained on.
            total: sums a tensor over the processes.
        """
        raise NotImplementedError

    def shape(self, model: nn.Module, state: dict[str, Tensor]) -> None:
        """Gives a model, just after `apply`, the shape that a saved `state` has; only then can the state be loaded.

        Raises:
            UserError: the state is of another model.
        """

    def findings(self, model: nn.Module) -> dict[str, Any]:
        """What a run's record says about the trained model, as JSON; empty: the settings say everything."""
        return {}

    def param_groups(self, model: nn.Module, learning_rate: float) -> list[dict[str, Any]]:
        """Optimizer groups (`params`, `lr`) of all trained parameters except the head's, which the trainer adds."""
        head = set(head_parameters(model))
        return [{"params": [p for p in model.parameters() if p.requires_grad and p not in head], "lr": learning_rate}]

    def peft_config(self) -> dict[str, Any]:
        """The method's part of PEFT's `adapter_config.json`."""
        raise NotImplementedError

    def peft_shared(self, model: nn.Module) -> dict[str, Tensor]:
        """Frozen tensors that PEFT saves with an adapter and a run of ours does not, by PEFT's names."""
        return {}

    def to_peft(self, own: dict[str, Tensor]) -> dict[str, Tensor]:
        """An adapted layer's tensors by PEFT's names; `own` are those of its trained state."""
        return {theirs: own[ours] for ours, theirs in self.peft_names.items()}

    def from_peft(self, theirs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of `to_peft`, for any shapes. What it leaves out stays as `apply` made it."""
        return {ours: theirs[name] for ours, name in self.peft_names.items()}

    @property
    def positions(self) -> int:
        """How many of the encoder's positions the method takes from a text."""
        return 0

    @property
    def ranks(self) -> list[int]:
        """Ranks at which one trained model can be evaluated (`evaluate_at`); empty: only its own."""
        return []

    def evaluate_at(self, model: nn.Module, rank: int) -> None:
        """Evaluates and merges `model` at one of `ranks` from here on."""
        raise NotImplementedError

    def before_step(self, model: nn.Module, step: int, seed: int) -> None:
        """Called before each optimizer step, counted from 1.

        Args:
            seed: the run's. What a step draws comes from `named_seed(seed, NAME/STEP)`: the same in every process and in a
                resumed run, and other random streams are unaffected.
        """

    def after_step(self, model: nn.Module, step: int) -> None:
        """Called after each optimizer step, counted from 1."""


REGISTERED: dict[str, type[Method]] = {}


def register(method: type[Method]) -> type[Method]:
    """Makes a method's dataclass the schema `/schema/method/NAME` that `conf/method/NAME.yaml` fills.

    Raises:
        UserError: it has no name of its own, or another file's.
    """
    file = f"{method.__module__.replace('.', '/')}.py"
    if (name := vars(method).get("name")) is None:  # the field's default
        raise UserError(f'{file}: {method.__name__} needs a name of its own: name: str = "..."')
    if (other := REGISTERED.get(name, method).__module__) != method.__module__:
        raise UserError(
            f"{file} and {other.replace('.', '/')}.py both name their method '{name}': give one another name"
        )
    method.label = vars(method).get("label", name)  # not the label of the method that it derives from
    REGISTERED[name] = method
    ConfigStore.instance().store(group="schema/method", name=name, node=method, package="method")
    return method


class AdaptedLinear(nn.Module):
    """Wraps the linear layer that it adapts and computes `x @ effective_weight().T + bias`.

    Subclasses keep their own tensors as direct parameters (trained) or persistent buffers (frozen, saved with the run).

    Attributes:
        reads_base: whether `forward` reads the base's weight for more than the product with x, and so needs it in fp32.
        base: the frozen layer; for QLoRA a `Linear4bit`, which has the same attributes.
        pretrained: checksum of the base's weight when it was wrapped.
    """

    reads_base: ClassVar[bool] = False

    base: nn.Linear
    in_features: int
    out_features: int

    def __init__(self, base: nn.Linear):
        super().__init__()
        self.base = base
        self.in_features, self.out_features = base.in_features, base.out_features
        self.pretrained = checksum(base.weight)

    def effective_weight(self) -> Tensor:
        """The weight (out, in) of the plain linear layer that computes the same in evaluation mode."""
        raise NotImplementedError

    @property
    def weight(self) -> Tensor:
        """For encoders that read a layer's weight themselves, as T5 does."""
        return self.effective_weight()

    @property
    def bias(self) -> Tensor | None:
        return self.base.bias

    def merged(self) -> nn.Linear:
        """A plain linear layer that computes the same."""
        return as_linear(self.effective_weight(), self.base.bias)


def checksum(weight: Tensor) -> Tensor:
    """Two sums that reveal a changed weight."""
    weight = weight.detach()
    return torch.stack([weight.sum(dtype=torch.float64), weight.square().sum(dtype=torch.float64)])


def as_linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """An `nn.Linear` that holds copies of `weight` (out, in) and `bias` (out)."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device=weight.device, dtype=weight.dtype)
    with torch.no_grad():
        linear.weight.copy_(weight)
        if bias is not None:
            linear.bias.copy_(bias)
    return linear.requires_grad_(False)


def head_prefixes(model: nn.Module) -> tuple[str, ...]:
    """Prefixes of the names of the head's parameters. BERT's pooler counts as head: RoBERTa's head holds the same layer."""
    encoder = model.base_model_prefix
    above = [name for name, _ in model.named_children() if name != encoder]
    return tuple(f"{name}." for name in (*above, f"{encoder}.pooler"))


def head_modules(model: nn.Module) -> list[str]:
    """Names of the head's modules that hold weights: a dropout layer holds none, and not every encoder has a pooler."""
    names = [name for name, _ in model.named_parameters()]
    return [head.removesuffix(".") for head in head_prefixes(model) if any(name.startswith(head) for name in names)]


def head_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The classification head's parameters: trained by every method, counted by none."""
    prefixes = head_prefixes(model)
    return [p for name, p in model.named_parameters() if name.startswith(prefixes)]


def linear_layers(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """The encoder's linear layers by name; the head's are never adapted."""
    prefixes = head_prefixes(model)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and not f"{name}.".startswith(prefixes):
            yield name, module


def encoder(model: nn.Module) -> Any:
    """The model below its head, of one of transformers' classes."""
    return model.base_model


def encoder_layers(model: nn.Module) -> list[nn.Module]:
    """The encoder's layers, the lowest first; a decoder's follow.

    Raises:
        UserError: the layers are not in one list, or they share their weights.
    """
    stacks = dict(_outermost_lists(encoder(model)))
    layers = [layer for stack in stacks.values() for layer in _flat(stack)]
    config = encoder(model).config
    decoders = getattr(config, "decoder_layers", None) or getattr(config, "num_decoder_layers", None) or 0
    expected = getattr(config, "num_hidden_layers", 0) + (decoders if config.is_encoder_decoder else 0)
    parents = {name.rpartition(".")[0] for name in stacks}
    if len(parents) < len(stacks) or len(layers) != expected:  # XLM has a list of each layer's part, ALBERT one layer
        raise UserError(f"{type(encoder(model)).__name__} has no list of {expected} layers: use another method")
    return layers


def _outermost_lists(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.ModuleList]]:
    """The lists of modules by name, without those within them."""
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList) and not isinstance(child, parametrize.ParametrizationList):
            yield prefix + name, child
        else:
            yield from _outermost_lists(child, f"{prefix}{name}.")


def _flat(stack: nn.ModuleList) -> Iterator[nn.Module]:
    """A list's modules; Funnel's list holds lists."""
    for module in stack:
        if isinstance(module, nn.ModuleList):
            yield from _flat(module)
        else:
            yield module


def norms(model: nn.Module) -> Iterator[nn.Module]:
    """The encoder's normalization layers, of any class: modules whose weight is a vector."""
    for module in encoder(model).modules():
        own = dict(module.named_parameters(recurse=False))
        if "weight" in own and own["weight"].dim() == 1:
            yield module


def freeze_encoder(model: nn.Module) -> None:
    """Freezes everything except the head."""
    model.requires_grad_(False)
    for parameter in head_parameters(model):
        parameter.requires_grad_(True)


def replace(model: nn.Module, name: str, module: nn.Module) -> None:
    """Replaces the submodule `name` of `model` by `module`."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def matches(pattern: str, name: str) -> bool:
    """Whether a layer's name matches (`re.search`). The default takes whole names: query, not DeBERTa's pos_query_proj."""
    return re.search(rf"\b{pattern}" if pattern == QUERY_AND_VALUE else pattern, name) is not None


def matching_layers(model: nn.Module, pattern: str) -> dict[str, nn.Linear]:
    """The encoder's linear layers whose names match `pattern` (`re.search`).

    Raises:
        UserError: none matches; the message lists the existing names.
    """
    layers = dict(linear_layers(model))
    matched = {name: layer for name, layer in layers.items() if matches(pattern, name)}
    if not layers:  # GPT-2's are of transformers' class Conv1D
        raise UserError(f"{type(encoder(model)).__name__} has no nn.Linear to adapt: use another method")
    if not matched:
        kinds = dict.fromkeys(re.sub(r"^.*\.\d+\.", "", name) for name in layers)
        raise UserError(f"method.target_modules: no linear layer matches '{pattern}'; there are: {', '.join(kinds)}")
    return matched


def adapt(model: nn.Module, pattern: str, wrap: Callable[[nn.Linear], nn.Module]) -> None:
    """Replaces each matching linear layer of the encoder by `wrap(layer)`."""
    for name, layer in matching_layers(model, pattern).items():
        replace(model, name, wrap(layer).train(layer.training))


def merge(model: nn.Module) -> nn.Module:
    """Replaces every adapted layer, in place, by the plain linear layer that computes the same; for inference.

    Replaces every tensor that `torch.nn.utils.parametrize` computes by its value, too. Bottleneck adapters cannot be merged
    and stay.
    """
    unparametrize(model)
    for name, child in model.named_children():
        if callable(merged := getattr(child, "merged", None)):
            setattr(model, name, merged())
        else:
            merge(child)
    return model


def unparametrize(model: nn.Module) -> None:
    """Puts each parametrized tensor's value in its place; tied tensors stay tied."""
    values: dict[Tensor, nn.Parameter] = {}
    parametrized: list[Any] = [module for module in model.modules() if parametrize.is_parametrized(module)]
    for module in parametrized:
        computed, kind = dict(module.parametrizations.items()), parametrize.type_before_parametrizations(module)
        for own in computed.values():
            if own.original not in values:
                values[own.original] = nn.Parameter(own().detach(), requires_grad=False)
        del module.parametrizations
        module.__class__ = kind  # `remove_parametrizations` would change the class, which copies of the module share
        for name, own in computed.items():
            module.register_parameter(name, values[own.original])


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """The tensors that a run saves: all that train, and the frozen ones that adapted layers made for themselves."""
    adapted = {name for name, module in model.named_modules() if isinstance(module, AdaptedLinear)}
    state: dict[Tensor, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if tensor.requires_grad or name.rpartition(".")[0] in adapted:
            state.setdefault(tensor, name)  # tied weights have several names, and are kept once
    return {name: tensor.detach() for tensor, name in state.items()}


def tied(model: nn.Module) -> dict[str, str]:
    """The second and further names of each tied tensor, with its first."""
    first: dict[Tensor, str] = {}
    names = {name: first.setdefault(tensor, name) for name, tensor in model.state_dict(keep_vars=True).items()}
    return {name: own for name, own in names.items() if name != own}


def load_trained_state(model: nn.Module, state: dict[str, Tensor], head: bool = True) -> None:
    """Copies a saved `trained_state` into a model that the same method was applied to.

    Raises:
        UserError: names or shapes differ from the model's, or a number is not finite.
    """
    own = trained_state(model)
    if not head:
        prefixes = head_prefixes(model)
        own, state = ({k: v for k, v in side.items() if not k.startswith(prefixes)} for side in (own, state))
    if own.keys() != state.keys():
        odd = sorted(own.keys() ^ state.keys())
        raise UserError(f"the saved state is not this method's on this backbone: {odd[0]} is on one side only")
    for name, tensor in own.items():
        if tensor.shape != state[name].shape:
            raise UserError(f"the saved {name} has shape {tuple(state[name].shape)}, the model's {tuple(tensor.shape)}")
        if not state[name].isfinite().all():
            raise UserError(f"the saved {name} has numbers that are not finite: the file is damaged")
        tensor.copy_(state[name])


def parameter_counts(model: nn.Module, backbone: dict[str, int]) -> dict[str, int]:
    """Parameters in total, trained, and trained without the head.

    The total is what a checkpoint of the whole model would hold. It counts LoRA-FA's frozen A, but not VeRA's projections,
    which are drawn from a seed.

    Args:
        model: after `apply`.
        backbone: numel of each parameter by name, before `apply`; 4-bit layers no longer show theirs afterwards.
    """
    head = set(head_parameters(model))
    trained = [p for p in model.parameters() if p.requires_grad]
    added = sum(tensor.numel() for name, tensor in trained_state(model).items() if name not in backbone)
    return {
        "total": sum(backbone.values()) + added,
        "trained": sum(p.numel() for p in trained),
        "trained_without_head": sum(p.numel() for p in trained if p not in head),
    }
