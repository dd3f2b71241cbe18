"""One run: `python train.py method=dora task=cola`. Add `-m` to sweep: `python train.py -m method=lora,dora seed=0,1,2`.

Prints a line for each evaluation and, last, `result: PATH` of the record. The same command resumes an unfinished run and
does not repeat a finished one (`force=true` does).
"""

import os
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

try:
    import hydra
except ModuleNotFoundError:
    sys.exit("error: this Python has no hydra: `make setup`, then `. .venv/bin/activate` or .venv/bin/python train.py")
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from core.console import log, say
from core.errors import USER_ERRORS, Diverged, Interrupted, out_of_memory
from core.habits import amend
from core.mistakes import composing, require_flags, sentence
from core.redact import redacted
from experiments import sweep
from experiments.config import RunConfig, from_hydra, named_by
from experiments.record import describe
from experiments.run_folder import RunFolder
from experiments.warm_start import describe_start
from training.curves import make_tracker
from training.lines import last_line
from training.tracking import Tracker

if TYPE_CHECKING:
    from training.trainer import Trainer


def train(run: RunConfig, start: RunConfig | None = None) -> None:
    """One run, from its settings to its record; `start`: the finished run that `run.start` names."""
    folder = RunFolder.of(run)
    if folder.committed_record():
        folder.show_finished(run)
        return
    sweep.require_folders(run)
    # seconds to import: a mistake in the settings, a finished run and a sweep's own process do not wait for them
    from experiments.begin import begin
    from experiments.inputs import load_inputs
    from tasks.loading import fingerprint
    from training.accelerator import describe_machine, make_accelerator
    from training.meters import release_memory
    from training.trainer import Trainer

    release_memory()
    accelerator = make_accelerator(run.trainer, run.deterministic)
    inputs = load_inputs(run)
    backbone, data = inputs.backbone, fingerprint(inputs.splits)
    machine = describe_machine(accelerator)
    record = describe(run, backbone.provenance, data, inputs.layout, machine, describe_start(run, start))

    with folder.locked(accelerator):
        if folder.is_settled(record, run.force, run.retry):
            if accelerator.is_main_process:
                folder.show_finished(run)
            return
        if accelerator.is_main_process:
            folder.prepare(run.force)
        accelerator.wait_for_everyone()
        checkpoint = folder.open_checkpoint(record)

        model = backbone.model.to(accelerator.device)
        begun = begin(run, start, inputs, checkpoint, accelerator)
        record["parameters"] = begun.parameters
        if accelerator.is_main_process:
            folder.begin(record["config"])
            inputs.tell(begun.unused)

        trainer = Trainer(model, run.method, run.trainer, run.task.row, inputs.encoded, run.seed, accelerator)
        trainer.resume(checkpoint, begun.seconds)
        fit(run, trainer, folder, record)


def fit(run: RunConfig, trainer: "Trainer", folder: RunFolder, record: dict[str, Any]) -> None:
    """Trains to the end, or to where the run is stopped; either way it leaves a record."""
    is_main = trainer.accelerator.is_main_process
    tracker = make_tracker(run.logger, folder.path, record) if is_main else Tracker()
    error: Exception | KeyboardInterrupt | None = None
    status, reason = "complete", None
    try:
        trainer.fit(tracker, folder.save)
    except Diverged as diverged:
        error, status, reason = diverged, "failed", str(diverged)
    except (Exception, KeyboardInterrupt) as stopped:  # the same command resumes at the checkpoint
        error, status, reason = stopped, "interrupted", f"{type(stopped).__name__}: {stopped}".rstrip(": ")
    if is_main:
        record |= {"status": status, "reason": reason and redacted(reason)} | trainer.summary()
        try:
            if status != "interrupted":
                folder.unpack(is_complete=status == "complete")
            if status == "complete" and run.method.peft_names:
                folder.write_adapter(trainer.model, run.method, record)
            path = folder.finish(record)
        finally:
            tracker.finish(record)
        if status == "complete":
            say(last_line(record))
        say(f"result: {path}")
    trainer.stop.pass_on()
    if error is not None:
        raise error


@hydra.main(version_base="1.3", config_path=str(Path(__file__).parent / "conf"), config_name="config")
def main(cfg: DictConfig) -> int:
    """A job of Hydra's: returns its exit status. Its error is printed, so that the other jobs of a sweep continue."""
    status = 0
    try:
        run = from_hydra(named_by(cfg, HydraConfig.get().runtime.choices["experiment"]))
        sweep.require_expected(run)
        sweep.warn_of_grid(HydraConfig.get())
        start = sweep.start_config(run, HydraConfig.get().overrides.task, HydraConfig.get().job.config_name or "config")
        if start and (run.force or RunFolder.of(run).status()[0] != "complete"):
            there = RunFolder.of(start)
            say(f"start={run.start}: the run on {run.start} is trained first")
            train(replace(start, force=there.status()[0] == "complete" and not there.has_best()))
        train(run, start)
    except (Diverged, OSError, *USER_ERRORS) as error:
        log.error(sentence(error))
        status = 1 if isinstance(error, Diverged) else 2
    except Exception as error:
        log.error(out_of_memory(error) or traceback.format_exc())
        status = 1
    sweep.exit_statuses.append(status)
    return status


def cli() -> int:
    """Runs the command line's jobs; returns the exit status: 1 for a run that diverged, 2 for a user's mistake."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra raises its errors; they become one sentence here
    sweep.exit_statuses.clear()
    try:
        sys.argv[1:] = amend(sys.argv[1:], Path(__file__).parent / "conf")
        require_flags()
        sweep.require_sweep(sys.argv[1:])
        with composing():
            main()
    except (OSError, *USER_ERRORS) as error:
        log.error(sentence(error))
        return 2
    except Interrupted as error:
        log.info(f"interrupted: {error}; the same command (without force) resumes there")
        return 130
    except KeyboardInterrupt:
        log.info("interrupted before training began, or while its state was being written")
        return 130
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()  # its threads would abort a process that ends before them
    return max(sweep.exit_statuses, default=0)


if __name__ == "__main__":
    sys.exit(cli())
