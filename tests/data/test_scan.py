from pathlib import Path

import numpy as np
import pytest

from autoseg.core.geometry import Geometry
from autoseg.data.scan import PIECE_BYTES, digest_of_scan
from tests.data.dicom_making import write_series


@pytest.mark.parametrize("place", [0, 5 * PIECE_BYTES, 10 * PIECE_BYTES - 1])
def test_another_scan_has_another_digest(tmp_path: Path, place: int) -> None:
    content = bytearray(10 * PIECE_BYTES)
    for name in ("first", "copied"):
        (tmp_path / name).write_bytes(content)
    content[place] = 1
    (tmp_path / "other").write_bytes(content)
    (tmp_path / "longer").write_bytes(bytes(10 * PIECE_BYTES + 1))
    first, copied, other, longer = (
        digest_of_scan([tmp_path / name]) for name in ("first", "copied", "other", "longer")
    )
    assert first == copied
    assert len({first, other, longer}) == 3
    assert digest_of_scan([tmp_path / "first", tmp_path / "other"]) != first


def test_another_series_has_another_digest(tmp_path: Path) -> None:
    """Of the same voxels, but with names of its own in each slice; hidden files do not count."""
    voxels, geometry = np.ones((3, 4, 4), np.int16), Geometry(spacing=(1.0, 1.0, 1.0))
    first, other = (write_series(tmp_path / name, voxels, geometry) for name in ("first", "other"))
    before = digest_of_scan([first])
    (first / ".hidden").touch()
    assert digest_of_scan([first]) == before
    assert digest_of_scan([other]) != before
    with pytest.raises(OSError, match="absent"):
        digest_of_scan([tmp_path / "absent"])
