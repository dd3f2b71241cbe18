"""PEFT's adapter format, in which adapters are exchanged."""
