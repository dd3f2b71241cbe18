"""What the papers and posts claim, the experiment that tests each claim, and what our records say of it.

A claim is tested in one experiment on one backbone at a time, and its verdict follows from a rule, which the page prints.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from scipy import stats

from analysis import latency
from analysis.records import (
    BACKBONES,
    TASKS,
    at_chosen_setting,
    chosen_scores,
    complete,
    in_order,
    main_metric,
)
from analysis.statistics import LEAST, Summary, difference, interval, summarize
from analysis.tables import pick_rate
from core.io import write_text
from training.selection import best

HOLDS, FAILS, UNDECIDED = "holds", "fails", "undecided"
NOT_RUN, ELSEWHERE = "not yet run", "not tested here"
WORDS = {True: HOLDS, False: FAILS, None: UNDECIDED}
PAR = 1.0  # points of the main metric, times 100, that count as level
TUNED = ("parikh_wu_table1_own_rates", "parikh_wu_table1_minilm", "minilm")
RATES = ("learning_rates", "learning_rates_minilm", "minilm")

Verdict = tuple[bool | None, str]  # whether it holds (None: undecided), and the figures
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
    measured: Callable[[], list[tuple[str, bool | None, str]]] | None = None

    def lines(self, frame: pd.DataFrame) -> list[tuple[str, str, str, str]]:
        """Experiment, backbone, verdict and figures, for every experiment and backbone that has the runs."""
        if self.test:
            verdicts = self.tested(self.test, frame)
        elif self.measured:
            verdicts = [(self.experiments[0], *line) for line in self.measured()]
        else:
            return [(self.experiments[0], "", ELSEWHERE, "")]
        lines = [
            (source if "," in source else f"`{source}`", BACKBONES.get(backbone, backbone), WORDS[holds], figures)
            for source, backbone, holds, figures in verdicts
        ]
        return lines or [(f"`{self.experiments[0]}`", "", NOT_RUN, "")]

    def tested(self, test: Test, frame: pd.DataFrame) -> list[tuple[str, str, bool | None, str]]:
        """Experiment and its budget, backbone, whether it holds, and figures."""
        runs = complete(frame, experiment=list(self.experiments))
        lines = []
        for (experiment, backbone), part in runs.groupby(["experiment", "backbone"]):
            if (verdict := test(part)) is not None:
                epochs = sorted(set(part["epochs"]))
                budget = f"`{experiment}`, {' and '.join(map(str, epochs))} epochs"
                lines.append((budget if part["max_steps"].isna().all() else experiment, backbone, *verdict))
        return lines


def scores(runs: pd.DataFrame, task: str, **where: Any) -> dict[int, float]:
    """By seed, times 100, at the setting and the epoch that held-out data choose; empty without runs."""
    return chosen_scores(at_chosen_setting(complete(runs, task=task, **where), main_metric(task)), task)


def all_of(verdicts: Iterable[bool | None]) -> bool | None:
    """Fails with one that fails, holds if all hold, else undecided."""
    verdicts = list(verdicts)
    return False if False in verdicts else None if None in verdicts else True


def within(d: Summary, low: float = -math.inf, high: float = math.inf) -> bool | None:
    """Whether a mean lies between two margins, by its interval: undecided where that reaches both sides of one."""
    if d.low is None or d.high is None:
        return None
    if d.low >= low and d.high <= high:
        return True
    return False if d.high < low or d.low > high else None


def level_or_above(d: Summary) -> bool | None:
    return within(d, low=-PAR)


def above(d: Summary) -> bool | None:
    return within(d, low=PAR)


def level(d: Summary) -> bool | None:
    return within(d, -PAR, PAR)


def shown(d: Summary) -> str:
    """`-0.4 (-2.1 to 1.3, n = 5)`."""
    return f"{d.mean:+.1f} (" + (f"{interval(d)}, " if d.low is not None else "no interval, ") + f"n = {d.n})"


def compare(
    one: dict[str, Any], other: dict[str, Any], names: tuple[str, str], rule: Callable[[Summary], bool | None]
) -> Test:
    """Two selections of runs on every task that has both, paired over seeds; the rule has to hold on each task."""

    def test(runs: pd.DataFrame) -> Verdict | None:
        pairs = {task: (scores(runs, task, **one), scores(runs, task, **other)) for task in in_order(runs["task"])}
        found = {task: d for task, (a, b) in pairs.items() if (d := difference(a, b))}
        if not found:
            return None
        figures = "; ".join(f"{TASKS[task]}: {shown(d)}" for task, d in found.items())
        return all_of(map(rule, found.values())), f"{names[0]} less {names[1]}: {figures}"

    return test


def one_rate_is_why(runs: pd.DataFrame) -> Verdict | None:
    """A gap at 4e-5, and none at the rates that held-out data choose."""
    if any(runs[runs["method"] == name]["learning_rate"].nunique() < 3 for name in ("full", "lora")):
        return None
    at = runs[(runs["learning_rate"] - 4e-5).abs() < 1e-9]
    same, own = (
        difference(scores(part, "cola", method="lora"), scores(part, "cola", method="full")) for part in (at, runs)
    )
    if same is None or own is None:
        return None
    lora = at_chosen_setting(complete(runs, method="lora", task="cola"), main_metric("cola")).iloc[0]
    figures = (
        f"LoRA less full FT: at 4e-5 {shown(same)}; at the rates that held-out data choose {shown(own)}, "
        f"LoRA's {lora['learning_rate']:g} (its head's {lora['head_learning_rate']:g} at every rate)"
    )
    return all_of((within(same, high=-PAR), level_or_above(own))), figures


def higher_rates(runs: pd.DataFrame) -> Verdict | None:
    picks = {name: pick[0] for name, part in runs.groupby("method", sort=False) if (pick := pick_rate(part))}
    picks.pop("head", None)
    if "full" not in picks or len(picks) < 2 or runs["learning_rate"].nunique() < 3:
        return None
    holds = all(rate >= 10 * picks["full"] for name, rate in picks.items() if name != "full")
    seeds = runs.groupby(["method", "learning_rate"])["seed"].nunique().min()
    figures = "; ".join(f"{name} {rate:g}" for name, rate in picks.items())
    return holds if seeds >= LEAST else None, f"{figures} (n = {seeds})"


def cost(column: str, methods: list[str], low: float = -math.inf, high: float = math.inf) -> Test:
    """Ratios to full fine-tuning, paired over seeds, on every task and machine that has all the methods.

    Memory is judged on GPUs alone.
    """

    def test(runs: pd.DataFrame) -> Verdict | None:
        if column == "peak_bytes":  # a CPU's resident memory holds the interpreter and says nothing of a GPU's
            runs = gpu_runs(runs)
        found = {}
        for (task, machine, precision), part in runs.groupby(["task", "hardware", "precision"]):
            values = {name: complete(part, method=name).set_index("seed")[column] for name in ("full", *methods)}
            for method in methods:
                ratios = (values[method] / values["full"]).dropna()
                if len(ratios):
                    found[f"{method} on {TASKS[task]} ({machine}, {precision})"] = summarize(ratios.tolist())
        if not found:
            return None
        figures = "; ".join(f"{name}: {ratio(each)}" for name, each in found.items())
        return all_of(within(each, low, high) for each in found.values()), figures

    return test


def ratio(s: Summary) -> str:
    """`1.43 (1.38 to 1.48, n = 3)`."""
    return (
        f"{s.mean:.2f} (" + (f"{s.low:.2f} to {s.high:.2f}, " if s.low is not None else "no interval, ") + f"n = {s.n})"
    )


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
    found = {}
    for task in in_order(runs["task"]):
        losses = []
        for method in ("lora", "full"):
            part = at_chosen_setting(complete(runs, task=task, method=method), main_metric(task))
            losses.append({run.seed: run.history[-1]["train_loss"] for run in part.itertuples()})
        if d := difference(*losses):
            found[task] = d
    if not found:
        return None
    figures = "; ".join(f"{TASKS[task]}: {ratio(d)}" for task, d in found.items())
    return all_of(within(d, low=0) for d in found.values()), f"LoRA less full FT: {figures}"


def one_epoch_is_best(runs: pd.DataFrame) -> Verdict | None:
    pairs = [(history, main_metric(task)) for history, task in zip(runs["history"], runs["task"], strict=True)]
    first = [best(h, m) is h[0] for h, m in pairs if len(h) > 1 and not best(h, m)["collapsed"]]
    if not first:
        return None
    share = stats.binomtest(sum(first), len(first)).proportion_ci()
    holds = True if share.low > 0.5 else False if share.high < 0.5 else None
    figures = f"the first epoch is the best one in {100 * sum(first) / len(first):.0f} %"
    return holds, f"{figures} ({100 * share.low:.0f} to {100 * share.high:.0f}) of {len(first)} runs"


def quantization_cost(runs: pd.DataFrame) -> Verdict | None:
    found = {}
    for (task, machine), part in gpu_runs(runs).groupby(["task", "hardware"]):
        lora, nf4 = (complete(part, **where).set_index("seed") for where in ({"method": "lora"}, NF4))
        memory = (nf4["peak_bytes"] / lora["peak_bytes"]).dropna()
        time = (lora["samples_per_second"] / nf4["samples_per_second"]).dropna()
        if len(memory):
            found[f"{TASKS[task]} ({machine})"] = summarize(memory.tolist()), summarize(time.tolist())
    if not found:
        return None
    figures = "; ".join(
        f"{name}: memory x {ratio(memory)}, time x {ratio(time)}" for name, (memory, time) in found.items()
    )
    verdicts = [v for memory, time in found.values() for v in (within(memory, high=0.75), within(time, high=1.6))]
    return all_of(verdicts), figures


def alpha_is_twice_the_rank(runs: pd.DataFrame) -> Verdict | None:
    found = {}
    for rank, part in runs.groupby("rank"):
        others = [alpha for alpha in sorted(set(part["alpha"])) if alpha != 2 * rank]
        for task in in_order(part["task"]):
            twice = scores(part, task, alpha=2 * rank)
            for alpha in others if len(others) > 1 else ():
                if d := difference(twice, scores(part, task, alpha=alpha)):
                    found[f"r = {rank:g}, less alpha {alpha:g} on {TASKS[task]}"] = d
    if not found:
        return None
    figures = "; ".join(f"{name}: {shown(d)}" for name, d in found.items())
    return all_of(map(level_or_above, found.values())), figures


def sgd_memory(runs: pd.DataFrame) -> Verdict | None:
    peaks = {name: part.set_index("seed")["peak_bytes"] for name, part in gpu_runs(runs).groupby("optimizer")}
    if len(peaks) < 2 or not len(saved := (100 - 100 * peaks["sgd"] / peaks["adamw"]).dropna()):
        return None
    found = summarize(saved.tolist())
    return within(found, high=5), f"SGD's peak is below AdamW's by {shown(found)} %"


def gpu_runs(runs: pd.DataFrame) -> pd.DataFrame:
    return complete(runs, peak_kind="gpu_allocated")


def mnli_start_explains(runs: pd.DataFrame) -> Verdict | None:
    """On RTE: full fine-tuning gains by the start, and with it is level with LoRA's."""
    started, fresh = runs[runs["start"] == "mnli"], runs[runs["start"].isna()]
    full, plain = (scores(part, "rte", method="full") for part in (started, fresh))
    gain, gap = difference(full, plain), difference(full, scores(started, "rte", method="lora"))
    if gain is None or gap is None:
        return None
    return all_of((above(gain), level_or_above(gap))), f"full FT's gain {shown(gain)}; full FT less LoRA {shown(gap)}"


NF4 = {"method": "qlora", "quant_type": "nf4"}
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
        f"at 4e-5 more than {PAR:g} point below; at rates of their own no more than {PAR:g} point below",
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
        "both 1.15 to 1.5 times its samples/s, on every task",
        cost("samples_per_second", ["lora", "dora"], 1.15, 1.5),
    ),
    Claim(
        "LoRA trains 25 % faster (GPT-3 175B)",
        LORA,
        ("training_cost",),
        "at least 1.25 times its samples/s",
        cost("samples_per_second", ["lora"], 1.25),
    ),
    Claim(
        "LoRA and DoRA need 30 % less GPU memory",
        PARIKH,
        ("training_cost",),
        "on a GPU, peak at most 0.75 of its peak",
        cost("peak_bytes", ["lora", "dora"], high=0.75),
    ),
    Claim(
        "LoRA needs up to two thirds less memory",
        LORA,
        ("training_cost",),
        "on a GPU, peak at most 0.4 of its peak",
        cost("peak_bytes", ["lora"], high=0.4),
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
        compare(NF4, {"method": "lora"}, ("QLoRA", "LoRA"), level_or_above),
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
        "adapters add latency where merged LoRA adds none",
        f"{LORA}, table 1",
        ("scripts/latency.py",),
        "one example at a time, every adapter's interval lies above the plain model's time, and merged LoRA's, a plain "
        f"nn.Linear, nowhere above {latency.LEVEL:g} times it",
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


def sampling_error(share: float, examples: int) -> float:
    """Standard error of an accuracy of `share` from so many examples, in points (binomial)."""
    return 100 * math.sqrt(share * (1 - share) / examples)


def markdown(frame: pd.DataFrame) -> str:
    """The whole page."""
    dev_sets = ", ".join(
        f"{TASKS[task]}'s {examples} examples have a standard error of {sampling_error(share, examples):.1f} points"
        for task, examples, share in (("rte", 277, 0.6), ("mrpc", 408, 0.85))
    )
    lines = [
        "| claim | source | it holds if | tested by | backbone | verdict | figures |",
        "|---|---|---|---|---|---|---|",
    ]
    for claim in CLAIMS:
        for line in claim.lines(frame):
            lines.append("| " + " | ".join((claim.text, claim.source, claim.rule, *line)) + " |")
    table = "\n".join(lines)
    return f"""# Claims, and what our records say

Regenerated by `python scripts/make_tables.py`. Scores are the main metric on the validation set, times 100, at the
epoch that held-out data choose (a tenth of the training set is then not trained on). Differences are paired over seeds; in
brackets stand their 95 % t interval and the number of seeds. A claim holds or fails where the whole interval lies on one side
of its margin; else, and with fewer than three seeds, it is undecided. One task that fails is enough for "fails"; "holds"
needs all of them. A verdict speaks for the backbone and the budget that were run, no further.

The margin of {PAR:g} point is small beside the validation sets themselves: {dev_sets}.
Two claims are drawn: [the learning rates](figures/learning_rates.png), [speed and memory against quality](figures/front.png).

{table}
"""


def write_claims(frame: pd.DataFrame, folder: Path) -> Path:
    """`folder/claims.md`; returns its path."""
    write_text(folder / "claims.md", markdown(frame))
    return folder / "claims.md"
