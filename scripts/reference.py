"""The outside check of our trainer: the same run by `transformers.Trainer`, its adapters from `peft`.

`python scripts/reference.py method=lora task=cola backbone=minilm data=local data.path=DIR trainer.learning_rate=1e-3`
takes train.py's overrides, for every method except LoRA-FA's second version, on one device. LoRA-FA is peft's LoRA with A
frozen, QLoRA peft's LoRA on bitsandbytes' own layers. Data, tokenizer, weights, the head's first values and metrics are those
of train.py, as are the optimizer's groups where the head has a rate of its own; all else is the libraries'.
`trainer.micro_batch_size`, `trainer.log_every`, `logger`, `experiment` and `force` change nothing here.

Prints an evaluation a line and, last, `result: PATH` of the record.
"""

import sys

from benchmarks.reference import reference
from experiments.sweep import compose
from scripts.cli import command


@command
def main(words: list[str]) -> None:
    reference(compose(words))


if __name__ == "__main__":
    sys.exit(main())
