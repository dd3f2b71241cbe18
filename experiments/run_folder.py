"""A run's folder: its files, its lock, and whether its run is finished, damaged, or can be resumed.

While a run trains, one file holds all that it needs to resume: the checkpoint, which contains the best state so far. At the
end the checkpoint is unpacked, and the record is written last. So there is one rule: a valid checkpoint is resumed, a
damaged file is quarantined, and without a checkpoint the run starts again.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from filelock import FileLock, Timeout
from torch import Tensor, nn

from adapters.peft_format import write_adapter
from core.console import log, say
from core.errors import Damaged, Diverged, UserError
from core.io import (
    quarantine,
    read_group,
    read_header,
    read_own_tensors,
    tensor_digest,
    write_tensors,
    write_text,
)
from experiments.config import RunConfig
from experiments.record import COMMITTED, RECORD, origin, parse, read_own_record, write_record
from methods.base import Method, load_trained_state
from training.checkpoint import Checkpoint, group

CHECKPOINT = "checkpoint.safetensors"  # while the run is unfinished
BEST, LAST = "best.safetensors", "last.safetensors"  # the trained state at the best epoch, and at the end
PREDICTIONS = "predictions.jsonl"  # of the best epoch
ADAPTER = "adapter"  # a folder with the best state in PEFT's format
CONFIG = "config.yaml"
LOCK = ".lock"
LEASE = 120  # seconds: by then the server has released a dead machine's lock (NFS after 90)
OWN_WORDS = ("tags", "note")  # settings that a finished run keeps, whatever its command says now


class RunFolder:
    """The folder of the run with these settings; it need not exist.

    Attributes:
        committed: the path of the run's record under `paper_tables/records/`; None: such a record does not count.
    """

    def __init__(self, path: Path, config_hash: str, committed: Path | None = None):
        self.path, self.config_hash, self.committed = path, config_hash, committed
        self.checkpoint = path / CHECKPOINT

    @classmethod
    def of(cls, run: RunConfig) -> "RunFolder":
        counts = run.reuse_records and not run.force and run.init_from is None  # other weights may be there now
        folder = run.folder
        committed = COMMITTED / run.experiment / f"{folder.name}.json"
        return cls(folder, run.hash, committed if counts else None)

    # Reading

    def record(self) -> dict[str, Any] | None:
        """The run's record, if it has one.

        Raises:
            Damaged: it is not as it was written, or another run's.
        """
        return read_own_record(self.path, self.config_hash)

    def status(self) -> tuple[str, dict[str, Any] | None]:
        """The run's state in a word, and its record, if it has one that can be read.

        complete (here, or by a committed record), failed, running, interrupted (also when killed after it had begun), damaged
        (the record) or missing.
        """
        word, record = self._status_here()
        if word != "complete" and (committed := self.committed_record()):
            return "complete", committed
        return word, record

    def _status_here(self) -> tuple[str, dict[str, Any] | None]:
        try:
            record = self.record()
        except Damaged:
            return ("running" if self.is_locked() else "damaged"), None
        if record and record["status"] == "complete":
            return "complete", record
        if self.is_locked():
            return "running", record
        if record and record["status"] == "failed":
            return "failed", record
        has_begun = record or self.checkpoint.exists() or (self.path / CONFIG).exists()
        return ("interrupted" if has_begun else "missing"), record

    def committed_record(self) -> dict[str, Any] | None:
        """The run's record under `paper_tables/records/`, which another machine may have left: the run is finished."""
        if self.committed is None or not self.committed.exists():
            return None
        record = parse(self.committed)
        return record if record["status"] == "complete" and record["config_hash"] == self.config_hash else None

    def best(self) -> dict[str, Tensor]:
        """The trained state at the best epoch of a finished run.

        Raises:
            UserError: it is gone, damaged, or another run's.
        """
        if not (self.path / BEST).exists():
            raise UserError(f"{self.path} has lost its {BEST}: force=true trains the run again")
        try:
            return self._read_best()
        except Damaged as error:
            raise Damaged(f"{error}; force=true trains its run again") from error

    def _read_best(self) -> dict[str, Tensor]:
        return read_own_tensors(self.path / BEST, self.config_hash)[0]

    def has_best(self) -> bool:
        """Whether `best()` would succeed."""
        try:
            self.best()
        except UserError:
            return False
        return True

    def start(self) -> dict[str, Any] | None:
        """What the folder's run, finished or not, started from; None for pretrained weights."""
        if self.checkpoint.exists():
            return read_header(self.checkpoint)["identity"]["start"]
        record = self.record()
        return record["provenance"].get("start") if record else None

    def is_settled(self, record: dict[str, Any], force: bool, retry: bool) -> bool:
        """Whether the run that `record` describes is finished, so that there is nothing to train.

        Raises:
            UserError: it was finished on other data, or from other weights.
            Diverged: it failed before and would fail again.
        """
        try:
            earlier = self.record()
        except Damaged:
            return False
        if force or earlier is None or earlier["status"] == "interrupted":
            return False
        if retry and earlier["status"] == "failed":
            return False
        here, there = origin(record), origin(earlier)
        if odd := [key for key in ("data", "backbone", "start") if here[key] != there[key]]:
            raise UserError(
                f"{self.path} holds a run whose {odd[0]} differs: use another output_dir, or force=true to replace it"
            )
        if earlier["status"] == "failed":
            raise Diverged(f"{self.path} failed before: {earlier['reason']} (retry=true to train it again)")
        return True

    def show_finished(self, run: RunConfig) -> None:
        """Prints the score of the finished run, and where its record is. Warns if tags or note differ."""
        record, file = self.committed_record(), self.committed
        if record is None or file is None:
            record, file = self.record(), self.path / RECORD
        assert record is not None
        score = record["best"][record["metric"]]
        kept = [key for key in OWN_WORDS if getattr(run, key) and getattr(run, key) != record["config"].get(key)]
        stay = f"its {' and '.join(kept)} stay{'s' * (kept == ['note'])}: force=true trains it again"
        say(f"finished before: {record['metric']} {score:.4f} ({stay if kept else 'force=true to train it again'})")
        say(f"result: {file}")

    # Locking

    @contextmanager
    def locked(self, accelerator: Accelerator) -> Iterator[None]:
        """`lock`, held by the main process for all of them."""
        with self.lock() if accelerator.is_main_process else nullcontext():
            accelerator.wait_for_everyone()
            yield

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Gives this process the folder inside the context. Other processes wait; Slurm jobs give up after LEASE seconds.

        A killed process releases the lock.

        Raises:
            UserError: the folder cannot be made; another process has it, and this is a Slurm job.
        """
        lock = FileLock(self.path / LOCK)
        made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire(blocking=False)
        except Timeout:
            self._await(lock)
        except OSError as error:
            raise UserError(f"{self.path} cannot be written: {error.strerror}") from error
        try:
            yield
        except UserError:
            lock.release()
            self._remove_if_unused(made)
            raise
        finally:
            lock.release()

    def _await(self, lock: FileLock) -> None:
        held = f"{self.path} is being trained by another process"
        is_job = "SLURM_JOB_ID" in os.environ
        say(f"{held}; waiting" + f" {LEASE} seconds at most" * is_job)
        try:
            lock.acquire(timeout=LEASE if is_job else -1)
        except Timeout:
            raise UserError(
                f"{held}; a Slurm job waits {LEASE} seconds at most: run the same command again later"
            ) from None

    def _remove_if_unused(self, made: list[Path]) -> None:
        """Removes the lock and the folders `made` if a mistake ended the run before it wrote anything."""
        if made and [path.name for path in self.path.iterdir()] == [LOCK]:
            (self.path / LOCK).unlink()
            for folder in made:
                with suppress(OSError):  # another run is there by now
                    folder.rmdir()

    def is_locked(self) -> bool:
        """Whether a process trains in the folder now."""
        lock = FileLock(self.path / LOCK)
        if not (self.path / LOCK).exists():
            return False
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return True
        except OSError:  # a run that trains there reports it
            return False
        lock.release()
        return False

    # Writing, by the process that holds the lock

    def prepare(self, force: bool) -> None:
        """Quarantines what is damaged, or empties the folder with `force`."""
        if force:
            self._empty()
        readers = {RECORD: self.record, BEST: self._read_best, CHECKPOINT: self._read_checkpoint}
        for name, read in readers.items():
            try:
                if (self.path / name).exists():
                    read()
            except Damaged as error:
                quarantine(self.path / name, str(error))

    def begin(self, config: dict[str, Any]) -> None:
        """Writes the settings as YAML for human readers, and removes the record of an earlier try, which is out of date."""
        write_text(self.path / CONFIG, yaml.safe_dump(config, sort_keys=False))
        (self.path / RECORD).unlink(missing_ok=True)

    def _empty(self) -> None:
        """Removes all files except the lock. The record goes first: while it exists, the run counts as finished."""
        (self.path / RECORD).unlink(missing_ok=True)
        for path in self.path.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()

    def open_checkpoint(self, record: dict[str, Any]) -> Checkpoint | None:
        """The checkpoint that the run described by `record` resumes from; None: there is none.

        Raises:
            UserError: the checkpoint was written on other data, from other weights, or on another kind of machine.
        """
        self.identity = origin(record)
        if not self.checkpoint.exists():
            return None
        tensors, header = self._read_checkpoint()
        if odd := [key for key, value in header["identity"].items() if self.identity.get(key) != value]:
            raise UserError(
                f"{self.checkpoint} was written by a run whose {' and '.join(odd)} differs: resume with that, "
                "or start again with force=true"
            )
        return Checkpoint.from_tensors(tensors, header["progress"])

    def _read_checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, header = read_own_tensors(self.checkpoint, self.config_hash)
        if "best" not in header:
            raise Damaged(f"{self.checkpoint} is damaged: an earlier version wrote it, without the best state")
        return tensors, header

    def save(self, checkpoint: Checkpoint) -> None:
        """Replaces the checkpoint. If the new one has no best evaluation, the old one's is kept."""
        about: dict[str, Any] | None
        if checkpoint.best:
            best = pack(checkpoint.best.state, checkpoint.best.predictions)
            about = {"step": checkpoint.best.step, "sha256": tensor_digest(best)}
        elif self.checkpoint.exists():
            about, best = self._best_so_far()
        else:
            about, best = None, {}
        header = {
            "settings": self.config_hash,
            "identity": self.identity,
            "progress": checkpoint.progress,
            "best": about,
        }
        write_tensors(self.checkpoint, checkpoint.tensors() | best, header)

    def _best_so_far(self) -> tuple[dict[str, Any] | None, dict[str, Tensor]]:
        """The best evaluation in the checkpoint: its entry in the header, and its tensors. Nothing else is read."""
        about, tensors = read_header(self.checkpoint)["best"], read_group(self.checkpoint, "best/")
        if about and tensor_digest(tensors) != about["sha256"]:
            raise Damaged(f"{self.checkpoint} is damaged: its best state is not what was written")
        return about, tensors

    def unpack(self, is_complete: bool) -> None:
        """Writes the checkpoint's parts into the files of a finished run; the checkpoint stays until the record is written.

        Args:
            is_complete: the checkpoint is the run's last.
        """
        about, best = self._best_so_far() if self.checkpoint.exists() else (None, {})
        if about:
            write_tensors(self.path / BEST, group(best, "best/state"), self.identity | {"step": about["step"]})
            write_text(self.path / PREDICTIONS, bytes(best["best/predictions"].tolist()).decode())
        if is_complete:
            write_tensors(self.path / LAST, group(read_group(self.checkpoint, "model/"), "model"), self.identity)

    def write_adapter(self, model: nn.Module, method: Method, record: dict[str, Any]) -> None:
        """Loads the best state into the model, and writes it in PEFT's format; warns if PEFT would compute something else."""
        load_trained_state(model, self.best())
        try:
            write_adapter(self.path / ADAPTER, model, method, record)
        except UserError as error:
            log.warning(f"no {ADAPTER}/ for PEFT: {error}")

    def finish(self, record: dict[str, Any]) -> Path:
        """Writes the record, the last file of a run, and removes the checkpoint unless the run can be resumed."""
        path = write_record(self.path, record)
        if record["status"] != "interrupted":
            self.checkpoint.unlink(missing_ok=True)
        return path


def pack(state: dict[str, Tensor], predictions: str) -> dict[str, Tensor]:
    """A best evaluation as tensors of a checkpoint. The text is stored as bytes: safetensors limits a header's size."""
    text = torch.frombuffer(bytearray(predictions.encode()), dtype=torch.uint8)
    copies = {f"best/state/{name}": tensor.detach().cpu().clone() for name, tensor in state.items()}
    return copies | {"best/predictions": text}
