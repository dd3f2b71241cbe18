"""A run from its settings to its folder: configuration, records, warm starts, restored models, sweeps."""
