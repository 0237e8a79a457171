"""Types of the constants in `rules/`: one record per section, so that a wrong value is caught where it is read."""

from typing import Annotated, Literal

from pydantic import Field

from autoseg.core.artefact import Record
from autoseg.plan.schema import AugmentationPlan, ConfigurationName, InferencePlan, NormalizationScheme

Count = Annotated[int, Field(ge=1)]
Order = Annotated[int, Field(ge=0, le=5)]
Positive = Annotated[float, Field(gt=0)]
Ratio = Annotated[float, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class NetworkRules(Record):
    """`blueprint.toml [network]`: the template of every network."""

    kind: Literal["plain", "residual"]
    encoder_blocks: Annotated[tuple[Count, ...], Field(min_length=1)]
    decoder_convs: Count
    base_features: Count
    max_features_2d: Count
    max_features_3d: Count
    norm_epsilon: Positive
    negative_slope: Share


class TrainingRules(Record):
    """`blueprint.toml [training]`: the recipe, but for the augmentation."""

    optimizer: Literal["sgd", "adamw"]
    num_epochs: Count
    steps_per_epoch: Count
    validation_steps: Annotated[int, Field(ge=0)]
    learning_rate: Positive
    momentum: Annotated[float, Field(ge=0, lt=1)]
    second_momentum: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: Annotated[float, Field(ge=0)]
    schedule_exponent: Annotated[float, Field(ge=0)]
    warmup_fraction: Share
    weight_average_decay: Annotated[float, Field(ge=0, lt=1)]
    weight_average_ramp_steps: Ratio
    gradient_clip: Positive
    foreground_fraction: Share
    dice_smoothing: Annotated[float, Field(ge=0)]
    deep_supervision_decay: Annotated[float, Field(ge=0, le=1)]


class PaceRules(Record):
    """`blueprint.toml [fast]` and `[accurate]`: how carefully scans are predicted, if not as planned."""

    tile_step: Share
    mirror: bool
    exact: bool


class MergingRules(Record):
    """`blueprint.toml [merging]`: how much memory the merging of tiles may take."""

    memory_share: Share


class Blueprint(Record):
    """`blueprint.toml`: what is the same for every dataset."""

    network: NetworkRules
    training: TrainingRules
    augmentation: AugmentationPlan
    inference: InferencePlan
    fast: PaceRules
    accurate: PaceRules
    merging: MergingRules


class PresetRules(Record):
    """`inferred.toml [preset]`."""

    default: str


class OrientationRules(Record):
    """`inferred.toml [orientation]`."""

    max_turned_slices: Share


class TargetSpacingRules(Record):
    """`inferred.toml [target_spacing]`."""

    anisotropy_ratio: Ratio
    coarse_axis_percentile: Annotated[float, Field(ge=0, le=100)]
    min_excess_mm: Positive


class NormalizationRules(Record):
    """`inferred.toml [normalization]`."""

    schemes: dict[str, NormalizationScheme]
    default_scheme: NormalizationScheme
    mask_below_relative_size: Share


class ResamplingRules(Record):
    """`inferred.toml [resampling]`."""

    image_order: Order
    label_order: Annotated[int, Field(ge=0, le=1)]
    output_order: Order
    coarse_axis_order: Order
    anisotropy_ratio: Ratio


class PatchRules(Record):
    """`inferred.toml [patch]`."""

    initial_edge_2d: Count
    initial_edge_3d: Count


class TopologyRules(Record):
    """`inferred.toml [topology]`."""

    min_edge: Count
    lone_axis_min_edge: Count
    similar_spacing_ratio: Annotated[float, Field(gt=1)]


class SizingRules(Record):
    """`inferred.toml [sizing]`."""

    gpu_memory_gb: Positive
    reference_memory_gb: Positive
    reference_elements_2d: Positive
    reference_elements_3d: Positive
    reference_batch_2d: Count
    reference_batch_3d: Count
    guarded_batch_2d: Count
    guarded_batch_3d: Count


class BatchSizeRules(Record):
    """`inferred.toml [batch_size]`."""

    min: Count
    max_2d: Count
    max_3d: Count
    max_dataset_share: Annotated[float, Field(gt=0)]


class LowresRules(Record):
    """`inferred.toml [lowres]`."""

    min_patch_share: Share
    spacing_step: Annotated[float, Field(gt=1)]
    finer_axis_ratio: Ratio
    min_voxel_ratio: Ratio


class CostRules(Record):
    """`inferred.toml [cost]`: constants of the predictions of memory, time and disk."""

    program_gb_cpu: Positive
    program_gb_cuda: Positive
    workspace_gb_cuda: Positive
    fragmented_share_cpu: Share
    returned_mb_cpu: Positive
    loss_norms: Positive
    augmentation_norms: Positive
    optimizer_norms: Positive
    weight_norms: Positive
    scan_factor: Positive
    merging_norms: Positive
    export_norms: Positive


class BudgetRules(Record):
    """`inferred.toml [budget]`: how a plan makes the most of a given time."""

    widths: Annotated[dict[Count, Count], Field(min_length=1)]
    min_steps_of_more_patches: Count
    least_steps: Count
    num_epochs: Count
    min_steps_per_epoch: Count
    max_steps_per_epoch: Count
    validation_share: Share
    mirrored_share: Share
    prediction_margin: Ratio


class Inferred(Record):
    """`inferred.toml`: constants of the rules that read the fingerprint."""

    preset: PresetRules
    orientation: OrientationRules
    target_spacing: TargetSpacingRules
    normalization: NormalizationRules
    resampling: ResamplingRules
    patch: PatchRules
    topology: TopologyRules
    sizing: SizingRules
    batch_size: BatchSizeRules
    lowres: LowresRules
    budget: BudgetRules
    cost: CostRules


class CrossValidationRules(Record):
    """`empirical.toml [cross_validation]`."""

    num_folds: Annotated[int, Field(ge=2)]
    seed: Annotated[int, Field(ge=0)]


class RunRules(Record):
    """`empirical.toml [run]`: which configurations a run trains, and how they share its budget."""

    order: Annotated[tuple[ConfigurationName, ...], Field(min_length=1)]
    shares: dict[ConfigurationName, Positive]
    min_steps: Count
    prediction_margin: Ratio
    scoring_margin: Ratio
    starting_workers_s: Annotated[float, Field(ge=0)]
    num_pictures: Count
    picture_s: Annotated[float, Field(ge=0)]


class EvaluationRules(Record):
    """`empirical.toml [evaluation]`: constants of the scores and of their intervals."""

    tolerance_mm: Annotated[float, Field(ge=0)]
    min_lesion_iou: Annotated[float, Field(gt=0, le=1)]
    confidence: Annotated[float, Field(gt=0, lt=1)]
    num_resamples: Count
    seed: Annotated[int, Field(ge=0)]


class SelectionRules(Record):
    """`empirical.toml [selection]`."""

    tie_margin: Annotated[float, Field(ge=0)]


class PostprocessingRules(Record):
    """`empirical.toml [postprocessing]`."""

    min_gain: Annotated[float, Field(ge=0)]
    min_volumes_mm3: tuple[Positive, ...]


class UnlikeRules(Record):
    """`empirical.toml [unlike]`: when a scan is called unlike the training data."""

    spacing_ratio: Ratio
    extent_ratio: Ratio
    volume_ratio: Ratio
    min_share_of_foreground_intensity: Share


class Empirical(Record):
    """`empirical.toml`: how held-out predictions come about and what is decided from them."""

    cross_validation: CrossValidationRules
    run: RunRules
    unlike: UnlikeRules
    evaluation: EvaluationRules
    selection: SelectionRules
    postprocessing: PostprocessingRules


class Rules(Record):
    """All constants that are in force for one preset."""

    preset: str
    blueprint: Blueprint
    inferred: Inferred
