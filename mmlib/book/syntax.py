"""Hash the code that a chapter depends on, by its syntax: what changes nothing does not count."""

import ast
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import mmlib

FOR_ANNOTATIONS = ("typing", "collections.abc")
"""Modules whose names stand in annotations."""
WHOLE = ("__init__", "rules", "ledger")
"""Modules of `mmlib.claims` that hold no claims of their own."""
ASKING = ("verdicts", "judge", "claim_of", "published_outcome")
"""Functions that decide the claims whose ids they are given."""


def digest(value: Any) -> str:
    """Hash plain data: the first 16 hex digits of the SHA-256 of its JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def shape(node: Any) -> Any:
    """A syntax tree as lists, the same in every Python version, without what changes nothing.

    That is positions, docstrings, the annotations of arguments and results, and imports for them.
    Annotations of the fields of a class count: they make the fields of a dataclass.
    """
    if isinstance(node, list):
        kept = (item for item in node if getattr(item, "module", None) not in FOR_ANNOTATIONS)
        return [shape(item) for item in kept]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = {key: value for key, value in ast.iter_fields(node) if value not in (None, [])}
    if isinstance(node, ast.arg):
        fields.pop("annotation", None)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        fields.pop("returns", None)
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
        fields["body"] = node.body[1:]
    return [type(node).__name__, {key: shape(value) for key, value in fields.items()}]


def _home() -> Mapping[str, str]:
    """Public names of the package and the modules that they come from.

    A checkout may have another `mmlib` in front of this one, which has none.
    """
    return vars(mmlib).get("_HOME", {})


def imported_modules(tree: ast.AST) -> Iterator[str]:
    """Modules of `mmlib` that a syntax tree imports anywhere: `importance`, `study.tables`, ...

    A public name of the package itself counts as the module that it comes from.
    """
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "mmlib":
            names = [_home().get(a.name, f"mmlib.{a.name}") for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        yield from (name.removeprefix("mmlib.") for name in names if name.startswith("mmlib."))


@dataclass
class _Part:
    """A module of claims, cut into statements: a chapter depends on some of them only."""

    claims: set[str] = field(default_factory=set)
    named: dict[str, list[ast.stmt]] = field(default_factory=dict)
    """Statements by what they define: names, and ids of claims; under "" what runs besides."""
    imported: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Names from other modules of `mmlib` -> the module, and their name in it."""


@cache
def _part(text: str) -> _Part:
    part = _Part()
    for statement in ast.parse(text).body:
        if isinstance(statement, ast.ImportFrom):
            module = (statement.module or "").removeprefix("mmlib.")
            if module != statement.module:
                part.imported |= {a.asname or a.name: (module, a.name) for a in statement.names}
            continue
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue
        names = _claims(statement)
        part.claims |= names
        for name in names | _defined(statement) or {""}:
            part.named.setdefault(name, []).append(statement)
    return part


def _claims(statement: ast.stmt) -> set[str]:
    """Ids of the claims that a statement records, by a call or a decorator."""
    calls = [getattr(statement, "value", None), *getattr(statement, "decorator_list", ())]
    first = [call.args[0] for call in calls if isinstance(call, ast.Call) and call.args]
    words = {arg.value for arg in first if isinstance(arg, ast.Constant)}
    return {word for word in words if re.fullmatch(r"[A-Z]\d+[a-z]?", str(word))}


def _defined(statement: ast.stmt) -> set[str]:
    """Names that a statement of a module gives."""
    if isinstance(statement, ast.Assign | ast.AnnAssign):
        return {
            node.id
            for node in ast.walk(statement)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }
    return {statement.name} if hasattr(statement, "name") else set()


def _reached(parts: Mapping[str, _Part], part: str, name: str) -> tuple[list[Any], set[str]]:
    """Statements that a claim or another name of a part needs, and modules that these need."""
    statements, modules = {}, set()
    todo, seen = [(part, name), (part, "")], set()
    while todo:
        where, wanted = todo.pop()
        if where not in parts:
            modules |= {where, f"{where}.{wanted}"}
        elif (where, wanted) not in seen:
            seen.add((where, wanted))
            if wanted in parts[where].imported:
                todo.append(parts[where].imported[wanted])
            for statement in parts[where].named.get(wanted, ()):
                statements[id(statement)] = statement
                used = [node.id for node in ast.walk(statement) if isinstance(node, ast.Name)]
                todo += [(where, other) for other in used]
    return list(statements.values()), modules


def _pieces(tree: ast.Module, parts: Mapping[str, _Part]) -> tuple[set[tuple[str, str]], list[str]]:
    """What a chapter needs of parts of the claims, and the modules that it needs as a whole."""
    pieces, modules = set(), []
    for node in ast.walk(tree):
        part = (getattr(node, "module", None) or "").removeprefix("mmlib.")
        if isinstance(node, ast.ImportFrom) and part in parts:
            pieces |= {(part, alias.name) for alias in node.names}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            modules += imported_modules(node)
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    if any(getattr(f, "id", getattr(f, "attr", None)) in ASKING for f in calls):
        words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        asked = {(part, word) for part, has in parts.items() for word in has.claims & words}
        pieces |= asked
        modules += [] if asked else parts
    return pieces, modules


@cache
def _module(text: str) -> tuple[str, list[str]]:
    """Hash of a module, and the modules that it imports."""
    tree = ast.parse(text)
    return digest(shape(tree)), list(imported_modules(tree))


def _records(folder: Path) -> dict[str, str]:
    """Hashes of the YAML files that modules of a room read: in its folder, and in data folders."""
    inside = [
        path for path in folder.glob("*/*.yaml") if not (path.parent / "__init__.py").exists()
    ]
    paths = sorted([*folder.glob("*.yaml"), *inside])
    return {f"{p.parent.name}/{p.name}": digest(p.read_text(encoding="utf-8")) for p in paths}


def code_hashes(root: Path, tree: ast.Module) -> dict[str, str]:
    """Hash what the code of a chapter needs of `mmlib`, directly or through another module.

    Returns:
        Hashes of modules. A part of the claims counts by the claims whose ids stand in the code of
        a chapter that asks for verdicts, and by the names that it imports, as
        `claims.PART.NAME`; as a whole where no id stands there or the whole ledger is read.
    """
    paths = sorted((root / "mmlib" / "claims").glob("*.py"))
    texts = {p.stem: p.read_text(encoding="utf-8") for p in paths if p.stem not in WHOLE}
    parts = {f"claims.{name}": _part(text) for name, text in texts.items()}
    pieces, queue = _pieces(tree, parts)
    reached = {piece: _reached(parts, *piece) for piece in pieces}
    for _, modules in reached.values():
        queue += modules
    found: dict[str, str] = {}
    while queue:
        module = queue.pop()
        path = root / "mmlib" / f"{module.replace('.', '/')}.py"
        if module not in found and path.exists():
            text = path.read_text(encoding="utf-8")
            found[module], imported = _module(text)
            queue.extend(imported)
            if "import yaml" in text:
                found |= _records(path.parent)
    for (part, name), (statements, _) in reached.items():
        if part not in found:
            found[f"{part}.{name}"] = digest(sorted(digest(shape(s)) for s in statements))
    return found
