"""The sides that `benchmark.py` compares: how each is built, and how it trains when it is told to."""

import logging
import tempfile
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from training.batches import encode, epoch_batches
from training.config import RunConfig
from training.errors import USER_ERRORS, sentence
from training.meters import MemoryMeter, SpeedMeter, held_bytes, release_memory

PROFILED = 4  # random batches, the same on all sides, whose bytes and products are counted


class Finished(Exception):
    """The last turn is over."""


class Turns:
    """Stands in for a SpeedMeter: counts steps, and after so many reports and waits for its next turn."""

    def __init__(self, pipe: Connection, device: torch.device):
        self.pipe, self.speed, self.memory = pipe, SpeedMeter(device), MemoryMeter(device)

    def begin(self, profile: Callable[[], dict[str, Any]]) -> None:
        """Before the first step."""
        self.left = self.pipe.recv()
        if self.left == 0:
            self.pipe.send(profile())
            release_memory()
            self.left = self.pipe.recv()
        self.memory.start()
        self.resume()

    def resume(self) -> None:
        """A turn of `left` steps begins, or all is over."""
        if self.left is None:
            self.memory.stop()
            self.pipe.send({"peak_bytes": self.memory.peak_bytes, "peak_kind": self.memory.peak_kind})
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


def profile(model: nn.Module, loss: Callable[[Any], Tensor], batches: Iterable[tuple[Any, int]]) -> dict[str, Any]:
    """Over a few batches and their padded tokens: bytes held for backward, by kind of tensor, and products a token."""
    held, flops, tokens = Counter(), 0, 0
    model.train()
    for batch, padded in batches:
        with torch.random.fork_rng():
            held.update(held_bytes(model, partial(loss, batch)))
            with FlopCounterMode(display=False) as counter:
                loss(batch).backward()
        model.zero_grad(set_to_none=True)
        flops, tokens = flops + counter.get_total_flops(), tokens + padded
    return {"held": dict(held), "flops_per_token": flops / tokens}


def random_order(lengths: list[int], run: RunConfig) -> list[list[int]]:
    return epoch_batches(lengths, run.trainer.batch_size, run.seed, 0, similar_length=False)


# Ours


def ours(run: RunConfig, pipe: Connection, similar_length: bool) -> None:
    """The loop of train.py."""
    from methods.base import Method  # noqa: F401  (a spawned process has imported nothing yet)
    from tasks.loading import load_splits
    from train import make_accelerator
    from training.backbone import load_backbone
    from training.loop import Loop
    from training.seeding import seeded

    run = replace(run, trainer=replace(run.trainer, similar_length=similar_length))
    accelerator, splits = make_accelerator(run), load_splits(run.task.row, run.data)
    backbone = load_backbone(run.backbone, run.task.row, run.seed, splits["train"].texts)
    model = backbone.model.to(accelerator.device)
    with seeded(run.seed, "adapter"):
        run.method.apply(model)
    data = {name: encode(split, backbone.tokenizer, run.task.max_length) for name, split in splits.items()}
    loop = Loop(run, model, data, accelerator, Path(), {})
    loop.speed = turns = Turns(pipe, accelerator.device)
    examples = random_order(loop.train.lengths, run)[:PROFILED]
    batches = [loop.path.collate(loop.train, indices).to(accelerator.device) for indices in examples]
    loss = partial(loop.loss, loop.parallel)
    turns.begin(lambda: profile(model, loss, [(batch, batch.padded_tokens) for batch in batches]))
    while True:
        for indices in loop.remaining_batches():
            loop.train_step(indices)
        loop.progress.step = 0


# peft and transformers.Trainer


@dataclass(frozen=True)
class Sizes:
    """What a SpeedMeter asks of a batch."""

    labels: Tensor
    tokens: int
    padded_tokens: int


def theirs(run: RunConfig, pipe: Connection, batching: str) -> None:
    """`scripts/reference.py`'s Trainer, its evaluations apart."""
    from transformers import TrainerCallback

    from scripts.reference import build_trainer

    run = replace(run, trainer=replace(run.trainer, similar_length=batching == "group_by_length", epochs=1000))
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(run, Path(folder))
        if batching == "max_length":
            trainer.data_collator.padding, trainer.data_collator.max_length = "max_length", run.task.max_length
        lengths = [len(example["input_ids"]) for example in trainer.train_dataset]
        order = random_order(lengths, run)
        if batching != "group_by_length":  # our random batches, so that turns are compared example by example
            trainer._get_train_sampler = lambda *_: [i for batch in order for i in batch]
        trainer.args.eval_strategy = "no"
        pad, fetched = trainer.data_collator, deque()  # the Trainer fetches a batch ahead

        def collate(examples: list[dict[str, Any]]) -> dict[str, Tensor]:
            batch = pad(examples)
            mask = batch["attention_mask"]
            fetched.append(Sizes(batch["labels"], int(mask.sum()), mask.numel()))
            return batch

        trainer.data_collator = collate
        turns = Turns(pipe, trainer.args.device)

        class Report(TrainerCallback):
            def on_train_begin(self, *_: Any, **__: Any) -> None:
                inputs = [pad([trainer.train_dataset[i] for i in indices]) for indices in order[:PROFILED]]
                batches = [
                    ({k: v.to(trainer.args.device) for k, v in b.items()}, b["input_ids"].numel()) for b in inputs
                ]
                model = trainer.model_wrapped
                turns.begin(lambda: profile(model, partial(trainer.compute_loss, model), batches))

            def on_step_end(self, *_: Any, **__: Any) -> None:
                turns.step([fetched.popleft()], 1)

        trainer.add_callback(Report())
        trainer.train()


SIDES = {
    "ours": partial(ours, similar_length=True),
    "ours, random batches": partial(ours, similar_length=False),
    "peft + Trainer, random batches": partial(theirs, batching="random"),
    "peft + Trainer, group_by_length": partial(theirs, batching="group_by_length"),
    "peft + Trainer, padded to max_length": partial(theirs, batching="max_length"),
}


def serve(run: RunConfig, side: str, pipe: Connection) -> None:
    """A process's whole life; a mistake of the user's is an answer too."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # peft imports it; it misses kernels for inference
    warnings.simplefilter("ignore", FutureWarning)  # the Trainer's, about transformers' own next version
    try:
        SIDES[side](run, pipe)
    except Finished:
        pass
    except (OSError, *USER_ERRORS) as error:
        pipe.send({"error": sentence(error)})
