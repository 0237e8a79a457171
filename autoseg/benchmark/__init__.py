"""Public challenge datasets, end to end."""
