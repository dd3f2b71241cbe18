"""The outside check of our trainer: the same run with `transformers.Trainer` and `peft`."""

import math
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase, PrinterCallback, Trainer, TrainingArguments

from core.checks import one_of
from core.errors import Diverged, UserError
from core.io import require_writable, write_json
from core.seeding import seeded
from experiments.config import RunConfig, to_dict
from experiments.inputs import load_inputs
from experiments.record import versions
from methods.base import head_modules, linear_layers, matching_layers, replace
from tasks.glue import Task
from tasks.loading import Split
from tasks.metrics import score
from training.accelerator import make_accelerator
from training.optimizers import build_optimizer
from training.selection import best

REFERENCE_RECORD = "reference.json"
METHODS = ("full", "lora", "dora", "lora_fa", "vera", "qlora")
SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


def load_peft():
    """The library, or a sentence that says how to get it."""
    try:
        import peft
    except ImportError as error:
        raise UserError("peft is missing: pip install -r requirements-dev.txt") from error
    return peft


def reference(run: RunConfig) -> None:
    """One run, from its settings to its record."""
    task = run.task.row
    one_of(*METHODS)("method", run.method.name)
    one_of("adamw")("trainer.optimizer", run.trainer.optimizer)
    folder = Path(run.output_dir) / "reference" / run.folder.name
    require_writable(folder)
    warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)  # peft asks for what is renamed
    trainer = build_trainer(run, folder)
    speed = trainer.train().metrics
    share = (speed["train_runtime"] - trainer.evaluation_seconds) / speed["train_runtime"]

    metric, history = task.metrics[0], trainer.history
    record = {
        "method": run.method.name,
        "task": run.task.name,
        "backbone": run.backbone.name,
        "seed": run.seed,
        "metric": metric,
        "best": best(history, metric),
        "last": history[-1],
        "history": history,
        "samples_per_second": speed["train_samples_per_second"] / share,
        "config": to_dict(run),
        "versions": versions() | {"peft": load_peft().__version__},
    }
    write_json(folder / REFERENCE_RECORD, record)
    print(f"result: {folder / REFERENCE_RECORD}", flush=True)


def build_trainer(run: RunConfig, folder: Path) -> "ReferenceTrainer":
    """The Trainer of a run, with our data, tokenizer, weights and first values of the head."""
    task = run.task.row
    load_peft()  # before the slow part
    bf16 = make_accelerator(run.trainer, run.deterministic).mixed_precision == "bf16"
    inputs = load_inputs(run)
    backbone = inputs.backbone
    with seeded(run.seed, "adapter"):
        model = adapt(backbone.model, run.method, torch.bfloat16 if bf16 else torch.float32)
    optimizer = None  # the Trainer's own optimizer knows one rate only
    if run.trainer.head_learning_rate != run.trainer.learning_rate:
        optimizer = build_optimizer(backbone.model, run.method, run.trainer)  # peft changed the model in place
    data = {name: encode(split, backbone.tokenizer, run.task.max_length) for name, split in inputs.splits.items()}
    trainer = ReferenceTrainer(
        task,
        model=model,
        args=arguments(run, len(data["train"]), folder),
        data_collator=DataCollatorWithPadding(backbone.tokenizer),
        train_dataset=data.pop("train"),
        eval_dataset=data,
        optimizers=(optimizer, None),
        preprocess_logits_for_metrics=logits_alone,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def adapt(model: Any, method: Any, dtype: torch.dtype) -> nn.Module:
    """The model in peft's wrapper, or as it is for full fine-tuning; the head trains in both."""
    if method.name == "full":
        return model
    peft = load_peft()
    layers = list(matching_layers(model, method.target_modules))
    common = {"r": method.rank, "target_modules": layers, "modules_to_save": head_modules(model)}
    if method.name == "vera":
        vera = {"d_initial": method.d_initial, "vera_dropout": method.dropout}
        vera["projection_prng_key"] = method.projection_seed
        return peft.get_peft_model(model, peft.VeraConfig(**common, **vera))
    lora = {"lora_alpha": method.alpha, "lora_dropout": method.dropout, "use_rslora": method.rank_stabilized}
    lora["init_lora_weights"] = "gaussian" if method.init_A == "gaussian" else True  # True: Kaiming-uniform
    if method.name == "qlora":
        quantize(model, method, dtype)
    model = peft.get_peft_model(model, peft.LoraConfig(**common, **lora, use_dora=method.name == "dora"))
    if method.name == "lora_fa":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and "lora_A" not in name)
    return model


def quantize(model: Any, method: Any, dtype: torch.dtype) -> None:
    """Replaces the encoder's linear layers by bitsandbytes' 4-bit layers, which compute in `dtype`."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    for name, base in list(linear_layers(model)):
        layer = Linear4bit(base.in_features, base.out_features, compute_dtype=dtype, quant_type=method.quant_type)
        layer.weight = Params4bit(
            base.weight.detach(),
            requires_grad=False,
            quant_type=method.quant_type,
            compress_statistics=method.double_quant,
        )
        layer.bias = base.bias
        replace(model, name, layer.to(base.weight.device))  # the move quantizes
    model.is_loaded_in_4bit = True


def encode(split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[dict[str, Any]]:
    """A dict for each example."""
    columns = [list(column) for column in zip(*split.texts, strict=True)]
    inputs = dict(tokenizer(*columns, truncation=True, max_length=max_length)) | {"labels": split.labels}
    return [dict(zip(inputs, row, strict=True)) for row in zip(*inputs.values(), strict=True)]


def logits_alone(outputs: Any, _: Any) -> torch.Tensor:
    """The logits of a batch; the Trainer hands out a tuple where a model returns more, as BART's and T5's do."""
    return outputs[0] if isinstance(outputs, tuple) else outputs


def arguments(run: RunConfig, examples: int, folder: Path) -> TrainingArguments:
    """Our settings as the Trainer's."""
    config, accelerator = run.trainer, make_accelerator(run.trainer, run.deterministic)
    total = config.total_steps(examples)
    args = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=config.epochs,
        max_steps=total if config.max_steps else -1,  # with a number of steps it takes the last batch for a full one
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.eval_batch_size,
        train_sampling_strategy="group_by_length" if config.similar_length else "random",
        optim="adamw_torch_fused",
        learning_rate=config.rates[0],
        weight_decay=config.weight_decay,
        adam_beta1=config.beta1,
        adam_beta2=config.beta2,
        adam_epsilon=config.epsilon,
        lr_scheduler_type=SCHEDULES[config.schedule],
        warmup_steps=math.ceil(total * config.warmup_ratio),
        max_grad_norm=config.max_grad_norm or 0.0,
        eval_strategy="steps" if config.eval_every else "epoch",
        eval_steps=config.eval_every,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        seed=run.seed,
        use_cpu=accelerator.device.type == "cpu",
        bf16=accelerator.mixed_precision == "bf16",
    )
    if args.n_gpu > 1:
        raise UserError(f"the Trainer would split batches over {args.n_gpu} GPUs: set CUDA_VISIBLE_DEVICES to one")
    return args


class ReferenceTrainer(Trainer):
    """A Trainer that scores MNLI's two splits together, and decays what `trainer.weight_decay` says."""

    def __init__(self, task: Task, **settings: Any):
        super().__init__(**settings)
        self.task, self.evaluation_seconds = task, 0.0
        self.history: list[dict[str, Any]] = []

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """The matrices. The Trainer's own choice, by name, would also decay DoRA's m and VeRA's vectors."""
        return [name for name, parameter in model.named_parameters() if parameter.ndim > 1]

    def predictions(self, examples: Any) -> tuple[np.ndarray, np.ndarray]:
        """Logits and references, both in the sampler's order, which need not be the split's."""
        logits, references, _ = self.predict(examples)
        return np.asarray(logits), np.asarray(references)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Adds an evaluation to the history and prints it."""
        start, outputs = time.perf_counter(), {}
        eval_dataset: Any = self.eval_dataset
        for name, examples in eval_dataset.items():
            logits, references = self.predictions(examples)
            if not np.isfinite(logits).all():
                raise Diverged("the logits are not finite: try a lower learning rate")
            outputs[name] = (logits[:, 0] if self.task.is_regression else logits.argmax(1), references)
        metrics = score(self.task, outputs)
        self.evaluation_seconds += time.perf_counter() - start
        self.history.append({"step": self.state.global_step, "epoch": self.state.epoch, **metrics})
        scores = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        print(f"epoch {self.state.epoch:.2f}, step {self.state.global_step}: {scores}", flush=True)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)  # done
        return metrics
