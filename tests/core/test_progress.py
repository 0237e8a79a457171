import pytest

from autoseg.core.progress import Progress, Silent


def test_silence_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    progress: Progress = Silent()
    with progress.task("train", 3.0) as task:
        task.advance()
        task.advance(2, dice="0.9")
        task.position(3.0, loss="0.1")
    assert capfd.readouterr() == ("", "")


def test_an_error_passes_through() -> None:
    with pytest.raises(KeyError, match="case"), Silent().task("train", 1):
        raise KeyError("case")
