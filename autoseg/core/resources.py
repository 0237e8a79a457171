"""Files that travel with the package: `rules/` and `datasets.json`."""

from pathlib import Path


def resource(name: str) -> Path:
    """Return the path of `rules` or `datasets.json`, installed from a wheel or in an editable checkout.

    Raises:
        FileNotFoundError: If the installation lacks it.
    """
    package = Path(__file__).resolve().parent.parent
    for folder in (package, package.parent):
        if (folder / name).exists():
            return folder / name
    raise FileNotFoundError(f"{name} must lie in or beside {package}, found neither. Reinstall autoseg.")
