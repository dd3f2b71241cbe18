"""From records to tables, figures and claims. Nothing here trains, and nothing is read but records and published numbers."""
