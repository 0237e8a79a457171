"""The rulebook: the constants of all rules, read from `rules/*.toml`, each with its reason and its source."""

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import JsonValue, ValidationError

from autoseg.core.artefact import Record, digest_of
from autoseg.core.errors import ArtefactError, PlanError
from autoseg.core.resources import resource
from autoseg.plan.rules import Blueprint, Empirical, Inferred, Rules

FILES = ("blueprint.toml", "inferred.toml", "empirical.toml", "presets.toml")
PARTS: dict[str, type[Record]] = {"blueprint.toml": Blueprint, "inferred.toml": Inferred, "empirical.toml": Empirical}

Part = TypeVar("Part", bound=Record)


class Entry(Record):
    """One constant.

    Attributes:
        key: Section and name, for example `target_spacing.anisotropy_ratio`; behind a preset's name in `presets.toml`.
        value: The constant.
        unit: Of the value; empty if it has none.
        why: What it is for.
        source: Where it comes from.
        file: The rule file that it stands in.
        line: Its line there.
    """

    key: str
    value: JsonValue
    unit: str
    why: str
    source: str
    file: str
    line: int

    @property
    def place(self) -> str:
        """File, line and key, as messages name them."""
        return f"{self.file}:{self.line} [{self.key}]"


class Rulebook(Record):
    """All constants of all presets.

    Attributes:
        blueprint: What is the same for every dataset.
        inferred: Constants of the rules that read the fingerprint.
        empirical: Constants of what is decided from held-out predictions.
        presets: By name, the entries that a preset replaces, by key without the preset's name.
        entries: The entries of `blueprint.toml`, `inferred.toml` and `empirical.toml`, by key.
    """

    blueprint: Blueprint
    inferred: Inferred
    empirical: Empirical
    presets: dict[str, dict[str, Entry]]
    entries: dict[str, Entry]

    def for_preset(self, name: str) -> Rules:
        """Return the constants in force for a preset.

        Raises:
            PlanError: If there is no preset of this name.
        """
        if name not in self.presets:
            raise PlanError(f"preset: must be one of {', '.join(self.presets)}, got {name!r}. Choose one of them.")
        entries = {**self.entries, **self.presets[name]}
        return Rules(
            preset=name,
            blueprint=_validated(Blueprint, entries),
            inferred=_validated(Inferred, entries),
        )

    def entry(self, key: str, preset: str) -> Entry:
        """Return the entry that decides a constant under a preset."""
        return self.presets[preset].get(key, self.entries[key])

    @property
    def digest(self) -> str:
        """Digest of all values, whatever the reasons beside them."""
        values = {key: entry.value for key, entry in self.entries.items()}
        presets = {name: {key: entry.value for key, entry in found.items()} for name, found in self.presets.items()}
        return digest_of([values, presets])


def load_rulebook(overlay: Path | None = None) -> Rulebook:
    """Return the rules that travel with the package, single entries replaced by those of a folder.

    Args:
        overlay: Folder with files of the same names that hold only the entries to replace; a new preset is a new table
            in its `presets.toml`. An entry needs its `value`; `why`, `source` and `unit` are kept if left out.

    Raises:
        ArtefactError: If a file cannot be read or an entry is unknown, of the wrong type or unit, or out of range; the
            message names file, line and key.
    """
    folder = resource("rules")
    parts = {file: _read_entries(folder / file, {}) for file in PARTS}
    known = _joined(parts)
    presets = _by_preset(_read_entries(folder / "presets.toml", known), known, {})
    if overlay is not None:
        parts, presets = _overlaid(parts, presets, _overlay_files(overlay))
    entries = _joined(parts)
    rulebook = Rulebook(
        blueprint=_validated(Blueprint, entries),
        inferred=_validated(Inferred, entries),
        empirical=_validated(Empirical, entries),
        presets=presets,
        entries=entries,
    )
    for name in presets:
        rulebook.for_preset(name)
    default = rulebook.inferred.preset.default
    if default not in presets:
        place = entries["preset.default"].place
        raise ArtefactError(f"{place}: must be one of {', '.join(presets)}, got {default!r}. Name one of them.")
    return rulebook


def _joined(parts: Mapping[str, Mapping[str, Entry]]) -> dict[str, Entry]:
    return {key: entry for found in parts.values() for key, entry in found.items()}


def _overlaid(
    parts: Mapping[str, dict[str, Entry]], presets: dict[str, dict[str, Entry]], files: Sequence[Path]
) -> tuple[dict[str, dict[str, Entry]], dict[str, dict[str, Entry]]]:
    """Return the entries by file, and the presets, with those of an overlay's files in their place."""
    replaced = {file: dict(found) for file, found in parts.items()}
    known = _joined(parts)
    for path in files:
        if path.name == "presets.toml":
            named = {f"{name}.{key}": entry for name, found in presets.items() for key, entry in found.items()}
            presets = _by_preset(_read_entries(path, {**known, **named}), known, presets)
            continue
        for key, entry in _read_entries(path, known).items():
            if key not in parts[path.name]:
                raise _unknown(entry, list(parts[path.name]))
            replaced[path.name][key] = entry
    return replaced, presets


def _overlay_files(folder: Path) -> list[Path]:
    """Return the rule files of an overlay folder; a folder without any, or with others, is a mistake."""
    found = sorted(folder.glob("*.toml")) if folder.is_dir() else []
    strange = [path.name for path in found if path.name not in FILES]
    if not found or strange:
        got = f"got {', '.join(strange)}" if strange else "found none"
        raise ArtefactError(f"{folder}: must hold rule files named {', '.join(FILES)}, {got}. Rename or remove them.")
    return found


def _read_entries(path: Path, known: Mapping[str, Entry]) -> dict[str, Entry]:
    """Return the entries of one rule file by key; reasons and units left out are taken from the known entry."""
    try:
        text = path.read_text(encoding="utf-8")
        document = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ArtefactError(f"{path}: must be readable TOML, got: {error}. Mend it.") from None
    return {
        ".".join(parts): _entry(path, text, parts, table, known) for parts, table in _leaves(document, (), path, text)
    }


def _leaves(
    table: Mapping[str, object], parts: tuple[str, ...], path: Path, text: str
) -> list[tuple[tuple[str, ...], Mapping[str, object]]]:
    """Return every table that holds a `value`, with the keys on the way to it."""
    if "value" in table:
        return [(parts, table)]
    found = []
    for key, content in table.items():
        if not isinstance(content, dict):
            where = f"{path}:{_line(text, (*parts, key))} [{'.'.join((*parts, key))}]"
            raise ArtefactError(
                f"{where}: must be a table with `value`, got {content!r}. Write [{'.'.join((*parts, key))}] and below "
                f"it value = {content!r}."
            )
        found += _leaves(content, (*parts, key), path, text)
    return found


def _entry(
    path: Path, text: str, parts: tuple[str, ...], table: Mapping[str, object], known: Mapping[str, Entry]
) -> Entry:
    """Return one entry, its unit checked against the known entry of the same constant."""
    key = ".".join(parts)
    place = f"{path}:{_line(text, parts)} [{key}]"
    if strange := set(table) - {"value", "unit", "why", "source"}:
        raise ArtefactError(
            f"{place}: may hold value, unit, why and source, got {', '.join(sorted(strange))}. Remove them."
        )
    original = known.get(key) or known.get(".".join(parts[1:]))
    fallback = {"unit": original.unit if original else "", "why": f"Set in {path.name}.", "source": str(path)}
    texts = {name: table.get(name, fallback[name]) for name in ("unit", "why", "source")}
    if original and texts["unit"] != original.unit:
        needed = repr(original.unit) if original.unit else "left out"
        raise ArtefactError(f"{place}: unit must be {needed}, got {texts['unit']!r}. Convert the value.")
    try:
        return Entry.model_validate(
            {"key": key, "value": table["value"], **texts, "file": str(path), "line": _line(text, parts)}
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise ArtefactError(f"{place}: {first['loc'][0]} is wrong, got: {first['msg']}. Mend it.") from None


def _line(text: str, parts: Sequence[str]) -> int:
    """Return the line of an entry: that of its header, or else the first that starts with its name, or 1."""
    header = r"^\s*\[\s*" + r"\s*\.\s*".join(rf"[\"']?{re.escape(part)}[\"']?" for part in parts) + r"\s*\]"
    name = rf"^\s*(?:[\w.\"'-]+\s*\.\s*)?[\"']?{re.escape(parts[-1])}[\"']?\s*[=.]"
    for pattern in (header, name):
        if match := re.search(pattern, text, re.MULTILINE):
            return text.count("\n", 0, match.end()) + 1
    return 1


def _by_preset(
    found: Mapping[str, Entry], entries: Mapping[str, Entry], base: Mapping[str, Mapping[str, Entry]]
) -> dict[str, dict[str, Entry]]:
    """Return the presets of `base` with entries replaced or added; a key must be one of `entries`."""
    presets = {name: dict(replaced) for name, replaced in base.items()}
    for full_key, entry in found.items():
        name, _, key = full_key.partition(".")
        if key not in entries:
            raise _unknown(entry, [f"{name}.{known}" for known in entries])
        presets.setdefault(name, {})[key] = entry
    return presets


def _unknown(entry: Entry, known: Sequence[str]) -> ArtefactError:
    section = entry.key.rpartition(".")[0]
    near = [key for key in known if key.rpartition(".")[0] == section] or sorted(
        {key.rpartition(".")[0] for key in known}
    )
    return ArtefactError(
        f"{entry.place}: must be a known key, one of {', '.join(near)}, got {entry.key}. Correct its spelling."
    )


def _validated(part: type[Part], entries: Mapping[str, Entry]) -> Part:
    """Return one part of the rules, each value checked for type and range."""
    nested: dict[str, dict[str, JsonValue]] = {name: {} for name in part.model_fields}
    for key, entry in entries.items():
        section, _, name = key.partition(".")
        if section in nested:
            nested[section][name] = entry.value
    try:
        return part.model_validate_json(json.dumps(nested), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(step) for step in first["loc"][:2])
        where = entries[key].place if key in entries else f"rules [{key}]"
        raise ArtefactError(f"{where}: {first['msg']}, got {first['input']!r}. Correct the value.") from None
