"""What every method shares: configuration, backbone, batches, loop, meters, checkpoints, records."""
