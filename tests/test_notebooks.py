"""Laws of all chapters: sources as written, copies as published; `chapters/` executes them."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mmlib.book import runner
from mmlib.book.chapters import Project, hashes, parameters, run_record
from mmlib.book.syntax import imported_modules

ROOT = Path(__file__).parents[1]
PROJECT = Project(ROOT)
NAMES = list(PROJECT.chapters)
LOCAL_PATH = re.compile(r"(?<![\w.:/<-])/(?:home|Users|root|tmp|opt|mnt|var|work|usr|content)/\S*")

chapter = pytest.mark.parametrize("name", NAMES)


def cells(path, kind="code"):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return [
        {**c, "source": "".join(c["source"])} for c in notebook["cells"] if c["cell_type"] == kind
    ]


def outputs(path):
    return [output for cell in cells(path) for output in cell["outputs"]]


def texts(value):
    """Every text inside a JSON value."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [text for item in value for text in texts(item)]
    return [value] if isinstance(value, str) else []


def python(text):
    """The syntax tree of a cell, without its magics."""
    return ast.parse(re.sub(r"(?m)^[%!].*", "", text))


def trees(name):
    return [python(cell["source"]) for cell in cells(PROJECT.source(name))]


def visible(name):
    """Code cells that a reader sees, but for the parameters; those of exercises too."""
    hidden = {"hide-input", "remove-input", "hide-cell", "remove-cell", "parameters"}
    code = cells(PROJECT.source(name))
    return [cell for cell in code if not hidden & set(cell["metadata"].get("tags", []))]


def called(node):
    """The name by which a statement calls a function, without what it is an attribute of."""
    if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        return ""
    function = node.value.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def shows(text):
    """Whether a cell ends in a value, displays or prints; what is glued is shown elsewhere."""
    tree = python(text)
    if any(called(node) in {"display", "print"} for node in ast.walk(tree)):
        return True
    silent = {"glue", "show", "append", "extend", "update"}
    return isinstance(tree.body[-1], ast.Expr) and called(tree.body[-1]) not in silent


def imported(tree):
    """Modules that a cell imports; `from mmlib.study import tables` names a module too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module in ("mmlib.book", "mmlib.study"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


# --- sources


def test_chapters_yml_names_every_notebook():
    assert {path.stem for path in (ROOT / "notebooks" / "chapters").glob("*.ipynb")} == set(NAMES)


@chapter
def test_every_chapter_is_executed_in_miniature(name):
    text = (ROOT / "tests" / "chapters" / f"test_{name}.py").read_text(encoding="utf-8")
    assert text.count(f'miniature("{name}")') == 1


def test_budgets_fit_into_fifteen_minutes():
    assert sum(entry.budget_s for entry in PROJECT.chapters.values()) <= 15 * 60


@chapter
def test_source_is_stripped(name):
    notebook = json.loads(PROJECT.source(name).read_text(encoding="utf-8"))
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert not {"papermill", "mmlib"} & set(notebook["metadata"])
    assert not LOCAL_PATH.search(PROJECT.source(name).read_text(encoding="utf-8"))


def test_gits_filter_has_nothing_to_strip():
    strip = [Path(sys.executable).with_name("nbstripout"), "--keep-id", "--verify"]
    checked = subprocess.run([*strip, *map(PROJECT.source, NAMES)], capture_output=True, text=True)
    assert (checked.returncode, checked.stdout) == (0, "")


@chapter
def test_a_parameters_cell_holds_typed_and_explained_literals_only(name):
    code = cells(PROJECT.source(name))
    (cell,) = (c for c in code if "parameters" in c["metadata"].get("tags", ()))
    lines = ast.parse(cell["source"]).body
    ours = parameters(PROJECT, name)
    assert [ast.unparse(line) for line in lines] == [
        f"{p.name}: {p.type} = {p.default!r}" for p in ours.values()
    ]
    for parameter in ours.values():
        assert parameter.help


@chapter
def test_the_notebook_tells_and_the_package_does(name):
    kinds = {type(node) for tree in trees(name) for node in ast.walk(tree)}
    assert not kinds & {ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef}


# Chapters that import more than the law allows, exactly: one that keeps it is taken out.
OTHER_IMPORTS = {
    "00_at_a_glance",  # the ledger is about all claims
    "02_organism",  # an exercise takes statsmodels
}


@chapter
def test_at_most_four_code_cells_without_prose_between_them(name):
    notebook = json.loads(PROJECT.source(name).read_text(encoding="utf-8"))
    kinds = "".join("c" if c["cell_type"] == "code" else " " for c in notebook["cells"])
    longest = max(map(len, kinds.split()))
    assert longest <= 4


@chapter
def test_a_visible_cell_shows_something(name):
    silent = [cell["source"] for cell in visible(name) if not shows(cell["source"])]
    assert silent == []


@chapter
def test_a_chapter_has_few_cells(name):
    assert len(cells(PROJECT.source(name))) <= 40
    tags = [set(cell["metadata"].get("tags", [])) for cell in visible(name)]
    assert sum(not found & {"exercise", "solution"} for found in tags) <= 12


@chapter
def test_a_chapter_imports_the_package_its_page_and_one_study(name):
    modules = {module for tree in trees(name) for module in imported(tree)}
    studies = {module for module in modules if module.startswith("mmlib.study.")}
    others = sorted(modules - studies - {"mmlib", "mmlib.book.page", "numpy", "pandas"})
    keeps = not others and len(studies) <= 1
    assert keeps == (name not in OTHER_IMPORTS), [*others, *studies]


@chapter
def test_what_a_chapter_reads_is_declared(name):
    """A table that is read without being declared could change and leave the chapter fresh."""
    code = "\n".join(cell["source"] for cell in cells(PROJECT.source(name)))
    modules = hashes(PROJECT, name, {})["code"]
    # A claim that a chapter names counts with its whole part: it may read what another one reads.
    modules = {re.sub(r"^(claims\.\w+)\.\w+$", r"\1", module) for module in modules}
    names = [module.replace(".", "/") for module in modules if not module.endswith(".yaml")]
    paths = [ROOT / "mmlib" / f"{name}.py" for name in names]
    package = [path.read_text(encoding="utf-8") for path in paths]
    call = re.compile(r'\b(published|read_evidence|read_table)\(\s*"([\w-]+)"')
    place = {"published": "published", "read_evidence": "evidence", "read_table": "results"}
    # A sweep, and what is shipped of a real LLM, is read by the page of its module, not by others
    # that use the module's functions.
    studies = [m for m in imported_modules(ast.parse(code)) if re.fullmatch(r"study\.\w+", m)]
    texts = [(ROOT / f"mmlib/study/{m[6:]}.py").read_text("utf-8") for m in studies]
    read = {
        f"{place[c]}/{table}"
        for text in [code, *package]
        for c, table in call.findall(text)
        if not table.startswith("desk_") or text in [code, *texts]
    }
    read |= {
        f"evidence/{t}" for x in texts for t in re.findall(r'\b(?:Sweep|Numbers)\(\s*"(\w+)"', x)
    }
    own = {f"results/{table}" for table in re.findall(r'write_table\([^"]*"([\w-]+)"', code)}
    assert read - own <= set(PROJECT.chapters[name].reads)


@chapter
def test_a_page_ends_with_its_summary_and_the_next_step(name):
    order = re.findall(r"chapters/(\w+)", (ROOT / "book" / "_toc.yml").read_text(encoding="utf-8"))
    following = dict(zip(order, [f"{after}.ipynb" for after in order[1:]], strict=False))
    text = "\n\n".join(cell["source"] for cell in cells(PROJECT.source(name), "markdown"))
    summary = r":::\{admonition\} In short\n:class: tip\n[^\n]+\.\n:::\n\n"
    end = re.findall(summary + r"\*\*Next:\*\* \[.+\]\((.+?)\) – .+\.\n\n## How this page", text)
    assert end == [following.get(name, "../run_your_model.md")]


# --- the published copies


@pytest.mark.parametrize("name", ["16_align", "16b_forgetting", "18_swap"])
def test_an_unfit_laboratory_is_told_in_the_first_line(name):
    text = cells(PROJECT.source(name), "markdown")[0]["source"]
    assert "laboratory was unfit" in re.search("^- .*", text, re.M)[0]
    assert "_llm.ipynb)" in text  # where a real LLM is asked in its place
    assert "```{include} ../_static/unfit.md" in text


def test_copies_are_up_to_date():
    stale = {row.chapter.name: row.reasons for row in runner.status(PROJECT) if row.reasons}
    assert stale == {}, "python -m mmlib run --stale"


@chapter
def test_copy_is_complete_and_without_errors(name):
    path = PROJECT.executed(name)
    code = cells(path)
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert [output for output in outputs(path) if output["output_type"] == "error"] == []
    assert not any("injected-parameters" in c["metadata"].get("tags", []) for c in code)
    assert [c["source"] for c in code] == [c["source"] for c in cells(PROJECT.source(name))]


@chapter
def test_copy_keeps_no_path_and_no_warning(name):
    path = PROJECT.executed(name)
    found = [m.group() for text in texts(outputs(path)) for m in LOCAL_PATH.finditer(text)]
    assert found == []
    text = path.read_text(encoding="utf-8")
    for place in (ROOT, Path.home(), Path(sys.prefix)):
        assert len(place.parts) < 3 or str(place) not in text
    assert [o["text"] for o in outputs(path) if o.get("name") == "stderr"] == []


@chapter
def test_numbers_are_shown_in_tables(name):
    shown = [output.get("data", {}) for output in outputs(PROJECT.executed(name))]
    assert not [data for data in shown if "dtype:" in data.get("text/plain", "") and len(data) == 1]


@chapter
def test_every_figure_has_a_description(name):
    for cell in cells(PROJECT.executed(name)):
        described = cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "")
        for output in cell["outputs"]:
            kinds = {kind.split("papermill.record/")[-1] for kind in output.get("data", ())}
            assert described or not kinds & {"image/png", "image/svg+xml", "image/jpeg"}
            for svg in re.findall(r"<svg\b[^>]*>", "".join(texts(output.get("data", {})))):
                labelled = re.search(r'role="img"[^>]*aria-label="[^"]{20,}"', svg)
                assert labelled or 'aria-hidden="true"' in svg, svg[:200]


def test_every_table_has_one_writer():
    tables = [t for name in NAMES for t in run_record(PROJECT.executed(name)).get("tables", ())]
    assert len(tables) == len(set(tables))
    on_disk = {path.name for path in (ROOT / "book" / "results").glob("*") if path.is_file()}
    assert on_disk == set(tables)
