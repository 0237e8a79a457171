"""What other programs import, and the page that shows it."""

import re
from pathlib import Path

import numpy as np
import pytest

from autoseg import api
from autoseg.core.geometry import Geometry
from autoseg.data.image import Image, write_image
from tests.pipeline.models import untrained

PAGE = Path(__file__).parent.parent / "docs" / "python.md"


def test_all_that_is_exported_is_there() -> None:
    assert sorted(api.__all__) == api.__all__
    assert all(hasattr(api, name) for name in api.__all__)


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    untrained(tmp_path / "autoseg_work", num_folds=1)
    array = np.random.default_rng(1).normal(1, 1, (1, 12, 14, 10)).astype(np.float32)
    write_image(tmp_path / "scans" / "anna.nii.gz", Image(array, Geometry(spacing=(2.0, 1.0, 1.0))))
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("(24, 20, 22)")
    assert printed[1] == "True"
    assert "anna.nii.gz" in printed[2]
    assert printed[3] == "True"
