import pytest
import typer

from autoseg.cli.side_by_side import parse_jobs, parse_parameters, planned_for_cluster, side_by_side
from autoseg.core.errors import PlanError


@pytest.mark.parametrize(("text", "number"), [("1", 1), ("4", 4), ("auto", None)])
def test_parse_jobs(text: str, number: int | None) -> None:
    assert parse_jobs(text) == number


@pytest.mark.parametrize("text", ["0", "-1", "all", "", "1.5"])
def test_parse_jobs_refuses(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="--jobs: must be a number from 1 on, or auto"):
        parse_jobs(text)


def test_parameters_are_named_as_sbatch_names_them() -> None:
    texts = ["partition=gpu", "gres=gpu:a100:1", "time=8h", "cpus-per-task=8", "--mem=32G", "comment=a=b"]
    assert parse_parameters(texts) == {
        "partition": "gpu",
        "gres": "gpu:a100:1",
        "time": "480",
        "cpus_per_task": "8",
        "mem": "32G",
        "comment": "a=b",
    }
    assert parse_parameters(["time=90"]) == {"time": "90"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("partition", "must be NAME=VALUE"),
        ("partition=", "must be NAME=VALUE"),
        ("nodes=2", "with one of the names account, .* time, got 'nodes=2'"),
        ("time=soon", "must be a length of time"),
        ("cpus_per_task=many", "must be a whole number"),
    ],
)
def test_parameters_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(typer.BadParameter, match=message):
        parse_parameters([text])


def test_one_at_a_time_but_on_a_cluster() -> None:
    assert side_by_side(None, "here", None, tensorboard=False).num_jobs == 1
    assert side_by_side(None, "slurm", None, tensorboard=False).num_jobs is None
    assert side_by_side("2", "slurm", ["mem=8G"], tensorboard=False).num_jobs == 2


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(typer.BadParameter, match="--executor: must be one of here, slurm, local, got 'pbs'"):
        side_by_side(None, "pbs", None, tensorboard=False)
    with pytest.raises(typer.BadParameter, match="must come with --executor slurm"):
        side_by_side("2", "here", ["mem=8G"], tensorboard=False)
    with pytest.raises(PlanError, match="must come without --executor slurm"):
        planned_for_cluster(None, None, 60.0)


def test_a_plan_for_a_cluster_is_for_its_gpus() -> None:
    assert planned_for_cluster("cpu", None, None) == "cpu"
    assert planned_for_cluster(None, None, None).startswith("residual")
