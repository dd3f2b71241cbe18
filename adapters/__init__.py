"""A trained state as others use it: PEFT's format, merged checkpoints, model cards."""
