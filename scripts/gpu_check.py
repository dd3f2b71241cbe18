"""The first minute on a GPU, in one command: `make gpu-check`, or `python scripts/gpu_check.py`.

Prints the machine and the versions, as a bug report needs them, and runs three checks, one after another:

    tests/training    what a CPU can show: every tensor follows its model's device, no step waits for the device, and what a
                      bf16 run stores
    tests/gpu         what only a GPU can: each method's run, resumed to the bit, against the CPU's losses; packed against
                      padded; CUDA graphs; no waiting; the meters
    a benchmark       LoRA at RoBERTa-base's shape, with random weights and generated data, against peft + Trainer

Without a GPU the first runs alone, and a sentence says so. The exit status is 1 if a check failed. Takes about three minutes.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from core.errors import UserError
from experiments.record import git_state, hardware, versions
from scripts.cli import command

ROOT = Path(__file__).parent.parent
ON_A_CPU = [f"tests/training/test_{name}.py" for name in ("devices", "synchronisation", "precision")]
CELL = "backbone=roberta-base backbone.random_init=true data=generated method=lora task=cola rounds=4".split()


def machine() -> list[str]:
    """One line for each fact."""
    facts = hardware() | {"commit": git_state()["commit"]}
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        facts |= {"gpus": torch.cuda.device_count(), "gpu memory": f"{properties.total_memory / 2**30:.1f} GiB"}
        facts |= {"capability": f"{properties.major}.{properties.minor}", "bf16": torch.cuda.is_bf16_supported()}
        facts |= {"cudnn": torch.backends.cudnn.version()}
    return [f"{name}: {value}" for name, value in (facts | versions()).items()]


def passes(*words: str) -> bool:
    """Runs a command of this environment in the repository."""
    print(f"\n$ python {' '.join(words)}", flush=True)
    return subprocess.run([sys.executable, *words], cwd=ROOT).returncode == 0


@command
def main(words: list[str]) -> None:
    if words:
        raise UserError(f"gpu_check.py takes no words: leave out {words[0]}")
    print(*machine(), sep="\n", flush=True)
    checks = {"what a CPU can show": ["-m", "pytest", *ON_A_CPU]}
    if torch.cuda.is_available():
        checks["what only a GPU can show"] = ["-m", "pytest", "tests/gpu"]
    else:
        print("\ntorch sees no GPU here: only what a CPU can show is checked", flush=True)
    failed = [what for what, check in checks.items() if not passes(*check)]
    if torch.cuda.is_available():
        with tempfile.TemporaryDirectory() as folder:
            if not passes("scripts/benchmark.py", *CELL, f"into={folder}"):
                failed.append("the benchmark")
    if failed:
        raise UserError(f"failed: {', '.join(failed)}; report it with all of the above")
    print("\nall checks passed")


if __name__ == "__main__":
    sys.exit(main())
