from pathlib import Path

import pytest

from autoseg.core.errors import ArtefactError, PlanError
from autoseg.plan.rulebook import load_rulebook


def _overlay(folder: Path, file: str, text: str) -> Path:
    (folder / file).write_text(text)
    return folder


def test_every_constant_says_why_and_where_from() -> None:
    rulebook = load_rulebook()
    entries = [*rulebook.entries.values(), *(entry for found in rulebook.presets.values() for entry in found.values())]
    assert len(entries) > 80
    assert all(entry.why and entry.source for entry in entries)


def test_an_entry_is_found_on_its_line() -> None:
    rulebook = load_rulebook()
    for entry in (rulebook.entries["lowres.spacing_step"], rulebook.presets["cpu"]["training.optimizer"]):
        line = Path(entry.file).read_text().splitlines()[entry.line - 1]
        assert line == f"[{entry.key}]"


def test_a_preset_replaces_entries() -> None:
    rulebook = load_rulebook()
    plain, residual = rulebook.for_preset("plain"), rulebook.for_preset("residual-l")
    assert plain.blueprint.network.kind == "plain"
    assert residual.blueprint.network.kind == "residual"
    assert residual.inferred.sizing.gpu_memory_gb == 24
    assert residual.blueprint.training == plain.blueprint.training


def test_the_default_preset_exists() -> None:
    rulebook = load_rulebook()
    assert rulebook.inferred.preset.default in rulebook.presets


def test_an_unknown_preset_is_named_with_the_known_ones() -> None:
    with pytest.raises(PlanError, match=r"must be one of plain, .*cpu, got 'huge'"):
        load_rulebook().for_preset("huge")


def test_an_overlay_replaces_one_entry_and_keeps_its_reasons(tmp_path: Path) -> None:
    overlay = _overlay(tmp_path, "inferred.toml", "[lowres.spacing_step]\nvalue = 1.1\n")
    before, after = load_rulebook(), load_rulebook(overlay)
    assert after.inferred.lowres.spacing_step == 1.1
    assert after.inferred.target_spacing == before.inferred.target_spacing
    assert after.entries["lowres.spacing_step"].file == str(tmp_path / "inferred.toml")
    assert after.digest != before.digest


def test_an_overlay_changes_one_entry_of_a_preset(tmp_path: Path) -> None:
    overlay = _overlay(tmp_path, "presets.toml", "[cpu.batch_size.max_3d]\nvalue = 4\n")
    after = load_rulebook(overlay)
    assert after.for_preset("cpu").inferred.batch_size.max_3d == 4
    assert after.for_preset("cpu").blueprint.training.optimizer == "adamw"


def test_an_overlay_adds_a_preset(tmp_path: Path) -> None:
    overlay = _overlay(tmp_path, "presets.toml", "[mine.network.base_features]\nvalue = 24\n")
    assert load_rulebook(overlay).for_preset("mine").blueprint.network.base_features == 24


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        pytest.param("inferred.toml", "\n[lowres.spacing_stp]\nvalue = 1.1\n",
                     r"inferred.toml:2 \[lowres.spacing_stp\]: must be a known key, one of .*lowres.spacing_step",
                     id="misspelt key"),
        pytest.param("inferred.toml", "[training.optimizer]\nvalue = 'sgd'\n",
                     r"inferred.toml:1 \[training.optimizer\]: must be a known key", id="key of another file"),
        pytest.param("presets.toml", "[cpu.lowres.step]\nvalue = 1\n",
                     r"presets.toml:1 \[cpu.lowres.step\]: must be a known key", id="misspelt key of a preset"),
        pytest.param("inferred.toml", "[lowres.spacing_step]\nvalue = '1.1'\n",
                     r"inferred.toml:1 \[lowres.spacing_step\]: .*valid number, got '1.1'", id="wrong type"),
        pytest.param("blueprint.toml", "[training.num_epochs]\nvalue = 10.5\n",
                     r"blueprint.toml:1 \[training.num_epochs\]: .*integer", id="fraction of an epoch"),
        pytest.param("inferred.toml", "[topology.min_edge]\nvalue = 0\n",
                     r"inferred.toml:1 \[topology.min_edge\]: .*greater than or equal to 1, got 0", id="out of range"),
        pytest.param("presets.toml", "[cpu.batch_size.min]\nvalue = 0\n",
                     r"presets.toml:1 \[cpu.batch_size.min\]: .*greater than or equal to 1", id="preset out of range"),
        pytest.param("inferred.toml", "[sizing.gpu_memory_gb]\nvalue = 8000\nunit = 'MB'\n",
                     r"inferred.toml:1 \[sizing.gpu_memory_gb\]: unit must be 'GB', got 'MB'", id="wrong unit"),
        pytest.param("inferred.toml", "[lowres.spacing_step]\nvalue = 1.1\nreason = 'x'\n",
                     r"may hold value, unit, why and source, got reason", id="unknown field"),
        pytest.param("inferred.toml", "[lowres]\nspacing_step = 1.1\n",
                     r"inferred.toml:2 \[lowres.spacing_step\]: must be a table with `value`", id="no table"),
        pytest.param("inferred.toml", "[preset.default]\nvalue = 'none'\n",
                     r"inferred.toml:1 \[preset.default\]: must be one of plain", id="no such default"),
        pytest.param("inferred.toml", "[lowres.spacing_step\n", r"must be readable TOML", id="not TOML"),
        pytest.param("infered.toml", "", r"must hold rule files named .*, got infered.toml", id="misspelt file"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_file_line_and_key(tmp_path: Path, file: str, text: str, message: str) -> None:
    with pytest.raises(ArtefactError, match=message):
        load_rulebook(_overlay(tmp_path, file, text))


def test_an_overlay_without_files_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=r"must hold rule files named .*, found none"):
        load_rulebook(tmp_path / "absent")
