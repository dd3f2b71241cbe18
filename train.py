"""One run: `python train.py method=dora task=cola`. Add `-m` to sweep: `python train.py -m method=lora,dora seed=0,1,2`.

Prints an evaluation a line and, last, `result: PATH` of the record that it leaves. The same command goes on with an
unfinished run and does not repeat a finished one (`force=true` does).
"""

import os
import sys
import traceback
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
import torch
import yaml
from accelerate.state import PartialState
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from adapters.peft_format import write_adapter
from core.cli import require_flags
from core.errors import (
    USER_ERRORS,
    Damaged,
    Diverged,
    Interrupted,
    UserError,
    complain,
    composing,
    is_out_of_memory,
    sentence,
)
from core.io import empty, held, require_writable, write_text
from core.redact import redacted
from core.seeding import seeded
from experiments.config import RunConfig, from_hydra, to_dict
from experiments.mend import can_go_on, is_best_whole, mend
from experiments.record import NAME, describe, read_own_record, write_record
from experiments.restore import read_best
from experiments.sweep import exit_statuses, start_config, state
from experiments.warm_start import begin, describe_start
from methods.base import load_trained_state, parameter_counts
from models.backbone import load_backbone
from models.batches import encode
from tasks.loading import fingerprint, load_splits
from training import checkpoint
from training.accelerator import describe_machine, make_accelerator
from training.meters import release_memory
from training.tracking import Tracker, make_tracker
from training.trainer import ADAPTER, Trainer

NO_MEMORY = (
    "error: out of memory ({error}): the same command goes on from the last evaluation once there is more; "
    "trainer.micro_batch_size=N and trainer.eval_batch_size=N take less"
)


@hydra.main(version_base="1.3", config_path=str(Path(__file__).parent / "conf"), config_name="config")
def main(cfg: DictConfig) -> None:
    """A job of Hydra's. What ends it is said and noted, so that the other jobs of a sweep go on."""
    try:
        run = from_hydra(cfg)
        start = start_config(run, HydraConfig.get().overrides.task)
        if start and (run.force or state(run)[0] != "complete"):
            train(replace(start, force=not is_best_whole(start.folder, start.hash) and state(start)[0] == "complete"))
        train(run, start)
    except (Diverged, OSError, *USER_ERRORS) as error:
        complain(f"error: {sentence(error)}")
        exit_statuses.append(1 if isinstance(error, Diverged) else 2)
    except Exception as error:
        told = NO_MEMORY.format(error=str(error).partition("\n")[0])
        complain(told if is_out_of_memory(error) else traceback.format_exc())
        exit_statuses.append(1)


def train(run: RunConfig, start: RunConfig | None = None) -> None:
    """One run, from its settings to its record; with `start`, from what that run trained."""
    release_memory()
    folder, task = run.folder, run.task.row
    require_writable(folder)

    accelerator = make_accelerator(run.trainer, run.deterministic)
    splits = load_splits(task, run.data)
    backbone = load_backbone(run.backbone, task, run.seed, splits["train"].texts)
    record = describe(run, backbone.provenance, fingerprint(splits), describe_machine(accelerator))
    started = {"task": start.task.name, "config_hash": start.hash} if start else describe_start(run)
    record["provenance"]["start"] = started
    if is_settled(run, record):
        return
    if run.task.max_length > backbone.max_length:
        raise UserError(
            f"task.max_length is {run.task.max_length}; {run.backbone.name} takes at most {backbone.max_length}"
        )

    model = backbone.model.to(accelerator.device)
    backbone_parameters = {name: p.numel() for name, p in model.named_parameters()}
    with seeded(run.seed, "adapter"):
        run.method.apply(model)
    if start:
        load_trained_state(model, read_best(start.folder, start.hash), head=False)
    if run.init_from and (run.force or not can_go_on(folder, run.hash)):
        begin(run, model, backbone.provenance)
    record["parameters"] = parameter_counts(model, backbone_parameters)
    encoded = {name: encode(split, backbone.tokenizer, run.task.max_length) for name, split in splits.items()}

    with held(folder) if accelerator.is_main_process else nullcontext():
        accelerator.wait_for_everyone()
        if is_settled(run, record):  # by another process, while this one waited
            return
        if accelerator.is_main_process:
            prepare_folder(run)
        accelerator.wait_for_everyone()
        parts = (model, run.method, run.trainer, task, encoded, run.seed, accelerator)
        fit(run, Trainer(*parts, folder, identity(record)), record)


def fit(run: RunConfig, trainer: Trainer, record: dict[str, Any]) -> None:
    """Trains to the end, or to where it is stopped; either way a record is left."""
    folder, accelerator = trainer.folder, trainer.accelerator
    trainer.resume()
    tracker = Tracker()
    if accelerator.is_main_process:
        tracker = make_tracker(run.logger, folder, run.experiment, record["config"], run.hash)
    error: BaseException | None = None
    status, reason = "complete", None
    try:
        trainer.fit(tracker)
    except Diverged as diverged:
        error, status, reason = diverged, "failed", str(diverged)
    except (Exception, KeyboardInterrupt) as stopped:  # the checkpoint stands; the same command goes on from it
        error, status, reason = stopped, "interrupted", f"{type(stopped).__name__}: {stopped}".rstrip(": ")
    if accelerator.is_main_process:
        record |= {"status": status, "reason": reason and redacted(reason)} | trainer.summary()
        try:
            if status == "complete" and run.method.peft_names:
                write_adapter(folder / ADAPTER, trainer.model, run.method, read_best(folder, run.hash), record)
            path = write_record(folder, record)
        finally:
            tracker.finish(record)
        if status != "interrupted":
            (folder / checkpoint.NAME).unlink(missing_ok=True)
        print(f"result: {path}", flush=True)
    trainer.stop.pass_on()
    if error is not None:
        raise error


def identity(record: dict[str, Any]) -> dict[str, Any]:
    """What has to be the same for an unfinished run to go on, or a finished one to stand."""
    provenance = record["provenance"]
    hardware = {key: provenance["hardware"][key] for key in ("device", "precision", "processes")}
    return {
        "settings": record["config_hash"],
        "data": provenance["data_fingerprint"],
        "backbone": provenance["backbone"],
        "start": provenance.get("start"),
    } | hardware


def is_settled(run: RunConfig, record: dict[str, Any]) -> bool:
    """Whether the run that `record` describes is finished already, and to be left at that; says so.

    Raises:
        UserError: it was finished on other data, or from other weights.
        Diverged: it failed before, and would again.
    """
    folder = run.folder
    try:
        earlier = read_own_record(folder, run.hash)
    except Damaged:
        return False
    if run.force or earlier is None or earlier["status"] == "interrupted":
        return False
    if run.retry and earlier["status"] == "failed":
        return False
    for key in ("data", "backbone", "start"):
        if identity(earlier)[key] != identity(record)[key]:
            raise UserError(
                f"{folder} holds a run with another {key}: use another output_dir, or force=true to replace it"
            )
    if earlier["status"] == "failed":
        raise Diverged(f"{folder} failed before: {earlier['reason']} (retry=true to train it again)")
    if PartialState().is_main_process:
        score = earlier["best"][earlier["metric"]]
        print(f"finished before: {earlier['metric']} {score:.4f} (force=true to train it again)")
        print(f"result: {folder / NAME}", flush=True)
    return True


def prepare_folder(run: RunConfig) -> None:
    """The run's folder with its resolved settings in it; emptied by `force`, and without what is damaged."""
    if run.force:
        empty(run.folder, first=NAME)
    mend(run.folder, run.hash)
    write_text(run.folder / "config.yaml", yaml.safe_dump(to_dict(run), sort_keys=False))


def cli() -> int:
    """Runs the command line's jobs; returns the exit status: 1 for a run that diverged, 2 for a mistake of the user's."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra hands its errors on; one sentence is made of them here
    exit_statuses.clear()
    try:
        require_flags()
        with composing():
            main()
    except (OSError, *USER_ERRORS) as error:
        complain(f"error: {sentence(error)}")
        return 2
    except Interrupted as error:
        complain(f"interrupted: {error}; the same command (without force) goes on from there")
        return 130
    except KeyboardInterrupt:
        complain("interrupted before training began, or while its state was being written")
        return 130
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()  # its threads would abort a process that ends before them
    return max(exit_statuses, default=0)


if __name__ == "__main__":
    sys.exit(cli())
