"""Many adapters beside one backbone: a batch whose rows belong to different adapters, in one forward pass."""
