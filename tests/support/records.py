"""Records of runs that nobody trained."""

from experiments.config import to_dict
from support.command_line import compose


def record(*overrides: str, scores=(0.5,), held_out=None, experiment="parikh_wu_table1_own_rates", **changes) -> dict:
    """A finished run of these settings, whose evaluations of the main metric are `scores`."""
    config = compose("backbone=roberta-base", *overrides)
    metric = config.task.row.metrics[0]
    history = [
        {"step": i, "epoch": float(i), "train_loss": 1 / i, "collapsed": score == 0}
        | dict.fromkeys(config.task.row.metrics, score)
        | ({"held_out": {metric: held_out[i - 1]}} if held_out else {})
        for i, score in enumerate(scores, 1)
    ]
    return {
        **{"schema": 2, "status": "complete", "reason": None, "method": config.method.name, "task": config.task.name},
        **{"backbone": config.backbone.name, "data": "hub", "seed": config.seed, "experiment": experiment},
        **{"metric": metric, "config": to_dict(config), "config_hash": config.hash, "history": history},
        "best": max(history, key=lambda entry: entry[metric]),
        "parameters": {"trained_without_head": 1000, "total": 10_000_000, "trained": 2000},
        "speed": {"samples_per_second": 10.0, "tokens_per_second": 100.0, "step_ms_median": 5.0},
        "memory": dict.fromkeys(("weights", "gradients", "optimizer", "activations", "peak_bytes"), 2**20)
        | {"peak_kind": "cpu_rss", "over_training": []},
        "provenance": {"hardware": {"device": "cpu", "cpu": "X", "threads": 1, "precision": "fp32"}},
    } | changes
