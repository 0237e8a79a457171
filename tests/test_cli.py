"""The command line as a user meets it: exit codes, what goes where, and one message for each mistake."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from autoseg.cli import main
from autoseg.cli.commands import COMMANDS
from autoseg.cli.options import parse_duration, parse_folds, parse_networks, parse_trainings
from autoseg.cli.terminal import duration
from tests.end_to_end.blobs import write_blobs, write_tiny_rules


@pytest.fixture
def autoseg(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> "Command":
    """The command, run in this process in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return Command(monkeypatch, capsys)


class Command:
    """Runs `autoseg` and returns exit code, stdout and stderr."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: str | Path) -> tuple[int, str, str]:
        self._monkeypatch.setattr(sys, "argv", ["autoseg", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = self._capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return code, printed.out, printed.err


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("8h", 28800), ("1h30m", 5400), ("0.5h", 1800), ("2d", 172800)]
)
def test_parse_duration(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "m", "30 m", "1h-30m", "ten minutes", "-5m"])
def test_parse_duration_refuses(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="must be a length of time"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "folds"), [("all", None), ("0", (0,)), ("0,2", (0, 2)), ("0-2", (0, 1, 2)), ("1,0-1", (1, 0))]
)
def test_parse_folds(text: str, folds: tuple[int, ...] | None) -> None:
    assert parse_folds(text) == folds


@pytest.mark.parametrize("text", ["", "a", "0-", "-1", "0;1", "2-1"])
def test_parse_folds_refuses(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="must be fold numbers"):
        parse_folds(text)


@pytest.mark.parametrize(
    ("text", "networks"), [("all", None), ("all-data", ("all-data",)), ("0,2", (0, 2)), ("1", (1,))]
)
def test_parse_networks(text: str, networks: tuple[int | str, ...] | None) -> None:
    assert parse_networks(text) == networks


@pytest.mark.parametrize(
    ("text", "folds"),
    [("0", (0,)), ("12", (12,)), ("0,2-3", (0, 2, 3)), ("all-data", ("all-data",)), ("all", ("all-data",))],
)
def test_parse_trainings(text: str, folds: tuple[int | str, ...]) -> None:
    assert parse_trainings(text) == folds


@pytest.mark.parametrize("text", ["-1", "0,all", "none", ""])
def test_parse_trainings_refuses(text: str) -> None:
    with pytest.raises(typer.BadParameter, match=r"--fold: must be fold numbers such as .* or all-data"):
        parse_trainings(text)


@pytest.mark.parametrize("text", ["0,all-data", "all-data,0"])
def test_all_data_is_not_mixed_with_folds(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="must be fold numbers"):
        parse_networks(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(42.4, "42 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (3600, "1 h 00 min"), (4 * 86400, "4 days")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_help_names_every_command(autoseg: Command) -> None:
    code, out, _ = autoseg("--help")
    assert code == 0
    listed = {line.split()[0] for line in out.partition("Commands:")[2].splitlines() if line.strip()}
    assert listed == set(COMMANDS)
    assert "..." not in out.partition("Commands:")[2]


def test_nothing_asked_for_shows_the_help(autoseg: Command) -> None:
    assert autoseg() == autoseg("--help")


def test_version(autoseg: Command) -> None:
    code, out, _ = autoseg("--version")
    assert (code, out.split()[0]) == (0, "autoseg")


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("train",),
        ("train", "--fold", "x"),
        ("train", "--fold", "0", "--epochs", "0"),
        ("run", "data", "--budget", "soon"),
        ("run", "data", "--folds", "a"),
        ("check",),
    ],
)
def test_wrong_usage_exits_with_2(autoseg: Command, arguments: tuple[str, ...]) -> None:
    code, out, err = autoseg(*arguments)
    assert code == 2
    assert err
    assert not out
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("check", "nowhere"), ("nowhere", "must")),
        (("train", "--fold", "0"), ("autoseg_work", "autoseg plan")),
        (("preprocess",), ("autoseg plan",)),
        (("predict", "scan.nii.gz", "out"), ("autoseg plan",)),
        (("evaluate", "nowhere", "nowhere"), ("nowhere", "must")),
        (("benchmark", "hipocampus"), ("hippocampus", "Did you mean")),
        (("run", "nowhere"), ("nowhere",)),
    ],
)
def test_a_mistake_gets_one_message_and_exits_with_1(
    autoseg: Command, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    code, out, err = autoseg(*arguments)
    assert code == 1
    assert not out
    assert err.startswith("Error: ")
    assert "Traceback" not in err
    for word in words:
        assert word in err


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits as Unix has them")
def test_a_full_disk_gets_one_message(autoseg: Command, tmp_path: Path) -> None:
    data = write_blobs(tmp_path / "data", num_cases=3)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        code, out, err = autoseg("plan", data, "--workers", "1")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 1
    assert not out
    said = " ".join(err.partition("Error: ")[2].split())
    assert said.startswith("autoseg_work/")
    assert "must be readable and writable, got: File too large. Raise the limit" in said
    assert "Traceback" not in err


def test_check_finds_problems_and_exits_with_1(autoseg: Command, tmp_path: Path) -> None:
    data = write_blobs(tmp_path / "data", num_cases=3)
    broken = min((data / "labels").iterdir())
    broken.write_bytes(broken.read_bytes()[:100])
    code, out, _ = autoseg("check", data)
    assert code == 1
    assert broken.name.removesuffix(".nii.gz") in out
    code, out, _ = autoseg("check", data, "--json")
    assert code == 1
    assert [problem["severity"] for problem in json.loads(out)["problems"]] == ["error"]


def test_plan_prints_a_table_or_json_and_names_the_next_command(autoseg: Command, tmp_path: Path) -> None:
    data = write_blobs(tmp_path / "data", num_cases=3)
    code, out, _ = autoseg("plan", data, "--num-folds", "3", "--workers", "1")
    assert code == 0
    assert "patch size" in out
    assert "autoseg train --fold 0" in out
    code, out, _ = autoseg("plan", data, "--num-folds", "3", "--workers", "1", "--json")
    assert code == 0
    assert set(json.loads(out)["configurations"]) == {"2d", "3d_fullres"}
    assert json.loads(out) == json.loads(Path("autoseg_work/plan.json").read_text())


def test_a_value_that_is_set_is_kept_and_the_rest_follows(autoseg: Command, tmp_path: Path) -> None:
    data = write_blobs(tmp_path / "data", num_cases=3)
    own = ("--spacing", "2,1.5,1.5", "--patch-size", "8x16x16", "--batch-size", "3", "--gpu-memory", "4GB")
    code, out, err = autoseg("plan", data, *own, "--workers", "1", "--json")
    assert code == 0, err
    planned = json.loads(out)["configurations"]["3d_fullres"]
    assert (planned["spacing"], planned["patch_size"], planned["batch_size"]) == ([2.0, 1.5, 1.5], [8, 16, 16], 3)


@pytest.mark.parametrize(
    ("option", "value", "code", "words"),
    [
        ("--spacing", "1,1", 2, "must be three numbers"),
        ("--spacing", "a,1,1", 2, "must be numbers"),
        ("--spacing", "0,1,1", 1, "--spacing: must be above zero"),
        ("--patch-size", "8", 2, "must be two or three whole numbers"),
        ("--patch-size", "8,8.5,8", 2, "must be two or three whole numbers"),
        ("--batch-size", "0", 1, "--batch-size: must be above zero"),
        ("--gpu-memory", "much", 2, "--gpu-memory"),
    ],
)
def test_a_value_that_cannot_be_set_is_named(
    autoseg: Command, tmp_path: Path, option: str, value: str, code: int, words: str
) -> None:
    data = write_blobs(tmp_path / "data", num_cases=3)
    found, out, err = autoseg("plan", data, option, value, "--workers", "1")
    assert found == code, err
    assert words in err
    assert not out


@pytest.mark.slow
def test_from_plan_to_evaluation_step_by_step(autoseg: Command, tmp_path: Path) -> None:
    data = write_blobs(tmp_path / "data", num_cases=3)
    rules = write_tiny_rules(tmp_path / "rules")
    assert autoseg("plan", data, "--preset", "cpu", "--rules", rules, "--num-folds", "3", "--workers", "1")[0] == 0
    assert autoseg("preprocess", "--workers", "1")[0] == 0
    train = ("train", "--fold", "1", "--device", "cpu", "--workers", "0", "--epochs", "2")
    code, out, err = autoseg(*train, "--json")
    assert code == 0, err
    assert [training["num_epochs"] for training in json.loads(out)["trainings"]] == [2]
    code, out, err = autoseg("train", "--fold", "7", "--epochs", "2", "--device", "cpu")
    assert code == 1
    assert "--fold: must be one of 0 to 2, got 7" in err
    code, out, err = autoseg("train", "--fold", "0", "--epochs", "2", "--budget", "1m", "--device", "cpu")
    assert code == 1
    assert "Leave one out" in err
    code, out, err = autoseg("train", "--fold", "0", "--device", "cuda:7")
    assert code == 1
    assert "--device cuda:7" in err
    code, out, _ = autoseg("predict", data / "images", "masks", "--no-mirror", "--device", "cpu")
    assert code == 0
    assert "3 of 3 scans segmented" in out
    code, out, _ = autoseg("evaluate", "masks", data / "labels", "--workers", "0")
    assert code == 0
    assert "Mean Dice over classes" in out
    code, _, err = autoseg("predict", data / "images", "masks", "--folds", "0,1", "--device", "cpu")
    assert code == 1
    assert "autoseg train --fold 0" in err
    code, out, err = autoseg("train", "--fold", "all", "--epochs", "1", "--device", "cpu", "--workers", "0")
    assert code == 0, err
    assert "fold_all-data" in out
    assert "no score. Next: autoseg predict SCANS OUT --folds all-data" in " ".join(out.split())
    assert "not of held-out ones" in " ".join(err.split())


@pytest.mark.slow
def test_run_ends_with_a_table_and_pictures(autoseg: Command, tmp_path: Path) -> None:
    data = write_blobs(tmp_path / "data", num_cases=3)
    rules = write_tiny_rules(tmp_path / "rules")
    command = ("run", data, "--rules", rules, "--num-folds", "3", "--folds", "0", "--epochs", "2", "--workers", "1")
    code, out, err = autoseg(*command, "--device", "cpu")
    assert code == 0, err
    assert "mean of classes" in out
    pictures = [line.strip() for line in out.splitlines() if line.endswith(".png")]
    assert [Path(picture).name for picture in pictures] == [
        "dice_per_case.png",
        "3d_fullres_median_case.png",
        "3d_fullres_curves.png",
    ]
    assert "draw pictures" in out
    for picture in pictures:
        assert Path(picture).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_benchmark_makes_the_phantom_and_scores_it(autoseg: Command, tmp_path: Path) -> None:
    rules = write_tiny_rules(tmp_path / "rules")
    command = ("benchmark", "phantom", "--rules", rules, "--folds", "0", "--epochs", "1", "--workers", "1")
    code, out, err = autoseg(*command, "--device", "cpu", "--json")
    assert code == 0, err
    result = json.loads(out)
    assert len(result["run"]["evaluation"]["cases"]) == 5
    assert [row["name"] for row in result["comparison"]] == ["organ", "lesion", "mean of classes"]
    assert Path("autoseg_work/phantom/benchmark.json").exists()


def test_without_a_terminal_nothing_but_results_goes_to_stdout(tmp_path: Path) -> None:
    data = write_blobs(tmp_path / "data", num_cases=3)
    command = [sys.executable, "-m", "autoseg", "plan", str(data), "--json", "--num-folds", "3", "--workers", "1"]
    finished = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert json.loads(finished.stdout)["dataset"] == "data"
    assert "fingerprint: 100%" in finished.stderr
