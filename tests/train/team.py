"""What each process of `test_distributed.py` does: trainings of several kinds, one of them broken off and gone on with.

python -m torch.distributed.run --standalone --nproc-per-node 2 -m tests.train.team CASES FOLDER
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import torch

from autoseg.core.errors import InterruptionError
from autoseg.core.labels import declare_labels
from autoseg.core.progress import Silent
from autoseg.core.workspace import FoldFolder
from autoseg.data.splits import Split
from autoseg.data.store import open_case, read_patch
from autoseg.plan.schema import Plan
from autoseg.train import trainer
from autoseg.train.distributed import ALONE, Team, teamed
from autoseg.train.hooks import NO_HOOKS, Hooks
from autoseg.train.loop import FoldData, TrainingRequest, train_fold
from autoseg.train.record import TrainingRecord
from tests.train.plans import LABELS, cube_configuration, cube_plan, store, store_cube, training

SPLIT = Split(train=("a", "b", "c"), validation=("d",))
KINDS: dict[str, dict[str, object]] = {
    "samples": {},
    "pooled": {"batch_dice": True},
    "ignored": {"batch_dice": True, "has_ignored": True},
}
STEPS = 4


def team_plan(kind: str) -> Plan:
    """Return a plan with batches of three, which two processes cannot halve."""
    configuration = cube_configuration().model_copy(update={"batch_size": 3, **KINDS[kind]})
    recipe = training(
        optimizer="sgd", learning_rate=0.05, weight_average_decay=0.5, steps_per_epoch=STEPS, validation_steps=1
    )
    labels = declare_labels({0: "background", 1: "cube", 2: "ignore"}) if kind == "ignored" else LABELS
    return cube_plan(recipe, labels=labels).model_copy(update={"configurations": {"3d_fullres": configuration}})


def store_cases(folder: Path) -> None:
    """Store four scans, and the same ones with a part that is not annotated, a larger one from scan to scan."""
    sparse = folder / "ignored"
    sparse.mkdir()
    for seed, name in enumerate("abcd"):
        store_cube(folder, name, seed)
        case = open_case(folder, name)
        image, label = read_patch(case, tuple((0, size) for size in case.image.shape[1:]))
        label[:, : 3 * seed] = LABELS.num_classes
        store(sparse, name, image, label, LABELS.num_classes)


def train(kind: str, cases: Path, folder: Path, team: Team = ALONE, hooks: Hooks = NO_HOOKS) -> TrainingRecord:
    """Train two epochs."""
    request = TrainingRequest(
        configuration="3d_fullres",
        fold=0,
        num_epochs=2,
        budget_s=None,
        device="cpu",
        seed=3,
        num_workers=0,
        restart=False,
        team=team,
    )
    data = FoldData(SPLIT, cases / "ignored" if kind == "ignored" else cases, "digest")
    with patch.object(trainer, "best_precision", lambda device: "float32"):
        return train_fold(team_plan(kind), data, FoldFolder(folder), request, Silent(), hooks)


def stopping_after(num_questions: int | None) -> Hooks:
    """Return hooks that end a training when it has asked so often; None for never."""
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return num_questions is not None and asked > num_questions

    @contextmanager
    def stopping() -> Iterator[Callable[[], bool]]:
        yield should_stop

    return Hooks(stopping)


def main() -> None:
    """Train; the second process alone is asked to leave."""
    torch.set_num_threads(1)
    cases, folder = (Path(text) for text in sys.argv[1:3])
    with teamed() as team:
        for kind in KINDS:
            train(kind, cases, folder / kind, team)
        try:
            train("samples", cases, folder / "broken", team, stopping_after(3 if team.rank == 1 else None))
        except InterruptionError:
            (folder / f"process_{team.rank}_left").touch()
        train("samples", cases, folder / "broken", team)
    (folder / f"process_{team.rank}_threads").write_text(_threads())


def _threads() -> str:
    """Return the names of this process's threads, those of libraries too; none where the system does not tell."""
    return " ".join(path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm"))


if __name__ == "__main__":
    main()
