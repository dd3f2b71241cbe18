"""The probe that some methods ask for: a short training on a sample, from which they learn what to train.

Only the model's shape changes. The run that follows draws the same dropout and the same batches as without a probe.
"""

import random
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from core.console import say
from core.errors import Diverged
from core.seeding import named_seed
from methods.base import Method, load_trained_state, trained_state
from models.batches import Encoded, collate
from tasks.glue import Task
from training.settings import TrainerConfig
from training.trainer import Trainer


def probe(
    model: nn.Module,
    method: Method,
    settings: TrainerConfig,
    task: Task,
    data: Encoded,
    seed: int,
    accelerator: Accelerator,
) -> float:
    """Trains `method.probe` on a sample of the training set `data`, and gives the model the shape that it suggests.

    A signal ends the process here; the same command begins again.

    Args:
        model: after `method.apply`, on the accelerator's device.

    Returns:
        The seconds that it took; 0 for a method without a probe.

    Raises:
        Diverged: what the method found is not finite.
    """
    if method.probe is None:
        return 0.0
    began, steps = time.monotonic(), method.probe.steps
    sample = draw(data, method.probe.sample, seed)
    start = {name: tensor.clone() for name, tensor in trained_state(model).items()}
    if accelerator.is_main_process:
        say(f"probe: {steps} steps on {len(sample.split)} of {len(data.split)} examples")
    short = replace(settings, epochs=steps, max_steps=steps)  # an epoch has a step at least
    trainer = Trainer(model, method, short, task, {"train": sample}, named_seed(seed, "probe"), accelerator)
    trainer.resume(None)
    for indices in trainer.remaining_batches():
        trainer.train_step(indices)
    model.eval()
    with torch.no_grad(), accelerator.autocast():
        found = method.judge(
            model, passes(sample, settings.eval_batch_size, accelerator), lambda own: accelerator.reduce(own, "sum")
        )
    if not all(tensor.isfinite().all() for tensor in found.values()):
        raise Diverged(f"the probe of {steps} steps found numbers that are not finite: try another learning rate")
    load_trained_state(model, start)
    method.shape(model, found)
    del trainer
    accelerator.free_memory()  # the wrapper that joins the processes has room for every gradient
    return time.monotonic() - began


def draw(data: Encoded, share: float, seed: int) -> Encoded:
    """A share of the examples, each label in its proportion (for a regression, each stretch of the scale)."""
    order, generator = list(range(len(data.split))), random.Random(named_seed(seed, "sample"))
    generator.shuffle(order)
    order.sort(key=data.split.labels.__getitem__)
    count = max(1, round(share * len(order)))
    chosen = [order[int((i + generator.random()) * len(order) / count)] for i in range(count)]
    inputs = {name: [ids[i] for i in chosen] for name, ids in data.inputs.items()}
    return replace(data, split=data.split.select(chosen), inputs=inputs)


def passes(data: Encoded, size: int, accelerator: Accelerator) -> Iterator[dict[str, Tensor]]:
    """This process's share of all examples as a model's inputs: a batch has at most `size`, all of one length."""
    order = sorted(range(len(data.lengths)), key=data.lengths.__getitem__)
    equal = [list(group) for _, group in groupby(order, key=data.lengths.__getitem__)]
    batches = [group[i : i + size] for group in equal for i in range(0, len(group), size)]
    for batch in batches[accelerator.process_index :: accelerator.num_processes]:
        yield collate(data, batch).to(accelerator.device).inputs
