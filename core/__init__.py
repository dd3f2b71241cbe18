"""What all rooms use: errors, console, checks of settings, atomic files, the hub, seeds, signals, redaction."""
