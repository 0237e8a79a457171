"""The command line: parse, call one function, print, exit code."""


def main() -> None:
    """Run the command line and end the process with its exit code."""
    # Worker processes import the script that was started, and with it this; they need no commands.
    from autoseg.cli.commands import main as run

    run()
