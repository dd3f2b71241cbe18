"""GLUE: a table of tasks, their examples from three sources, their metrics."""
