"""Everything about a run and its folder: settings, record, warm start, restored model, sweep, export."""
