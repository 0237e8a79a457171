"""The layers: who may import whom. A new part of the package must be placed in `LAYERS` before it can be merged."""

import ast
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TypeAlias

import pytest

import autoseg

LAYERS = (
    ("__main__",),
    ("cli", "api"),
    ("report", "benchmark", "interop"),
    ("pipeline",),
    ("select",),
    ("train", "infer", "evaluate"),
    ("network", "preprocess"),
    ("plan",),
    ("fingerprint",),
    ("data",),
    ("core",),
)
"""From the top down; parts of one layer are blind to each other."""

ROOMS = (
    ("full_run",),
    ("running",),
    ("jobs", "packing"),
    ("training", "heldout"),
    ("prediction", "budget"),
    ("planning",),
)
"""Of `pipeline`, from the top down; rooms of one floor are blind to each other."""

ONLY_IN = {"typer": ("cli",), "rich": ("cli",), "SimpleITK": ("data",)}
"""Libraries that a few parts keep to themselves."""

NEVER_IN = {"torch": ("plan", "data", "core", "fingerprint", "evaluate")}
"""Libraries that parts do without, so that they stay light and testable."""

ROOT = Path(autoseg.__file__).parent

Place: TypeAlias = Callable[[str], str]
"""What tells of a module where it belongs."""

Layers: TypeAlias = tuple[tuple[str, ...], ...]


class Import(NamedTuple):
    """One imported module: its absolute name and the line."""

    name: str
    line: int


def _module_name(path: Path, root: Path) -> str:
    parts = [root.name, *path.relative_to(root).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _modules(root: Path) -> dict[str, str]:
    """Return the source of every module by its dotted name."""
    return {_module_name(path, root): path.read_text(encoding="utf-8") for path in sorted(root.rglob("*.py"))}


def _imports(module: str, source: str, modules: Mapping[str, str]) -> Iterator[Import]:
    """Yield what a module imports anywhere: at the top, in functions, under TYPE_CHECKING."""
    is_package = any(other.startswith(f"{module}.") for other in modules)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")
            above = parents[: len(parents) - node.level + int(is_package)] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield Import(whole if whole in modules else base, node.lineno)


def _part(module: str) -> str:
    """Return the part of the package that a module belongs to; empty for the package itself."""
    return [*module.split("."), ""][1]


def _room(module: str) -> str:
    """Return the room of `pipeline` that a module belongs to; empty for all others."""
    part, room = [*module.split("."), "", ""][1:3]
    return room if part == "pipeline" else ""


def _layer_violations(modules: Mapping[str, str]) -> list[str]:
    """Return a sentence for every import that does not go downwards, and for every part that no layer names."""
    unplaced = _unplaced(modules, _part, LAYERS, "a part of the package must be in LAYERS")
    return unplaced + _upward_imports(modules, _part, LAYERS)


def _room_violations(modules: Mapping[str, str]) -> list[str]:
    """Return the same sentences for the rooms of `pipeline`."""
    unplaced = _unplaced(modules, _room, ROOMS, "a room of pipeline must be in ROOMS")
    inside = {module: source for module, source in modules.items() if _room(module)}
    return unplaced + _upward_imports(inside, _room, ROOMS)


def _unplaced(modules: Iterable[str], place: Place, layers: Layers, rule: str) -> list[str]:
    known = {"", *(name for layer in layers for name in layer)}
    return [f"{module}: {rule}, got {place(module)!r}. Place it." for module in modules if place(module) not in known]


def _upward_imports(modules: Mapping[str, str], place: Place, layers: Layers) -> list[str]:
    depth = {name: number for number, layer in enumerate(layers) for name in layer}
    found = []
    for module, source in modules.items():
        own = place(module)
        for imported in _imports(module, source, modules):
            other = place(imported.name)
            if imported.name.split(".")[0] != module.split(".")[0] or own == other or not other:
                continue
            if not own or depth.get(other, -1) <= depth.get(own, -1):
                found.append(f"{module}:{imported.line}: imports must go downwards, got {imported.name}.")
    return found


def _cycles(modules: Mapping[str, str]) -> list[str]:
    """Return every import cycle as a chain of names, once per module that closes one."""
    edges = {
        module: sorted({entry.name for entry in _imports(module, source, modules)} & modules.keys() - {module})
        for module, source in modules.items()
    }
    found, done = [], set()

    def visit(module: str, chain: list[str]) -> None:
        if module in chain:
            found.append(" > ".join([*chain[chain.index(module) :], module]))
        elif module not in done:
            for other in edges[module]:
                visit(other, [*chain, module])
            done.add(module)

    for module in edges:
        visit(module, [])
    return found


def _library_violations(modules: Mapping[str, str]) -> list[str]:
    """Return a sentence for every import of a library where it has no place."""
    found = []
    for module, source in modules.items():
        part = _part(module)
        for imported in _imports(module, source, modules):
            library = imported.name.split(".")[0]
            if part not in ONLY_IN.get(library, (part,)) or part in NEVER_IN.get(library, ()):
                found.append(f"{module}:{imported.line}: {library} has no place in {part or 'the package itself'}.")
    return found


def _prints(modules: Mapping[str, str]) -> list[str]:
    """Return where anything but the command line prints."""
    return [
        f"{module}:{node.lineno}: only the command line prints."
        for module, source in modules.items()
        if _part(module) != "cli"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]


CHECKS = [_layer_violations, _room_violations, _cycles, _library_violations, _prints]


@pytest.mark.parametrize("check", CHECKS)
def test_the_package_keeps_its_layers(check: object) -> None:
    assert callable(check)
    assert check(_modules(ROOT)) == []


def test_every_module_is_read() -> None:
    modules = _modules(ROOT)
    assert {"autoseg", "autoseg.core", "autoseg.core.artefact", "autoseg.train.loop"} <= modules.keys()
    downwards = [entry.name for entry in _imports("autoseg.train.loop", modules["autoseg.train.loop"], modules)]
    assert {"autoseg.network.checkpoint", "autoseg.core.errors", "torch"} <= set(downwards)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("autoseg.plan.planner", "from autoseg.train.loop import train_fold"),
        ("autoseg.plan.planner", "import autoseg.train.loop"),
        ("autoseg.plan.planner", "from autoseg import train"),
        ("autoseg.plan.planner", "def late():\n    from autoseg.train import loop"),
        ("autoseg.plan.planner", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import autoseg.train.loop"),
        ("autoseg.plan.planner", "from ..train import loop"),
        ("autoseg.plan.planner", "from ..train.loop import train_fold"),
        ("autoseg.plan", "from ..train import loop"),
        ("autoseg.train.loop", "from autoseg.infer import tiles"),
        ("autoseg.train.loop", "import autoseg.evaluate.metrics as metrics"),
        ("autoseg.core.errors", "from autoseg.data import image"),
        ("autoseg", "from autoseg.core import errors"),
    ],
)
def test_an_import_that_goes_up_or_aside_is_found(module: str, source: str) -> None:
    others = ("plan", "plan.planner", "train", "train.loop", "infer", "infer.tiles", "evaluate", "data", "core")
    modules = {f"autoseg.{name}": "" for name in others} | {"autoseg": "", module: source}
    assert len(_layer_violations(modules)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("autoseg.train.loop", "from autoseg.network.unet import UNet\nimport autoseg.core.errors, torch"),
        ("autoseg.train.loop", "from . import augment\nfrom .augment import draw\nfrom ..core import errors"),
        ("autoseg.train", "from .augment import draw\nfrom ..core import errors"),
        ("autoseg.train.loop", "import autoseg"),
    ],
)
def test_an_import_that_goes_down_or_stays_inside_is_allowed(module: str, source: str) -> None:
    others = ("train.augment", "network", "network.unet", "core", "core.errors", "train", "train.loop")
    modules = {"autoseg": ""} | {f"autoseg.{name}": "" for name in others} | {module: source}
    assert _layer_violations(modules) == []


def test_a_part_without_a_layer_is_refused() -> None:
    assert _layer_violations({"autoseg": "", "autoseg.cli": ""}) == []
    assert _layer_violations({"autoseg.helpers": ""}) == [
        "autoseg.helpers: a part of the package must be in LAYERS, got 'helpers'. Place it."
    ]


@pytest.mark.parametrize(
    ("module", "source", "num_found"),
    [
        ("autoseg.pipeline.planning.prepare", "from autoseg.pipeline.budget.schedule import share", 1),
        ("autoseg.pipeline.prediction.predict", "from autoseg.pipeline.budget import schedule", 1),
        ("autoseg.pipeline.budget.schedule", "from autoseg.pipeline import full_run", 1),
        ("autoseg.pipeline.attic.old", "", 1),
        ("autoseg.pipeline.budget.schedule", "from autoseg.pipeline.planning.prepare import plan", 0),
        ("autoseg.pipeline.full_run", "from autoseg.pipeline.budget.schedule import share", 0),
        ("autoseg.pipeline.budget.reserve", "from autoseg.pipeline.budget.schedule import share", 0),
        ("autoseg.pipeline", "from autoseg.pipeline.full_run import run", 0),
    ],
)
def test_rooms_of_the_pipeline_have_floors(module: str, source: str, num_found: int) -> None:
    others = ("planning.prepare", "prediction.predict", "budget.schedule", "budget", "full_run")
    modules = {"autoseg.pipeline": ""} | {f"autoseg.pipeline.{name}": "" for name in others} | {module: source}
    assert len(_room_violations(modules)) == num_found


def test_a_cycle_is_found() -> None:
    sources = {
        "autoseg.core.a": "from autoseg.core import b",
        "autoseg.core.b": "def late():\n    from autoseg.core.c import name",
        "autoseg.core.c": "import autoseg.core.a",
        "autoseg.core.d": "from autoseg.core import a",
    }
    assert _cycles(sources) == ["autoseg.core.a > autoseg.core.b > autoseg.core.c > autoseg.core.a"]
    assert _cycles({**sources, "autoseg.core.c": ""}) == []


@pytest.mark.parametrize(
    ("module", "source", "num_found"),
    [
        ("autoseg.cli.app", "import typer, rich.table\nfrom rich import table", 0),
        ("autoseg.report.pages", "import typer, rich.table\nfrom rich import table", 3),
        ("autoseg", "import rich", 1),
        ("autoseg.data.image", "import SimpleITK as sitk", 0),
        ("autoseg.infer.case", "def late():\n    import SimpleITK", 1),
        ("autoseg.network.unet", "from torch import nn", 0),
        ("autoseg.plan.cost", "from torch import nn", 1),
        ("autoseg.evaluate.metrics", "import torch.nn.functional as functional", 1),
        ("autoseg.fingerprint.extract", "import torch", 1),
    ],
)
def test_a_library_out_of_place_is_found(module: str, source: str, num_found: int) -> None:
    assert len(_library_violations({module: source})) == num_found


def test_a_print_is_found() -> None:
    assert _prints({"autoseg.cli.app": "print(1)", "autoseg.core.errors": "blueprint(1)\nlog.print(1)"}) == []
    assert _prints({"autoseg.core.errors": "def f():\n    print(1)"}) == [
        "autoseg.core.errors:2: only the command line prints."
    ]
