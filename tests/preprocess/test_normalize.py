import numpy as np
import pytest

from autoseg.preprocess.normalize import normalize, normalize_channel
from tests.preprocess.plans import channel

VALUES = np.array([[[0, 0, 10, 20], [30, 40, 0, 0]]], np.float32)
MASK = VALUES > 0


def test_ct_clips_shifts_and_scales_by_the_dataset() -> None:
    values = np.array([[[-1000, -50, 20, 150, 3000]]], np.float32)
    expected = np.array([[[-1.75, -1.75, 0, 3.25, 3.25]]])
    assert np.allclose(normalize_channel(values, values > 0, channel("ct")), expected)


def test_zscore_uses_the_whole_image() -> None:
    result = normalize_channel(VALUES, MASK, channel("zscore"))
    assert np.allclose(result, (VALUES - VALUES.mean()) / VALUES.std())


def test_zscore_within_the_mask_leaves_the_outside_zero() -> None:
    result = normalize_channel(VALUES, MASK, channel("zscore", within_mask=True))
    assert np.allclose(result[MASK], np.array([-15, -5, 5, 15]) / np.sqrt(125))
    assert (result[~MASK] == 0).all()


@pytest.mark.parametrize("scheme", ["zscore", "rescale_to_0_1"])
def test_a_constant_channel_becomes_zero(scheme: str) -> None:
    constant = np.full((2, 2, 2), 7, np.float32)
    entry = channel().model_copy(update={"scheme": scheme})
    assert (normalize_channel(constant, constant > 0, entry) == 0).all()


def test_an_empty_mask_gives_zeros() -> None:
    empty = np.zeros((2, 2, 2), np.float32)
    assert (normalize_channel(empty, empty > 0, channel("zscore", within_mask=True)) == 0).all()


def test_extremes_become_zero_and_one() -> None:
    result = normalize_channel(VALUES - 5, MASK, channel("rescale_to_0_1"))
    assert np.allclose(result, VALUES / 40)


def test_rgb_is_divided_by_255() -> None:
    assert np.allclose(normalize_channel(VALUES, MASK, channel("rgb_to_0_1")), VALUES / 255)


def test_each_channel_has_its_own_entry() -> None:
    result = normalize(np.stack([VALUES, VALUES]), MASK, (channel("none"), channel("rgb_to_0_1")))
    assert result.dtype == np.float32
    assert np.array_equal(result[0], VALUES)
    assert np.allclose(result[1], VALUES / 255)


def test_the_number_of_channels_must_agree() -> None:
    with pytest.raises(ValueError, match="argument 2"):
        normalize(VALUES[None], MASK, (channel(), channel()))
