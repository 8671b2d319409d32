"""Figures as they stand on a page: themed, labelled, alike; the ledger, badges and provenance."""

import logging
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from drawings import FIGURES, controls, log, overlaps, rgb

from mmlib.book import figures as plotting
from mmlib.book import page as pages
from mmlib.claims import ledger, rules
from mmlib.study.tables import RunInfo, load_table


@pytest.fixture(scope="module", params=FIGURES)
def figure(request):
    return FIGURES[request.param]()


def test_svg_is_themed_labelled_and_well_formed(figure):
    for svg in figure.svgs():
        root = ElementTree.fromstring(svg)
        assert root.get("role") == "img"
        assert figure.alt in root.get("aria-label")
        assert root.get("viewBox")
        assert plotting.INK not in svg
        assert not re.search(r"#000\b|#000000|\bblack\b", svg)
        assert "currentColor" in svg
        assert not re.search(r"<(image|script|metadata|foreignObject)", svg)
        assert set(re.findall(r"font-family: ([^;\"]+)", svg)) <= {"inherit"}
        for text in root.iter("{http://www.w3.org/2000/svg}text"):
            assert "fill:" in text.get("style"), "text without a colour is black"


def test_ids_are_unique_on_a_page_and_resolve():
    html = "".join(make()._repr_html_() for make in FIGURES.values())
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', html)) <= set(ids)


def test_figures_are_the_same_bytes_from_run_to_run():
    table, extra = overlaps(), controls()
    first, second = (plotting.overlap_pairs(table, None, extra)._repr_html_() for _ in range(2))
    assert first == second
    assert str(pd.Timestamp.now().year) not in first


def test_alt_text_holds_every_mean_drawn():
    ours = overlaps()
    figure = plotting.overlap_pairs(ours)
    for (a, b), rows in ours.query("group == 'global' and keep_ratio == 0.1").groupby(
        ["lang_a", "lang_b"]
    ):
        assert f"{a}–{b} {rows['jaccard'].mean():.3f}" in figure.alt


def test_the_key_names_only_what_is_drawn():
    names = [entry[2] for entry in plotting.overlap_pairs(overlaps()).key]
    assert names == ["two languages", "chance at the same set sizes"]
    names = [entry[2] for entry in plotting.layer_profile(overlaps(), None, controls()).key]
    assert names[-2:] == ["same language, other calibration sample", "untrained model"]
    assert plotting.overlap_pairs(overlaps(), None, pd.DataFrame()).panels


def luminance(colour):
    c = rgb(colour)
    c = np.where(c <= 0.03928, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    return float(c @ [0.2126, 0.7152, 0.0722])


def contrast(a, b):
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_badges_are_readable_in_both_themes():
    css = (Path(__file__).parents[2] / "book/_static/mmlib.css").read_text()
    for kind in set(pages.VERDICTS.values()):
        light = re.search(rf"^\.mm-{kind} \{{ color: (#\w+)", css, re.M)[1]
        dark = re.search(rf'^html\[data-theme="dark"\] \.mm-{kind} \{{ color: (#\w+)', css, re.M)[1]
        assert contrast(light, "#ffffff") >= 4.5
        assert contrast(dark, "#121212") >= 4.5


@pytest.mark.parametrize("suffix", ["svg", "png", "pdf"])
def test_save_writes_one_panel(tmp_path, suffix):
    path = tmp_path / f"figure.{suffix}"
    plotting.training_curve(log()).save(path)
    assert path.stat().st_size > 1000


def ledger_rows():
    words = {
        "paper": "A & B",
        "claim": "a < b",
        "restatement": "check",
        "published_numbers": "21/21",
    }
    words |= {"note": "why"}
    record = {"unit": "trainings", "test": "every", "threshold": 0.0, "committed": "2026-11-21"}
    verdicts = {"published_data": "yes", "real_llm": "no run yet", "organism": "undecided"}
    numbers = {
        "effect": 0.2,
        "low": 0.1,
        "high": 0.3,
        "seeds": 3,
        "problems": 0,
        "cell": "en, de",
        "cells": 12,
    }
    numbers |= {"complying": 7, "detectable": 0.15, "reason": "interval"}
    words |= {"differs": "", "where": "here", "measured": "a - b", "precondition": "", "seen": ""}
    words |= {"changed": ""}
    published = {f"published_{name}": value for name, value in numbers.items()}
    row = {"id": "C1", **words, **record, **verdicts, **numbers, **published}
    bare = dict.fromkeys(["effect", "low", "high", "detectable"], np.nan)
    none = bare | {"cell": "", "cells": 0, "complying": 0}
    row |= {
        f"real_{name}": value for name, value in {**numbers, **none, "reason": "no run"}.items()
    }
    none |= {f"published_{name}": value for name, value in none.items()}
    return pd.DataFrame([row, row | bare | none | {"id": "C2", "organism": "no run yet"}])


def test_ledger_is_a_table_with_heads_scopes_and_escaped_text():
    html = pages.ledger_html(ledger_rows(), links={"C1": "04_overlap.html#fig-pairs"})
    root = ElementTree.fromstring(html)
    assert root.find("caption").text
    assert {th.get("scope") for th in root.iterfind("thead/tr/th")} == {"col"}
    first, second = root.iterfind("tbody/tr")
    assert first.get("id") == "claim-C1"
    assert [link.get("href") for link in first.iterfind("th/a")] == [
        "04_overlap.html",
        "04_overlap.html#fig-pairs",
    ]
    told = ["A & B", "yes", "no run yet", "undecided"]
    names = ("paper", "published_data", "real_llm", "organism")
    assert [first.get(f"data-{name}") for name in names] == told
    assert second.find("th/a") is None
    words = " ".join(first.itertext())
    told = ["holds in 7 of 12 cells", "(en, de) is 0.2 (0.1 to 0.3) against 0, over 3 trainings"]
    record = ["intersection-union", "2026-11-21", "check", "Published numbers 21/21"]
    for part in ("a < b", "why", "80 % power at a distance of 0.15", *told, *record):
        assert part in words
    assert "nan" not in " ".join(second.itertext()).lower()
    assert [badge.text for badge in first.iter("span")] == ["yes", "no run yet", "undecided"]


def test_ledger_refuses_unknown_verdicts_and_missing_columns():
    with pytest.raises(ValueError, match=r"'maybe'.*undecided"):
        pages.ledger_html(ledger_rows().assign(organism="maybe"))
    with pytest.raises(ValueError, match="'organism'"):
        pages.ledger_html(ledger_rows().drop(columns="organism"))


def test_every_verdict_of_the_ledger_has_a_badge():
    assert {*rules.VERDICTS, *rules.EXPLORATORY.values()} == set(pages.VERDICTS)
    assert pages.ledger_html(ledger.ledger()).count("<tr") == len(rules.CLAIMS) + 1


def test_provenance_takes_a_run_or_its_manifest():
    run = RunInfo("organism-skewed", dtype="float32", date="2026-11-20", parameters={"a": "<b>"})
    html = pages.provenance_html(run, seconds=12.3)
    assert html == pages.provenance_html(vars(run), seconds=12.3)
    about = ElementTree.fromstring(html).find("dl")
    words = dict(zip((d.text for d in about[::2]), (d.text for d in about[1::2]), strict=True))
    assert words["model"].split() == ["organism-skewed", "float32"]
    assert words["parameters"] == "a='<b>'"
    assert words["duration"] == "12 s"
    assert "hardware" not in words, "what is unknown is left out"


def test_a_page_says_what_the_library_told_while_it_ran():
    earlier, this = (pages.open({"__annotations__": {}}) for _ in range(2))
    for source in ("shipped", "computed", "shipped"):
        logging.getLogger("mmlib.study.norms").info("norms %s", source)
    html = pages.provenance_html(RunInfo("toy"), told=this.told.counts)
    assert "<dt>told</dt><dd>2 × norms shipped, 1 × norms computed</dd>" in html
    assert not earlier.told.counts


def test_answers_are_shown_as_they_were_written():
    rows = [
        ("none", "", "en", "18", "a < b\n\n$5 + $6", True),
        ("random", "en", "en", "18", "", False),
    ]
    names = ["condition", "edited", "lang", "target", "response", "correct"]
    root = ElementTree.fromstring(pages.answers(pd.DataFrame(rows, columns=names)).data)
    assert "tex2jax_ignore" in root.get("class")
    assert [dd.text for dd in root.iter("dd")] == ["a < b\n\n$5 + $6", "(nothing)"]
    told = ["nothing pruned (right)", "random weights of en pruned (not right)"]
    assert [dt.text for dt in root.iter("dt")] == told
    assert pages.answers(None) is None


def test_a_table_that_takes_long_is_written_at_once_and_made_once(tmp_path, monkeypatch):
    monkeypatch.setenv("MMLIB_KEPT", str(tmp_path / "kept"))
    made = []

    def make(n):
        made.append(n)
        return pd.DataFrame({"n": [n], "lang": [""], "share": [0.1]})

    for folder, run in (("first", RunInfo("m", date="1")), ("second", RunInfo("m", date="2"))):
        monkeypatch.setenv("MMLIB_OUTPUT_DIR", str(tmp_path / folder))
        pd.testing.assert_frame_equal(pages.keep(run, "long", make, 7), make(7))
        table, manifest = load_table("long", tmp_path / folder)
        assert table.n.tolist() == [7]
        assert manifest["run"]["date"] == "1"  # of the run that made it
    assert made == [7, 7, 7]  # once by keep
    monkeypatch.delenv("MMLIB_KEPT")
    pages.keep(RunInfo("m", date="3"), "long", make, 8)
    assert load_table("long", tmp_path / "second")[0].n.tolist() == [8]


def test_an_audit_is_told_in_one_line_with_the_rows_that_differ():
    table = pd.DataFrame({"lang": [*"abc"], "n": 400, "changed": [0, 1, 2], "p_value": 1.0})
    table = table.assign(accuracy_kept=0.5, accuracy_again=[0.5, 0.4975, 0.51], least_changed=0.0)
    html = pages.audited(table).data
    told = "1,200 answers compared in 3 row(s): 1,197 are the same; largest difference 0.01 (share"
    assert told in html
    assert "2 of the 2 row(s) that differ" in html
    assert html.count("<tr>") == 1 + 2
    values = pd.DataFrame({"value": [*"abcdefghijkl"], "n": 7, "largest": 0.0, "differing": 0})
    html = pages.audited(values).data
    assert "84 values compared in 12 row(s): 84 are the same; largest difference 0 (share" in html
    assert "10 of the 12 row(s)</summary>" in html
    assert html.count("<tr>") == 1 + 10
    assert "Nothing is shipped" in pages.audited(pd.DataFrame()).data  # of a sweep


def test_the_text_of_a_page_knows_verdicts_with_the_number_that_decides(monkeypatch):
    said = {}
    monkeypatch.setattr(pages, "show", said.__setitem__)
    pages.verdicts({}, "C1", "O1")
    outcome = rules.published_outcome("C1")
    assert said["published_C1"] == outcome.verdict
    assert said["published_C1_number"] == f"{outcome.verdict}, {outcome.effect:.3g}"
    assert said["organism_O1_number"] == said["organism_O1"] == "no run yet"
    assert said["real_O1_number"] == "no run yet"
