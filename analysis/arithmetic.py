"""Claims that arithmetic decides without a run, and the sampling error of the validation sets."""

import math

Measured = list[tuple[str, bool | None, str]]  # backbone, whether the claim holds, and the numbers
DEV_SETS = {  # examples, and a typical score by the task's main metric
    "rte": (277, 0.6),
    "mrpc": (408, 0.85),
    "cola": (1043, 0.3),
    "stsb": (1500, 0.86),
}
ACCEPTABLE = 721 / 1043  # of CoLA's validation sentences


def lora_parameters(layers: int, matrices: int, width: int, rank: int) -> int:
    """Numbers in A (r, d) and B (d, r) for each of the square matrices (Hu et al. 2021, section 4.2)."""
    return layers * matrices * 2 * width * rank


def checkpoint() -> Measured:
    """GPT-3 (175 billion parameters, 96 layers, d = 12,288) beside r = 4 on query and value, both in 16 bits."""
    whole, adapter = 175e9 * 2, lora_parameters(96, 2, 12_288, 4) * 2
    holds = float(f"{whole / adapter:.0e}") >= 9_000
    return [("GPT-3", holds, f"{whole / 1e9:.0f} GB over {adapter / 1e6:.1f} MB is {whole / adapter:,.0f}")]


def moments() -> Measured:
    """Llama 7B (32 layers, d = 4,096), r = 8 on query and value, two moments in 16 bits."""
    parameters = lora_parameters(32, 2, 4_096, 8)
    size = 2 * 2 * parameters
    return [("Llama 7B", f"{size / 1e6:.2f}" == "16.78", f"{parameters:,} numbers x 2 x 2 bytes = {size / 1e6:.2f} MB")]


def dev_set_error(task: str) -> float:
    """Standard error, in points, of a typical score on the task's validation set."""
    examples, score = DEV_SETS[task]
    if task == "stsb":
        error = pearson_error(score, examples)
    elif task == "cola":
        error = matthews_error(score, ACCEPTABLE, examples)
    else:
        error = accuracy_error(score, examples)
    return 100 * error


def accuracy_error(share: float, examples: int) -> float:
    """Standard error of a share of n examples (binomial)."""
    return math.sqrt(share * (1 - share) / examples)


def pearson_error(r: float, examples: int) -> float:
    """(1 - r²) / √n, of pairs from a normal distribution (Fisher 1915)."""
    return (1 - r**2) / math.sqrt(examples)


def matthews_error(r: float, share: float, examples: int) -> float:
    """Standard error of a Matthews correlation, by the delta method on the multinomial table of labels and predictions.

    With φ(p) the Matthews correlation of the cell shares p, n·var = Σ p·g² - (Σ p·g)² where g = ∂φ/∂p.
    """
    both = share**2 + r * share * (1 - share)
    cells = [both, share - both, share - both, 1 - 2 * share + both]
    step, slopes = 1e-6, []
    for place in range(4):
        ends = [[p + sign * step * (place == at) for at, p in enumerate(cells)] for sign in (1, -1)]
        slopes.append((matthews(*ends[0]) - matthews(*ends[1])) / (2 * step))
    mean = sum(p * g for p, g in zip(cells, slopes, strict=True))
    return math.sqrt((sum(p * g**2 for p, g in zip(cells, slopes, strict=True)) - mean**2) / examples)


def matthews(a: float, b: float, c: float, d: float) -> float:
    """Matthews correlation of a table of two labels (rows a, b and c, d) by two predictions."""
    return (a * d - b * c) / math.sqrt((a + b) * (c + d) * (a + c) * (b + d))
