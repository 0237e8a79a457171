from pathlib import Path

import pytest

from autoseg.core.workspace import ALL_DATA, FoldFolder, Workspace


def test_everything_lies_inside_the_workspace(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    fold = workspace.fold("3d_fullres", 2)
    inside = [getattr(workspace, name) for name, kind in vars(Workspace).items() if isinstance(kind, property)]
    inside += [getattr(fold, name) for name, kind in vars(FoldFolder).items() if isinstance(kind, property)]
    inside += [workspace.preprocessed("key"), workspace.crossval("2d"), fold.root]
    assert all(tmp_path in path.parents for path in inside)
    assert len(set(inside)) == len(inside)
    assert list(tmp_path.iterdir()) == []


def test_trainings_have_folders_of_their_own(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    roots = {workspace.fold(name, fold).root for name in ("2d", "3d_fullres") for fold in range(3)}
    assert len(roots) == 6


def test_finished_folds_are_found_in_order(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert workspace.folds("2d") == {}
    for number in (10, 2, 0):
        folder = workspace.fold("2d", number)
        folder.root.mkdir(parents=True)
        folder.record.touch()
    workspace.fold("2d", 1).root.mkdir()
    assert workspace.folds("2d") == {number: workspace.fold("2d", number) for number in (0, 2, 10)}
    assert list(workspace.folds("2d")) == [0, 2, 10]
    assert workspace.folds("3d_fullres") == {}


@pytest.mark.parametrize("name", ["fold_0_old", "fold_0_1", "fold_01", "fold_-1", "fold_0 (copy)", "fold_"])
def test_a_copy_of_a_fold_is_no_fold(tmp_path: Path, name: str) -> None:
    workspace = Workspace(tmp_path)
    for folder in (workspace.fold("2d", 0), FoldFolder(workspace.fold("2d", 0).root.with_name(name))):
        folder.root.mkdir(parents=True)
        folder.record.touch()
    assert workspace.folds("2d") == {0: workspace.fold("2d", 0)}


def test_the_training_on_all_data_is_no_fold(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    for fold in (1, ALL_DATA):
        folder = workspace.fold("2d", fold)
        folder.root.mkdir(parents=True)
        folder.record.touch()
    assert list(workspace.folds("2d")) == [1]
    assert workspace.trainings("2d") == {fold: workspace.fold("2d", fold) for fold in (1, ALL_DATA)}
    workspace.fold("2d", ALL_DATA).record.unlink()
    assert list(workspace.trainings("2d")) == [1]
