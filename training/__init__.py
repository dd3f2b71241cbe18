"""Training, the same for every method: trainer, optimizers, evaluation, meters, checkpoints, tracking."""
