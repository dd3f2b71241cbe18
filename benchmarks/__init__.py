"""Measurements in turns: our training step against peft's, latency, serving."""

import methods.qlora  # noqa: F401  (silences bitsandbytes, before transformers' Trainer imports it by way of peft)
