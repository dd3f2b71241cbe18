"""The lines that a run prints."""

from training.lines import first_line
from training.settings import TrainerConfig


def test_one_step_of_one_example_is_singular():
    settings = TrainerConfig(batch_size=1, learning_rate=1e-3, head_learning_rate=1e-3)
    assert first_line("lora on cola", 7, "cpu, fp32", settings, 1, 1).endswith("; 1 step of 1 example, 1 an epoch")
    assert first_line("lora on cola", 7, "cpu, fp32", settings, 1200, 9).endswith(
        "1,200 steps of 1 example, 9 an epoch"
    )
