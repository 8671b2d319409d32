"""A small checkout with two chapters and three grids, as the tests of the runner need one."""

import os
import shutil
import time

import nbformat
import pytest
import yaml

from mmlib.book import runner, sweep
from mmlib.book.chapters import Project

PARAMETERS = """\
model: str = "organism-tiny"  # name of the model
seed: int = 1  # first seed
keep_ratios: list[float] = [0.1, 0.2]  # shares to keep
languages: list[str] = ["en", "de"]  # codes
include_head: bool = False  # also the output matrix"""


CELLS = [
    "# A question?",
    PARAMETERS,
    "import os, pathlib, time, warnings\nfrom mmlib.toy import double",
    "out = pathlib.Path(os.environ['MMLIB_OUTPUT_DIR'])\n"
    "_ = (out / 'toy.csv').write_text(f'value\\n{double(seed)}\\n')",
    # Where the checkout says so, stay in this cell to be killed, or fail.
    "_ = pathlib.Path('kernel.pid').write_text(str(os.getpid()))\n"
    "while pathlib.Path('stay').exists(): time.sleep(0.05)\n"
    "assert not pathlib.Path('fail').exists(), 'told to'",
    "warnings.warn('look')\nprint(out, os.getcwd(), os.environ['MMLIB_CHAPTER'])",
]


CHAPTERS = {
    "01_toy": {"title": "A question?", "budget_s": 60, "reads": ["published/facts"]},
    "02_other": {"title": "Another?", "budget_s": 60},
}


def write_notebook(path, texts):
    new = nbformat.v4
    cells = [new.new_markdown_cell(texts[0], id="a0")]
    cells += [new.new_code_cell(text, id=f"a{n}") for n, text in enumerate(texts[1:], 1)]
    cells[1].metadata["tags"] = ["parameters"]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)


def make_checkout(root):
    for folder in ("notebooks/chapters", "mmlib/published", "mmlib/organisms/organism-tiny"):
        (root / folder).mkdir(parents=True)
    write_notebook(root / "notebooks/chapters/01_toy.ipynb", CELLS)
    write_notebook(root / "notebooks/chapters/02_other.ipynb", ["# B", "x: int = 1  # an x", "x"])
    (root / "notebooks/chapters.yml").write_text(yaml.safe_dump(CHAPTERS, sort_keys=False))
    (root / "mmlib/__init__.py").touch()
    (root / "mmlib/toy.py").write_text('"""Toys."""\nfrom mmlib.deep import TWO\n\n\n')
    with (root / "mmlib/toy.py").open("a") as file:
        file.write('def double(x):\n    """Twice."""\n    return x * TWO  # so\n')
    (root / "mmlib/deep.py").write_text("TWO = 2\n")
    (root / "mmlib/unused.py").write_text("x = 1\n")
    (root / "mmlib/published/facts.csv").write_text("n\n1\n")
    (root / "mmlib/organisms/organism-tiny/model.safetensors").write_bytes(b"weights")
    return Project(root)


@pytest.fixture(scope="session")
def executed(tmp_path_factory):
    """A checkout whose first chapter has been run with its default parameters."""
    project = make_checkout(tmp_path_factory.mktemp("executed"))
    runner.run(project, "01_toy")
    return project


@pytest.fixture
def project(executed, tmp_path):
    """A copy of it, to be changed."""
    shutil.copytree(executed.root, tmp_path / "copy")
    return Project(tmp_path / "copy")


@pytest.fixture
def fresh(tmp_path):
    return make_checkout(tmp_path / "fresh")


def reasons(project):
    return runner.status(Project(project.root))[0].reasons


def published(project):
    """Every file of the published edition, by content."""
    paths = sorted((project.root / "book").rglob("*"))
    return {str(p.relative_to(project.root)): p.read_bytes() for p in paths if p.is_file()}


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def wait_until(condition):
    deadline = time.monotonic() + 60 * float(os.environ.get("MMLIB_SLOW", "1"))
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# --- grids

TOY = {
    "chapter": "01_toy",
    "parameters": {"include_head": True},
    "vary": {"seed": [2, 3]},
    "fills": {"doubles": {"table": "toy", "where": "value > 2", "grids": ["more"]}},
}
WIDE = {
    "chapter": "01_toy",
    "parameters": {"include_head": True},
    "vary": {"seed": [2, 3], "languages": [["en"], ["de", "no"]]},
}
MORE = {"chapter": "01_toy", "vary": {"seed": [5]}}


def write_grids(root):
    folder = root / sweep.FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {"toy": TOY, "wide": WIDE, "more": MORE}.items():
        (folder / f"{name}.yml").write_text(yaml.safe_dump(text, sort_keys=False))
    return Project(root)


@pytest.fixture
def grids(project):
    return write_grids(project.root)


def toy_runs(project, grid="toy"):
    project = Project(project.root)
    return sweep.runs(project, sweep.find(project, grid))
