"""One run: `python train.py method=dora task=cola`. Add `-m` to sweep: `python train.py -m method=lora,dora seed=0,1,2`.

Prints an evaluation a line and, last, `result: PATH` of the record that it leaves. The same command goes on with an
unfinished run and does not repeat a finished one (`force=true` does).
"""

import os
import shutil
import sys
from pathlib import Path

import hydra
import torch
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from omegaconf import DictConfig

from methods.base import parameter_counts
from tasks.loading import fingerprint, load_splits
from training import checkpoint
from training.backbone import load_backbone
from training.batches import encode
from training.config import RunConfig, from_hydra, to_dict
from training.errors import USER_ERRORS, Diverged, Interrupted, UserError, sentence
from training.files import require_writable, write_text
from training.loop import Loop
from training.record import NAME, describe, read_record, write_record
from training.seeding import seeded
from training.tracker import make_tracker


@hydra.main(version_base="1.3", config_path=str(Path(__file__).parent / "conf"), config_name="config")
def main(cfg: DictConfig) -> None:
    """A job of Hydra's. What ends it with a sentence is noted, so that the other jobs of a sweep go on."""
    try:
        train(from_hydra(cfg))
    except (Diverged, OSError, *USER_ERRORS) as error:
        complain(f"error: {sentence(error)}")
        failures.append(error)


failures: list[Exception] = []


def train(run: RunConfig) -> None:
    """One run, from its settings to its record."""
    folder = run.folder
    require_writable(folder)
    task = run.task.row

    splits = load_splits(task, run.data)
    data = fingerprint(splits)
    accelerator = make_accelerator(run)
    if not run.force and is_settled(folder, data):
        return

    backbone = load_backbone(run.backbone, task, run.seed, splits["train"].texts)
    if run.task.max_length > backbone.max_length:
        raise UserError(
            f"task.max_length is {run.task.max_length}; {run.backbone.name} takes at most {backbone.max_length}"
        )
    model = backbone.model.to(accelerator.device)
    backbone_parameters = {name: p.numel() for name, p in model.named_parameters()}
    with seeded(run.seed, "adapter"):
        run.method.apply(model)

    encoded = {name: encode(split, backbone.tokenizer, run.task.max_length) for name, split in splits.items()}
    record = describe(run, backbone.provenance, data, accelerator.num_processes)
    record["parameters"] = parameter_counts(model, backbone_parameters)

    if accelerator.is_main_process:
        prepare_folder(run)
    accelerator.wait_for_everyone()
    tracker = make_tracker(run, folder, accelerator.is_main_process)
    loop = Loop(run, model, encoded, accelerator, tracker, folder, {"config_hash": run.hash, "data": data})
    error: BaseException | None = None
    status, reason = "complete", None
    try:
        loop.fit()
    except Diverged as diverged:
        error, status, reason = diverged, "failed", str(diverged)
    except (Exception, KeyboardInterrupt) as stopped:  # the checkpoint stands; the same command goes on from it
        error, status, reason = stopped, "interrupted", f"{type(stopped).__name__}: {stopped}"
    if accelerator.is_main_process:
        record |= {"status": status, "reason": reason} | loop.summary()
        path = write_record(folder, record)
        tracker.finish(record)
        if error is None:
            (folder / checkpoint.NAME).unlink(missing_ok=True)
        print(f"result: {path}", flush=True)
    if error is not None:
        raise error


def make_accelerator(run: RunConfig) -> Accelerator:
    """Device, processes and precision."""
    config = run.trainer
    if config.threads:
        torch.set_num_threads(config.threads)
    has_gpu = torch.cuda.is_available() and config.device != "cpu"
    if config.device == "cuda" and not has_gpu:
        raise UserError("trainer.device is cuda, and torch sees no GPU here: use trainer.device=cpu")
    bf16 = config.precision == "bf16" or (config.precision == "auto" and has_gpu and torch.cuda.is_bf16_supported())
    AcceleratorState._reset_state()  # a sweep's earlier run may have set another precision in this process
    return Accelerator(cpu=not has_gpu, mixed_precision="bf16" if bf16 else "no")


def is_settled(folder: Path, data: str) -> bool:
    """Whether the run is finished already, of the same data; says so.

    Raises:
        UserError: it was finished on other data.
        Diverged: it failed before, and would again.
    """
    record = read_record(folder)
    if record is None or record["status"] == "interrupted":
        return False
    if record["provenance"]["data_fingerprint"] != data:
        raise UserError(f"{folder} holds a run on other data: use another output_dir, or force=true to replace it")
    if record["status"] == "failed":
        raise Diverged(f"{folder} failed before: {record['reason']} (force=true to train it again)")
    if PartialState().is_main_process:
        score = record["best"][record["metric"]]
        print(f"finished before: {record['metric']} {score:.4f} (force=true to train it again)")
        print(f"result: {folder / NAME}", flush=True)
    return True


def prepare_folder(run: RunConfig) -> None:
    """The run's folder with its resolved settings in it; emptied by `force`."""
    if run.force:
        shutil.rmtree(run.folder, ignore_errors=True)
    write_text(run.folder / "config.yaml", yaml.safe_dump(to_dict(run), sort_keys=False))


def cli() -> int:
    """Runs the command line's jobs; returns the exit status: 1 for a run that diverged, 2 for a mistake of the user's."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra hands its errors on; one sentence is made of them here
    failures.clear()
    try:
        main()
    except USER_ERRORS as error:
        complain(f"error: {sentence(error)}")
        return 2
    except Interrupted as error:
        complain(f"interrupted: {error}; the same command goes on from there")
        return 130
    return max((1 if isinstance(error, Diverged) else 2 for error in failures), default=0)


def complain(text: str) -> None:
    """On the first process only; under `accelerate launch` all of them meet the same mistake."""
    if os.environ.get("RANK", "0") == "0":
        print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(cli())
