"""Claims that arithmetic decides without a run, and the sampling error of the validation sets."""

import math

Measured = list[tuple[str, bool | None, str]]  # backbone, whether the claim holds, and the numbers
DEV_SETS = {  # examples, and about MiniLM's score by the task's main metric
    "rte": (277, 0.52),
    "mrpc": (408, 0.79),
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
    holds = abs(whole / adapter / 10_000 - 1) <= 0.1
    return [("GPT-3", holds, f"{whole / 1e9:.0f} GB over {adapter / 1e6:.2f} MB is {whole / adapter:,.0f}")]


def moment_bytes(rank: int) -> int:
    """AdamW's two moments in 16 bits: Llama 7B (32 layers, d = 4,096), query and value."""
    return 2 * 2 * lora_parameters(32, 2, 4_096, rank)


def moments() -> Measured:
    """Of r = 8."""
    size = moment_bytes(8)
    return [("Llama 7B", f"{size / 1e6:.2f}" == "16.78", f"{size // 4:,} numbers x 2 x 2 bytes = {size / 1e6:.2f} MB")]


def moments_grow() -> Measured:
    """What SGD without momentum does not keep, from the post's smallest rank to its largest."""
    sizes = {rank: moment_bytes(rank) / 1e6 for rank in (8, 16, 32, 64, 128, 256)}
    figures = "; ".join(f"r = {rank}: {size:,.1f} MB" for rank, size in sizes.items())
    return [("Llama 7B", sorted(sizes.values()) == list(sizes.values()), figures)]


def llama_parameters() -> Measured:
    """32 layers, d = 4,096, feed-forward 11,008, vocabulary 32,000 (embedding and head apart), RMSNorms without biases."""
    width, vocabulary = 4_096, 32_000
    layer = 4 * width**2 + 3 * width * 11_008 + 2 * width
    whole, adapter = 2 * vocabulary * width + 32 * layer + width, lora_parameters(32, 2, width, 8)
    holds = (whole, adapter) == (6_738_415_616, 4_194_304)
    return [("Llama 7B", holds, f"{adapter:,} of r = 8 on query and value beside {whole:,}")]


def dev_set_error(task: str) -> float:
    """Standard error, in points, of MiniLM's score on the task's validation set."""
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
