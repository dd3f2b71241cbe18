"""What is measured by turns in one process or side by side: ours against peft, latency, serving."""
