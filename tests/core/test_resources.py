import pytest

from autoseg.core.resources import resource


def test_what_travels_with_the_package_is_found() -> None:
    assert (resource("rules") / "blueprint.toml").is_file()
    assert resource("datasets.json").is_file()


def test_what_does_not_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"models\.json must lie in or beside"):
        resource("models.json")
