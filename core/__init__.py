"""What every room stands on, importing nothing of ours: errors, atomic files, checksums, the hub, seeds, redaction."""
