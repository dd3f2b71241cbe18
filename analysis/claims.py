"""What the papers and posts claim, the experiment that tests each claim, and what our records say of it.

A claim is tested backbone by backbone, and its verdict follows from a rule, which the page prints.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.records import BACKBONES, TASKS, best, complete, in_order, main_metric
from analysis.statistics import summarize
from analysis.tables import pick_rate
from training.files import write_text

HOLDS, FAILS, NOT_RUN = "holds", "fails", "not yet run"
ELSEWHERE = "not tested here"
PAR = 1.0  # points of the main metric, times 100: what seeds alone can move
TABLE1 = ["parikh_wu_table1", "parikh_wu_table1_tuned", "parikh_wu_table1_minilm"]
TUNED = TABLE1[1:]
RATES = ["learning_rates", "learning_rates_minilm"]

Verdict = tuple[bool, str]  # whether it holds, and the figures
Test = Callable[[pd.DataFrame], Verdict | None]  # on the complete runs of one backbone; None where runs are missing


@dataclass(frozen=True)
class Claim:
    """One row of `claims.md`.

    Attributes:
        text: as the source has it, in short.
        source: where it is claimed.
        experiment: the name in `conf/experiment/`, or what else would test it.
        rule: what has to be so for it to hold.
        test: None where this project does not test it yet.
    """

    text: str
    source: str
    experiment: str
    rule: str = ""
    test: Test | None = None

    def lines(self, frame: pd.DataFrame) -> list[tuple[str, str, str]]:
        """Backbone, verdict and figures, for every backbone that has the runs."""
        if self.test is None:
            return [("", ELSEWHERE, "")]
        lines = []
        for backbone, runs in complete(frame).groupby("backbone"):
            if (verdict := self.test(runs)) is not None:
                lines.append((BACKBONES.get(backbone, backbone), HOLDS if verdict[0] else FAILS, verdict[1]))
        return lines or [("", NOT_RUN, "")]


def score(runs: pd.DataFrame) -> float | None:
    """Median over seeds of the best main metric, times 100; None without runs."""
    values = [100 * best(h, main_metric(t)) for h, t in zip(runs["history"], runs["task"], strict=True)]
    return summarize(values).median if values else None


def by_task(runs: pd.DataFrame, one: dict, other: dict) -> dict[str, tuple[float, float]]:
    """Scores of two selections of runs on every task that has both."""
    pairs = {}
    for task in in_order(runs["task"]):
        at = runs[runs["task"] == task]
        scores = (score(complete(at, **one)), score(complete(at, **other)))
        if None not in scores:
            pairs[task] = scores
    return pairs


def show(pairs: dict[str, tuple[float, float]], one: str, other: str) -> str:
    """`CoLA: LoRA 40.1, full FT 41.2; ...`"""
    return "; ".join(f"{TASKS.get(t, t)}: {one} {a:.1f}, {other} {b:.1f}" for t, (a, b) in pairs.items())


def on_par(runs: pd.DataFrame) -> Verdict | None:
    pairs = by_task(complete(runs, experiment=TUNED), {"method": "lora"}, {"method": "full"})
    if not pairs:
        return None
    return all(lora >= full - PAR for lora, full in pairs.values()), show(pairs, "LoRA", "full FT")


def one_rate_is_why(runs: pd.DataFrame) -> Verdict | None:
    """The gap at 4e-5 against the gap where each method has the rate that held-out data choose for it."""
    runs = complete(runs, experiment=RATES, task="cola")
    methods = {name: complete(runs, method=name) for name in ("full", "lora")}
    same = {name: score(part[(part["learning_rate"] - 4e-5).abs() < 1e-9]) for name, part in methods.items()}
    picks = {name: pick_rate(part) for name, part in methods.items()}
    if (
        None in same.values()
        or None in picks.values()
        or any(part["learning_rate"].nunique() < 3 for part in methods.values())
    ):
        return None
    gap, own_gap = same["full"] - same["lora"], picks["full"][1] - picks["lora"][1]
    chosen = {name: f"{value:.1f} ({rate:g})" for name, (rate, value) in picks.items()}
    figures = (
        f"at 4e-5 LoRA {same['lora']:.1f}, full FT {same['full']:.1f} (gap {gap:.1f}); "
        f"at the rates that held-out data choose, LoRA {chosen['lora']}, full FT {chosen['full']} (gap {own_gap:.1f})"
    )
    return own_gap < gap / 2, figures


def higher_rates(runs: pd.DataFrame) -> Verdict | None:
    runs = complete(runs, experiment=RATES, task="cola")
    picks = {name: pick[0] for name, part in runs.groupby("method", sort=False) if (pick := pick_rate(part))}
    if "full" not in picks or len(picks) < 2 or runs["learning_rate"].nunique() < 3:
        return None
    figures = "; ".join(f"{name} {rate:g}" for name, rate in picks.items())
    return all(rate >= 10 * picks["full"] for name, rate in picks.items() if name != "full"), figures


def cost(column: str, methods: list[str], holds: Callable[[float], bool]) -> Test:
    """A ratio to full fine-tuning in `training_cost`, on every task and machine."""

    def test(runs: pd.DataFrame) -> Verdict | None:
        ratios = {}
        for (task, machine), part in complete(runs, experiment="training_cost").groupby(["task", "hardware"]):
            full = complete(part, method="full")[column].median()
            for method in methods:
                value = complete(part, method=method)[column].median() / full
                if pd.notna(value):
                    ratios[f"{method} on {TASKS[task]} ({machine})"] = value
        if not ratios:
            return None
        return all(map(holds, ratios.values())), "; ".join(f"{name}: {value:.2f}" for name, value in ratios.items())

    return test


def trained_share(runs: pd.DataFrame) -> Verdict | None:
    runs = complete(runs, experiment=TUNED, method="lora")
    if runs.empty:
        return None
    share = (runs["parameters"] / runs["total"]).max()
    return share < 0.01, f"{100 * share:.2f} % of {runs['total'].max():,} parameters"


def fewest_parameters(runs: pd.DataFrame) -> Verdict | None:
    counts = complete(runs, experiment=TUNED).groupby("method")["parameters"].max()
    if "vera" not in counts or len(counts) < 3:
        return None
    return counts.idxmin() == "vera", "; ".join(f"{name} {count:,}" for name, count in counts.sort_values().items())


def lower_training_loss(runs: pd.DataFrame) -> Verdict | None:
    runs = complete(runs, experiment=TABLE1)
    losses = runs.assign(loss=[history[-1]["train_loss"] for history in runs["history"]])
    medians = losses.groupby(["task", "method"])["loss"].median().unstack()
    if "full" not in medians or "lora" not in medians:
        return None
    medians = medians.dropna(subset=["full", "lora"])
    figures = "; ".join(
        f"{TASKS[task]}: full FT {row['full']:.3f}, LoRA {row['lora']:.3f}" for task, row in medians.iterrows()
    )
    return bool((medians["full"] < medians["lora"]).all()), figures


def one_epoch_is_best(runs: pd.DataFrame) -> Verdict | None:
    runs = complete(runs, experiment=TUNED)
    if runs.empty:
        return None
    first = [
        h[0][main_metric(t)] == best(h, main_metric(t)) for h, t in zip(runs["history"], runs["task"], strict=True)
    ]
    share = sum(first) / len(first)
    return share > 0.5, f"the first epoch is the best one in {100 * share:.0f} % of {len(first)} runs"


def quantization_cost(runs: pd.DataFrame) -> Verdict | None:
    runs = complete(runs, experiment="quantization")
    ratios = {}
    for task, part in runs.groupby("task"):
        lora, nf4 = complete(part, method="lora"), complete(part, method="qlora", quant_type="nf4")
        if len(lora) and len(nf4):
            memory = nf4["peak_bytes"].median() / lora["peak_bytes"].median()
            ratios[TASKS[task]] = (memory, lora["samples_per_second"].median() / nf4["samples_per_second"].median())
    if not ratios:
        return None
    figures = "; ".join(f"{task}: memory x {memory:.2f}, time x {time:.2f}" for task, (memory, time) in ratios.items())
    return all(memory < 0.75 and time < 1.6 for memory, time in ratios.values()), figures


def quantization_quality(runs: pd.DataFrame) -> Verdict | None:
    pairs = by_task(
        complete(runs, experiment="quantization"), {"method": "qlora", "quant_type": "nf4"}, {"method": "lora"}
    )
    return (all(q >= lora - PAR for q, lora in pairs.values()), show(pairs, "QLoRA", "LoRA")) if pairs else None


def alpha_is_twice_the_rank(runs: pd.DataFrame) -> Verdict | None:
    runs = complete(runs, experiment="rank_alpha")
    winners = {}
    for rank, part in runs.groupby("rank"):
        scores = {alpha: score(at) for alpha, at in part.groupby("alpha")}
        if len(scores) > 2 and 2 * rank in scores:
            winners[rank] = (max(scores, key=scores.get), max(scores.values()) - scores[2 * rank])
    if not winners:
        return None
    figures = "; ".join(f"r = {r:g}: best alpha {a:g}, {gap:.1f} above alpha = 2 r" for r, (a, gap) in winners.items())
    return all(gap <= PAR for _, gap in winners.values()), figures


def small_ranks_suffice(runs: pd.DataFrame) -> Verdict | None:
    runs = complete(runs, experiment="lora_table6", target_modules="query|value")
    pairs = by_task(runs, {"rank": [1, 2]}, {"rank": 64})
    return (
        (all(low >= high - PAR for low, high in pairs.values()), show(pairs, "r = 1 or 2", "r = 64")) if pairs else None
    )


def many_matrices(runs: pd.DataFrame) -> Verdict | None:
    runs = complete(runs, experiment="lora_table5")
    everything = "query|key|value|attention.output.dense"
    pairs = by_task(runs, {"target_modules": everything}, {"target_modules": "query"})
    return (
        (all(a > b for a, b in pairs.values()), show(pairs, "all four, r = 2", "query alone, r = 8")) if pairs else None
    )


def all_layers(runs: pd.DataFrame) -> Verdict | None:
    pairs = by_task(
        complete(runs, experiment="target_modules"), {"target_modules": "."}, {"target_modules": "query|value"}
    )
    return (all(a > b for a, b in pairs.values()), show(pairs, "every layer", "query and value")) if pairs else None


def sgd_memory(runs: pd.DataFrame) -> Verdict | None:
    runs = complete(runs, experiment="optimizers")
    peaks = runs.groupby("optimizer")["peak_bytes"].median()
    if len(peaks) < 2:
        return None
    saved = 1 - peaks["sgd"] / peaks["adamw"]
    return saved < 0.05, f"SGD's peak is {100 * saved:.1f} % below AdamW's"


def optimizers_alike(runs: pd.DataFrame) -> Verdict | None:
    runs = complete(runs, experiment="optimizers", schedule="cosine")
    pairs = by_task(runs, {"optimizer": "sgd"}, {"optimizer": "adamw"})
    return (all(abs(a - b) <= PAR for a, b in pairs.values()), show(pairs, "SGD", "AdamW")) if pairs else None


def mnli_start_helps(runs: pd.DataFrame) -> Verdict | None:
    runs = complete(runs, experiment="mnli_start", method="full", task=["mrpc", "rte", "stsb"])
    started, fresh = runs[runs["start"] == "mnli"], runs[runs["start"].isna()]
    pairs = {}
    for task in in_order(runs["task"]):
        scores = (score(started[started["task"] == task]), score(fresh[fresh["task"] == task]))
        if None not in scores:
            pairs[task] = scores
    return (
        ("rte" in pairs and pairs["rte"][0] > pairs["rte"][1] + PAR, show(pairs, "from MNLI", "without"))
        if pairs
        else None
    )


LORA, PARIKH, HILGART = "Hu et al. 2021", "Parikh and Wu", "Hilgart"
INSIGHTS, SLIDES = "lightning.ai, Insights from hundreds of experiments", "Satchanov, slides"
CLAIMS = (
    Claim(
        "LoRA performs on par with full fine-tuning or better",
        LORA,
        "parikh_wu_table1_tuned",
        f"on every task within {PAR:g} point or above",
        on_par,
    ),
    Claim(
        "LoRA falls behind on CoLA at 4e-5, and better settings may mend it",
        PARIKH,
        "learning_rates",
        "each at a rate of its own, less than half the gap is left",
        one_rate_is_why,
    ),
    Claim(
        "adapters want a learning rate ten times full fine-tuning's, or more",
        "table 9 of Hu et al. 2021 beside Parikh and Wu's 4e-5",
        "learning_rates",
        "the rate that held-out data choose is at least ten times full fine-tuning's, for every method",
        higher_rates,
    ),
    Claim(
        "LoRA and DoRA train 15 to 50 % faster than full fine-tuning",
        PARIKH,
        "training_cost",
        "both at least 1.15 times its samples/s, on every task",
        cost("samples_per_second", ["lora", "dora"], lambda x: x >= 1.15),
    ),
    Claim(
        "LoRA trains 25 % faster (GPT-3 175B)",
        LORA,
        "training_cost",
        "at least 1.25 times its samples/s",
        cost("samples_per_second", ["lora"], lambda x: x >= 1.25),
    ),
    Claim(
        "LoRA and DoRA need 30 % less GPU memory",
        PARIKH,
        "training_cost",
        "peak at most 0.75 of its peak",
        cost("peak_bytes", ["lora", "dora"], lambda x: x <= 0.75),
    ),
    Claim(
        "LoRA needs up to two thirds less memory",
        LORA,
        "training_cost",
        "peak at most 0.4 of its peak",
        cost("peak_bytes", ["lora"], lambda x: x <= 0.4),
    ),
    Claim(
        "full fine-tuning reaches a lower training loss than LoRA",
        PARIKH,
        "parikh_wu_table1",
        "on every task, at the last epoch",
        lower_training_loss,
    ),
    Claim(
        "a small share of the parameters is trained", LORA, "parikh_wu_table1_tuned", "below 1 % of all", trained_share
    ),
    Claim(
        "VeRA trains fewer parameters than any other method here",
        "Kopiczko et al. 2023",
        "parikh_wu_table1_tuned",
        "the fewest",
        fewest_parameters,
    ),
    Claim(
        "QLoRA saves a third of the memory and costs a third more time",
        INSIGHTS,
        "quantization",
        "NF4's peak below 0.75 and its time below 1.6 of LoRA's on the same layers",
        quantization_cost,
    ),
    Claim(
        "QLoRA costs little quality",
        INSIGHTS,
        "quantization",
        f"within {PAR:g} point of LoRA on the same layers",
        quantization_quality,
    ),
    Claim(
        "alpha = 2 r is best",
        f"{HILGART}; {INSIGHTS}",
        "rank_alpha",
        f"at every rank within {PAR:g} point of the best alpha",
        alpha_is_twice_the_rank,
    ),
    Claim("SGD saves little memory over AdamW", INSIGHTS, "optimizers", "less than 5 % of the peak", sgd_memory),
    Claim(
        "AdamW or SGD makes little difference",
        INSIGHTS,
        "optimizers",
        f"within {PAR:g} point, both with a cosine schedule",
        optimizers_alike,
    ),
    Claim(
        "more than one pass over the data makes results worse",
        INSIGHTS,
        "parikh_wu_table1_tuned",
        "the first epoch is the best one in most runs",
        one_epoch_is_best,
    ),
    Claim(
        "a rank of one or two suffices",
        LORA,
        "lora_table6",
        f"r = 1 or 2 within {PAR:g} point of r = 64, query and value",
        small_ranks_suffice,
    ),
    Claim(
        "better to adapt all matrices a little than one a lot",
        f"{LORA}, table 5",
        "lora_table5",
        "all four at r = 2 above the query alone at r = 8",
        many_matrices,
    ),
    Claim("adapting every layer beats query and value", HILGART, "target_modules", "on every task", all_layers),
    Claim(
        "a start from MNLI, not the method, explains LoRA's lead on RTE",
        "fairseq issues 1166 and 1332",
        "mnli_start",
        f"full fine-tuning gains more than {PAR:g} point on RTE",
        mnli_start_helps,
    ),
    Claim("adapters add latency where folded LoRA adds none", f"{LORA}, table 1", "a latency benchmark"),
    Claim(
        "thousands of adapters can be served beside one model",
        f"S-LoRA, by {SLIDES}",
        "adapters_beside_a_model for the memory; a serving benchmark for the speed",
    ),
    Claim(
        "200 numbers tune RoBERTa to 90 % of full fine-tuning",
        f"Aghajanyan et al. 2020, by {SLIDES}",
        "intrinsic dimension is no method here",
    ),
)


def markdown(frame: pd.DataFrame) -> str:
    """The whole page."""
    lines = [
        "| claim | source | tested by | it holds if | backbone | verdict | figures |",
        "|---|---|---|---|---|---|---|",
    ]
    for claim in CLAIMS:
        for backbone, verdict, figures in claim.lines(frame):
            cells = (
                claim.text,
                claim.source,
                f"`{claim.experiment}`" if claim.test else claim.experiment,
                claim.rule,
                backbone,
                verdict,
                figures,
            )
            lines.append("| " + " | ".join(cells) + " |")
    table = "\n".join(lines)
    return f"""# Claims, and what our records say

Regenerated by `python scripts/make_tables.py`. The score of a method on a task is the median over seeds of its best
evaluation of the main metric, times 100. A verdict speaks for the backbone and the runs at hand, no further:
`*_statistics.md` says how many seeds there are.

{table}
"""


def write_claims(frame: pd.DataFrame, folder: Path) -> Path:
    """`folder/claims.md`; returns its path."""
    write_text(folder / "claims.md", markdown(frame))
    return folder / "claims.md"
