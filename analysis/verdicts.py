"""The rules that decide claims. Each takes an experiment's complete runs on one backbone, and gives a verdict with numbers.

Differences are paired by seed. A rule is met or missed if the whole 95 % interval lies on one side of its margin. Otherwise,
and without an interval, it is undecided.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd

from analysis.costs import by_seed, over_full
from analysis.records import (
    METHODS,
    TASKS,
    at_chosen_setting,
    chosen_scores,
    collapsed,
    complete,
    in_order,
    main_metric,
)
from analysis.statistics import LEAST, Summary, difference, interval, quotient, spread_interval, spread_ratio, summarize
from analysis.tables import pick_rate
from training.selection import best, selected

PAR = 1.0  # points (main metric x 100) within which two methods count as level
NF4 = {"method": "qlora", "quant_type": "nf4"}

Verdict = tuple[bool | None, str]  # whether it holds (None: undecided), and the numbers
Test = Callable[[pd.DataFrame], Verdict | None]  # None: runs are missing


def scores(runs: pd.DataFrame, task: str, **where: Any) -> dict[int, float]:
    """Scores by seed, times 100, at the setting and epoch that held-out data choose; empty without runs."""
    return chosen_scores(at_chosen_setting(complete(runs, task=task, **where)))


def all_of(verdicts: Iterable[bool | None]) -> bool | None:
    """Fails if one fails, holds if all hold, else undecided."""
    verdicts = list(verdicts)
    return False if False in verdicts else None if None in verdicts else True


def within(d: Summary, low: float = -math.inf, high: float = math.inf) -> bool | None:
    """Whether a mean lies between two margins; undecided if its interval reaches both sides of one."""
    if d.low is None or d.high is None:
        return None
    if d.low >= low and d.high <= high:
        return True
    return False if d.high < low or d.low > high else None


def level_or_above(d: Summary) -> bool | None:
    return within(d, low=-PAR)


def above(d: Summary) -> bool | None:
    return within(d, low=PAR)


def below(d: Summary) -> bool | None:
    return within(d, high=-PAR)


def level_or_below(d: Summary) -> bool | None:
    return within(d, high=PAR)


def level(d: Summary) -> bool | None:
    return within(d, -PAR, PAR)


def shown(d: Summary) -> str:
    """`-0.4 (-2.1 to 1.3, n = 5)`."""
    return f"{d.mean:+.1f} (" + (f"{interval(d)}, " if d.low is not None else "no interval, ") + f"n = {d.n})"


def paired(one: pd.DataFrame, other: pd.DataFrame) -> tuple[Summary, str] | None:
    """The difference of two selections of runs on a task, each at the setting that held-out data choose, and how it is shown.

    ‡N: N of the runs have collapsed.
    """
    parts = [at_chosen_setting(complete(runs)) for runs in (one, other)]
    if (d := difference(*map(chosen_scores, parts))) is None:
        return None
    dead = sum(map(collapsed, parts))
    return d, shown(d) + f" ‡{dead}" * (dead > 0)


def paired_by(runs: pd.DataFrame, task: str, one: dict[str, Any], other: dict[str, Any]) -> tuple[Summary, str] | None:
    """The difference of the runs that have one's values and those that have the other's, as `paired` has it."""
    return paired(complete(runs, task=task, **one), complete(runs, task=task, **other))


def judged(
    found: dict[str, tuple[Summary, str]], rule: Callable[[Summary], bool | None], what: str = ""
) -> Verdict | None:
    """The verdict of a rule that has to hold for each difference; None without any."""
    if not found:
        return None
    figures = "; ".join(f"{name}: {text}" for name, (_, text) in found.items())
    return all_of(rule(d) for d, _ in found.values()), what + figures


def compare(
    one: dict[str, Any], other: dict[str, Any], names: tuple[str, str], rule: Callable[[Summary], bool | None]
) -> Test:
    """Compares two selections of runs, paired by seed; the rule has to hold on every task that has both."""

    def test(runs: pd.DataFrame) -> Verdict | None:
        found = {TASKS[task]: pair for task in in_order(runs["task"]) if (pair := paired_by(runs, task, one, other))}
        return judged(found, rule, f"{names[0]} less {names[1]}: ")

    return test


def compare_methods(
    methods: tuple[str, ...], other: str, rule: Callable[[Summary], bool | None], only: str | None = None
) -> Test:
    """Compares several methods with one other, on every task or on one; the rule has to hold for each of them."""

    def test(runs: pd.DataFrame) -> Verdict | None:
        tasks = [task for task in in_order(runs["task"]) if only in (None, task)]
        found = {
            f"{METHODS[name]} on {TASKS[task]}": pair
            for task in tasks
            for name in methods
            if (pair := paired_by(runs, task, {"method": name}, {"method": other}))
        }
        return judged(found, rule, f"less {METHODS[other]}: ")

    return test


def with_at_most(share: float, method: str, other: str, test: Test) -> Test:
    """The test, if the method trains at most this share of the other's numbers in every run; else only its failure counts."""

    def both(runs: pd.DataFrame) -> Verdict | None:
        if (verdict := test(runs)) is None:
            return None
        own, theirs = (complete(runs, method=name)["parameters"] for name in (method, other))
        low, high = 100 * own.min() / theirs.max(), 100 * own.max() / theirs.max()
        figures = f"{verdict[1]}; it trains {low:.0f} to {high:.0f} % of {METHODS[other]}'s numbers"
        return (None if verdict[0] and high > 100 * share else verdict[0]), figures

    return both


def where_trained(test: Test) -> Test:
    """The test without settings that did not train: those whose every run gives every example the same answer."""

    def trained(runs: pd.DataFrame) -> Verdict | None:
        dead = runs.groupby("variant")["is_collapsed"].transform("all").astype(bool)
        return test(runs[~dead])

    return trained


def at_equal_rate(test: Test) -> Test:
    """The test on the runs at one rate, with the rate in its figures: at that of most runs, or if it lacks some, at another.

    Where only some settings were tried at a second rate, their better rate would be compared with the others' only one.
    """

    def at_one(runs: pd.DataFrame) -> Verdict | None:
        for rate in runs["learning_rate"].value_counts().index:
            if verdict := test(runs[runs["learning_rate"] == rate]):
                return verdict[0], f"at a rate of {rate:g}, {verdict[1]}"
        return None

    return at_one


def dora_like_full(runs: pd.DataFrame) -> Verdict | None:
    """On CoLA DoRA is level with full fine-tuning, and LoRA is behind."""
    full, lora, dora = (scores(runs, "cola", method=name) for name in ("full", "lora", "dora"))
    dora_gap, lora_gap = difference(dora, full), difference(lora, full)
    if dora_gap is None or lora_gap is None:
        return None
    return all_of((level(dora_gap), below(lora_gap))), f"less full FT: DoRA {shown(dora_gap)}; LoRA {shown(lora_gap)}"


def tuning_helps(runs: pd.DataFrame) -> Verdict | None:
    """At 4e-5 LoRA is behind full fine-tuning, and at the rate that held-out data choose above itself at 4e-5."""
    if any(runs[runs["method"] == name]["learning_rate"].nunique() < 3 for name in ("full", "lora")):
        return None
    lora, full = (complete(runs, method=name, task="cola") for name in ("lora", "full"))
    lora_at, full_at = (own[(own["learning_rate"] - 4e-5).abs() < 1e-9] for own in (lora, full))
    behind, gain, left = paired(lora_at, full_at), paired(lora, lora_at), paired(lora, full)
    if behind is None or gain is None or left is None:
        return None
    rates = at_chosen_setting(lora).iloc[0]
    figures = (
        f"LoRA less full FT at 4e-5: {behind[1]}; LoRA at {rates['learning_rate']:g} less LoRA at 4e-5: {gain[1]} "
        f"(its head's rate {rates['head_learning_rate']:g} in both); LoRA less full FT, each at its own rate: {left[1]}"
    )
    return all_of((below(behind[0]), above(gain[0]))), figures


def higher_rates(runs: pd.DataFrame) -> Verdict | None:
    """Every adapter's rate is at least ten times full fine-tuning's, on each task where each method has three rates."""
    searched = {task: searched_rates(runs, task) for task in in_order(runs["task"])}
    found = {task: rates for task, (rates, _) in searched.items() if "full" in rates and len(rates) > 1}
    if not found:
        return None
    seeds = min(searched[task][1] for task in found)
    listed = {
        task: ", ".join(f"{METHODS[name]} {rate:g}" for name, rate in rates.items()) for task, rates in found.items()
    }
    figures = (
        "; ".join(f"{TASKS[task]}: {text}" for task, text in listed.items()) + f" (each chosen on n = {seeds} or more)"
    )
    pairs = [(rate, rates["full"]) for rates in found.values() for name, rate in rates.items() if name != "full"]
    return (all(rate >= 10 * full for rate, full in pairs) if seeds >= LEAST else None), figures


def searched_rates(runs: pd.DataFrame, task: str) -> tuple[dict[str, float], int]:
    """The rates that held-out data choose, for methods with three rates or more; and the fewest seeds at one of these."""
    rates, seeds = {}, []
    for name, part in complete(runs, task=task).groupby("method", sort=False):
        if name != "head" and part["learning_rate"].nunique() >= 3:
            seeds.append(part.groupby("learning_rate")["seed"].nunique().min())
            if pick := pick_rate(part):
                rates[name] = pick[0]
    return rates, min(seeds, default=0)


def cost(column: str, methods: list[str], low: float = -math.inf, high: float = math.inf, gpu: bool = False) -> Test:
    """Ratios to full fine-tuning, paired over seeds, on every task and machine that has all the methods.

    Args:
        gpu: only on GPUs. A CPU's resident memory holds the interpreter, too, and says nothing of a GPU's.
    """

    def test(runs: pd.DataFrame) -> Verdict | None:
        if gpu:
            runs = gpu_runs(runs)
        found = {}
        for (task, machine, precision), part in runs.groupby(["task", "hardware", "precision"]):
            for method in methods:
                if s := over_full(part, method, column):
                    found[f"{METHODS[method]} on {TASKS[task]} ({machine}, {precision})"] = s
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
    with_head = 100 * (runs["trained"] / runs["total"]).max()
    return share < 0.01, f"{100 * share:.2f} % of {runs['total'].max():,} parameters; with the head {with_head:.2f} %"


def fewest_parameters(runs: pd.DataFrame) -> Verdict | None:
    counts = runs[runs["method"] != "head"].groupby("method")["parameters"].max().sort_values()
    if "vera" not in counts or len(counts) < 3:
        return None
    return counts.idxmin() == "vera", "; ".join(f"{METHODS[name]} {count:,}" for name, count in counts.items())


def loss_gap(runs: pd.DataFrame, task: str) -> Summary | None:
    """LoRA's training loss at the last epoch less full fine-tuning's."""
    losses = []
    for method in ("lora", "full"):
        part = at_chosen_setting(complete(runs, task=task, method=method))
        losses.append({run.seed: run.history[-1]["train_loss"] for run in part.itertuples()})
    return difference(*losses)


def lower_training_loss(runs: pd.DataFrame) -> Verdict | None:
    found = {task: d for task in in_order(runs["task"]) if (d := loss_gap(runs, task))}
    if not found:
        return None
    figures = "; ".join(f"{TASKS[task]}: {ratio(d)}" for task, d in found.items())
    return all_of(within(d, low=0) for d in found.values()), f"LoRA less full FT: {figures}"


def lower_loss_is_no_better(runs: pd.DataFrame) -> Verdict | None:
    """On some task full fine-tuning's training loss is lower and its score is not above LoRA's."""
    found = {}
    for task in in_order(runs["task"]):
        loss, gap = loss_gap(runs, task), difference(*(scores(runs, task, method=name) for name in ("lora", "full")))
        if loss and gap:
            found[task] = loss, gap
    if not found:
        return None
    verdicts = [all_of((within(loss, low=0), level_or_above(gap))) for loss, gap in found.values()]
    figures = "; ".join(f"{TASKS[task]}: loss {ratio(loss)}, score {shown(gap)}" for task, (loss, gap) in found.items())
    return True if True in verdicts else None if None in verdicts else False, f"LoRA less full FT: {figures}"


def easier_to_get_right(runs: pd.DataFrame) -> Verdict | None:
    """LoRA's scores vary less over seeds than full fine-tuning's, on every task."""
    found = {}
    for task in in_order(runs["task"]):
        lora, full = (list(scores(runs, task, method=name).values()) for name in ("lora", "full"))
        if lora and full and (r := spread_ratio(summarize(lora), summarize(full))):
            found[task] = r
    if not found:
        return None
    figures = "; ".join(f"{TASKS[task]}: x {r:.2f} ({low:.2f} to {high:.2f})" for task, (r, low, high) in found.items())
    verdicts = (True if high < 1 else False if low > 1 else None for _, low, high in found.values())
    return all_of(verdicts), f"LoRA's standard deviation over full FT's: {figures}"


def repeats_agree(runs: pd.DataFrame) -> Verdict | None:
    """LoRA's standard deviation over seeds is below the margin, on every task."""
    summaries = {
        task: summarize(list(x.values())) for task in in_order(runs["task"]) if (x := scores(runs, task, method="lora"))
    }
    found = {task: (s, ends) for task, s in summaries.items() if (ends := spread_interval(s))}
    if not found:
        return None
    figures = "; ".join(
        f"{TASKS[task]}: {s.std:.1f} ({low:.1f} to {high:.1f}, n = {s.n})" for task, (s, (low, high)) in found.items()
    )
    verdicts = (True if high < PAR else False if low > PAR else None for _, (low, high) in found.values())
    return all_of(verdicts), f"LoRA's standard deviation: {figures}"


def one_epoch_is_best(runs: pd.DataFrame) -> Verdict | None:
    """The first epoch is chosen in most runs of each seed. Runs of a seed share data order and head, so n counts seeds."""
    first: dict[int, list[bool]] = {}
    for seed, task, history in zip(runs["seed"], runs["task"], runs["history"], strict=True):
        metric = main_metric(task)
        top = selected(history, metric) or best(history, metric)
        if len(history) > 1 and not top["collapsed"]:
            first.setdefault(seed, []).append(top is history[0])
    if not first:
        return None
    share = summarize([100 * sum(each) / len(each) for each in first.values()])
    spread = "no interval"
    if share.low is not None:
        low, high = share.ends
        spread = f"{max(0.0, low):.1f} to {min(100.0, high):.1f}"
    of = f"{sum(map(sum, first.values()))} of {sum(map(len, first.values()))} runs"
    figures = (
        f"the first epoch is chosen in {of}, {share.mean:.1f} % of a seed's runs on average ({spread}, n = {share.n})"
    )
    return within(share, low=50), figures


def quantization_cost(runs: pd.DataFrame) -> Verdict | None:
    found = {}
    for (task, machine), part in gpu_runs(runs).groupby(["task", "hardware"]):
        lora, nf4 = (complete(part, **where) for where in ({"method": "lora"}, NF4))
        memory = quotient(by_seed(nf4, "peak_bytes"), by_seed(lora, "peak_bytes"))
        time = quotient(by_seed(lora, "samples_per_second"), by_seed(nf4, "samples_per_second"))
        if memory and time:
            found[f"{TASKS[task]} ({machine})"] = memory, time
    if not found:
        return None
    figures = "; ".join(
        f"{name}: memory x {ratio(memory)}, time x {ratio(time)}" for name, (memory, time) in found.items()
    )
    verdicts = [v for memory, time in found.values() for v in (within(memory, high=0.67), within(time, high=1.5))]
    return all_of(verdicts), figures


def twice_the_rank(
    rule: Callable[[Summary], bool | None], which: Callable[[float, float], bool], least: int = 1
) -> Test:
    """Compares alpha = 2 r with other alphas at each rank: those that `which(alpha, rank)` names, `least` or more of them."""

    def test(runs: pd.DataFrame) -> Verdict | None:
        found = {}
        for rank, part in runs.groupby("rank"):
            others = [alpha for alpha in sorted(set(part["alpha"])) if alpha != 2 * rank and which(alpha, rank)]
            for task in in_order(part["task"]):
                for alpha in others if len(others) >= least else ():
                    if pair := paired_by(part, task, {"alpha": 2 * rank}, {"alpha": alpha}):
                        found[f"r = {rank:g}, less alpha {alpha:g} on {TASKS[task]}"] = pair
        return judged(found, rule)

    return test


def query_and_value_lead(runs: pd.DataFrame) -> Verdict | None:
    """No other choice of matrices at the same budget is more than the margin above query and value."""
    found = {}
    for task in in_order(runs["task"]):
        for other in sorted(set(runs["target_modules"]) - {"query|value"}):
            if pair := paired_by(runs, task, {"target_modules": "query|value"}, {"target_modules": other}):
                found[f"{other.replace('|', ' ')} on {TASKS[task]}"] = pair
    return judged(found, level_or_above, "query and value less ")


def sgd_memory(runs: pd.DataFrame) -> Verdict | None:
    peaks = {name: part.set_index("seed")["peak_bytes"] for name, part in gpu_runs(runs).groupby("optimizer")}
    if len(peaks) < 2 or not len(saved := (100 - 100 * peaks["sgd"] / peaks["adamw"]).dropna()):
        return None
    found = summarize(saved.tolist())
    return within(found, high=5), f"SGD's peak is below AdamW's by {shown(found)} %"


def gpu_runs(runs: pd.DataFrame) -> pd.DataFrame:
    return complete(runs, peak_kind="gpu_allocated")


def mnli_start_explains(runs: pd.DataFrame) -> Verdict | None:
    """On RTE, full fine-tuning gains from the MNLI start, and with it is level with LoRA."""
    started, fresh = runs[runs["start"] == "mnli"], runs[runs["start"].isna()]
    full, plain = (scores(part, "rte", method="full") for part in (started, fresh))
    gain, gap = difference(full, plain), difference(full, scores(started, "rte", method="lora"))
    if gain is None or gap is None:
        return None
    return all_of((above(gain), level_or_above(gap))), f"full FT's gain {shown(gain)}; full FT less LoRA {shown(gap)}"
