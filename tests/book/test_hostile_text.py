"""What somebody gives as a parameter, or a model answers, is text: never code, markup or a path."""

import ast
from html.parser import HTMLParser

import pandas as pd
import pytest
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from mmlib.book import page, runner
from mmlib.book.chapters import resolve
from mmlib.book.tables import table_html
from mmlib.study.evidence import keep_evidence
from mmlib.study.tables import RunInfo, write_table

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "&lt;b&gt; & <b>",
    "'; __import__('pathlib').Path('hacked').touch() #",
    '"""\nraise SystemExit\n"""',
    "\\'; raise SystemExit #\\",
    "{{ 7 * 7 }} ${HOME} $(touch hacked) `touch hacked` %system touch hacked",
    "../../../etc/passwd",
    "!!python/object/apply:os.system [touch hacked]",
    "\u202eevil\u2028line\x00end\x1b[2J",
]


class Seen(HTMLParser):
    """Tags of a page, and its text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text = set(), ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        assert not any(name.startswith("on") or name == "src" for name, _ in attributes)

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("text", HOSTILE)
def test_a_parameter_becomes_a_literal(executed, text):
    given = {"model": text, "languages": [text, "en"]}
    _, changed = resolve(executed, "01_toy", given)
    made = parameterize_notebook(load_notebook_node(str(executed.source("01_toy"))), changed)
    (cell,) = (c for c in made.cells if "injected-parameters" in c.metadata.get("tags", ()))
    lines = ast.parse(cell.source).body
    assert {line.targets[0].id: ast.literal_eval(line.value) for line in lines} == given


def test_a_chapter_runs_with_hostile_parameters(project):
    given = {"model": HOSTILE[3], "languages": HOSTILE[:9]}
    notebook = runner.run(project, "01_toy", given)
    assert notebook.parent.parent == project.runs
    assert (notebook.parent / "toy.csv").read_text() == "value\n2\n"
    assert not list(project.root.rglob("hacked"))


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_model_answers_is_escaped(text):
    row = {"condition": "none", "edited": "", "lang": "en", "target": text, "correct": False}
    for shown in (
        page.answers(pd.DataFrame([row | {"response": text}])).data,
        table_html(pd.DataFrame({"response": [text], text: ["a"]}, index=[text])),
        page.provenance_html(RunInfo(text, parameters={"model": text})),
    ):
        seen = Seen(shown)
        assert not seen.tags & {"script", "img", "b"}
        if text.isprintable() and "'" not in text and len(text) < 50:
            assert text in seen.text


@pytest.mark.parametrize("name", ["../up", "a/b", "/tmp/x", "", ".", "a.csv", "a\x00"])
def test_nothing_is_written_outside_of_the_run(name, tmp_path, monkeypatch):
    monkeypatch.setenv("MMLIB_OUTPUT_DIR", str(tmp_path / "run"))
    for write in (lambda: write_table(pd.DataFrame({"n": [1]}), name, RunInfo("m")),
                  lambda: page.save(name, None)):  # fmt: skip
        with pytest.raises(ValueError, match="letters, digits"):
            write()
    assert list(tmp_path.iterdir()) == []


def test_a_query_of_a_grid_compares_columns_and_calls_nothing(tmp_path):
    path = write_table(pd.DataFrame({"n": [1, 2]}), "t", RunInfo("m", date="1"), folder=tmp_path)
    for where in ("@pd.eval('1')", "n.__class__", "@__import__('os')"):
        with pytest.raises(ValueError, match="compare columns with values"):
            keep_evidence("kept", [path], where=where, folder=tmp_path)
    assert keep_evidence("kept", [path], where="n > 1", folder=tmp_path).is_file()
