import pytest

from autoseg.plan.accumulation import samples_at_once
from tests.preprocess.plans import configuration


@pytest.mark.parametrize(
    ("patch_size", "changes", "expected"),
    [
        ((64, 64, 64), {}, 5),
        ((100, 100, 75), {}, 2),
        ((100, 100, 76), {}, 1),
        ((64, 64, 64), {"batch_size": 3}, 3),
        ((400, 400, 400), {}, 1),
        ((64, 64, 64), {"batch_dice": True}, 8),
        ((64, 64, 64), {"has_ignored": True}, 8),
    ],
)
def test_as_many_samples_as_the_caches_serve(
    patch_size: tuple[int, ...], changes: dict[str, object], expected: int
) -> None:
    """Six million elements, of four channels."""
    made = configuration(patch_size=patch_size)
    made = made.model_copy(
        update={
            "batch_size": 8,
            "batch_dice": False,
            "network": made.network.model_copy(update={"features": (4, 8)}),
            **changes,
        }
    )
    assert samples_at_once(made, is_cpu=True) == expected
    assert samples_at_once(made, is_cpu=False) == made.batch_size
