"""What a run prints besides evaluations: a line at its start, one a minute in a log file, and one at its end."""

from typing import Any

from core.console import counted, duration
from training.settings import TrainerConfig

EVERY = 60.0  # seconds without a line, after which a log file gets one


def first_line(
    name: str, trained: int, machine: str, settings: TrainerConfig, steps: int, epoch_steps: int, examples: int
) -> str:
    """`lora on cola: 73,728 parameters train, without the head; cpu, fp32; learning rate 0.001; ...`."""
    rate, head_rate = settings.rates
    own = f" (the head's {head_rate:g})" if head_rate != rate else ""
    each = counted(min(settings.batch_size, examples), "example")
    return (
        f"{name}: {trained:,} parameters train, without the head; {machine}; learning rate {rate:g}{own}; "
        f"{counted(steps, 'step')} of {each}, {counted(epoch_steps, 'step')} an epoch"
    )


def minute_line(step: int, steps: int, loss: str, seconds_left: float) -> str:
    """`step 480 of 4,810: loss 0.411, 45 samples/s, about 12 min left`."""
    return f"step {step:,} of {steps:,}: {loss}, about {duration(seconds_left)} left"


def last_line(record: dict[str, Any]) -> str:
    """`best matthews_correlation 0.2767 at epoch 3; 45 samples/s; peak 1.1 GB; 12 min`."""
    metric, best, selected = record["metric"], record["best"], record["selected"]
    parts = [f"best {metric} {best[metric]:.4f} at epoch {best['epoch']:.3g}"]
    if selected and selected["epoch"] == best["epoch"]:
        parts[0] += ", the best on held-out data too"
    elif selected:
        parts.append(f"{selected[metric]:.4f} at epoch {selected['epoch']:.3g}, the best on held-out data")
    if speed := record["speed"]["samples_per_second"]:
        parts.append(f"{speed:.0f} samples/s")
    return "; ".join([*parts, f"peak {record['memory']['peak_bytes'] / 1e9:.1f} GB", duration(record["seconds"])])
