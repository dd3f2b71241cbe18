"""The overlap of two adapters' subspaces (LoRA, section 7.2): from runs of `experiment=subspace` to a small record.

φ(A, A', i, j) = ‖U_iᵀ U'_j‖²_F / min(i, j), where U_i holds the top i right-singular vectors of A (rank, in). It is 1 if the
smaller subspace is within the other, and about max(i, j) / in for random ones.
"""

import itertools
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from analysis.records import RECORDS, ended
from core.errors import UserError
from core.io import read_tensors, write_json
from experiments.record import RECORD
from experiments.run_folder import BEST

NAME = "similarity.json"


def similarity(A: Tensor, other: Tensor) -> Tensor:
    """φ for every i and j, (rank, rank of the other).

    Args:
        A: (rank, in).
        other: (its rank, in).
    """
    U, V = (torch.linalg.svd(matrix.double(), full_matrices=False).Vh for matrix in (A, other))
    shared = (U @ V.T).square().cumsum(0).cumsum(1)
    i, j = torch.arange(1, len(U) + 1).unsqueeze(1), torch.arange(1, len(V) + 1)
    return shared / torch.minimum(i, j)


def adapters(run: Path) -> dict[str, dict[str, Tensor]]:
    """A of every adapted layer at the run's best, by kind of matrix and by layer name."""
    kinds: dict[str, dict[str, Tensor]] = {}
    for name, tensor in read_tensors(run / BEST)[0].items():
        if name.endswith(".A"):
            layer = name.removesuffix(".A")
            kinds.setdefault(layer.rpartition(".")[2], {})[layer] = tensor
    return kinds


def compare(folder: Path) -> list[dict[str, Any]]:
    """φ between every two runs below `folder`, averaged over layers, by kind of matrix.

    Raises:
        UserError: there are not two LoRA runs on one backbone and task.
    """
    runs = [
        (record, adapters(file.parent))
        for file, record in ended(sorted(folder.rglob(RECORD)))
        if (record["status"], record["method"], record["experiment"]) == ("complete", "lora", "subspace")
        and record["data"] != "generated"
    ]
    runs.sort(key=lambda run: (run[0]["config"]["method"]["rank"], run[0]["seed"]))
    pairs = []
    for (one, ours), (other, theirs) in itertools.combinations(runs, 2):
        if (one["backbone"], one["task"]) != (other["backbone"], other["task"]):
            continue
        for kind in ours:
            phi = torch.stack([similarity(A, theirs[kind][layer]) for layer, A in ours[kind].items()]).mean(0)
            pairs.append(
                {
                    "backbone": one["backbone"],
                    "task": one["task"],
                    "matrix": kind,
                    "runs": [{"rank": run["config"]["method"]["rank"], "seed": run["seed"]} for run in (one, other)],
                    "in_features": next(iter(ours[kind].values())).shape[1],
                    "phi": [[round(value, 3) for value in row] for row in phi.tolist()],
                }
            )
    if not pairs:
        raise UserError(
            f"{folder} holds no two finished LoRA runs of experiment=subspace on real data: train them with -m"
        )
    return pairs


def write_similarity(folder: Path, into: Path = RECORDS / "similarity") -> Path:
    """Writes `into/similarity.json`; returns its path."""
    write_json(into / NAME, compare(folder))
    return into / NAME


def read_similarity(folder: Path = RECORDS / "similarity") -> list[dict[str, Any]]:
    """What `write_similarity` wrote; empty if it did not."""
    file = folder / NAME
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
