"""How many adapters fit beside one base model: `python scripts/plan.py backbone=llama-7b method=lora memory=40`.

memory=GB (10⁹ bytes) must be given. base_bits=32, 16 or 4 and adapter_bits=32 or 16 are bits of a parameter (default 16;
4 for QLoRA's base). All other words are overrides as for `train.py`; only backbone and method matter:

    python scripts/plan.py backbone=roberta-large method=vera method.rank=256 memory=16 base_bits=32 adapter_bits=32
"""

import sys

from analysis.planner import BASE_BITS, plan
from core.checks import number, one_of
from core.errors import UserError
from experiments.sweep import compose
from methods.qlora import QLoRA
from scripts.cli import command, parse

MOST = 1e12  # GB
OPTIONS = {"memory": None, "base_bits": None, "adapter_bits": "16"}


def gigabytes(word: str) -> float:
    """The value of `memory=`, in bytes."""
    try:
        memory = float(word)
    except ValueError:
        raise UserError(f"memory is '{word}'; give GB, as in memory=40") from None
    number(above=0, at_most=MOST)("memory", memory)
    return memory


def planned(words: list[str]) -> dict[str, str]:
    """The table's lines."""
    own, overrides = parse(words, OPTIONS, required=("memory",))
    memory = gigabytes(str(own["memory"]))
    run = compose(overrides)
    base_bits = own["base_bits"] or ("4" if isinstance(run.method, QLoRA) else "16")
    adapter_bits = own["adapter_bits"]
    one_of(*map(str, BASE_BITS))("base_bits", base_bits)
    one_of("16", "32")("adapter_bits", adapter_bits)
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


@command
def main(words: list[str]) -> None:
    for name, value in planned(words).items():
        print(f"{name:<22}{value:>24}")
    print("No activations, no KV cache, no classification heads: an upper bound.")


if __name__ == "__main__":
    sys.exit(main())
