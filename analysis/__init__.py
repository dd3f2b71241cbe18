"""From records to tables, figures and claims. Nothing here trains; it reads only records and published numbers."""
