"""How many adapters fit beside one base model: `python scripts/plan.py backbone=llama-7b method=lora memory=40`.

memory=GB (10⁹ bytes) must be given; base_bits=32, 16 or 4 and adapter_bits=32 or 16 are those of a parameter (16; QLoRA's
base 4). All other words are those of `train.py`, of which the backbone's architecture and the method are read:

    python scripts/plan.py backbone=roberta-large method=vera method.rank=256 memory=16 base_bits=32 adapter_bits=32
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import hydra  # noqa: E402

from analysis.planner import BASE_BITS, plan  # noqa: E402
from core.checks import above_zero, choose  # noqa: E402
from core.errors import USER_ERRORS, UserError, complain, composing, sentence  # noqa: E402
from experiments.config import from_hydra  # noqa: E402
from methods.qlora import QLoRA  # noqa: E402

MOST = 1e12  # GB
OWN = ("memory", "base_bits", "adapter_bits")


def gigabytes(word: str) -> float:
    """What `memory=` says."""
    try:
        memory = float(word)
    except ValueError:
        raise UserError(f"memory is '{word}'; give GB, as in memory=40") from None
    above_zero("memory", memory)
    if memory > MOST:
        raise UserError(f"memory is {memory:g} GB; give at most {MOST:g}")
    return memory


def planned(words: list[str]) -> dict[str, str]:
    """The table, line by line."""
    given = {key: value for key, _, value in (word.partition("=") for word in words) if key in OWN}
    memory = gigabytes(given.get("memory", ""))
    with composing(), hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        run = from_hydra(hydra.compose("config", [word for word in words if word.partition("=")[0] not in OWN]))
    base_bits = given.get("base_bits", "4" if isinstance(run.method, QLoRA) else "16")
    adapter_bits = given.get("adapter_bits", "16")
    choose("base_bits", base_bits, tuple(map(str, BASE_BITS)))
    choose("adapter_bits", adapter_bits, ("16", "32"))
    p = plan(run.backbone, run.method, memory * 1e9, int(base_bits), int(adapter_bits) // 8)
    return {
        "backbone": f"{run.backbone.name}, {base_bits} bits",
        "base parameters": f"{p.base_parameters:,}",
        "base bytes": f"{p.base_bytes:,}",
        "method": f"{run.method.name}, {adapter_bits} bits",
        "trained parameters": f"{p.trained:,}",
        "share of the base": f"{p.share:.3%}",
        "adapter parameters": f"{p.adapter_parameters:,}",
        "adapter bytes": f"{p.adapter_bytes:,}",
        "bytes shared by all": f"{p.shared_bytes:,}",
        f"adapters in {memory:g} GB": f"{p.adapters:,}",
    }


def main() -> int:
    try:
        table = planned(sys.argv[1:])
    except USER_ERRORS as error:
        complain(f"error: {sentence(error)}")
        return 2
    for name, value in table.items():
        print(f"{name:<22}{value:>24}")
    print("No activations, no KV cache, no classification heads: an upper bound.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
