import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from autoseg.core.errors import TrainingError
from autoseg.core.workspace import FoldFolder
from autoseg.train.distributed import ALONE, Team, own_device, teamed
from autoseg.train.record import TrainingRecord
from autoseg.train.sampling import PatchSource, SamplingPlan
from tests.train import team as members
from tests.train.plans import training

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize(
    ("num_samples", "size", "expected"), [(2, 1, [2]), (2, 2, [1, 1]), (9, 2, [4, 5]), (9, 4, [2, 2, 2, 3])]
)
def test_samples_are_shared_out(num_samples: int, size: int, expected: list[int]) -> None:
    parts = [list(range(num_samples))[Team(rank, size).part(num_samples)] for rank in range(size)]
    assert [len(part) for part in parts] == expected
    assert [sample for part in parts for sample in part] == list(range(num_samples))


def test_more_processes_than_samples_are_refused() -> None:
    with pytest.raises(TrainingError, match="a batch must have a sample for every process, got 2 for 3"):
        Team(0, 3).part(2)


def test_a_process_alone_exchanges_nothing() -> None:
    with teamed() as team:
        assert team is ALONE
    value = torch.ones(2)
    assert ALONE.total(value) is value
    assert (ALONE.any(True), ALONE.any(False), ALONE.decided(0.25), ALONE.by_first(lambda: "done")) == (
        True,
        False,
        0.25,
        "done",
    )


def test_without_gpus_every_process_computes_where_it_is_told() -> None:
    assert own_device("cpu", Team(1, 2)) == "cpu"
    assert own_device("mps", ALONE) == "mps"


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.parametrize(
    ("name", "expected"), [("auto", "cuda:1"), ("cuda", "cuda:1"), ("cpu", "cpu"), ("cuda:0", None), ("mps", None)]
)
def test_every_process_has_its_gpu(
    two_gpus: None, monkeypatch: pytest.MonkeyPatch, name: str, expected: str | None
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert own_device("cuda:0", ALONE) == "cuda:0"
    if expected is not None:
        assert own_device(name, Team(1, 2)) == expected
        return
    with pytest.raises(TrainingError, match=rf"must be auto, cuda or cpu under torchrun, got {name}"):
        own_device(name, Team(1, 2))


def test_more_processes_than_gpus_are_refused(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(TrainingError, match=r"a GPU of its own, got 2 for more processes.*--nproc-per-node 2"):
        own_device("auto", Team(2, 3))


def test_a_part_of_a_batch_is_what_the_whole_holds_there(tmp_path: Path) -> None:
    members.store_cases(tmp_path)
    sampling = {"patch_size": (8, 8, 8), "batch_size": 3, "foreground_fraction": 0.33, "seed": 0, "place": ("x",)}
    whole, part = (
        PatchSource(tmp_path, ("a", "b"), SamplingPlan(**sampling, augmentation=training().augmentation, part=part))  # type: ignore[arg-type]
        for part in (slice(None), slice(1, 3))
    )
    for step in range(5):
        everything, some = whole.batch(step), part.batch(step)
        assert (some.cases, some.draws) == (everything.cases[1:], everything.draws[1:])
        assert (some.images == everything.images[1:]).all()
        assert (some.labels == everything.labels[1:]).all()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return folders of what two processes have trained together, and of what one has trained alone."""
    folder = tmp_path_factory.mktemp("trained")
    cases, together, alone = (folder / name for name in ("cases", "together", "alone"))
    together.mkdir()
    cases.mkdir()
    members.store_cases(cases)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, "-m", "tests.train.team", cases, together],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    for kind in members.KINDS:
        members.train(kind, cases, alone / kind)
    torch.set_num_threads(before)
    return together, alone


@pytest.mark.slow
@pytest.mark.parametrize("kind", members.KINDS)
def test_two_processes_learn_what_one_learns(trained: tuple[Path, Path], kind: str) -> None:
    found, expected = (load_file(FoldFolder(folder / kind).weights) for folder in trained)
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-4, atol=1e-5)
    records = [TrainingRecord.load(FoldFolder(folder / kind).record) for folder in trained]
    assert [record.num_processes for record in records] == [2, 1]
    assert records[0].num_steps == records[1].num_steps == 2 * members.STEPS
    histories = [FoldFolder(folder / kind).history.read_text().splitlines() for folder in trained]
    columns = histories[0][0].split(",")
    losses = [float(rows[1].split(",")[columns.index("training_loss")]) for rows in histories]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are listed as Linux has it")
def test_nothing_of_the_exchange_outlives_it(trained: tuple[Path, Path]) -> None:
    """Threads of gloo would go on while the process ends, and abort it now and then."""
    for rank in range(2):
        names = (trained[0] / f"process_{rank}_threads").read_text()
        assert "python" in names
        assert "gloo" not in names


@pytest.mark.slow
def test_all_leave_when_one_is_asked_to_and_go_on_to_the_same_weights(trained: tuple[Path, Path]) -> None:
    together, _ = trained
    assert {path.name for path in together.glob("*_left")} == {"process_0_left", "process_1_left"}
    found, expected = (load_file(FoldFolder(together / name).weights) for name in ("broken", "samples"))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
