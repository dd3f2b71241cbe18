"""The sides that `speed.py` compares: how each is built, and how it trains its turns.

All sides see the same examples once, and warm up with forward and backward passes over the same batches. None of them
evaluates, writes checkpoints or logs.
"""

import tempfile
import warnings
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import TrainerCallback
from transformers.trainer_pt_utils import get_length_grouped_indices

import tasks.metrics  # noqa: F401  (the other side's imports count in this one's memory too)
from analysis.speed import GROUPED, LONGEST, MAXIMUM, OURS, RANDOM
from benchmarks.reference import build_trainer, load_peft
from core.errors import USER_ERRORS, UserError
from core.mistakes import sentence
from experiments.config import RunConfig
from experiments.inputs import apply_method, load_inputs
from models.batches import epoch_batches
from tasks.loading import fingerprint
from training.accelerator import make_accelerator
from training.meters import WARM_UP_STEPS, MemoryMeter, SpeedMeter, held_bytes
from training.trainer import Trainer

# Batches that group_by_length sorts at once on 6,400 examples or more in batches of 32. Of our few examples it would
# sort a quarter at once, and pad several times as much as on the whole of CoLA.
MEGA_BATCH = 50
PROFILED = 4  # random batches, the same on all sides, on which bytes and products are counted


class Finished(Exception):
    """Raised after the last turn."""


class Turns:
    """Takes a SpeedMeter's place: counts steps, reports at the end of a turn, and waits for the next one."""

    def __init__(self, pipe: Connection, model: nn.Module, loss: Callable[[Any], Tensor], batches: list[Any]):
        """
        Args:
            loss: the mean loss over a batch, as the side computes it.
            batches: to warm up on and to profile, each with its padded tokens.
        """
        self.pipe, self.model, self.loss, self.batches = pipe, model, loss, batches
        device = next(model.parameters()).device
        self.speed, self.memory = SpeedMeter(device, warm_up=0), MemoryMeter(device)

    def begin(self, about: dict[str, Any]) -> None:
        """Before the first step."""
        self.pipe.send(about | {"first_loss": self.first_loss()})
        self.left = self.pipe.recv()
        self.before = self.memory.current_bytes()
        self.memory.start()
        self.model.train()
        for batch, _ in self.batches[:WARM_UP_STEPS]:
            self.loss(batch).backward()
            self.model.zero_grad(set_to_none=True)
        self.resume()

    @torch.no_grad()
    def first_loss(self) -> float:
        """The loss without dropout."""
        for module in self.model.modules():  # eval() would make bitsandbytes repack its weights permanently
            module.training = type(module).__name__ == "Linear4bit"
        return self.loss(self.batches[0][0]).item()

    def resume(self) -> None:
        """Waits for the next turn of `left` steps; raises Finished after the last."""
        if self.left is None:
            self.memory.stop()
            peak = {"peak_bytes": self.memory.peak_bytes, "peak_kind": self.memory.peak_kind, "before": self.before}
            self.pipe.send(peak | self.profile())
            raise Finished
        self.seen = len(self.speed.step_seconds), *self.sizes()
        self.speed.start()

    def sizes(self) -> tuple[int, int, int]:
        return self.speed.samples, self.speed.tokens, self.speed.padded_tokens

    def step(self, batches: list[Any], processes: int) -> None:
        """After each step."""
        self.speed.step(batches, processes)
        self.left -= 1
        if self.left == 0:
            self.speed.stop()
            steps, *sizes = self.seen
            samples, tokens, padded = (now - then for now, then in zip(self.sizes(), sizes, strict=True))
            seconds = self.speed.step_seconds[steps:]
            self.pipe.send({"seconds": seconds, "samples": samples, "tokens": tokens, "padded_tokens": padded})
            self.left = self.pipe.recv()
            self.resume()

    def profile(self) -> dict[str, Any]:
        """Bytes held for backward, by type of tensor, and multiplications and additions for a padded token."""
        held: Counter[str] = Counter()
        flops = tokens = 0
        for batch, padded in self.batches:
            held.update(held_bytes(self.model, partial(self.loss, batch)))
            with FlopCounterMode(display=False) as counter:
                self.loss(batch).backward()
            self.model.zero_grad(set_to_none=True)
            flops, tokens = flops + counter.get_total_flops(), tokens + padded
        return {"held": dict(held), "flops_per_token": flops / tokens}


def random_order(lengths: list[int], run: RunConfig) -> list[list[int]]:
    """The first epoch's random batches.

    Raises:
        UserError: there are fewer examples than the turns need.
    """
    if len(lengths) < (needed := run.data.train_size or 0):
        raise UserError(f"rounds x steps x trainer.batch_size is {needed}; there are {len(lengths)} examples")
    return epoch_batches(lengths, run.trainer.batch_size, run.seed, 0, similar_length=False)


def ours(run: RunConfig, pipe: Connection, similar_length: bool) -> None:
    """Our side: the steps of train.py."""
    run = replace(run, trainer=replace(run.trainer, similar_length=similar_length))
    accelerator, inputs = make_accelerator(run.trainer, run.deterministic), load_inputs(run)
    model = inputs.backbone.model.to(accelerator.device)
    apply_method(run, inputs.backbone, accelerator)
    trainer = Trainer(model, run.method, run.trainer, run.task.row, inputs.encoded, run.seed, accelerator)
    examples = random_order(trainer.train.lengths, run)[:PROFILED]
    batches = [trainer.path.collate(trainer.train, indices).to(accelerator.device) for indices in examples]
    pairs = [(batch, batch.padded_tokens) for batch in batches]

    def loss(batch: Any) -> Tensor:
        return trainer.loss(trainer.path, batch) / len(batch.labels)

    if run.trainer.forward == "compiled":
        trainer.record_graphs()
    turns: Any = Turns(pipe, model, loss, pairs)
    trainer.speed = turns
    turns.begin({"backbone": inputs.backbone.provenance, "data_fingerprint": fingerprint(inputs.splits)})
    for indices in trainer.remaining_batches():
        trainer.train_step(indices)


@dataclass(frozen=True)
class Sizes:
    """The part of a batch that a SpeedMeter reads."""

    labels: Tensor
    tokens: int
    padded_tokens: int


def theirs(run: RunConfig, pipe: Connection, batching: str) -> None:
    """The other side: the Trainer of `reference.py`."""
    run = replace(run, trainer=replace(run.trainer, similar_length=batching == "group_by_length"))
    with tempfile.TemporaryDirectory() as folder:
        trainer: Any = build_trainer(run, Path(folder))
        trainer.args.eval_strategy = "no"
        if batching == "max_length":
            trainer.data_collator.padding, trainer.data_collator.max_length = "max_length", run.task.max_length
        lengths = [len(example["input_ids"]) for example in trainer.train_dataset]
        order = random_order(lengths, run)
        if batching == "group_by_length":
            seeded = torch.Generator().manual_seed(run.seed)
            sampled = get_length_grouped_indices(lengths, run.trainer.batch_size, MEGA_BATCH, seeded)
        else:  # our random batches, so that turns are compared example by example
            sampled = [i for batch in order for i in batch]
        trainer._get_train_sampler = lambda *_: sampled
        pad, fetched = trainer.data_collator, deque[Sizes]()  # the Trainer fetches a batch ahead

        def collate(examples: list[dict[str, Any]]) -> dict[str, Tensor]:
            batch = pad(examples)
            mask = batch["attention_mask"]
            fetched.append(Sizes(batch["labels"], int(mask.sum()), mask.numel()))
            return batch

        trainer.data_collator = collate
        trainer.add_callback(
            Report(
                trainer, pipe, [pad([trainer.train_dataset[i] for i in batch]) for batch in order[:PROFILED]], fetched
            )
        )
        trainer.train()


class Report(TrainerCallback):
    """Reports the Trainer's steps to the turns."""

    def __init__(self, trainer: Any, pipe: Connection, inputs: list[dict[str, Tensor]], fetched: deque[Sizes]):
        self.trainer, self.pipe, self.inputs, self.fetched = trainer, pipe, inputs, fetched

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        device, model = self.trainer.args.device, self.trainer.model_wrapped
        pairs = [({k: v.to(device) for k, v in batch.items()}, batch["input_ids"].numel()) for batch in self.inputs]
        self.turns = Turns(self.pipe, model, partial(self.trainer.compute_loss, model), pairs)
        self.turns.begin({})

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.turns.step([self.fetched.popleft()], 1)


SIDES = {
    OURS: partial(ours, similar_length=True),
    RANDOM: partial(ours, similar_length=False),
    LONGEST: partial(theirs, batching="random"),
    GROUPED: partial(theirs, batching="group_by_length"),
    MAXIMUM: partial(theirs, batching="max_length"),
}


def serve(run: RunConfig, side: str, pipe: Connection) -> None:
    """The main function of a side's process; a user's mistake is sent as its answer."""
    warnings.simplefilter("ignore", FutureWarning)  # the Trainer's, about transformers' own next version
    try:
        load_peft()  # on every side: what the other side imports counts in this one's memory too
        SIDES[side](run, pipe)
    except Finished:
        pass
    except (OSError, *USER_ERRORS) as error:
        pipe.send({"error": sentence(error)})
