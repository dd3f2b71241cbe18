"""What the papers and posts claim, the experiment that tests each claim, and what our records say of it.

A claim is tested in one experiment on one backbone at a time, and its verdict follows from a rule, which the page prints.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import latency
from analysis.records import BACKBONES, TASKS, best, complete, has_collapsed, in_order, main_metric
from analysis.statistics import summarize
from analysis.tables import pick_rate
from core.io import write_text

HOLDS, FAILS, NOT_RUN, ELSEWHERE = "holds", "fails", "not yet run", "not tested here"
PAR = 1.0  # points of the main metric, times 100, that count as level; seeds alone may move more
TUNED = ("parikh_wu_table1_own_rates", "parikh_wu_table1_minilm")
RATES = ("learning_rates", "learning_rates_minilm")

Verdict = tuple[bool, str]  # whether it holds, and the figures
Test = Callable[
    [pd.DataFrame], Verdict | None
]  # on an experiment's complete runs of a backbone; None: runs are missing


@dataclass(frozen=True)
class Claim:
    """One row of `claims.md`.

    Attributes:
        text: as the source has it, in short.
        source: where it is claimed.
        experiments: names in `conf/experiment/`, each judged by itself; or, without a test, what would be one.
        rule: what has to be so for it to hold.
        test: None where this project does not test it, or by no runs.
        measured: backbone, whether it holds, and the figures, of what the script named in `experiments` measured.
    """

    text: str
    source: str
    experiments: tuple[str, ...]
    rule: str = ""
    test: Test | None = None
    measured: Callable[[], list[tuple[str, bool, str]]] | None = None

    def lines(self, frame: pd.DataFrame) -> list[tuple[str, str, str, str]]:
        """Experiment, backbone, verdict and figures, for every experiment and backbone that has the runs."""
        if self.test is None and self.measured is None:
            return [(self.experiments[0], "", ELSEWHERE, "")]
        verdicts = self.tested(frame) if self.test else [(self.experiments[0], *line) for line in self.measured()]
        lines = [
            (f"`{source}`", BACKBONES.get(backbone, backbone), HOLDS if holds else FAILS, figures)
            for source, backbone, holds, figures in verdicts
        ]
        return lines or [(f"`{self.experiments[0]}`", "", NOT_RUN, "")]

    def tested(self, frame: pd.DataFrame) -> list[tuple[str, str, bool, str]]:
        """Experiment, backbone, whether it holds, and figures."""
        runs = complete(frame, experiment=list(self.experiments)).groupby(["experiment", "backbone"])
        return [(*names, *verdict) for names, part in runs if (verdict := self.test(part)) is not None]


def score(runs: pd.DataFrame) -> float | None:
    """Median over seeds of the best main metric, times 100; None without runs."""
    values = [100 * best(h, main_metric(t)) for h, t in zip(runs["history"], runs["task"], strict=True)]
    return summarize(values).median if values else None


def compare(
    one: dict[str, Any], other: dict[str, Any], names: tuple[str, str], rule: Callable[[float, float], bool]
) -> Test:
    """Two selections of runs on every task that has both; the rule has to hold on each."""

    def test(runs: pd.DataFrame) -> Verdict | None:
        pairs = {}
        for task in in_order(runs["task"]):
            scores = [score(complete(runs, task=task, **where)) for where in (one, other)]
            if None not in scores:
                pairs[task] = scores
        if not pairs:
            return None
        figures = "; ".join(f"{TASKS[t]}: {names[0]} {a:.1f}, {names[1]} {b:.1f}" for t, (a, b) in pairs.items())
        return all(rule(*scores) for scores in pairs.values()), figures

    return test


def level_or_above(a: float, b: float) -> bool:
    return a >= b - PAR


def above(a: float, b: float) -> bool:
    return a > b + PAR


def level(a: float, b: float) -> bool:
    return abs(a - b) <= PAR


def one_rate_is_why(runs: pd.DataFrame) -> Verdict | None:
    """The gap at 4e-5 against the gap at the rates that held-out data choose; epochs are chosen on held-out data in both."""
    methods = {name: complete(runs, method=name, task="cola") for name in ("full", "lora")}
    same = {name: pick_rate(part[(part["learning_rate"] - 4e-5).abs() < 1e-9]) for name, part in methods.items()}
    own = {name: pick_rate(part) for name, part in methods.items()}
    if None in (*same.values(), *own.values()) or any(p["learning_rate"].nunique() < 3 for p in methods.values()):
        return None
    gap, own_gap = (picks["full"][1] - picks["lora"][1] for picks in (same, own))
    shown = {name: f"{value:.1f} ({rate:g})" for name, (rate, value) in own.items()}
    figures = (
        f"at 4e-5 LoRA {same['lora'][1]:.1f}, full FT {same['full'][1]:.1f} (gap {gap:.1f}); "
        f"at the rates that held-out data choose, LoRA {shown['lora']}, full FT {shown['full']} (gap {own_gap:.1f})"
    )
    return gap > PAR and own_gap < gap / 2, figures


def higher_rates(runs: pd.DataFrame) -> Verdict | None:
    picks = {name: pick[0] for name, part in runs.groupby("method", sort=False) if (pick := pick_rate(part))}
    if "full" not in picks or len(picks) < 2 or runs["learning_rate"].nunique() < 3:
        return None
    holds = all(rate >= 10 * picks["full"] for name, rate in picks.items() if name != "full")
    return holds, "; ".join(f"{name} {rate:g}" for name, rate in picks.items())


def cost(column: str, methods: list[str], holds: Callable[[float], bool]) -> Test:
    """Ratios to full fine-tuning on every task and machine that has all the methods; of memory, on GPUs alone."""

    def test(runs: pd.DataFrame) -> Verdict | None:
        if column == "peak_bytes":  # a CPU's resident memory holds the interpreter and says nothing of a GPU's
            runs = complete(runs, peak_kind="gpu_allocated")
        ratios = {}
        for (task, machine, precision), part in runs.groupby(["task", "hardware", "precision"]):
            values = {method: complete(part, method=method)[column].median() for method in ("full", *methods)}
            if all(map(pd.notna, values.values())):
                where = f"{TASKS[task]} ({machine}, {precision})"
                ratios |= {f"{method} on {where}": values[method] / values["full"] for method in methods}
        if not ratios:
            return None
        return all(map(holds, ratios.values())), "; ".join(f"{name}: {value:.2f}" for name, value in ratios.items())

    return test


def trained_share(runs: pd.DataFrame) -> Verdict | None:
    runs = complete(runs, method="lora")
    if runs.empty:
        return None
    share = (runs["parameters"] / runs["total"]).max()
    return share < 0.01, f"{100 * share:.2f} % of {runs['total'].max():,} parameters"


def fewest_parameters(runs: pd.DataFrame) -> Verdict | None:
    counts = runs.groupby("method")["parameters"].max().sort_values()
    if "vera" not in counts or len(counts) < 3:
        return None
    return counts.idxmin() == "vera", "; ".join(f"{name} {count:,}" for name, count in counts.items())


def lower_training_loss(runs: pd.DataFrame) -> Verdict | None:
    losses = runs.assign(loss=[history[-1]["train_loss"] for history in runs["history"]])
    medians = losses.groupby(["task", "method"])["loss"].median().unstack()
    if not {"full", "lora"} <= set(medians) or (medians := medians.dropna(subset=["full", "lora"])).empty:
        return None
    figures = "; ".join(
        f"{TASKS[task]}: full FT {row['full']:.3f}, LoRA {row['lora']:.3f}" for task, row in medians.iterrows()
    )
    return bool((medians["full"] < medians["lora"]).all()), figures


def one_epoch_is_best(runs: pd.DataFrame) -> Verdict | None:
    pairs = [(history, main_metric(task)) for history, task in zip(runs["history"], runs["task"], strict=True)]
    first = [h[0][m] == best(h, m) for h, m in pairs if len(h) > 1 and not has_collapsed(h, m)]
    if not first:
        return None
    share = sum(first) / len(first)
    return share > 0.5, f"the first epoch is the best one in {100 * share:.0f} % of {len(first)} runs"


def quantization_cost(runs: pd.DataFrame) -> Verdict | None:
    ratios = {}
    for (task, machine), part in complete(runs, peak_kind="gpu_allocated").groupby(["task", "hardware"]):
        lora, nf4 = complete(part, method="lora"), complete(part, method="qlora", quant_type="nf4")
        if len(lora) and len(nf4):
            memory = nf4["peak_bytes"].median() / lora["peak_bytes"].median()
            time = lora["samples_per_second"].median() / nf4["samples_per_second"].median()
            ratios[f"{TASKS[task]} ({machine})"] = (memory, time)
    if not ratios:
        return None
    figures = "; ".join(
        f"{where}: memory x {memory:.2f}, time x {time:.2f}" for where, (memory, time) in ratios.items()
    )
    return all(memory < 0.75 and time < 1.6 for memory, time in ratios.values()), figures


def alpha_is_twice_the_rank(runs: pd.DataFrame) -> Verdict | None:
    winners = {}
    for rank, part in runs.groupby("rank"):
        scores = {alpha: score(at) for alpha, at in part.groupby("alpha")}
        if len(scores) > 2 and 2 * rank in scores:
            winners[rank] = (max(scores, key=scores.get), max(scores.values()) - scores[2 * rank])
    if not winners:
        return None
    figures = "; ".join(f"r = {r:g}: best alpha {a:g}, {gap:.1f} above alpha = 2 r" for r, (a, gap) in winners.items())
    return all(gap <= PAR for _, gap in winners.values()), figures


def sgd_memory(runs: pd.DataFrame) -> Verdict | None:
    peaks = complete(runs, peak_kind="gpu_allocated").groupby("optimizer")["peak_bytes"].median()
    if len(peaks) < 2:
        return None
    saved = 1 - peaks["sgd"] / peaks["adamw"]
    return saved < 0.05, f"SGD's peak is {100 * saved:.1f} % below AdamW's"


def mnli_start_explains(runs: pd.DataFrame) -> Verdict | None:
    """On RTE: full fine-tuning gains by the start, and with it is level with LoRA's."""
    runs = complete(runs, task="rte")
    started, fresh = runs[runs["start"] == "mnli"], runs[runs["start"].isna()]
    cells = ((started, "full"), (fresh, "full"), (started, "lora"))
    full, plain, lora = (score(complete(part, method=method)) for part, method in cells)
    if None in (full, plain, lora):
        return None
    figures = f"full FT {plain:.1f} without, {full:.1f} from MNLI; LoRA {lora:.1f} from MNLI"
    return above(full, plain) and level_or_above(full, lora), figures


LORA, PARIKH, HILGART = "Hu et al. 2021", "Parikh and Wu", "Hilgart"
INSIGHTS, SLIDES = "lightning.ai, Insights from hundreds of experiments", "Satchanov, slides"
ALL_FOUR = {"target_modules": "query|key|value|attention.output.dense"}
QUERY_AND_VALUE = {"target_modules": "query|value"}
CLAIMS = (
    Claim(
        "LoRA performs on par with full fine-tuning or better",
        LORA,
        TUNED,
        f"on every task run, no more than {PAR:g} point below",
        compare({"method": "lora"}, {"method": "full"}, ("LoRA", "full FT"), level_or_above),
    ),
    Claim(
        "LoRA falls behind on CoLA at 4e-5, and better settings may mend it",
        PARIKH,
        RATES,
        "each at a rate of its own, less than half the gap is left",
        one_rate_is_why,
    ),
    Claim(
        "adapters want a learning rate ten times full fine-tuning's, or more",
        "table 9 of Hu et al. 2021 beside Parikh and Wu's 4e-5",
        RATES,
        "the rate that held-out data choose is at least ten times full fine-tuning's, for every method",
        higher_rates,
    ),
    Claim(
        "LoRA and DoRA train 15 to 50 % faster than full fine-tuning",
        PARIKH,
        ("training_cost",),
        "both at least 1.15 times its samples/s, on every task",
        cost("samples_per_second", ["lora", "dora"], lambda x: x >= 1.15),
    ),
    Claim(
        "LoRA trains 25 % faster (GPT-3 175B)",
        LORA,
        ("training_cost",),
        "at least 1.25 times its samples/s",
        cost("samples_per_second", ["lora"], lambda x: x >= 1.25),
    ),
    Claim(
        "LoRA and DoRA need 30 % less GPU memory",
        PARIKH,
        ("training_cost",),
        "on a GPU, peak at most 0.75 of its peak",
        cost("peak_bytes", ["lora", "dora"], lambda x: x <= 0.75),
    ),
    Claim(
        "LoRA needs up to two thirds less memory",
        LORA,
        ("training_cost",),
        "on a GPU, peak at most 0.4 of its peak",
        cost("peak_bytes", ["lora"], lambda x: x <= 0.4),
    ),
    Claim(
        "full fine-tuning reaches a lower training loss than LoRA",
        PARIKH,
        ("parikh_wu_table1", *TUNED),
        "on every task run, at the last epoch",
        lower_training_loss,
    ),
    Claim("a small share of the parameters is trained", LORA, TUNED, "below 1 % of all", trained_share),
    Claim(
        "VeRA trains fewer parameters than any other method here",
        "Kopiczko et al. 2023",
        TUNED,
        "the fewest",
        fewest_parameters,
    ),
    Claim(
        "QLoRA saves a third of the memory and costs about 30 % more time (its own figures say 50 %)",
        INSIGHTS,
        ("quantization",),
        "on a GPU, NF4's peak below 0.75 and its time below 1.6 of LoRA's on the same layers",
        quantization_cost,
    ),
    Claim(
        "QLoRA costs little quality",
        INSIGHTS,
        ("quantization",),
        f"no more than {PAR:g} point below LoRA on the same layers",
        compare({"method": "qlora", "quant_type": "nf4"}, {"method": "lora"}, ("QLoRA", "LoRA"), level_or_above),
    ),
    Claim(
        "alpha = 2 r is best",
        f"{HILGART}; {INSIGHTS}",
        ("rank_alpha",),
        f"at every rank within {PAR:g} point of the best alpha",
        alpha_is_twice_the_rank,
    ),
    Claim(
        "SGD saves little memory over AdamW",
        INSIGHTS,
        ("optimizers",),
        "on a GPU, less than 5 % of the peak",
        sgd_memory,
    ),
    Claim(
        "AdamW or SGD makes little difference",
        INSIGHTS,
        ("optimizers",),
        f"within {PAR:g} point, both with a cosine schedule",
        compare(
            {"optimizer": "sgd", "schedule": "cosine"},
            {"optimizer": "adamw", "schedule": "cosine"},
            ("SGD", "AdamW"),
            level,
        ),
    ),
    Claim(
        "more than one pass over the data makes results worse",
        INSIGHTS,
        TUNED,
        "the first epoch is the best one in most runs that did not collapse",
        one_epoch_is_best,
    ),
    Claim(
        "a rank of one or two suffices",
        LORA,
        ("lora_table6",),
        f"r = 2 no more than {PAR:g} point below r = 64, query and value",
        compare({"rank": 2, **QUERY_AND_VALUE}, {"rank": 64, **QUERY_AND_VALUE}, ("r = 2", "r = 64"), level_or_above),
    ),
    Claim(
        "better to adapt all matrices a little than one a lot",
        f"{LORA}, table 5",
        ("lora_table5",),
        f"all four at r = 2 more than {PAR:g} point above the query alone at r = 8",
        compare(ALL_FOUR, {"target_modules": "query"}, ("all four, r = 2", "query alone, r = 8"), above),
    ),
    Claim(
        "adapting every layer beats query and value",
        HILGART,
        ("target_modules",),
        f"by more than {PAR:g} point on every task run",
        compare({"target_modules": "."}, QUERY_AND_VALUE, ("every layer", "query and value"), above),
    ),
    Claim(
        "a start from MNLI, not the method, explains LoRA's lead on RTE",
        "fairseq issues 1166 and 1332",
        ("mnli_start",),
        f"full fine-tuning gains more than {PAR:g} point by the start, and with it is level with LoRA",
        mnli_start_explains,
    ),
    Claim(
        "adapters add latency where folded LoRA adds none",
        f"{LORA}, table 1",
        ("scripts/latency.py",),
        f"at every batch size and length, in the median of pairs, folded LoRA takes at most {latency.LEVEL:g} times as long "
        "as the plain model, and each kind of adapter longer",
        measured=latency.verdicts,
    ),
    Claim(
        "thousands of adapters can be served beside one model",
        f"S-LoRA, by {SLIDES}",
        ("`adapters_beside_a_model.md` counts their memory, `serving.md` times them",),
    ),
    Claim(
        "200 numbers tune RoBERTa to 90 % of full fine-tuning",
        f"Aghajanyan et al. 2020, by {SLIDES}",
        ("intrinsic dimension is no method here",),
    ),
)


def markdown(frame: pd.DataFrame) -> str:
    """The whole page."""
    lines = [
        "| claim | source | it holds if | tested by | backbone | verdict | figures |",
        "|---|---|---|---|---|---|---|",
    ]
    for claim in CLAIMS:
        for line in claim.lines(frame):
            lines.append("| " + " | ".join((claim.text, claim.source, claim.rule, *line)) + " |")
    table = "\n".join(lines)
    return f"""# Claims, and what our records say

Regenerated by `python scripts/make_tables.py`. The score of a method on a task is the median over seeds of its best
evaluation of the main metric, times 100. A verdict speaks for the backbone and the runs at hand, no further:
`*_statistics.md` says how many seeds there are. Two of them are drawn: [the learning rates](figures/learning_rates.png),
[speed and memory against quality](figures/front.png).

{table}
"""


def write_claims(frame: pd.DataFrame, folder: Path) -> Path:
    """`folder/claims.md`; returns its path."""
    write_text(folder / "claims.md", markdown(frame))
    return folder / "claims.md"
