import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Picture

from autoseg.core.errors import DatasetError
from autoseg.core.progress import Silent
from autoseg.data.check import check_dataset
from autoseg.data.dataset import Case, Dataset, open_dataset
from autoseg.data.problem import Problem
from tests.data.making import (
    decathlon,
    describe,
    label_map,
    nnunet_raw,
    plain_folders,
    scan,
    write,
    write_vectors,
)


def opened(root: Path, group_by: str | None = None) -> Dataset:
    return open_dataset(root, root / "unpacked", group_by)


def names(cases: tuple[Case, ...]) -> list[str]:
    return [case.name for case in cases]


def files(case: Case) -> list[str]:
    return [Path(path).name for path in (*case.images, case.label or "no label")]


def only_problem(dataset: Dataset) -> Problem:
    (problem,) = dataset.problems
    return problem


def test_the_decathlon_is_recognised(tmp_path: Path) -> None:
    root = decathlon(tmp_path / "Task99", test=["./imagesTs/t0.nii.gz"], numTraining=3, licence="CC0", reference="us")
    dataset = opened(root)
    assert (dataset.layout, dataset.name, dataset.licence, dataset.reference) == ("decathlon", "phantom", "CC0", "us")
    assert dataset.channels == ("MRI",)
    assert [(label.name, label.value) for label in dataset.labels.classes] == [("background", 0), ("a", 1), ("b", 2)]
    assert [files(case) for case in dataset.cases] == [[f"c{n}.nii.gz"] * 2 for n in range(3)]
    assert names(dataset.unlabelled) == ["t0"]
    assert dataset.problems == ()
    assert all(Path(path).is_absolute() for path in dataset.cases[0].images)


def test_nnunet_raw_is_recognised(tmp_path: Path) -> None:
    root = nnunet_raw(tmp_path)
    for channel in range(2):
        write(root / f"imagesTs/t_{channel:04d}.nii.gz", scan(channel))
    dataset = opened(root)
    assert (dataset.layout, dataset.channels) == ("nnunet_raw", ("T1", "T2"))
    assert files(dataset.cases[1]) == ["c1_0000.nii.gz", "c1_0001.nii.gz", "c1.nii.gz"]
    assert files(dataset.unlabelled[0]) == ["t_0000.nii.gz", "t_0001.nii.gz", "no label"]


def test_nnunets_first_format_lists_names_without_channel(tmp_path: Path) -> None:
    root = nnunet_raw(tmp_path)
    listed = [{"image": f"./imagesTr/c{n}.nii.gz", "label": f"./labelsTr/c{n}.nii.gz"} for n in range(3)]
    dataset = opened(describe(root, modality={"0": "T1", "1": "T2"}, training=listed))
    assert dataset.layout == "nnunet_raw"
    assert files(dataset.cases[0]) == ["c0_0000.nii.gz", "c0_0001.nii.gz", "c0.nii.gz"]


def test_listed_names_are_no_patterns(tmp_path: Path) -> None:
    root = tmp_path
    for name in ("img[1]", "img[2]"):
        write(root / f"imagesTr/{name}_0000.nii.gz", scan(len(name)))
        write(root / f"labelsTr/{name}.nii.gz", label_map())
    listed = [{"image": f"imagesTr/img[{n}].nii.gz", "label": f"labelsTr/img[{n}].nii.gz"} for n in (1, 2)]
    dataset = opened(describe(root, training=listed))
    assert (dataset.layout, names(dataset.cases)) == ("nnunet_raw", ["img[1]", "img[2]"])
    assert files(dataset.cases[0]) == ["img[1]_0000.nii.gz", "img[1].nii.gz"]


def test_an_empty_list_leaves_the_cases_to_the_folders(tmp_path: Path) -> None:
    dataset = opened(decathlon(tmp_path, training=[], numTraining=0))
    assert (dataset.layout, names(dataset.cases), dataset.problems) == ("folders", ["c0", "c1", "c2"], ())


@pytest.mark.parametrize("suffix", ["", ".nii.gz"])
def test_listed_links_keep_their_names(tmp_path: Path, suffix: str) -> None:
    """What they lead to, in a cache, is called by its content; two cases may share it."""
    root = decathlon(tmp_path / "Task99")
    (tmp_path / "blobs").mkdir()
    for number, path in enumerate(sorted(root.glob("*Tr/*"))):
        target = tmp_path / "blobs" / f"{number}{suffix}"
        path.rename(target)
        path.symlink_to(Path("../../blobs") / target.name)
    shared = root / "labelsTr/c2.nii.gz"
    shared.unlink()
    shared.symlink_to(root / "labelsTr/c1.nii.gz")
    dataset = opened(root)
    assert [files(case) for case in dataset.cases] == [[f"c{n}.nii.gz"] * 2 for n in range(3)]
    assert dataset.cases[0].images == (str(root / "imagesTr/c0.nii.gz"),)
    assert dataset.problems == ()
    assert check_dataset(dataset, Silent(), 1).errors == ()


def test_listed_paths_may_lead_out_of_linked_folders(tmp_path: Path) -> None:
    """As the system takes `..`: from the folder that a link leads to."""
    root = decathlon(tmp_path / "Task99")
    (tmp_path / "store").mkdir()
    for name in ("imagesTr", "labelsTr"):
        (root / name).rename(tmp_path / "store" / name)
    (root / "imagesTr").symlink_to(tmp_path / "store/imagesTr")
    pairs = [{"image": f"imagesTr/c{n}.nii.gz", "label": f"imagesTr/../labelsTr/c{n}.nii.gz"} for n in range(3)]
    dataset = opened(describe(root, training=pairs))
    assert [Path(str(case.label)).is_file() for case in dataset.cases] == [True] * 3
    assert dataset.problems == ()


@pytest.mark.parametrize("folders", [("images", "labels"), ("images", "masks"), ("imagesTr", "labelsTr")])
def test_plain_folders_need_no_description(tmp_path: Path, folders: tuple[str, str]) -> None:
    root = plain_folders(tmp_path / "nuclei")
    (root / "images").rename(root / "_images")
    (root / "labels").rename(root / "_labels")
    (root / "_images").rename(root / folders[0])
    (root / "_labels").rename(root / folders[1])
    (root / folders[0] / "readme.txt").write_text("not an image")
    (root / folders[0] / "._c0.png").write_bytes(b"macOS")
    dataset = opened(root)
    assert (dataset.layout, dataset.name, dataset.channels) == ("folders", "nuclei", ("image",))
    assert [(label.name, label.value) for label in dataset.labels.classes] == [("background", 0), ("class 255", 255)]
    assert names(dataset.cases) == ["c0", "c1", "c2"]
    assert dataset.problems == ()


def test_plain_folders_may_have_a_description(tmp_path: Path) -> None:
    root = describe(plain_folders(tmp_path), modality=None, channel_names=["CT"], labels={"background": 0, "cell": 255})
    dataset = opened(root)
    assert (dataset.layout, dataset.channels, dataset.labels.values) == ("folders", ("CT",), (0, 255))


def test_pictures_in_colour_have_three_channels(tmp_path: Path) -> None:
    root = plain_folders(tmp_path)
    for path in (root / "images").iterdir():
        write_vectors(path, scan(shape=(8, 9, 3), dtype="uint8"))
    assert opened(root).channels == ("red", "green", "blue")


def test_files_of_channels_in_plain_folders_are_grouped(tmp_path: Path) -> None:
    root = nnunet_raw(tmp_path)
    (root / "dataset.json").unlink()
    dataset = opened(root)
    assert (dataset.layout, dataset.channels) == ("folders", ("channel 0", "channel 1"))
    assert files(dataset.cases[0]) == ["c0_0000.nii.gz", "c0_0001.nii.gz", "c0.nii.gz"]


def test_numbered_names_are_cases_where_labels_have_them(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / f"images/scan_{number:04d}.nii.gz", scan(number))
        write(tmp_path / f"labels/scan_{number:04d}.nii.gz", label_map())
    assert names(opened(tmp_path).cases) == ["scan_0000", "scan_0001", "scan_0002"]


def test_label_values_may_be_any_integers(tmp_path: Path) -> None:
    write(tmp_path / "images/a.1.nii.gz", scan())
    write(tmp_path / "labels/a.1.nrrd", label_map(values=(-3, 0, 700), dtype="int16"))
    dataset = opened(tmp_path)
    assert names(dataset.cases) == ["a.1"]
    assert dataset.labels.values == (0, -3, 700)


def test_lists_of_one_value_are_no_regions(tmp_path: Path) -> None:
    """As in nnU-Net, which asks for no order of painting then."""
    labels = opened(decathlon(tmp_path, labels={"background": 0, "liver": [1], "tumour": 2})).labels
    assert ([entry.name for entry in labels.foreground], labels.regions) == (["liver", "tumour"], ())


def test_regions_are_read_as_nnunet_declares_them(tmp_path: Path) -> None:
    declared = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    labels = opened(decathlon(tmp_path, labels=declared, regions_class_order=[1, 2])).labels
    assert [(region.name, region.values, region.painted) for region in labels.regions] == [
        ("whole", (1, 2), 1),
        ("core", (2,), 2),
    ]
    assert (labels.values, labels.ignored) == ((0, 1, 2), 3)


def test_ignore_is_no_class(tmp_path: Path) -> None:
    labels = opened(decathlon(tmp_path, labels={"background": 0, "a": 1, "ignore": 2})).labels
    assert [label.name for label in labels.classes] == ["background", "a"]
    assert labels.ignored == 2


def test_a_dataset_is_found_in_the_only_folder(tmp_path: Path) -> None:
    decathlon(tmp_path / "outer" / "inner")
    (tmp_path / "readme.txt").write_text("beside")
    (tmp_path / "__MACOSX").mkdir()
    assert len(opened(tmp_path).cases) == 3


def test_four_dimensional_files_have_their_channels_declared(tmp_path: Path) -> None:
    root = decathlon(tmp_path, modality={"1": "T2", "0": "T1"})
    for path in (root / "imagesTr").iterdir():
        nib.save(nib.Nifti1Image(scan(shape=(5, 6, 4, 2)), np.eye(4)), path)
    assert opened(root).channels == ("T1", "T2")


def test_cases_are_grouped(tmp_path: Path) -> None:
    assert [case.group for case in opened(decathlon(tmp_path), r"c(\d)").cases] == ["0", "1", "2"]


def test_a_dataset_is_saved_and_loaded(tmp_path: Path) -> None:
    dataset = opened(decathlon(tmp_path, numTraining=9))
    dataset.save(tmp_path / "workspace" / "dataset.json")
    assert Dataset.load(tmp_path / "workspace" / "dataset.json") == dataset


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": {"background": 0, "whole": [1, 2]}}, "regions_class_order must list one value for each region"),
        (
            {"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1]},
            r"one value for each region \(whole, core\), got \[1\]",
        ),
        (
            {"labels": {"background": 0, "whole": [1, 2]}, "regions_class_order": [3]},
            r"whole must be painted with one of its values \[1, 2\], got 3",
        ),
        ({"labels": {"background": 0, "whole": [1, "two"]}}, "must be integers or lists of them, got 'whole'"),
        ({"labels": {"ignore": 0, "a": 1}}, "ignore must have another value than the background"),
        ({"labels": {"background": 0, "a": 1, "b": 1}}, "label values must differ, got 1 for a and b"),
        ({"labels": {"0": "background", "1": "a", "2": "a"}}, "class names must differ"),
        ({"labels": {"background": 0, "a": "one"}}, "must pair a name and an integer, got 'a': 'one'"),
        ({"labels": {"0": "background"}}, "must hold a class besides the background"),
        ({"labels": ["a"]}, "labels must be an object"),
        ({"labels": None, "modality": None}, "got no labels and no modality"),
        ({"labels": None}, "got no labels. Add"),
        ({"modality": {"0": "T1", "2": "T2"}}, "numbered from 0 on, got 0, 2"),
        ({"modality": "MRI"}, "channels must be an object"),
        ({"training": {"a": "b"}}, "training must be a list"),
        ({"training": [{"label": "a"}]}, "an entry of training must name an image"),
        ({"training": [{"image": "a.nii.gz", "label": 3}]}, "must be a path, got 3"),
        ({"training": [{"image": "imagesTr/c0.nii.gz"}]}, "must have cases with labels, got none"),
    ],
)
def test_descriptions_that_cannot_be_used_are_refused(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        opened(decathlon(tmp_path, **changes))


@pytest.mark.parametrize(("text", "words"), [("{", "must be valid JSON"), ("[1]", "must be a JSON object, got a list")])
def test_a_description_must_be_json(tmp_path: Path, text: str, words: str) -> None:
    root = decathlon(tmp_path)
    (root / "dataset.json").write_text(text)
    with pytest.raises(DatasetError, match=words):
        opened(root)


@pytest.mark.parametrize("training", [None, []])
def test_a_description_without_cases_needs_folders(tmp_path: Path, training: object) -> None:
    with pytest.raises(DatasetError, match="must list the cases under training, or have the folders"):
        opened(describe(tmp_path, training=training))


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"must have dataset.json, or the folders .*, got nothing"):
        opened(tmp_path)
    (tmp_path / "scans").mkdir()
    (tmp_path / "truth").mkdir()
    with pytest.raises(DatasetError, match="got scans, truth"):
        opened(tmp_path)


def test_folders_without_a_pair_are_refused(tmp_path: Path) -> None:
    root = plain_folders(tmp_path)
    for path in (root / "labels").iterdir():
        path.rename(path.with_name(f"{path.stem}_mask.png"))
    with pytest.raises(DatasetError, match=r"3 images, 3 labels and no pair .for example c0.png and c0_mask.png"):
        opened(root)


def test_undeclared_labels_must_look_like_classes(tmp_path: Path) -> None:
    root = plain_folders(tmp_path)
    for path in (root / "labels").iterdir():
        write(path, label_map((8, 9), (0,)))
    with pytest.raises(DatasetError, match=r"a value besides the background, got 3 readable maps with .0."):
        opened(root)
    write(root / "labels/c0.png", np.arange(400).reshape(20, 20).astype("uint16"))
    with pytest.raises(DatasetError, match="must hold 256 different values at most"):
        opened(root)


def test_label_maps_of_which_none_can_be_read_end_in_the_first_reason(tmp_path: Path) -> None:
    root = plain_folders(tmp_path)
    for number, path in enumerate(sorted((root / "labels").iterdir())):
        path.write_bytes(b"broken")
        if number == 0:
            picture = Picture.frombytes("P", (9, 8), label_map((8, 9)).tobytes())
            picture.putpalette((0, 0, 0, 128, 0, 0))
            picture.save(path)
    with pytest.raises(DatasetError, match=r"labels/c0.png: a label map must have no palette"):
        opened(root)
    write(root / "labels/c2.png", label_map((8, 9), (0, 3)))
    assert opened(root).labels.values == (0, 3)


def test_images_must_have_one_that_can_be_read(tmp_path: Path) -> None:
    root = plain_folders(tmp_path)
    for path in (root / "images").iterdir():
        path.write_bytes(b"broken")
    with pytest.raises(DatasetError, match="an image must be readable, got none"):
        opened(root)


def test_an_image_without_label_is_left_out_with_a_warning(tmp_path: Path) -> None:
    root = plain_folders(tmp_path)
    (root / "labels/c1.png").unlink()
    dataset = opened(root)
    assert (names(dataset.cases), names(dataset.unlabelled)) == (["c0", "c2"], ["c1"])
    assert (only_problem(dataset).severity, only_problem(dataset).rule) == ("warning", "partner")


def test_files_that_no_list_names_are_reported(tmp_path: Path) -> None:
    root = decathlon(tmp_path)
    write(root / "imagesTr/new.nii.gz", scan(9))
    problem = only_problem(opened(root))
    assert (problem.rule, Path(problem.file).name) == ("unlisted", "new.nii.gz")


@pytest.mark.parametrize("folder", ["imagesTr", "imagesTs"])
def test_channels_must_have_the_numbers_of_most_cases(tmp_path: Path, folder: str) -> None:
    root = nnunet_raw(tmp_path)
    for number in (0, 2):
        write(root / f"{folder}/odd_{number:04d}.nii.gz", scan(30 + number))
    if folder == "imagesTr":
        write(root / "labelsTr/odd.nii.gz", label_map())
    problem = next(problem for problem in opened(root).problems if problem.rule == "channels")
    assert (problem.severity, problem.file) == ("error", str(root / folder / "odd_0000.nii.gz"))
    assert problem.message == ("channels of a case must be numbered 0000, 0001 as those of most cases, got 0000, 0002")


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ((("a_0002", "a_0001"),), ["a_0001"]),
        ((("a", "a_0001"),), ["a"]),
        ((("a_0000", "a_0002"), ("b_0000", "b_0002"), ("c_0000", "c_0002")), ["a_0000", "b_0000", "c_0000"]),
        ((("a_0000",), ("b_0000", "b_0001", "b_0002"), ("c",)), []),
    ],
)
def test_cases_of_other_numbers_are_named(
    tmp_path: Path, others: tuple[tuple[str, ...], ...], expected: list[str]
) -> None:
    """Of equals, the lower numbers hold; cases of more or fewer channels are left to the check."""
    for stems in (("x_0000", "x_0001"), ("y_0000", "y_0001"), ("z_0000", "z_0001"), *others):
        for stem in stems:
            write(tmp_path / f"images/{stem}.nii.gz", scan())
        write(tmp_path / f"labels/{stems[0].split('_')[0]}.nii.gz", label_map())
    assert [Path(problem.file).name.split(".")[0] for problem in opened(tmp_path).problems] == expected


def test_numbers_are_compared_with_those_of_numbered_cases(tmp_path: Path) -> None:
    for name in ("a_0000", "b", "c", "d"):
        write(tmp_path / f"images/{name}.nii.gz", scan())
    write(tmp_path / "labels/a.nii.gz", label_map())
    assert {problem.rule for problem in opened(tmp_path).problems} == {"partner"}


def test_one_name_for_two_cases_is_an_error(tmp_path: Path) -> None:
    root = decathlon(tmp_path)
    document = json.loads((root / "dataset.json").read_text())
    write(root / "other/c0.nii.gz", scan(9))
    write(root / "otherlabels/c0.nii.gz", label_map())
    document["training"].append({"image": "other/c0.nii.gz", "label": "otherlabels/c0.nii.gz"})
    (root / "dataset.json").write_text(json.dumps(document))
    dataset = opened(root)
    assert names(dataset.cases) == ["c0", "c1", "c2"]
    assert [(problem.severity, problem.rule) for problem in dataset.problems] == [("error", "name")]
