"""Measurements that are kept: run by `make` targets, never by CI."""
