import logging
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from autoseg.core.errors import EvaluationError
from autoseg.core.geometry import Geometry
from autoseg.core.labels import declare_labels, declare_regions
from autoseg.data.image import LabelImage, write_label
from autoseg.evaluate.pairs import pair_files
from autoseg.evaluate.run import Scoring, evaluate, evaluate_pairs, evaluation_rules

LABELS = declare_labels({1: "organ", 4: "lesion"})
GEOMETRY = Geometry(spacing=(5.0, 0.5, 0.8), origin=(1.0, 2.0, 3.0))


def boxes(organ: slice | None, lesion: slice | None) -> NDArray[np.uint8]:
    """Return a label map of 8 x 10 x 10 voxels with each class in the given slices, rows and columns 2 to 5."""
    array = np.zeros((8, 10, 10), dtype=np.uint8)
    for value, where in ((1, organ), (4, lesion)):
        if where is not None:
            array[where, 2:6, 2:6] = value
    return array


def write(path: Path, array: NDArray[np.integer], geometry: Geometry = GEOMETRY) -> Path:
    write_label(path, LabelImage(array=array, geometry=geometry))
    return path


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Return predictions and references of two cases whose scores are known by hand."""
    predictions, references = tmp_path / "predictions", tmp_path / "references"
    write(references / "a.nii.gz", boxes(slice(0, 4), slice(4, 6)))
    write(predictions / "a.nii.gz", boxes(slice(2, 4), slice(4, 6)))
    write(references / "b.nii.gz", boxes(slice(0, 2), None))
    write(predictions / "b.nrrd", boxes(slice(0, 2), None))
    return predictions, references


def message_of(predictions: Path, references: Path) -> str:
    with pytest.raises(EvaluationError) as caught:
        evaluate(predictions, references, LABELS)
    return str(caught.value)


def test_regions_are_scored_as_the_union_of_their_classes(tmp_path: Path) -> None:
    """The lesion is taken for organ: all of it is missed, yet the whole is found."""
    labels = declare_regions({"whole": [1, 4], "lesion": [4]}, painted=[1, 4])
    pair = (
        "a",
        write(tmp_path / "p.nii.gz", boxes(slice(0, 6), None)),
        write(tmp_path / "r.nii.gz", boxes(slice(0, 4), slice(4, 6))),
    )
    scores = evaluate_pairs([pair], labels).cases[0].classes
    assert {name: found.dice for name, found in scores.items()} == {"whole": 1.0, "lesion": 0.0}
    assert scores["whole"].hd95_mm == 0
    assert scores["lesion"].false_negatives == 32


def test_only_annotated_voxels_are_scored(tmp_path: Path) -> None:
    """Half of what is missed and all that is too much lies where nothing is annotated."""
    labels = declare_labels({1: "organ", 4: "lesion", 9: "ignore"})
    reference = boxes(slice(0, 4), None)
    reference[3:] = 9
    pair = (
        "a",
        write(tmp_path / "p.nii.gz", boxes(slice(0, 2), slice(5, 7))),
        write(tmp_path / "r.nii.gz", reference),
    )
    organ, lesion = evaluate_pairs([pair], labels).cases[0].classes.values()
    assert (organ.true_positives, organ.false_positives, organ.false_negatives) == (32, 0, 16)
    assert organ.reference_ml == pytest.approx(48 * 2.0 / 1000)
    assert organ.hd95_mm == pytest.approx(5.0)
    assert lesion.dice is None


def test_a_prediction_that_ignores_is_refused(tmp_path: Path) -> None:
    labels = declare_labels({1: "organ", 9: "ignore"})
    ignoring = np.full((8, 10, 10), 9, dtype=np.uint8)
    pair = ("a", write(tmp_path / "p.nii.gz", ignoring), write(tmp_path / "r.nii.gz", ignoring))
    with pytest.raises(EvaluationError, match=r"p.nii.gz: label values must be among \(0, 1\), got 9"):
        evaluate_pairs([pair], labels)


def test_folders_scored_by_hand(folders: tuple[Path, Path]) -> None:
    evaluation = evaluate(*folders, LABELS)

    first, second = evaluation.cases
    assert (first.name, second.name) == ("a", "b")
    assert first.classes["organ"].dice == pytest.approx(2 / 3)
    assert first.classes["organ"].iou == pytest.approx(0.5)
    assert first.classes["organ"].reference_ml == pytest.approx(64 * 2.0 / 1000)
    assert first.classes["organ"].prediction_ml == pytest.approx(32 * 2.0 / 1000)
    assert first.classes["lesion"].dice == 1.0
    assert second.classes["organ"].dice == 1.0
    assert second.classes["lesion"].dice is None
    assert evaluation.per_class["organ"].dice.mean == pytest.approx(5 / 6)
    assert evaluation.per_class["lesion"].dice.num_cases == 1
    assert evaluation.mean_foreground_dice == pytest.approx((5 / 6 + 1) / 2)


def test_distances_are_in_mm(tmp_path: Path) -> None:
    prediction, reference = np.zeros((2, 4, 6, 6), dtype=np.uint8)
    prediction[1, 3, 3] = reference[2, 3, 3] = 1
    paths = write(tmp_path / "p.nii.gz", prediction), write(tmp_path / "r.nii.gz", reference)

    near, far = (
        evaluate(*paths, LABELS, scoring=Scoring(evaluation_rules(tolerance_mm))).cases[0].classes["organ"]
        for tolerance_mm in (4.9, 5.1)
    )

    assert near.hd95_mm == pytest.approx(5.0)
    assert near.average_surface_distance_mm == pytest.approx(5.0)
    assert (near.surface_dice, far.surface_dice) == (0.0, 1.0)


def test_processes_give_the_same(folders: tuple[Path, Path]) -> None:
    assert evaluate(*folders, LABELS, num_workers=2) == evaluate(*folders, LABELS)


def test_the_tolerance_is_a_rule(folders: tuple[Path, Path]) -> None:
    assert evaluate(*folders, LABELS).tolerance_mm == evaluation_rules().tolerance_mm == 1.0
    with pytest.raises(EvaluationError, match=r"--tolerance: must be 0 mm or more, got -1"):
        evaluation_rules(-1)


def test_two_files_may_have_different_names(folders: tuple[Path, Path]) -> None:
    predictions, references = folders

    evaluation = evaluate(predictions / "a.nii.gz", references / "b.nii.gz", LABELS)

    assert [case.name for case in evaluation.cases] == ["b"]
    assert evaluation.cases[0].classes["lesion"].dice == 0.0


def test_pairs_keep_their_names_and_order(folders: tuple[Path, Path]) -> None:
    predictions, references = folders
    pairs = [
        ("second", predictions / "b.nrrd", references / "b.nii.gz"),
        ("first", predictions / "a.nii.gz", references / "a.nii.gz"),
    ]

    assert [case.name for case in evaluate_pairs(pairs, LABELS).cases] == ["second", "first"]


def test_classes_are_found_in_the_files_where_none_are_given(folders: tuple[Path, Path]) -> None:
    evaluation = evaluate(*folders, None)

    assert evaluation.labels.values == (0, 1, 4)
    assert evaluation.per_class["class 4"].dice.mean == 1.0


def test_other_files_in_a_folder_are_ignored(folders: tuple[Path, Path]) -> None:
    (folders[0] / "evaluation.json").write_text("{}")

    assert [name for name, _, _ in pair_files(*folders)] == ["a", "b"]


def test_every_missing_partner_is_named(folders: tuple[Path, Path]) -> None:
    predictions, references = folders
    write(predictions / "extra.nii.gz", boxes(None, None))
    (predictions / "a.nii.gz").unlink()

    message = message_of(predictions, references)

    assert "got 2:" in message
    assert f"{references / 'a.nii.gz'}: a reference must have a prediction of its name" in message
    assert f"{predictions / 'extra.nii.gz'}: a prediction must have a reference of its name" in message


def test_two_files_of_a_case_are_refused(folders: tuple[Path, Path]) -> None:
    predictions, references = folders
    write(predictions / "b.nii.gz", boxes(None, None))

    assert "b.nrrd: a case must have one file, got b.nii.gz too" in message_of(predictions, references)


def test_every_unequal_grid_is_named(folders: tuple[Path, Path]) -> None:
    predictions, references = folders
    write(predictions / "a.nii.gz", boxes(None, None)[:7])
    write(predictions / "b.nrrd", boxes(None, None), GEOMETRY.model_copy(update={"spacing": (5.0, 0.5, 0.9)}))

    message = message_of(predictions, references)

    assert f"{predictions / 'a.nii.gz'}: shape (z, y, x) must be (8, 10, 10) voxels, got (7, 10, 10)" in message
    assert f"{predictions / 'b.nrrd'}: spacing (z, y, x) must be (5, 0.5, 0.8), got (5, 0.5, 0.9)" in message


def test_flipped_direction_is_refused(folders: tuple[Path, Path]) -> None:
    predictions, references = folders
    flipped = (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    write(predictions / "a.nii.gz", boxes(None, None), GEOMETRY.model_copy(update={"direction": flipped}))

    assert f"{predictions / 'a.nii.gz'}: direction must be" in message_of(predictions, references)


def test_origin_that_was_lost_is_a_warning(folders: tuple[Path, Path], caplog: pytest.LogCaptureFixture) -> None:
    predictions, references = folders
    write(predictions / "b.nrrd", boxes(slice(0, 2), None), Geometry(spacing=GEOMETRY.spacing))

    with caplog.at_level(logging.WARNING):
        evaluation = evaluate(predictions, references, LABELS)

    assert evaluation.cases[1].classes["organ"].dice == 1.0
    assert f"{predictions / 'b.nrrd'}: origin must be (1, 2, 3), got (0, 0, 0)" in caplog.text


def test_every_undeclared_label_is_named(folders: tuple[Path, Path]) -> None:
    predictions, references = folders
    for path, value in ((predictions / "a.nii.gz", 2), (references / "b.nii.gz", 9)):
        array = boxes(None, None)
        array[0, 0, 0] = value
        write(path, array)

    message = message_of(predictions, references)

    assert f"{predictions / 'a.nii.gz'}: label values must be among (0, 1, 4), got 2" in message
    assert f"{references / 'b.nii.gz'}: label values must be among (0, 1, 4), got 9" in message


def test_damaged_file_is_named(folders: tuple[Path, Path]) -> None:
    predictions, references = folders
    (predictions / "a.nii.gz").write_bytes(b"no image")

    assert f"{predictions / 'a.nii.gz'}: " in message_of(predictions, references)


def test_missing_paths_are_both_named(tmp_path: Path) -> None:
    message = message_of(tmp_path / "one", tmp_path / "two")

    assert f"{tmp_path / 'one'}: a file or folder must be there" in message
    assert f"{tmp_path / 'two'}: a file or folder must be there" in message


def test_file_and_folder_are_no_pair(folders: tuple[Path, Path]) -> None:
    predictions, references = folders

    assert "must be two files or two folders" in message_of(predictions / "a.nii.gz", references)
    assert "must be two files or two folders" in message_of(predictions, references / "a.nii.gz")


def test_folders_without_label_files_are_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()

    assert f"{tmp_path / 'one'}: must hold label files, found none" in message_of(tmp_path / "one", tmp_path / "two")


def test_no_pairs_are_refused() -> None:
    with pytest.raises(EvaluationError, match="at least one pair"):
        evaluate_pairs([], LABELS)
