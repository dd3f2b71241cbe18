"""GLUE: the table of tasks, their examples from three sources, their metrics, and submission files."""
