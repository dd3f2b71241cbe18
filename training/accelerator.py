"""Device, processes and precision, and what a record says about them."""

import os
import re
from typing import Any

import psutil
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import TorchDynamoPlugin

from core.console import log
from core.errors import UserError
from training.settings import TrainerConfig


def make_accelerator(settings: TrainerConfig, deterministic: bool) -> Accelerator:
    """What the run trains on.

    Raises:
        UserError: the settings ask for a GPU, and there is none.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    has_gpu = torch.cuda.is_available() and settings.device != "cpu"
    if settings.device == "cuda" and not has_gpu:
        raise UserError("trainer.device is cuda, and torch sees no GPU here: use trainer.device=cpu")
    if settings.forward == "compiled" and not has_gpu:
        raise UserError("trainer.forward is compiled, which is for a GPU; on a CPU packed is faster: leave it out")
    if has_gpu:  # cuDNN's attention plans every new shape for tens of milliseconds, and each batch has a new shape
        torch.backends.cuda.enable_cudnn_sdp(False)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS needs it before its first call
    torch.use_deterministic_algorithms(deterministic)
    bf16 = settings.precision == "bf16" or (settings.precision == "auto" and has_gpu and torch.cuda.is_bf16_supported())
    # an earlier run of the same process may have set another precision or device; processes that train together share one
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    graphs = TorchDynamoPlugin(backend="inductor", mode="reduce-overhead", dynamic=True)
    accelerator = Accelerator(
        cpu=not has_gpu,
        mixed_precision="bf16" if bf16 else "no",
        dynamo_plugin=graphs if settings.forward == "compiled" else None,
    )
    if accelerator.num_processes < (asked := processes_asked()):
        log.warning(
            f"one process trains, not the {asked} of the command line: on a CPU `accelerate launch` starts several with "
            "--multi_gpu alone, in place of --cpu"
        )
    return accelerator


def processes_asked() -> int:
    """N of `accelerate launch --num_processes N`, which with `--cpu` starts one process whatever N is; else 1."""
    words = " ".join(psutil.Process().parent().cmdline())  # type: ignore[union-attr]  # every process has a parent
    asked = re.search(r"accelerate(?:\S*| )launch\S* .*--num[-_]processes[ =](\d+)", words)
    return int(asked[1]) if asked else 1


def describe_machine(accelerator: Accelerator) -> dict[str, Any]:
    """Device, precision and processes, once `auto` is settled."""
    return {
        "device": accelerator.device.type,
        "precision": "bf16" if accelerator.mixed_precision == "bf16" else "fp32",
        "processes": accelerator.num_processes,
    }
