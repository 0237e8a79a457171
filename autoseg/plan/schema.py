"""The plan: everything that preprocessing, training and prediction need to know, decided beforehand."""

from typing import Literal

from pydantic import JsonValue

from autoseg.core.artefact import Artefact, Record, digest_of
from autoseg.core.labels import Labels
from autoseg.core.orientation import Orientation

ConfigurationName = Literal["2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres"]
NormalizationScheme = Literal["ct", "zscore", "rescale_to_0_1", "rgb_to_0_1", "none"]


class ChannelNormalization(Record):
    """How the intensities of one channel become network input.

    Attributes:
        channel: Name of the channel.
        scheme: `ct` clips to [`lower`, `upper`], then subtracts `mean` and divides by `std`, all of the dataset's
            foreground; `zscore` uses mean and standard deviation of the image itself; `rescale_to_0_1` its extremes;
            `rgb_to_0_1` divides by 255; `none` leaves the values.
        within_mask: Whether `zscore` looks at, and changes, only voxels inside the non-zero mask.
        lower, upper, mean, std: Of the dataset's foreground, for `ct`; others depend on no other image.
    """

    channel: str
    scheme: NormalizationScheme
    within_mask: bool
    lower: float = 0.0
    upper: float = 0.0
    mean: float = 0.0
    std: float = 1.0


class ResamplingPlan(Record):
    """How arrays change their spacing.

    Attributes:
        image_order: Spline order for images.
        label_order: Spline order for each class of a label map.
        output_order: Spline order for network outputs on their way back.
        coarse_axis_order: Spline order along a coarse axis, which is resampled on its own.
        anisotropy_ratio: An axis is coarse if its spacing exceeds the finest by more than this factor.
    """

    image_order: int
    label_order: int
    output_order: int
    coarse_axis_order: int
    anisotropy_ratio: float


class NetworkPlan(Record):
    """The specification from which a network is built; enough to count its parameters, bytes and operations.

    Attributes:
        kind: `plain` stacks convolutions in the encoder, `residual` stacks residual blocks; both decode with plain
            convolutions.
        num_input_channels: Channels of the input.
        num_outputs: Channels of the output: classes, background included, or regions.
        features: Channels per stage, full resolution first.
        strides: Downsampling on entering each stage, per axis; the first is all ones.
        kernels: Size of the convolution kernels of each stage, per axis.
        encoder_blocks: Convolutions (plain) or residual blocks (residual) per stage.
        decoder_convs: Convolutions per decoder stage, full resolution first; one fewer than stages.
        norm_epsilon: Epsilon of the instance normalisation.
        negative_slope: Of the leaky ReLU.
    """

    kind: Literal["plain", "residual"]
    num_input_channels: int
    num_outputs: int
    features: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    encoder_blocks: tuple[int, ...]
    decoder_convs: tuple[int, ...]
    norm_epsilon: float
    negative_slope: float

    @property
    def num_axes(self) -> int:
        """2 or 3."""
        return len(self.strides[0])


class ConfigurationPlan(Record):
    """One way of looking at the data.

    Attributes:
        spacing: Of the network's input, transposed axes, in mm: three entries, or two for `2d`, whose slices keep their
            own distance.
        median_shape: Median shape of the cases at that spacing, in voxels.
        patch_size: Input of the network, in voxels; two entries for `2d`.
        batch_size: Patches per step.
        batch_dice: Whether the Dice loss pools the batch before it divides.
        mirror_axes: Axes of the patch along which training and prediction may mirror it.
        normalization: One entry per channel.
        resampling: How arrays change their spacing.
        network: Specification of the network.
        has_ignored: Whether label maps leave voxels without annotation, which count nowhere.
        regions: Class indices of the region that each output stands for; empty where outputs are classes.
        previous_stage: Configuration whose predictions are further input channels, one per foreground class; where
            outputs are regions, one per class that they are made of.
    """

    spacing: tuple[float, ...]
    median_shape: tuple[float, ...]
    patch_size: tuple[int, ...]
    batch_size: int
    batch_dice: bool
    mirror_axes: tuple[int, ...]
    normalization: tuple[ChannelNormalization, ...]
    resampling: ResamplingPlan
    network: NetworkPlan
    has_ignored: bool = False
    regions: tuple[tuple[int, ...], ...] = ()
    previous_stage: ConfigurationName | None = None

    @property
    def num_earlier_channels(self) -> int:
        """Input channels that show the previous stage's prediction; 0 where there is no such stage."""
        return self.network.num_input_channels - len(self.normalization)

    @property
    def data_key(self) -> str:
        """Name of the preprocessed data: equal for configurations that can share it."""
        parts = [self.spacing, [entry.model_dump() for entry in self.normalization], self.resampling.model_dump()]
        return f"{'x'.join(f'{size:.3g}' for size in self.spacing)}mm-{digest_of(parts)[:8]}"


class AugmentationPlan(Record):
    """Probabilities and ranges of the augmentations, in the order in which they are applied.

    Angles are in radians, standard deviations in units of the normalised image or in voxels, as each field says.
    """

    rotation_probability: float
    rotation_angle_3d: float
    rotation_angle_2d: float
    rotation_angle_2d_elongated: float
    elongation_ratio: float
    slicewise_ratio: float
    scaling_probability: float
    scaling_range: tuple[float, float]
    noise_probability: float
    noise_std_range: tuple[float, float]
    blur_probability: float
    blur_channel_probability: float
    blur_sigma_range: tuple[float, float]
    brightness_probability: float
    brightness_range: tuple[float, float]
    contrast_probability: float
    contrast_range: tuple[float, float]
    low_resolution_probability: float
    low_resolution_channel_probability: float
    low_resolution_range: tuple[float, float]
    gamma_inverted_probability: float
    gamma_probability: float
    gamma_range: tuple[float, float]
    mirror_probability: float
    earlier_reshaping_probability: float
    earlier_reshaping_class_probability: float
    earlier_reshaping_radius_range: tuple[float, float]
    earlier_removal_probability: float
    earlier_removal_class_probability: float
    earlier_removal_largest_share: float


class TrainingPlan(Record):
    """The recipe of a training.

    Attributes:
        optimizer: `sgd` with Nesterov momentum, or `adamw`.
        num_epochs: Length when neither epochs nor a budget is asked for.
        steps_per_epoch: Training steps in an epoch.
        validation_steps: Validation batches after an epoch.
        learning_rate: At the start of the schedule.
        momentum: Of SGD (first beta of AdamW).
        second_momentum: Second beta of AdamW.
        weight_decay: Of the optimiser.
        schedule_exponent: Learning rate is multiplied by (1 - progress) ** exponent.
        warmup_fraction: Share of the training in which the learning rate rises linearly.
        weight_average_decay: Of the moving average of the weights per step; 0 for none.
        weight_average_ramp_steps: The decay is at most (1 + step) / (ramp + step), so that early weights fade fast.
        gradient_clip: Largest norm of the gradient.
        foreground_fraction: Share of a batch that is centred on foreground.
        dice_smoothing: Added to numerator and denominator of the Dice loss.
        deep_supervision_decay: Weight of a decoder output's loss as a share of that of the next finer one.
        augmentation: Probabilities and ranges.
    """

    optimizer: Literal["sgd", "adamw"]
    num_epochs: int
    steps_per_epoch: int
    validation_steps: int
    learning_rate: float
    momentum: float
    second_momentum: float
    weight_decay: float
    schedule_exponent: float
    warmup_fraction: float
    weight_average_decay: float
    weight_average_ramp_steps: float
    gradient_clip: float
    foreground_fraction: float
    dice_smoothing: float
    deep_supervision_decay: float
    augmentation: AugmentationPlan


GaussianCentre = Literal["middle", "half"]
"""Where tiles weigh most: in their middle, or as in nnU-Net at voxel n/2 of n, past the middle where n is even."""


class InferencePlan(Record):
    """How scans are cut into tiles and put together again.

    Attributes:
        tile_step: Distance of neighbouring tiles, as a share of the patch.
        gaussian_sigma: Of the weight of a tile's voxels, as a share of the patch.
        gaussian_centre: Of that weight.
    """

    tile_step: float
    gaussian_sigma: float
    gaussian_centre: GaussianCentre = "middle"


class Alternative(Record):
    """A value that was tried and given up, and why."""

    value: JsonValue
    outcome: str


class Decision(Record):
    """Why a value of the plan is what it is.

    Attributes:
        configuration: That it belongs to; None for all of them.
        name: Of the value, as the plan has it.
        value: What was decided.
        reason: How the rule came to it, in a sentence.
        inputs: What the rule looked at, by name.
        rules: Constants that it used, by their key in `rules/`.
        source: Where the rule comes from.
        alternatives: What was tried before, in order.
    """

    configuration: ConfigurationName | None
    name: str
    value: JsonValue
    reason: str
    inputs: dict[str, JsonValue]
    rules: dict[str, JsonValue]
    source: str
    alternatives: tuple[Alternative, ...] = ()


class Plan(Artefact):
    """What to do about a dataset.

    Attributes:
        dataset: Its name.
        preset: Entry of `rules/presets.toml` that it was made for.
        channels: Names of the input channels.
        labels: Classes.
        transpose: Axes of the array as read, (z, y, x) = (0, 1, 2), in the order in which the network sees them; the
            axis of largest spacing comes first.
        orientation: Sides of the patient to which the axes as read, (z, y, x), run, such as `SPL`; scans that are
            stored another way are turned to it first. None takes every scan as it is stored.
        configurations: What can be trained, by name.
        training: The recipe.
        inference: Tiling.
        decisions: Why the values above are what they are; not part of the digest, as they change nothing.
    """

    dataset: str
    preset: str
    channels: tuple[str, ...]
    labels: Labels
    transpose: tuple[int, int, int]
    configurations: dict[ConfigurationName, ConfigurationPlan]
    training: TrainingPlan
    inference: InferencePlan
    orientation: Orientation | None = None
    decisions: tuple[Decision, ...] = ()

    def digest(self) -> str:
        """Return the digest of all but the decisions: equal plans are equal however they were come to."""
        return digest_of(self.model_dump(mode="json", exclude={"decisions"}))

    def model_digest(self, configuration: ConfigurationName) -> str:
        """Return the digest of what the networks of a configuration see and mean; a recipe changes nothing."""
        chosen = self.configurations[configuration].model_dump(
            mode="json", include={"spacing", "normalization", "resampling", "network", "regions", "previous_stage"}
        )
        seen = self.model_dump(mode="json", include={"channels", "labels", "transpose", "orientation"})
        return digest_of([chosen, seen])

    def recipe_digest(self, configuration: ConfigurationName) -> str:
        """Return the digest of all that the training of a configuration takes from the plan."""
        parts = (self.configurations[configuration], self.training)
        return digest_of([part.model_dump(mode="json") for part in parts])
