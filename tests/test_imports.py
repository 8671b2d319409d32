"""Rooms import along the allowed arrows, and the heavy libraries stay where they belong."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from mmlib.book.syntax import imported_modules

PACKAGE = Path(__file__).parents[1] / "mmlib"
TREES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): ast.parse(
        path.read_text(encoding="utf-8")
    )
    for path in PACKAGE.rglob("*.py")
}
CORE = {
    "files": set(),
    "models": {"files"},
    "forward": set(),
    "masks": {"files"},
    "importance": {"files", "models", "forward", "masks"},
    "overlap": {"models", "masks", "importance"},
    "edits": {"models", "masks"},
    "merging": {"files", "models", "edits"},
    "neurons": {"models", "forward"},
    "finetune": {"files", "models", "forward", "edits"},
}
"""Modules of the thin package, and those of it that each may import."""
ROOMS = {
    "tasks": (),
    "study": ("tasks", "organism"),
    "claims": ("study.tables", "study.stats"),
    "organism": (),
    "book": ("study.tables", "study.stats", "claims", "tasks"),
}
"""What a room may import besides itself and the thin package."""
WITHOUT_TORCH = ("files", "masks", "study.tables", "study.stats", "claims.ledger", "book.page")
WITHOUT_TORCH += (
    "book.figures",
    "book.runner",
    "book.exercises",
    "book.explorer",
    "tasks.problems",
)
WITHOUT_TORCH += ("organism.corpus",)
LIBRARIES = {
    "papermill": {"book"},
    "huggingface_hub": {"book"},
    "nbformat": {"book"},
    "lm_eval": {"tasks"},
    "datasets": {"tasks"},
    "matplotlib": {"book"},
    "seaborn": {"book"},
    "scipy": {"study"},
    "statsmodels": {"study", "claims"},
    "sklearn": {"study"},
}
"""Rooms in which a library may be imported; the thin package never does."""


def room_of(module):
    return module.partition(".")[0] if "." in module else ""


@cache
def inside(module):
    return {name for name in imported_modules(TREES[module]) if name in TREES and name != module}


def libraries(tree):
    """Top-level names of everything a module imports, at any depth."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.split(".")[0])
    return found


def test_the_thin_package_has_the_modules_that_are_drawn():
    flat = {module for module in TREES if not room_of(module)}
    assert flat == {*CORE, "__init__", "__main__"}
    assert {room_of(module) for module in TREES} == {"", *ROOMS}


@pytest.mark.parametrize("module", sorted(set(TREES) - {"__main__", "__init__"}))
def test_imports_follow_the_arrows(module):
    room, wanted = room_of(module), inside(module)
    if not room:
        assert wanted <= CORE[module]
        return
    allowed = {name for name in TREES if not room_of(name)} - {"__main__"}
    allowed |= {name for name in TREES if room_of(name) == room}
    for place in ROOMS[room]:
        allowed |= {name for name in TREES if name == place or room_of(name) == place}
    assert wanted <= allowed


@pytest.mark.parametrize("module", sorted(TREES))
def test_no_circles(module):
    seen, queue = set(), list(inside(module))
    while queue:
        name = queue.pop()
        if name not in seen:
            seen.add(name)
            queue += inside(name)
    assert module not in seen


@pytest.mark.parametrize("library", sorted(LIBRARIES))
def test_libraries_stay_where_they_belong(library):
    users = {room_of(module) for module, tree in TREES.items() if library in libraries(tree)}
    assert users <= LIBRARIES[library]


def test_nothing_is_pickled_and_no_remote_code_is_trusted():
    for module, tree in TREES.items():
        assert not libraries(tree) & {"pickle", "joblib", "dill", "shelve"}, module
        for node in ast.walk(tree):
            name = getattr(node, "arg", None) or getattr(node, "attr", None)
            assert name not in {"read_pickle", "to_pickle"}, module
            assert name != "trust_remote_code" or node.value.value is False, module
            is_torch = getattr(getattr(node, "value", None), "id", "") == "torch"
            assert not (is_torch and name in {"load", "save"}), module


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_works_without_torch(module):
    # One process each: a module imported by another test must not hide the answer.
    script = (
        f"import sys, mmlib.{module}; assert not {{'torch', 'transformers'}} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


CEILING = {"mmlib": 25224, "core": 2829, "Makefile": 60}
"""Most lines that there may be. They may fall, and what adds some takes others away: raise a number
only for a new experiment."""


def test_the_package_grows_no_further():
    lines = {path: len(path.read_text("utf-8").splitlines()) for path in PACKAGE.rglob("*.py")}
    core = sum(n for path, n in lines.items() if path.parent == PACKAGE and "main" not in path.stem)
    makefile = len((PACKAGE.parent / "Makefile").read_text("utf-8").splitlines())
    counted = {"mmlib": sum(lines.values()), "core": core, "Makefile": makefile}
    assert {name: counted[name] for name in CEILING if counted[name] > CEILING[name]} == {}
