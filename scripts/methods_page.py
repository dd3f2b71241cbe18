"""Writes `docs/methods.md` from the methods' docstrings: `python scripts/methods_page.py`; a test compares the two."""

import dataclasses
import html
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, AutoModelForSequenceClassification

import methods  # noqa: F401  (registers them)
from methods.base import REGISTERED, Method, parameter_counts
from methods.lora import LoRA
from methods.qlora import QLoRA
from scripts.cli import command, parse

ROOT = Path(__file__).parent.parent
ORDER = ("full", "lora", "dora", "lora_fa", "vera", "qlora")  # the title's, then all others by file
HEAD = """# Methods

Written by `python scripts/methods_page.py` from the docstrings of `methods/*.py`: each file holds its paper's equations
in the paper's letters, what the paper leaves open, and every deviation. What a method trains is counted on RoBERTa-base
at the method's own settings, without the head: every method trains that, 592,130 numbers more for two classes.
"""


def by_file() -> dict[str, list[type[Method]]]:
    """The registered methods of each module, the title's first."""
    files: dict[str, list[type[Method]]] = {}
    names = [*ORDER, *(name for name in REGISTERED if name not in ORDER)]
    for method in (REGISTERED[name] for name in names):
        files.setdefault(method.__module__, []).append(method)
    return files


def roberta() -> nn.Module:
    """RoBERTa-base's shapes."""
    config = AutoConfig.for_model(
        "roberta", vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, num_labels=2
    )
    return AutoModelForSequenceClassification.from_config(config)


def trained(method: type[Method]) -> int:
    """Of RoBERTa-base, without the head. No tensor has values, and nothing is computed."""
    own = method(name=method.name)
    with FakeTensorMode():
        model = roberta()
        if isinstance(own, QLoRA):  # its adapters are LoRA's, and bitsandbytes reads values
            LoRA.apply(own, model)
        else:
            own.apply(model)
    return parameter_counts(model, {})["trained_without_head"]


def settings(method: type[Method]) -> Iterator[str]:
    """A line for each setting that the method adds, or whose default it changes: name, default and meaning."""
    told: dict[str, str] = {}
    for parent in method.__mro__:  # a setting is described where it is added
        for name, text in re.findall(
            r"^ {4}(\w+): (.*(?:\n {8,}.*)*)", inspect.cleandoc(parent.__doc__ or ""), flags=re.M
        ):
            told.setdefault(name, text)
    inherited = {s.name: s.default for s in dataclasses.fields(method.__base__)}
    for setting in dataclasses.fields(method):
        if setting.name != "name" and inherited.get(setting.name, ...) != setting.default:
            text = re.sub(r"\s+", " ", told.get(setting.name, "")).replace("|", "\\|")
            yield f"| `method.{setting.name}` | {code(setting.default)} | {text} |"


def paragraph(block: str) -> list[str]:
    """Prose as it is; what is indented, equations and pictures, as code."""
    return ["```text", block, "```", ""] if re.search(r"^ ", block, flags=re.M) else [block, ""]


def code(text: object) -> str:
    if "|" not in str(text):
        return f"`{text}`"
    return f"<code>{html.escape(str(text)).replace('|', '&#124;')}</code>"  # a bar would end the table's cell


def markdown() -> str:
    """The whole page."""
    lines = [HEAD]
    for module, found in by_file().items():
        doc = inspect.getdoc(sys.modules[module]) or ""
        title, _, rest = doc.partition("\n")
        lines += [f"## {', '.join(dict.fromkeys(method.label for method in found))}", "", title, ""]
        lines += [line for block in re.split(r"\n{2,}", rest.strip("\n")) if block for line in paragraph(block)]
        for method in found:
            rate = f"learning rate {method.learning_rate:g}"
            if method.head_learning_rate:
                rate += f", the head's {method.head_learning_rate:g}"
            rate += " on RoBERTa-base"
            if (parent := method.__base__) in REGISTERED.values():
                rate += f"; the settings of {parent.label} too"
            about = re.sub(r"\s+", " ", (inspect.getdoc(method) or "").partition("Attributes:")[0]).strip()
            lines += [f"`method={method.name}`: trains {trained(method):,}; {rate}. {about}", ""]
            rows = list(settings(method))
            lines += ["| setting | default | |", "| --- | --- | --- |", *rows, ""] if rows else []
        lines += [f"Code: `{module.replace('.', '/')}.py`", ""]
    return "\n".join(lines).rstrip() + "\n"


@command
def main(words: list[str]) -> None:
    parse(words, {}, rest_are="none")
    file = ROOT / "docs" / "methods.md"
    file.write_text(markdown(), encoding="utf-8")
    print(file.relative_to(ROOT))


if __name__ == "__main__":
    sys.exit(main())
