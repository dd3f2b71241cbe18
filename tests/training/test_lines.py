"""The lines that a run prints."""

from training.lines import first_line, last_line
from training.settings import TrainerConfig


def test_steps_and_examples_are_counted_and_one_is_singular():
    settings = TrainerConfig(batch_size=1, learning_rate=1e-3, head_learning_rate=1e-3)
    line = first_line("lora on cola", 7, "cpu, fp32", settings, 1, 1, 1)
    assert line.endswith("; 1 step of 1 example, 1 step an epoch")
    line = first_line("lora on cola", 7, "cpu, fp32", settings, 1200, 9, 9)
    assert line.endswith("; 1,200 steps of 1 example, 9 steps an epoch")


def test_a_batch_has_no_more_examples_than_the_training_set():
    settings = TrainerConfig(batch_size=10**9, learning_rate=1e-3, head_learning_rate=1e-3)
    assert "; 3 steps of 40 examples, " in first_line("lora on cola", 7, "cpu, fp32", settings, 3, 1, 40)


def test_the_last_line_names_one_epoch_once():
    record = {
        "metric": "accuracy",
        "seconds": 5,
        "memory": {"peak_bytes": 10**9},
        "speed": {"samples_per_second": None},
    }
    best, other = {"epoch": 3.0, "accuracy": 0.75}, {"epoch": 2.0, "accuracy": 0.5}
    begin, end = "best accuracy 0.7500 at epoch 3", "; peak 1.0 GB; 5 s"
    lines = {
        "": None,
        ", the best on held-out data too": best,
        "; 0.5000 at epoch 2, the best on held-out data": other,
    }
    for words, selected in lines.items():
        assert last_line(record | {"best": best, "selected": selected}) == begin + words + end
