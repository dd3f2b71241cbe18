"""Claims that the published numbers themselves decide."""

import re

from analysis.arithmetic import Measured
from analysis.planner import parse
from analysis.reported import read_reported

SUMMARY = {  # Hilgart's comparisons: the rows of his table, this one over that one
    "LoRA r = 8 beside the base model": ("LoRA r = 8, q v", "base model"),
    "QLoRA beside LoRA, r = 8, q v": ("QLoRA r = 8, q v", "LoRA r = 8, q v"),
    "every layer beside q v, QLoRA r = 8": ("QLoRA r = 8, all", "QLoRA r = 8, q v"),
    "r = 256 beside r = 8, QLoRA on every layer": ("QLoRA r = 256, all", "QLoRA r = 8, all"),
}

ROBERTA = {"roberta-base": "RoBERTa-base", "roberta-large": "RoBERTa-large"}


def values(name: str) -> dict[tuple[str, str], str]:
    """The printed cells of `paper_tables/reported/NAME.csv`, by row and column."""
    reported = read_reported(name)
    return dict(zip(zip(reported["row"], reported["column"], strict=True), reported["value"], strict=True))


def dora_on_cola() -> Measured:
    """Parikh and Wu's text beside their table 1."""
    full, lora, dora = (values("parikh_wu_table1")[row, "cola"] for row in ("Full FT", "LoRA", "DoRA"))
    holds = abs(float(dora) - float(full)) < abs(float(dora) - float(lora))
    return [("roberta-base", holds, f"full FT {full}, LoRA {lora}, DoRA {dora}")]


def query_and_value() -> Measured:
    """The caption of LoRA's table 5 beside its numbers; the margin is their standard deviation over seeds."""
    cells, figures, verdicts = values("lora_table5"), [], []
    for column, margin in (("WikiSQL", 0.5), ("MNLI", 0.1)):
        ours, best = cells["W_q W_v, r = 4", column], max((v for (_, c), v in cells.items() if c == column), key=float)
        verdicts.append(float(ours) >= float(best) - margin)
        figures.append(f"{column}: {ours}, best {best}")
    return [("GPT-3", all(verdicts), "; ".join(figures))]


def more_places() -> Measured:
    """LoRA's table 15: is the largest number of trained places the best one?"""
    cells, figures = values("lora_table15"), []
    for kind in ("PreEmbed", "PreLayer"):
        for column in ("WikiSQL", "MNLI"):
            found = {row: float(text) for (row, name), text in cells.items() if name == column and row.startswith(kind)}
            best, largest = max(found, key=lambda row: found[row]), list(found)[-1]
            figures.append((best != largest, f"{column}: {best} {found[best]}, {largest} {found[largest]}"))
    return [("GPT-3", all(holds for holds, _ in figures), "; ".join(words for _, words in figures))]


def two_hundred() -> Measured:
    """The least d of Aghajanyan et al.'s table 1 on MRPC, SAID, to one digit."""
    cells = values("intrinsic_dimension")
    found = {name: cells[row, "MRPC, SAID"] for name, row in ROBERTA.items()}
    return [(name, round(int(d.replace(",", "")), -2) == 200, f"d90 {d}") for name, d in found.items()]


def summary() -> Measured:
    """Hilgart's summary beside his table, to the digits that it prints."""
    cells, figures, verdicts = values("adapters_beside_a_model"), [], []
    for (row, column), text in values("hilgart").items():
        if row not in SUMMARY or not text:
            continue
        this, that = (parse(cells[name, column])[0] for name in SUMMARY[row])
        number = this / that if column == "memory" else 100 * (this / that - 1)
        digits = len(text.partition(".")[2].rstrip("%x"))
        printed = float(re.sub(r"[~%x]", "", text))
        verdicts.append(round(number, digits) == printed)
        figures.append(f"{row}: {text} against {number:.1f}{text[-1]}")
    return [("Llama 7B", all(verdicts), "; ".join(figures))]
