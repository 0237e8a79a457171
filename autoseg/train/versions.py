"""What computes a training, so that its record can say so."""

import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import torch

import autoseg

_SOURCE = Path(autoseg.__file__).resolve().parent.parent


def versions(source: Path = _SOURCE) -> dict[str, str]:
    """Return the versions of autoseg and of what it computes with, by name; in a checkout, its commit.

    Args:
        source: Folder that the package is in.
    """
    found = {
        "autoseg": autoseg.__version__,
        "commit": _commit(source),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": str(torch.backends.cudnn.version()) if torch.cuda.is_available() else None,  # type: ignore[no-untyped-call]
    }
    return {name: version for name, version in found.items() if version}


def _commit(source: Path) -> str | None:
    """Return the commit of a checkout, and `-dirty` behind it where files have changed since; None for none."""
    if shutil.which("git") is None or not (source / ".git").exists():
        return None
    described = subprocess.run(
        ["git", "--no-optional-locks", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],  # noqa: S607 - where it is is the user's choice
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or None
