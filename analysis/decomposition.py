"""How far training moves a weight's magnitude and its direction (DoRA, arXiv 2402.09353, section 3.2): runs as small records.

  W0, W      a matrix before training and at the run's best epoch, (out, in); n counts its rows
  m = ‖W‖_c  the norm of each row, as methods/dora.py has it
  ΔM = mean over n of |m_n - m0_n|
  ΔD = mean over n of 1 - cos(W_n, W0_n)

The paper plots a point for each layer and step of training; a record has one for each layer. Its finding: over layers ΔM and
ΔD fall together under LoRA (correlation 0.83) and run against each other under full fine-tuning (-0.62) and DoRA (-0.31).
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from analysis.records import BACKBONES, METHODS, RECORDS, ended, measurements
from analysis.statistics import Summary, summarize
from analysis.verdicts import all_of, within
from core.errors import UserError
from experiments.record import RECORD
from experiments.restore import pretrained, restore
from methods.base import QUERY_AND_VALUE, matches

FOLDER = RECORDS / "decomposition"
COMPARED = ("full", "lora", "dora")
MATRIX = "query"  # the paper's figure 2


def change(W: Tensor, W0: Tensor) -> tuple[float, float]:
    """ΔM and ΔD; both matrices (out, in)."""
    W, W0 = W.double(), W0.double()
    moved = (W.norm(dim=1) - W0.norm(dim=1)).abs().mean()
    return float(moved), float((1 - F.cosine_similarity(W, W0, dim=1)).mean())


def matrices(model: nn.Module) -> dict[str, Tensor]:
    """The weights of the query and value layers, by name; of an adapted layer the effective weight."""
    found = model.named_modules()
    return {name: module.weight.detach() for name, module in found if matches(QUERY_AND_VALUE, name)}


def decompose(folder: Path) -> dict[str, Any]:
    """The record of one finished run."""
    restored = restore(folder)
    before = matrices(pretrained(folder, restored.run, restored.record).model)
    with torch.no_grad():
        changes = {name: change(W, before[name]) for name, W in matrices(restored.model).items()}
    record = restored.record
    named = ("method", "task", "backbone", "data", "seed", "experiment", "config_hash")
    kept = {key: record["provenance"][key] for key in ("git", "versions", "hardware")}
    rounded = {name: [float(f"{value:.6g}") for value in pair] for name, pair in changes.items()}
    return {key: record[key] for key in named} | {"provenance": kept, "decomposition": rounded}


def runs_below(folder: Path) -> list[Path]:
    """The folders of the finished runs of the compared methods, on real data.

    Raises:
        UserError: there are none.
    """
    found = [
        file.parent
        for file, record in ended(sorted(folder.rglob(RECORD)))
        if record["status"] == "complete" and record["method"] in COMPARED and record["data"] != "generated"
    ]
    if not found:
        raise UserError(f"{folder} holds no finished run of {', '.join(COMPARED)} on real data")
    return found


def read(folder: Path = FOLDER) -> list[dict[str, Any]]:
    """The records, sorted by backbone, task, method and seed."""
    order = ("backbone", "task", "experiment")
    return measurements(
        folder, "decomposition", lambda r: (*(r[key] for key in order), COMPARED.index(r["method"]), r["seed"])
    )


def points(record: dict[str, Any], matrix: str = MATRIX) -> np.ndarray:
    """ΔM and ΔD of each layer, (layers, 2)."""
    return np.array([pair for name, pair in record["decomposition"].items() if matrix in name.rpartition(".")[2]])


def correlations(records: list[dict[str, Any]], matrix: str = MATRIX, top: int | None = None) -> dict[str, Summary]:
    """By method: the correlation of ΔM and ΔD over a run's matrices of one kind, over seeds; `top`: of the first layers only.

    Mean and interval are of Fisher's z, the inverse hyperbolic tangent, and are transformed back: all are within 1.
    """
    found: dict[str, list[float]] = {}
    for record in records:
        r = float(np.corrcoef(points(record, matrix)[:top].T)[0, 1])
        found.setdefault(record["method"], []).append(float(np.arctanh(r)))
    return {method: back(summarize(values)) for method, values in found.items()}


def back(z: Summary) -> Summary:
    """The summary of Fisher's z as one of correlations; the deviation is that of z."""
    low, high = (None if end is None else float(np.tanh(end)) for end in (z.low, z.high))
    return replace(z, median=float(np.tanh(z.median)), mean=float(np.tanh(z.mean)), low=low, high=high)


def shown(s: Summary) -> str:
    """`-0.62 (-0.71 to -0.53, n = 5)`."""
    spread = "no interval" if s.low is None else f"{s.low:.2f} to {s.high:.2f}"
    return f"{s.mean:.2f} ({spread}, n = {s.n})"


def groups(records: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Those of one experiment on one task and backbone."""
    kept: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for record in records:
        kept.setdefault((record["backbone"], record["task"], record["experiment"]), []).append(record)
    return list(kept.values())


def verdicts() -> list[tuple[str, bool | None, str]]:
    """By backbone: whether the correlation is below 0 under full fine-tuning and DoRA, and above it under LoRA."""
    lines = []
    for group in groups(read()):
        found = correlations(group)
        if found.keys() >= set(COMPARED):
            signs = {"full": {"high": 0.0}, "lora": {"low": 0.0}, "dora": {"high": 0.0}}
            holds = all_of(within(found[method], **side) for method, side in signs.items())
            words = "; ".join(f"{METHODS[method]} {shown(found[method])}" for method in COMPARED)
            lines.append((group[0]["backbone"], holds, f"correlation over layers: {words}"))
    return lines


def title(group: list[dict[str, Any]]) -> str:
    first = group[0]
    return f"{BACKBONES[first['backbone']]}, {first['experiment']}"
