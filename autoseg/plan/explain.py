"""Plans in words: all decisions at a glance, the whole story of one, and what makes two plans differ."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence

from pydantic import JsonValue

from autoseg.core.errors import PlanError
from autoseg.plan.rulebook import Entry, Rulebook
from autoseg.plan.schema import Decision, Plan

ALL = "all configurations"

LISTS_OF_AXES = ("transpose", "mirror_axes")
"""Values that number axes; other lists of numbers are sizes."""


def explain(plan: Plan) -> str:
    """Return every decision of a plan with its reason, by configuration."""
    lines = [f"Plan of {plan.dataset}, preset {plan.preset}"]
    place = ""
    for decision in plan.decisions:
        if _place(decision) != place:
            place = _place(decision)
            lines += ["", place]
        lines.append(f"  {decision.name:<16} {_shown(decision)}")
        lines.append(f"  {'':<16} {decision.reason}")
    lines += ["", f"One value's whole story: --explain NAME, of {', '.join(_names(plan))}"]
    return "\n".join(lines)


def explain_value(plan: Plan, name: str) -> str:
    """Return the whole story of one value: reason, inputs, what was tried, constants, source.

    Args:
        plan: Any plan.
        name: Of a decision, such as `patch_size`; every configuration that has it is told.

    Raises:
        PlanError: If no decision has this name.
    """
    found = [decision for decision in plan.decisions if decision.name == name]
    if not found:
        raise PlanError(f"--explain: must be one of {', '.join(_names(plan))}, got {name!r}. Choose one of them.")
    return "\n\n".join("\n".join(_story(decision)) for decision in found)


def compare_plans(ours: Plan, other: Plan) -> str:
    """Return what differs between two plans, and which input or constant made it so."""
    lines: list[str] = []
    others = {(entry.configuration, entry.name): entry for entry in other.decisions}
    mine = {(entry.configuration, entry.name): entry for entry in ours.decisions}
    for key, decision in mine.items():
        if key not in others:
            lines += [f"{_place(decision)}, {decision.name}: {_shown(decision)}, absent in the other plan"]
        elif decision.value != others[key].value:
            lines += _difference(decision, others[key])
    lines += [
        f"{_place(entry)}, {entry.name}: absent, {_shown(entry)} in the other plan"
        for key, entry in others.items()
        if key not in mine
    ]
    for part in ("training", "inference"):
        pairs = _changed(_flat(getattr(ours, part).model_dump()), _flat(getattr(other, part).model_dump()))
        lines += [f"{part}, {name}: {left} here, {right} there" for name, left, right in pairs]
    return "\n".join(lines) or "The plans are equal."


def list_rules(rulebook: Rulebook) -> str:
    """Return every constant with value, reason and source, and then what each preset replaces."""
    lines: list[str] = []
    for entry in rulebook.entries.values():
        lines += _constant(entry)
    for name, replaced in rulebook.presets.items():
        lines += ["", f"Preset {name}" + (" (default)" if name == rulebook.inferred.preset.default else "")]
        for key, entry in replaced.items():
            lines += _constant(entry.model_copy(update={"key": key}))
    return "\n".join(lines)


def _constant(entry: Entry) -> Iterator[str]:
    yield f"{entry.key} = {_text(entry.value)} {entry.unit}".rstrip()
    yield f"    {entry.why} [{entry.source}]"


def _difference(mine: Decision, other: Decision) -> Iterator[str]:
    yield f"{_place(mine)}, {mine.name}: {_shown(mine)} here, {_shown(other)} there"
    causes = [
        *((f"rule {key}", left, right) for key, left, right in _changed(mine.rules, other.rules)),
        *((f"input {key}", left, right) for key, left, right in _changed(mine.inputs, other.inputs)),
    ]
    for name, left, right in causes:
        yield f"    {name}: {left} here, {right} there"
    if not causes:
        yield f"    {mine.reason} There: {other.reason}"


def _changed(mine: Mapping[str, JsonValue], other: Mapping[str, JsonValue]) -> Iterator[tuple[str, str, str]]:
    """Yield key and both values, in words, where two mappings differ."""
    for key in dict.fromkeys((*mine, *other)):
        if mine.get(key) != other.get(key):
            left, right = (_text(entries[key]) if key in entries else "absent" for entries in (mine, other))
            yield key, left, right


def _flat(nested: Mapping[str, JsonValue], prefix: str = "") -> dict[str, JsonValue]:
    flat: dict[str, JsonValue] = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _story(decision: Decision) -> Iterator[str]:
    yield f"{decision.name} of {_place(decision)}: {_shown(decision)}"
    yield f"  {decision.reason}"
    yield from _section("From", [f"{name}: {_text(value)}" for name, value in decision.inputs.items()])
    tried = [f"{_text(step.value)}: {step.outcome}" for step in decision.alternatives]
    yield from _section("Tried before", [f"{number}. {line}" for number, line in enumerate(tried, start=1)])
    yield from _section("Constants (rules/)", [f"{key} = {_text(value)}" for key, value in decision.rules.items()])
    if decision.source:
        yield f"  Source: {decision.source}"


def _section(title: str, lines: Sequence[str]) -> Iterator[str]:
    if lines:
        yield f"  {title}:"
        yield from (f"    {line}" for line in lines)


def _names(plan: Plan) -> list[str]:
    return list(dict.fromkeys(decision.name for decision in plan.decisions))


def _place(decision: Decision) -> str:
    return decision.configuration or ALL


def _shown(decision: Decision) -> str:
    """Return the value in words; of the topology, which is long, its outline."""
    value = decision.value
    if decision.name == "topology" and isinstance(value, dict):
        strides, features = value["strides"], value["features"]
        if isinstance(strides, list) and isinstance(features, list):
            axes = zip(*(stride for stride in strides if isinstance(stride, list)), strict=True)
            total = "x".join(str(math.prod(int(str(step)) for step in axis)) for axis in axes)
            return f"{len(strides)} stages, {total} times smaller at the bottom, {_text(features)} features"
    if decision.name in LISTS_OF_AXES and isinstance(value, list):
        return ", ".join(_text(axis) for axis in value) or "none"
    return _text(value)


def _text(value: JsonValue) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.6g}"
        case list() if value and all(isinstance(entry, int | float) for entry in value):
            return " x ".join(_text(entry) for entry in value)
        case dict() if all(isinstance(entry, str | int | float) for entry in value.values()):
            return ", ".join(f"{key}: {_text(entry)}" for key, entry in value.items())
        case str():
            return value
        case _:
            return json.dumps(value)
