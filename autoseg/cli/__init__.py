"""The command line: parse, call one function, print, exit code."""

from autoseg.cli.app import main

__all__ = ["main"]
