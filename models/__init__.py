"""Pretrained encoders, batches, and the forward paths that run them."""
