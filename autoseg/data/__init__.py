"""Datasets as they lie on disk: reading, recognising, checking, splitting, storing."""
