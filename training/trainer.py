"""The training loop that all methods share. It names no method.

A step takes a global batch, the same for every method and for any number of processes: each process takes its share, in
pieces of `micro_batch_size`, and weights its loss so that the gradient is that of the mean over the whole batch.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, gather_object
from torch import Tensor, nn
from tqdm import tqdm

from core.console import say
from core.errors import Diverged, Interrupted
from core.seeding import named_seed
from core.signals import StopRequest
from methods.base import Method, head_parameters, trained_state
from models.batches import Batch, Encoded, epoch_batches
from models.cpu_dropout import replace_dropout
from models.packed import PackedBatch, forward_path
from tasks.glue import Task
from tasks.settings import HELD_OUT
from training import lines, selection
from training.checkpoint import Best, Checkpoint, capture, generator_state
from training.evaluation import Evaluation, evaluate
from training.meters import (
    MemoryMeter,
    SpeedMeter,
    activation_bytes,
    gradient_bytes,
    optimizer_bytes,
    weight_bytes,
    weight_types,
)
from training.optimizers import build_optimizer, set_learning_rate
from training.precision import round_frozen
from training.settings import TrainerConfig
from training.tracking import Tracker

DIVERGED_AT = 10  # a loss above this many times the first one counts as diverged
GRAPH_RUNS = 3  # passes before a CUDA graph replays: one to warm up, one to record


@dataclass
class Progress:
    """How far a run is: the part of a checkpoint that is JSON.

    Attributes:
        step: optimizer steps done.
        history: every evaluation.
        use: memory in use and the GPU's utilization in percent, just before each evaluation.
        window_loss, window_steps: since the last log line.
        loss, steps: since the last evaluation, up to the last log line.
        first_loss: mean of the first window, against which divergence is judged.
        seconds: spent on the run, evaluations included.
        speed, peak_bytes, reserved_bytes, activations: the meters' values.
    """

    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    use: list[dict[str, Any]] = field(default_factory=list)
    window_loss: float = 0.0
    window_steps: int = 0
    loss: float = 0.0
    steps: int = 0
    first_loss: float | None = None
    seconds: float = 0.0
    speed: list[int] = field(default_factory=lambda: [0, 0, 0])
    peak_bytes: int = 0
    reserved_bytes: int | None = None
    activations: int | None = None


def drops_layers(model: Any) -> bool:
    """Whether a step skips some layers, drawn at random, which then get no gradient: FlauBERT's and BART's can."""
    return any(share for name, share in model.config.to_dict().items() if name.endswith("layerdrop"))


class Trainer:
    """Trains one adapted model until its last step, or until it is stopped."""

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        settings: TrainerConfig,
        task: Task,
        data: dict[str, Encoded],
        seed: int,
        accelerator: Accelerator,
    ):
        """
        Args:
            model: after `method.apply`, on the accelerator's device.
            data: `train`, the validation splits, and `held_out` if there is one.
            seed: of data order, dropout, and what the method draws in a step.
        """
        self.model, self.method, self.config, self.task, self.seed = model, method, settings, task, seed
        self.accelerator, self.tracker = accelerator, Tracker()
        self.train, self.held_out = data["train"], {name: data[name] for name in data if name == HELD_OUT}
        self.validation = {name: data[name] for name in data if name not in ("train", HELD_OUT)}
        self.rank, self.world = accelerator.process_index, accelerator.num_processes
        if accelerator.device.type == "cpu":
            replace_dropout(model)
        if accelerator.mixed_precision == "bf16":
            round_frozen(model)
        self.path = forward_path(model, self.config.forward)
        if method.trains_parts or drops_layers(model):
            accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=True)
        self.parallel = accelerator.prepare_model(self.path)
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = build_optimizer(model, self.method, self.config)
        self.epoch_steps = math.ceil(len(self.train.lengths) / self.config.batch_size)
        self.total_steps = self.config.total_steps(len(self.train.lengths))
        self.window = torch.zeros((), dtype=torch.float64, device=accelerator.device)
        self.progress = Progress()
        self.speed, self.memory = SpeedMeter(accelerator.device), MemoryMeter(accelerator.device)
        self.stop = StopRequest()
        self.new_best: Best | None = None

    def fit(self, tracker: Tracker, save: Callable[[Checkpoint], None]) -> None:
        """Trains and evaluates until the last step.

        Args:
            save: called on the main process with the state, after each evaluation and when the run is stopped.

        Raises:
            Diverged: the loss or the logits are not finite, or the loss is far above its start.
            Interrupted: a signal asked the run to stop; the checkpoint is written.
        """
        self.tracker, self.save = tracker, save
        self.began = time.monotonic() - self.progress.seconds
        self.first_step, self.started = self.progress.step, time.monotonic()
        self.say(self.first_line())
        with self.stop, self.progress_bar() as bar:
            if self.progress.activations is None:
                self.progress.activations = self.measure_activations()
            if self.config.forward == "compiled":
                self.record_graphs()
            self.start_meters()
            for indices in self.remaining_batches():
                if self.has_stalled():
                    self.say(
                        f"no better evaluation for {self.config.patience} in a row: the run ends before its last step"
                    )
                    break
                self.train_step(indices)
                if self.progress.step % self.config.log_every == 0 or self.is_evaluation_due():
                    self.log(bar)
                bar.update()
                if self.is_evaluation_due():
                    self.stop_meters()
                    self.evaluate()
                    self.hand_out_state()  # before the line: what was printed is never lost
                    self.say(self.evaluation_line(), bar)
                    self.start_meters()
                if self.is_stop_requested():
                    self.stop_meters()
                    self.hand_out_state()
                    raise Interrupted(f"stopped at step {self.progress.step} of {self.total_steps}")
            self.stop_meters()
            self.progress.seconds = self.seconds

    def first_line(self) -> str:
        head = set(head_parameters(self.model))
        trained = sum(p.numel() for p in self.trained if p not in head)
        precision = self.accelerator.mixed_precision.replace("no", "fp32")
        name, machine = f"{self.method.name} on {self.task.name}", f"{self.accelerator.device.type}, {precision}"
        steps = self.total_steps, self.epoch_steps
        return lines.first_line(name, trained, machine, self.config, *steps, len(self.train.lengths))

    @property
    def seconds_left(self) -> float:
        """Expected seconds to the last step, at the pace of this process so far."""
        done = self.progress.step - self.first_step
        return (time.monotonic() - self.started) / max(done, 1) * (self.total_steps - self.progress.step)

    @property
    def seconds(self) -> float:
        """Seconds spent on the run so far, by this process and earlier ones."""
        return time.monotonic() - self.began

    def remaining_batches(self) -> Iterator[list[int]]:
        """The indices of each global batch, from the present step to the last."""
        epoch = -1
        for step in range(self.progress.step, self.total_steps):
            if step // self.epoch_steps != epoch:
                epoch = step // self.epoch_steps
                batches = self.epoch_batches(epoch)
            yield batches[step % self.epoch_steps]

    def epoch_batches(self, epoch: int) -> list[list[int]]:
        config = self.config
        return epoch_batches(self.train.lengths, config.batch_size, self.seed, epoch, config.similar_length)

    def train_step(self, indices: list[int]) -> None:
        """One optimizer step over a global batch."""
        set_learning_rate(self.optimizer, self.progress.step, self.total_steps, self.config)
        if not self.model.training:  # setting it each time takes a tenth of a short step on a GPU
            self.model.train()
        self.method.before_step(self.model, self.progress.step + 1, self.seed)
        batches: list[Batch | PackedBatch] = []
        pieces = self.pieces(indices)
        weight = self.world / len(indices) if self.rank < len(indices) else 0.0
        for piece in pieces:
            batch = self.path.collate(self.train, piece).to(self.accelerator.device)
            synchronised = nullcontext() if piece is pieces[-1] else self.accelerator.no_sync(self.parallel)
            with synchronised:
                loss = self.loss(self.parallel, batch) * weight
                self.accelerator.backward(loss)
            self.window += loss.detach()
            batches.append(batch)
        if self.config.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.trained, self.config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        self.progress.window_steps += 1
        self.method.after_step(self.model, self.progress.step)
        self.speed.step(batches, self.world)

    def pieces(self, indices: list[int]) -> list[list[int]]:
        """This process's share of a global batch, cut to micro-batches."""
        share = indices[self.rank :: self.world] or indices[:1]  # a process without a share takes part with weight 0
        size = self.config.micro_batch_size or len(indices)
        return [share[start : start + size] for start in range(0, len(share), size)]

    def loss(self, path: nn.Module, batch: Batch | PackedBatch) -> Tensor:
        """Summed over the batch: cross-entropy, or squared error for a regression."""
        logits = path(batch).float()
        if batch.labels.is_floating_point():
            return F.mse_loss(logits.squeeze(-1), batch.labels, reduction="sum")
        return F.cross_entropy(logits, batch.labels, reduction="sum")

    def measure_activations(self) -> int:
        """Bytes that autograd holds for this process's largest micro-batch of the first epoch; changes no state."""
        pieces = [piece for batch in self.epoch_batches(0) for piece in self.pieces(batch)]
        largest = max(pieces, key=lambda piece: self.path.cost([self.train.lengths[i] for i in piece]))
        batch = self.path.collate(self.train, largest).to(self.accelerator.device)
        self.model.train()
        with torch.random.fork_rng(), self.accelerator.autocast():
            return activation_bytes(self.model, lambda: self.loss(self.path, batch))

    def record_graphs(self) -> None:
        """Runs each shape of the first epoch until its CUDA graphs are recorded; changes no state."""
        pieces = [piece for batch in self.epoch_batches(0) for piece in self.pieces(batch)]
        batches = (self.path.collate(self.train, piece) for piece in pieces)
        shapes = {batch.inputs["input_ids"].shape: batch for batch in batches}
        self.model.train()
        with torch.random.fork_rng():
            for batch in shapes.values():
                for _ in range(GRAPH_RUNS):
                    with self.accelerator.no_sync(self.parallel):  # other processes may have other shapes
                        self.accelerator.backward(self.loss(self.parallel, batch.to(self.accelerator.device)))
                    self.optimizer.zero_grad(set_to_none=True)

    def log(self, bar: tqdm) -> None:
        """Logs the mean loss since the last log line, and checks it for divergence; on a GPU this synchronises."""
        progress = self.progress
        window = self.accelerator.reduce(self.window, "mean").item()
        mean = window / progress.window_steps
        if progress.first_loss is None:
            progress.first_loss = mean
        if not math.isfinite(mean):
            raise Diverged(f"the loss is {mean} at step {progress.step}: try a lower learning rate")
        if mean > DIVERGED_AT * max(1.0, progress.first_loss):
            raise Diverged(
                f"the loss rose from {progress.first_loss:.3g} to {mean:.3g} by step {progress.step}: lower the rate"
            )
        progress.loss += window
        progress.steps += progress.window_steps
        progress.window_steps = 0
        self.window.zero_()
        bar.set_postfix_str(self.postfix(mean))
        if bar.disable and time.monotonic() - self.said > lines.EVERY:
            self.say(lines.minute_line(progress.step, self.total_steps, self.postfix(mean), self.seconds_left))
        values = {
            "train/loss": mean,
            "train/learning_rate": self.optimizer.param_groups[0]["lr"],
            "train/head_learning_rate": self.optimizer.param_groups[-1]["lr"],
            "train/epoch": progress.step / self.epoch_steps,
            "speed/samples_per_second": self.speed.samples_per_second,
            "speed/tokens_per_second": self.speed.tokens_per_second,
            "memory/bytes": self.memory.current_bytes(),
            "memory/gpu_utilization": self.memory.utilization(),
        }
        self.tracker.log(values, progress.step)

    def postfix(self, loss: float) -> str:
        """The text at the end of the progress bar."""
        name = self.task.metrics[0]
        metric = f", {name} {self.progress.history[-1][name]:.3f}" if self.progress.history else ""
        speed = self.speed.samples_per_second
        return f"loss {loss:.3f}{metric}" + (f", {speed:.0f} samples/s" if speed else "")

    def has_stalled(self) -> bool:
        """Whether `patience` evaluations have brought no better one."""
        history, patience = self.progress.history, self.config.patience
        if patience is None or len(history) <= patience:
            return False
        chosen = self.selected or self.best
        return all(entry is not chosen for entry in history[-patience:])

    def is_evaluation_due(self) -> bool:
        step = self.progress.step
        return step == self.total_steps or step % (self.config.eval_every or self.epoch_steps) == 0

    def evaluate(self) -> None:
        """Evaluates, adds the result to the history, and keeps state and predictions if it is the best so far."""
        self.require_finite()
        progress, meters = self.progress, self.memory
        use = {"step": progress.step, "bytes": meters.current_bytes(), "gpu_utilization": meters.utilization()}
        progress.use.append(use)
        evaluation = self.evaluation_over(self.validation)
        entry = {
            "step": progress.step,
            "epoch": progress.step / self.epoch_steps,
            "train_loss": progress.loss / progress.steps,
            **asdict(evaluation.summary),
        }
        metrics = entry.pop("metrics")
        if self.held_out:
            entry[HELD_OUT] = self.evaluation_over(self.held_out).summary.metrics
        progress.history.append(entry | metrics)
        progress.loss, progress.steps = 0.0, 0
        if self.best is progress.history[-1]:
            self.new_best = Best(trained_state(self.model), evaluation.predictions, progress.step)
        self.tracker.log({f"eval/{name}": value for name, value in metrics.items()}, progress.step)

    def evaluation_line(self) -> str:
        """The last evaluation in words."""
        entry = self.progress.history[-1]
        scores = ", ".join(f"{name} {entry[name]:.4f}" for name in self.task.metrics if name in entry)
        flag = "  (collapsed: the same answer to every example)" if entry["collapsed"] else ""
        return f"epoch {entry['epoch']:.2f}, step {entry['step']}: loss {entry['train_loss']:.4f}, {scores}{flag}"

    def evaluation_over(self, splits: dict[str, Encoded]) -> Evaluation:
        return evaluate(self.path, splits, self.task, self.accelerator, self.config.eval_batch_size)

    @property
    def best(self) -> dict[str, Any] | None:
        """The first evaluation with the highest main metric on the validation set, as the papers choose."""
        history = self.progress.history
        return selection.best(history, self.task.metrics[0]) if history else None

    @property
    def selected(self) -> dict[str, Any] | None:
        """The first evaluation with the highest main metric on the part held out of training; None without one."""
        return selection.selected(self.progress.history, self.task.metrics[0])

    # Checkpoints

    def require_finite(self) -> None:
        """Raises Diverged for weights from which no run can resume."""
        if not all(parameter.isfinite().all() for parameter in self.trained):
            raise Diverged(f"the weights are not finite at step {self.progress.step}: try a lower learning rate")

    def hand_out_state(self) -> None:
        """Calls `save` with the whole state; every process adds its generators.

        Raises:
            Diverged: the weights are not finite.
        """
        self.require_finite()
        generators = gather_object([generator_state()])
        window = self.accelerator.reduce(self.window, "mean").item()
        if self.world > 1:  # their sums are part of the first process's from here on
            self.window.fill_(window * self.world if self.rank == 0 else 0.0)
        if self.accelerator.is_main_process:
            progress = self.progress
            step_seconds, progress.speed = self.speed.state()
            progress.window_loss, progress.seconds = window, self.seconds
            progress.peak_bytes, progress.reserved_bytes = self.memory.peak_bytes, self.memory.reserved_bytes
            state = capture(self.model, self.optimizer)
            self.save(Checkpoint(*state, generators, step_seconds, asdict(progress), self.new_best))
        self.new_best = None

    def resume(self, checkpoint: Checkpoint | None, spent: float = 0.0) -> None:
        """Restores a checkpoint; without one, seeds dropout.

        Args:
            spent: the seconds that a run without a checkpoint took so far.
        """
        torch.manual_seed(named_seed(self.seed, f"dropout/{self.rank}"))
        if checkpoint is None:
            self.progress.seconds = spent
            return
        checkpoint.restore(self.model, self.optimizer, self.rank)
        self.progress = Progress(**checkpoint.progress)
        self.window.fill_(self.progress.window_loss * self.world if self.rank == 0 else 0.0)
        self.speed.load(checkpoint.step_seconds, self.progress.speed)
        self.memory.peak_bytes, self.memory.reserved_bytes = self.progress.peak_bytes, self.progress.reserved_bytes
        self.say(f"resumes at step {self.progress.step} of {self.total_steps}")

    # Signals, meters, messages

    def is_stop_requested(self) -> bool:
        """Whether any process was asked to stop; all of them stop at the same step."""
        if self.world == 1:
            return self.stop.signal is not None
        flag = torch.tensor(float(self.stop.signal is not None), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum").item())

    def start_meters(self) -> None:
        self.memory.start()
        self.speed.start()

    def stop_meters(self) -> None:
        self.speed.stop()
        self.memory.stop()

    def progress_bar(self) -> tqdm:
        """A progress bar on a terminal; nothing in a log file, where each evaluation has a line."""
        return tqdm(
            total=self.total_steps,
            initial=self.progress.step,
            desc=f"{self.method.name} on {self.task.name}",
            unit="step",
            disable=None if self.accelerator.is_main_process else True,
            dynamic_ncols=True,
        )

    def say(self, text: str, bar: tqdm | None = None) -> None:
        self.said = time.monotonic()
        if self.accelerator.is_main_process:
            say(text, bar)

    def summary(self) -> dict[str, Any]:
        """The part of the record that training made."""
        history, findings = self.progress.history, self.method.findings(self.model)
        return ({"findings": findings} if findings else {}) | {
            "best": self.best,
            "selected": self.selected,
            "last": history[-1] if history else None,
            "history": history,
            "seconds": self.progress.seconds,
            "speed": self.speed.summary(),
            "memory": {
                "peak_bytes": self.memory.peak_bytes,
                "peak_kind": self.memory.peak_kind,
                "reserved_bytes": self.memory.reserved_bytes,
                "weights": weight_bytes(self.model),
                "weight_types": weight_types(self.model),
                "gradients": gradient_bytes(self.model),
                "optimizer": optimizer_bytes(self.optimizer),
                "activations": self.progress.activations,
                "over_training": self.progress.use,
            },
        }
