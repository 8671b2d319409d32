"""What README and the API page say of the package is so."""

import re
from pathlib import Path

import mmlib

ROOT = Path(__file__).parents[1]


def test_the_lines_of_the_readme_run(capsys):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.S)
    names: dict = {}
    exec(block, names)
    sets, answers = names["sets"], names["answers"]
    shared, either = len(sets["en"] & sets["de"]), len(sets["en"] | sets["de"])
    assert float(capsys.readouterr().out.splitlines()[-1]) == shared / either
    assert 0 < shared < either
    problems = answers.groupby("lang").problem_id.nunique()
    assert problems.to_dict() == {"en": 20, "de": 20}


def test_the_api_page_has_every_public_name():
    page = (ROOT / "book" / "api.md").read_text(encoding="utf-8")
    tables = re.findall(r":nosignatures:\n\n((?:   \w+\n)+)", page)
    assert sorted("".join(tables).split()) == mmlib.__all__
    assert all(getattr(mmlib, name).__doc__ for name in mmlib.__all__)
