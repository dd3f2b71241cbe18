"""Words that people know from other tools: accepted where the meaning is clear, else answered with the right setting."""

import re
import shlex
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from core.errors import UserError

Groups = Mapping[str, Sequence[str]]  # the choices of each group
OTHER_NAMES = {
    "lr": "trainer.learning_rate",
    "bs": "trainer.batch_size",
    "wd": "trainer.weight_decay",
    "r": "method.rank",
    "lora_r": "method.rank",
    "lora_alpha": "method.alpha",
    "model": "backbone",
    "dataset": "task",
    "learning_rate": "trainer.learning_rate",
    "epochs": "trainer.epochs",
    "num_train_epochs": "trainer.epochs",
    "batch_size": "trainer.batch_size",
    "per_device_train_batch_size": "trainer.batch_size",
    "weight_decay": "trainer.weight_decay",
    "methods": "method",
    "tasks": "task",
    "seeds": "seed",
    "gpu": "trainer.device",
    "wandb": "logger=none, logger=offline or logger=wandb",
    "resume": "nothing: the same command resumes a run",
}

TEXTS = (
    "output_dir",
    "init_from",
    "data.path",
    "backbone.source",
    "backbone.tokenizer",
    "logger.project",
    "logger.entity",
)


def quoted(word: str) -> str:
    """How `note=a, b: c` is typed in a shell, so that it is one text: `'note="a, b: c"'`."""
    name, _, value = word.partition("=")
    value = re.sub(r'\\+(?="|$)', r"\g<0>\g<0>", value).replace('"', '\\"')
    return shlex.quote(f'{name}="{value}"')


def right_name(name: str, settings: Mapping[str, Any]) -> str | None:
    """`trainer.batch_size` for `batch_size`: the right key for a setting given without its group, or by another name."""
    if (plain := name.rpartition(".")[2]) in OTHER_NAMES:
        return OTHER_NAMES[plain]
    places = [f"{group}.{name}" for group, part in settings.items() if isinstance(part, Mapping) and name in part]
    return " or ".join(places) or None


def amend(words: Sequence[str], conf: Path) -> list[str]:
    """The command line with choices spelt as their files are: `method=lora` for `method=LoRA`, in a sweep's lists too,
    with `tags=a,b` as the list that it means, and with `logger=none` for `~logger`.

    Args:
        conf: the folder with a folder for each group of choices.

    Raises:
        UserError: a setting is written as a flag, as in `--method lora`, a choice is taken away, or a note has a comma and no
            quotes.
    """
    groups = {
        folder.name: [file.stem for file in folder.glob("*.yaml")] for folder in conf.iterdir() if folder.is_dir()
    }
    amended = []
    for word, following in zip_longest(words, words[1:], fillvalue=""):
        refuse(word, following, groups)
        amended.append(spelt(word, groups))
    return amended if {"-m", "--multirun"}.isdisjoint(words) else for_each_cell(amended)


def refuse(word: str, following: str, groups: Groups) -> None:
    """Raises a UserError for a word that Hydra would take for something else."""
    name, _, value = word.partition("=")
    plain = name.lstrip("-").replace("-", "_")
    if word.startswith("-") and (plain in groups or plain in OTHER_NAMES):
        setting = plain if plain in groups else OTHER_NAMES[plain]
        raise UserError(f"settings have no dashes: write {setting}={value or following or 'VALUE'}")
    if name.lstrip("+~").startswith("hydra.sweeper.params"):
        raise UserError(f"{word}: a grid on the command line is written as its settings, as in -m seed=0,1")
    if name.lstrip("+") in groups and "=" in word and value.lower() in ("", "null"):
        raise UserError(f"{word} chooses no file: leave it out, or name one of conf/{name.lstrip('+')}/")
    if name.lstrip("+") in groups and value.startswith("[") and "," in value:  # Hydra would take the last one
        several = name.lstrip("+") + "=" + re.sub(r"[][\s]", "", value)
        raise UserError(f"{word}: it takes one value; for several runs give {several} without brackets, and -m")
    if word.startswith("~") and word[1:] in groups and word[1:] not in ("logger", "experiment", "profile"):
        raise UserError(f"{word}: a run has to have a {word[1:]}; choose one with {word[1:]}=NAME")
    if name == "note" and re.search(r"(?<!\\),", value) and value[0] not in "'\"[{":
        raise UserError(f"a note with a comma is written in quotes of its own: {quoted(word)}")


def spelt(word: str, groups: Groups) -> str:
    """The word as Hydra wants it."""
    if word == "~logger":
        return "logger=none"
    name, equals, value = word.partition("=")
    group = name.lstrip("+")  # Hydra's way to add a choice; here each has its place
    if group in groups and not equals:
        return group
    if group in groups:
        files = {choice.lower(): choice for choice in groups[group]}
        value = "".join(files.get(part.lower(), part) for part in re.split(r"([,()])", value))  # also of choice(a,b)
        return f"{group}={value if '(' in value else ','.join(dict.fromkeys(value.split(',')))}"
    return f"tags=[{value}]" if name == "tags" and value and "[" not in value else word


def for_each_cell(words: Sequence[str]) -> list[str]:
    """A sweep's command line, with a setting of the method as a choice of one: `method.bottleneck=choice(8)`.

    Before its cells, Hydra composes the sweep itself, with the default method, which may not have the setting.
    """
    return [_as_choice(word) if word.startswith("method.") else word for word in words]


def _as_choice(word: str) -> str:
    """A setting with one value as a choice of that one; other words as they are, for Hydra to judge."""
    name, _, value = word.partition("=")
    parser, choice = OverridesParser.create(), f"{name}=choice({value})"
    try:
        one, _ = parser.parse_overrides([word, choice])
        return word if one.is_sweep_override() else choice
    except HydraException:  # a mistake, or null, which cannot be chosen
        return word
