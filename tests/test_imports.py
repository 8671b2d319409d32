"""Modules import downwards only, and the heavy libraries are imported by few of them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from mmlib.chapters import imported_modules

PACKAGE = Path(__file__).parents[1] / "mmlib"
TREES = {p.stem: ast.parse(p.read_text(encoding="utf-8")) for p in PACKAGE.glob("*.py")}
LEVELS = {
    0: {
        "numerals",
        "languages",
        "sources",
        "models",
        "hooks",
        "states",
        "masks",
        "results",
        "pages",
        "chapters",
        "progress",
        "__init__",
    },
    1: {
        "readers",
        "corpus",
        "data",
        "skills",
        "importance",
        "interventions",
        "errors",
        "plotting",
        "checks",
        "own_checks",
        "slam_checks",
        "swap_checks",
        "advice_checks",
        "claims",
        "exercises",
    },
    2: {
        "localisation",
        "evaluation",
        "benchmark",
        "organism",
        "training",
        "merging",
        "alignment",
        "pairs",
    },
    3: {"runner", "sweeps", "ceilings", "precision", "formats", "systems", "experts", "synthesis"},
    4: {"grid", "transfer"},
    5: {"__main__", "profiles", "advice"},
}
LEVEL = {module: level for level, modules in LEVELS.items() for module in modules}
WITHOUT_TORCH = [
    "numerals",
    "languages",
    "sources",
    "readers",
    "corpus",
    "results",
    "checks",
    "own_checks",
    "slam_checks",
    "swap_checks",
    "advice_checks",
    "claims",
    "pages",
    "plotting",
    "exercises",
    "chapters",
    "runner",
]
ALLOWED = {
    "papermill": {"runner"},
    "nbformat": {"runner", "progress"},
    "transformers": {
        "models",
        "data",
        "localisation",
        "ceilings",
        "precision",
        "formats",
        "profiles",
        "evaluation",
        "benchmark",
        "organism",
        "training",
        "merging",
        "systems",
        "experts",
        "synthesis",
        "advice",
    },
    "peft": {"merging", "systems"},
    "lm_eval": {"evaluation"},
    "matplotlib": {"pages", "plotting"},
    "seaborn": {"plotting"},
}


def libraries(tree):
    """Top-level names of everything a module imports, at any depth."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.split(".")[0])
    return found


def test_every_module_has_a_level():
    assert set(TREES) <= set(LEVEL), "give a new module its level here and in the book's API page"


@pytest.mark.parametrize("module", sorted(TREES))
def test_imports_go_downwards(module):
    inside = {name for name in imported_modules(TREES[module]) if name in TREES}
    assert {name for name in inside if LEVEL[name] > LEVEL[module]} == set()
    peers = {name for name in inside - {module} if LEVEL[name] == LEVEL[module]}
    assert not {other for other in peers if module in set(imported_modules(TREES[other]))}, "cycle"


def test_only_the_command_line_reaches_the_generator():
    users = {m for m, tree in TREES.items() if "organism" in set(imported_modules(tree))}
    assert users - {"organism"} <= {"__main__"}


@pytest.mark.parametrize("library", sorted(ALLOWED))
def test_libraries_stay_where_they_belong(library):
    users = {module for module, tree in TREES.items() if library in libraries(tree)}
    assert users <= ALLOWED[library]


def test_nothing_is_pickled_and_no_remote_code_is_trusted():
    for module, tree in TREES.items():
        assert not libraries(tree) & {"pickle", "joblib", "dill", "shelve"}, module
        for node in ast.walk(tree):
            name = getattr(node, "arg", None) or getattr(node, "attr", None)
            assert name not in {"trust_remote_code", "read_pickle", "to_pickle"}, module


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_works_without_torch(module):
    # One process each: a module imported by another test must not hide the answer.
    script = (
        f"import sys, mmlib.{module}; assert not {{'torch', 'transformers'}} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
