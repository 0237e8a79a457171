"""A whole run: what is asked for, its trainings, what it has reached; how far a workspace is."""
