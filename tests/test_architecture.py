"""The rooms of `docs/architecture.md`: imports go one way, without a circle, and no file or function is too long."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = (
    *("errors", "seeds", "options", "files", "run", "engine", "data", "models", "training", "pools", "classifiers"),
    *("audit", "retarget", "collapse", "report", "dashboard", "recipes", "notebook", "cli"),
)
"""In their order: a room imports only from itself and from those before it."""
FACE = ("__init__", "__main__")
"""What stands over all rooms: the names of a notebook, and `python -m fairsims`."""
FILES = sorted(p for top in ("fairsims", "apps") for p in (ROOT / top).rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(p): p for p in FILES}


def room_of(module: str) -> str:
    return [*module.split("."), "__init__"][1]


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def imports(module: str) -> Iterator[tuple[int, str]]:
    """Line and module of every import from this package, those inside functions too."""
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, a.name) for a in node.names if a.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield node.lineno, inner if inner in MODULES else node.module


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("fairsims.") and room_of(m) not in FACE])
def test_a_room_imports_only_from_rooms_before_it(module: str) -> None:
    mine = ROOMS.index(room_of(module))
    found = [
        f"line {line}: {other}"
        for line, other in imports(module)
        if other != "fairsims" and ROOMS.index(room_of(other)) > mine
    ]
    assert found == []


def test_no_circle_inside_a_room() -> None:
    graph = {m: {o for _, o in imports(m) if o not in (m, "fairsims")} for m in MODULES}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as e:
        pytest.fail(" -> ".join(e.args[1]))


@pytest.mark.parametrize("module", list(MODULES))
def test_no_file_and_no_function_is_too_long(module: str) -> None:
    assert len(MODULES[module].read_text(encoding="utf-8").splitlines()) <= 500
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno <= 100, node.name


def test_the_median_file_has_at_most_200_lines() -> None:
    lines = sorted(len(p.read_text(encoding="utf-8").splitlines()) for p in FILES)
    assert lines[len(lines) // 2] <= 200
