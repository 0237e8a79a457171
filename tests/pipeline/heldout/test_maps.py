from pathlib import Path

import pytest

from autoseg.core.errors import PredictionError
from autoseg.data.dataset import Case
from autoseg.pipeline.heldout import maps


def test_an_error_of_any_type_names_its_case(tmp_path: Path) -> None:
    image = tmp_path / "a.nii.gz"
    case = Case(name="a", images=(str(image),), label="a_seg.nii.gz", group="a")
    words = f"{image}: must be segmented and written, got KeyError: 'mean'. This is an error of autoseg"
    with pytest.raises(PredictionError, match=words), maps._named(case):
        raise KeyError("mean")
