"""The format in which others exchange adapters: PEFT's."""
