"""Small networks for tests."""

from autoseg.plan.schema import NetworkPlan


def network_plan(**changes: object) -> NetworkPlan:
    """Return a plain 3D network of two stages, with changes."""
    tiny: dict[str, object] = {
        "kind": "plain",
        "num_input_channels": 1,
        "num_outputs": 3,
        "features": (4, 8),
        "strides": ((1, 1, 1), (2, 2, 2)),
        "kernels": ((3, 3, 3), (3, 3, 3)),
        "encoder_blocks": (1, 1),
        "decoder_convs": (1,),
        "norm_epsilon": 1e-5,
        "negative_slope": 0.01,
    }
    return NetworkPlan.model_validate({**tiny, **changes})


FLAT: dict[str, object] = {"strides": ((1, 1), (2, 2)), "kernels": ((3, 3), (3, 3)), "num_input_channels": 2}
"""What makes it 2D."""

ANISOTROPIC: dict[str, object] = {
    "features": (4, 6, 8),
    "strides": ((1, 1, 1), (1, 2, 2), (2, 2, 2)),
    "kernels": ((1, 3, 3), (1, 3, 3), (3, 3, 3)),
    "encoder_blocks": (1, 2, 2),
    "decoder_convs": (2, 1),
}
"""What makes it three stages for thick slices."""
