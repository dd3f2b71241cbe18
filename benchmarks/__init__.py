"""Measurements in turns: our training step against peft's, latency, serving."""
