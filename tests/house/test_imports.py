"""What a mistake imports: it is told before anything that takes seconds."""

import json
import subprocess
import sys

import pytest
from support.command_line import ENVIRONMENT, ROOT

LATE = {"bitsandbytes", "datasets", "evaluate", "matplotlib", "pandas", "peft", "scipy", "sklearn", "wandb"}
CODE = """
import importlib, json, sys
for name, *words in json.loads(sys.argv[1]):
    sys.argv = [name, *words]
    module = importlib.import_module(name)
    assert (module.cli if name == "train" else module.main)() == 2, words
print(json.dumps([name for name in sys.modules if name.count(".") < 2]))
"""


@pytest.mark.parametrize(
    ("commands", "late"),
    [
        (
            [
                ("train", "method=lorra"),
                ("train", "method.rank=four"),
                ("train", "method.rank=0"),
                ("train", "seed=0,1"),
            ],
            {*LATE, "transformers.models"},
        ),
        (
            [
                ("scripts.export", "run=runs/x", "into=o", "form=adaptor"),
                ("scripts.export", "run=runs/x", "into=conf"),
                ("scripts.predict", "run=runs/x", "into=conf"),
                ("scripts.serve",),
                ("scripts.serve", "runs/x", "port=99999"),
            ],
            {*LATE, "torch", "transformers"},
        ),
    ],
    ids=["train", "scripts"],
)
def test_a_mistake_is_told_before_anything_heavy_is_imported(commands, late):
    words = [sys.executable, "-c", CODE, json.dumps(commands)]
    ended = subprocess.run(words, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("\n") == len(commands)
    assert late & set(json.loads(ended.stdout)) == set()
