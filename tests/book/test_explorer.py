"""The explorer shows what the tables have, says what they lack, and obeys keys and addresses."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup

from mmlib.book.explorer import explorer_data
from mmlib.book.figures import LANGUAGE_COLOURS, styles
from mmlib.tasks.languages import LANGUAGES

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "book" / "results"
EVIDENCE, PUBLISHED = ROOT / "mmlib" / "evidence", ROOT / "mmlib" / "published"
DIGITS = 6e-4
"""How far four significant digits may be from the number."""


@pytest.fixture(scope="module")
def data():
    return explorer_data(RESULTS)


def model(data, view, name):
    return next(m for m in data[view] if m["id"] == name)


def close(a, b):
    return a == pytest.approx(b, rel=DIGITS, abs=1e-9, nan_ok=True)


# --- the numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        EVIDENCE / "desk_overlap.csv",
        RESULTS / "overlap.csv",
        PUBLISHED / "mathlang_overlap.csv",
    ],
    ids=lambda path: path.stem,
)
def test_every_overlap_of_a_table_is_shown_as_its_mean_over_samples(path, data):
    table = pd.read_csv(path)
    table = table[table.group.isin(["global", "layer"])]
    table["place"] = (table.layer + 1).fillna(0).astype(int)
    by = ["model", "keep_ratio", "lang_a", "lang_b"]
    for (name, ratio, a, b), rows in table.groupby(by):
        shown = model(data, "overlap", name.split("/")[-1])
        pair = shown["values"][np.format_float_positional(ratio)][f"{a}-{b}"]["pair"]
        of_place = rows.groupby("place")
        assert close(pair["mean"], of_place.jaccard.mean().tolist())
        assert len(pair["mean"]) == shown["depth"] + 1
        assert pair["n"] == rows.seed.nunique()
        if pair["n"] > 1:
            half = np.add(pair["high"], pair["low"]) / 2 - np.array(pair["mean"])
            assert np.abs(half).max() < 1e-3
        elif "expected_intersection" not in rows:  # size-matched chance, by the equation of page 04
            qa, qb = rows.size_a / rows.n_scored, rows.size_b / rows.n_scored
            chance = (qa * qb / (qa + qb - qa * qb)).groupby(rows.place).mean()
            assert close(pair["chance"], chance.tolist())


def test_controls_of_a_pair_are_those_of_its_languages(data):
    table = pd.read_csv(EVIDENCE / "desk_controls.csv").query("group == 'global'")
    shown = model(data, "overlap", "qwen-coder-0.5b")["values"]
    same = table[table.control == "same language"].groupby(["keep_ratio", "lang_a"]).jaccard.mean()
    blank = table[table.control == "untrained"]
    blank = blank.groupby(["keep_ratio", "lang_a", "lang_b"]).jaccard.mean()
    for ratio, pairs in shown.items():
        for pair, cell in pairs.items():
            a, b = pair.split("-")
            both = (same[float(ratio), a] + same[float(ratio), b]) / 2
            assert close(cell["same language"]["mean"][0], both)
            known = (float(ratio), a, b) in blank.index
            assert known == ("untrained" in cell)
            if known:
                assert close(cell["untrained"]["mean"][0], blank[float(ratio), a, b])


def test_costs_in_a_real_llm_are_those_of_its_page(data):
    from mmlib.study.likelihoods import desk_losses, summary

    table = summary(desk_losses()).query("edited == lang")
    for row in table.itertuples():
        ratios = model(data, "breaks", row.model)["values"][f"prune: {row.condition}"][row.task]
        before, *change, items, samples = ratios[np.format_float_positional(row.keep_ratio)][
            row.lang
        ]
        assert change == pytest.approx([row.mean, row.low, row.high], rel=DIGITS, abs=2e-4)
        assert (items, samples) == (40, row.n)
        assert before > 0


def test_changes_of_the_organism_are_those_of_its_pages(data):
    table = pd.read_csv(RESULTS / "changes.csv").query("dtype == 'bfloat16'")
    shown = model(data, "breaks", "organism-skewed")["values"]
    for row in table.itertuples():
        edit = f"{f'scale ×{row.factor:g}' if row.factor else 'prune'}: {row.condition}"
        cell = shown[edit][row.skill][np.format_float_positional(row.keep_ratio)][row.lang]
        told = [row.plain, row.difference, row.low, row.high, row.n, row.replicates]
        assert close(cell, told)
    moves = pd.read_csv(RESULTS / "transfer.csv").query("weights == 'whole'")
    shown = model(data, "breaks", "organism-skewed-travel")["values"]
    moves = moves[moves.drawn.isna()].assign(measure=moves.part.fillna("math"))
    for (edited, measure, lang), blocks in moves.groupby(["edited", "measure", "lang"]):
        cell = shown[f"prune: the set of {LANGUAGES[edited].name}"][measure]["0.01"][lang]
        change = [-blocks.difference.mean(), -blocks.high.max(), -blocks.low.min()]
        assert close(cell, [blocks.control.mean(), *change, blocks.n.iloc[0], len(blocks)])


def test_published_changes_start_from_the_printed_accuracies(data):
    table = pd.read_csv(PUBLISHED / "mathlang_interventions.csv")
    table = table.query("task == 'gsm8k' and metric == 'strict'")
    base = table.query("variant == 'page_table'").set_index(["model", "lang"]).value
    runs = table.query("variant == 'main' and intervention == 'prune' and nonmath == 'race'")
    for name in base.index.levels[0]:
        shown = model(data, "breaks", name.split("/")[-1])
        ratios = shown["values"]["prune: math-specific, against RACE"]["gsm8k"]
        for ratio, cells in ratios.items():
            rows = runs[(runs.model == name) & np.isclose(runs.keep_ratio, float(ratio), atol=0)]
            means = rows.groupby("lang").value.agg(["mean", "size"])
            assert set(cells) == set(means.index)  # what was not run is not there, and not zero
            for lang, (before, change, _, _, items, samples) in cells.items():
                assert close(before, base[name, lang])
                assert change == pytest.approx(means["mean"][lang] - base[name, lang], abs=1e-4)
                assert (items, samples) == (200, means["size"][lang])
    assert "hi" not in model(data, "breaks", "Llama-3.1-8B-Instruct")["values"][
        "prune: math-specific, against RACE"]["gsm8k"]["0.1"]  # fmt: skip


def test_an_edit_stands_beside_random_weights_where_they_were_edited_too(data):
    controls = model(data, "breaks", "organism-skewed")["controls"]
    assert controls["scale ×1.1: math-specific"] == "scale ×1.1: random"
    assert controls["prune: top-K math"] == "prune: random"
    assert "prune: random" not in controls
    assert model(data, "breaks", "Llama-3.2-1B-Instruct")["controls"] == {}


def test_colours_are_those_of_the_figures_and_pages_exist(data):
    told = {code: each["colour"] for code, each in data["languages"].items()}
    assert told == dict(zip(["en", "de", "fr", "hi", "sw", "bn"], LANGUAGE_COLOURS, strict=True))
    assert data["between"] == styles(["two languages"])["two languages"]["color"]
    for each in data["overlap"] + data["breaks"]:
        assert (ROOT / "book" / f"{each['page']}.ipynb").exists()
    for view in ("overlap", "breaks"):
        ids = [each["id"] for each in data[view]]
        assert len(ids) == len(set(ids))


# --- the page -------------------------------------------------------------------------------------


def test_the_book_has_the_numbers_of_now_and_is_small(built, data):
    text = (built / "_static" / "explorer_data.js").read_text(encoding="utf-8")
    assert json.loads(re.fullmatch(r"window\.MM_EXPLORER = (.*);\n", text)[1]) == data
    assert len(text) < 300_000
    page = BeautifulSoup((built / "explorer.html").read_text(encoding="utf-8"), "lxml")
    linked = [link["href"] for link in page.select("noscript a")]
    assert linked == ["chapters/04_overlap.html", "chapters/22_likelihood.html"]


ROWS = """
[...document.querySelectorAll('#mm-explorer > div > table > tbody > tr')].map(
  tr => [...tr.cells].map(cell => cell.textContent))
"""
STATE = "Object.fromEntries(new FormData(document.querySelector('#mm-explorer form')))"
CHANGED = """
(async () => { for (let i = 0; i < 100 && location.hash == '%s'; i++)
  await new Promise(r => setTimeout(r, 20));
  await new Promise(r => setTimeout(r, 50)); return location.hash; })()
"""


def shown_pair(cell):
    mean, low, high = (cell["pair"][name][0] for name in ("mean", "low", "high"))
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def quiet(browser):
    entries = [event["entry"] for event in browser.seen("Log.entryAdded")]
    errors = [entry["text"] for entry in entries if entry["level"] == "error"]
    return browser.seen("Runtime.exceptionThrown") == errors == []


def test_a_reader_chooses_by_keyboard_and_goes_back(built, browser, data):
    browser.look(1300, "light")
    browser.open(built / "explorer.html")
    cells = model(data, "overlap", "qwen-coder-0.5b")["values"]["0.1"]
    rows = {row[0]: row[1] for row in browser.run(ROWS)}
    assert rows == {
        "–".join(LANGUAGES[code].name for code in pair.split("-")): shown_pair(cell)
        for pair, cell in cells.items()
    }
    assert browser.run("location.hash") == ""
    # every control has a label, and the drawing words
    unnamed = "[...document.querySelectorAll('#mm-explorer :is(input, select)')].filter(e => "
    assert browser.run(unnamed + "!e.labels.length).length") == 0
    words = browser.run("document.querySelector('#mm-explorer svg[role=img]').ariaLabel")
    assert shown_pair(cells["en-de"]) in words
    # by keys: the second pair of languages, and its focus is seen
    browser.run("document.querySelector('#mm-explorer select[name=model]').focus()")
    browser.press("Tab")
    assert browser.run("document.activeElement.name") == "pair"
    assert browser.run("getComputedStyle(document.activeElement).outlineWidth") == "3px"
    browser.press("ArrowDown")
    assert "pair=en-fr" in browser.run(CHANGED % "")
    status = "document.querySelector('#mm-explorer [role=status]').textContent"
    assert shown_pair(cells["en-fr"]) in browser.run(status)
    assert browser.run("document.activeElement.name") == "pair"
    browser.run("history.back()")
    assert browser.run(CHANGED % browser.run("location.hash")) in ("", "#")
    assert browser.run(STATE)["pair"] == "en-de"
    assert shown_pair(cells["en-de"]) in browser.run(status)
    assert quiet(browser)


def test_an_address_shows_an_edit_and_what_was_not_measured(built, browser, data):
    browser.look(390, "dark")
    browser.open(built / "index.html")
    at = "#view=breaks&model=Llama-3.1-8B-Instruct&measure=gsm8k&k=0.1"
    browser.open(built / "explorer.html", at)
    rows = {row[0]: row[1:] for row in browser.run(ROWS)}
    edits = model(data, "breaks", "Llama-3.1-8B-Instruct")["values"]
    before, change = edits["prune: math-specific, against RACE"]["gsm8k"]["0.1"]["en"][:2]
    assert rows["English"][0] == f"{100 * before:.1f}"
    assert rows["English"][1].startswith(f"−{-100 * change:.1f} [")
    assert rows["Hindi"] == ["not measured", "not measured", "–"]
    assert browser.run("document.documentElement.scrollWidth") <= 390
    # another model: what it lacks gives way; a link to what it lacks says so
    script = "(() => { const e = document.querySelector('#mm-explorer form').elements.model;"
    browser.run(script + "e.value = 'qwen-coder-0.5b';"
                "e.dispatchEvent(new Event('change', {bubbles: true})); })()")  # fmt: skip
    browser.run(CHANGED % at)
    state = browser.run(STATE)
    assert (state["edit"], state["k"]) == ("prune: math-specific", "0.01")
    assert [row[0] for row in browser.run(ROWS)] == ["English", "German", "French"]
    browser.run("location.hash = '#view=overlap&model=Llama-3.2-1B-Instruct&k=0.25&pair=en-hi'")
    browser.run(CHANGED % "")
    assert {cell for row in browser.run(ROWS) for cell in row[1:-1]} == {"not measured"}
    assert browser.run(STATE)["k"] == "0.25"
    assert browser.run("document.documentElement.scrollWidth") <= 390
    assert quiet(browser)
