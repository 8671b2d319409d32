"""A colour means one thing: of the palettes, of any figure, and over all figures of the book."""

import json
import re
from collections import defaultdict
from html import unescape
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from bs4 import BeautifulSoup
from drawings import rgb
from hypothesis import given
from hypothesis import strategies as st
from test_page_parts import contrast

from mmlib.book import figures as plotting
from mmlib.tasks.languages import LANGUAGES

CHAPTERS = sorted((Path(__file__).parents[2] / "book" / "chapters").glob("*.ipynb"))
PALETTES = [plotting.LANGUAGE_COLOURS, plotting.COLOURS]
# How linear sRGB looks to dichromats (Machado, Oliveira and Fernandes 2009, severity 1).
EYES = {
    "usual": np.eye(3),
    "protan": [
        [0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritan": [
        [1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}  # fmt: skip


def lab(colour, eye="usual"):
    """CIELAB (D65) of a colour as an eye sees it."""
    c = rgb(colour).to_numpy()
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(EYES[eye]) @ linear, 0, 1)
    matrix = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = (
        np.cbrt(v) if v > 216 / 24389 else (24389 / 27 * v + 16) / 116
        for v in np.array(matrix) @ seen / [0.95047, 1, 1.08883]
    )
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("palette", PALETTES)
@pytest.mark.parametrize("eye", EYES)
def test_colours_of_a_palette_differ_for_every_eye(palette, eye):
    shown = [colour for colour in palette if colour != plotting.INK]
    for a, b in combinations(shown, 2):
        assert np.linalg.norm(lab(a, eye) - lab(b, eye)) >= 15, (a, b)


def test_colours_stand_out_on_both_pages_and_no_palette_has_one_of_the_other():
    languages, others = PALETTES
    for colour in (*languages, *others[:-1]):
        assert contrast(colour, "#ffffff") >= 3
        assert contrast(colour, "#121212") >= 3
    assert min(np.linalg.norm(lab(a) - lab(b)) for a in languages for b in others) >= 12
    assert others[-1] == plotting.INK  # that of the text, in either theme


NAMES = st.sampled_from([*LANGUAGES, *plotting._PLACES, "mine", "yours", "a folder"])


@given(st.lists(NAMES, unique=True, min_size=1, max_size=20))
def test_names_of_a_figure_have_looks_of_their_own(names):
    looks = plotting.styles(names)
    assert list(looks) == names
    assert len({tuple(look.values()) for look in looks.values()}) == len(names)
    languages = {looks[name]["color"] for name in names if name in LANGUAGES}
    others = {looks[name]["color"] for name in names if name not in LANGUAGES}
    assert languages <= set(plotting.LANGUAGE_COLOURS)
    assert others <= set(plotting.COLOURS)
    if len(others) == len([name for name in names if name not in LANGUAGES]) <= 8:
        assert len(others) == len(set(names) - set(LANGUAGES))


@given(st.lists(st.sampled_from(["en", "de", "fr", "hi", "sw", "bn"]), unique=True, min_size=1))
def test_a_language_looks_the_same_whoever_stands_beside_it(codes):
    looks = plotting.styles(codes)
    assert all(looks[code] == plotting.styles([code])[code] for code in codes)
    assert plotting.styles(["English"])["English"] == plotting.styles(["en"])["en"]


# --- all figures of the book ----------------------------------------------------------------------


def figures(chapter):
    """Every figure of an executed chapter, once."""
    cells = json.loads(chapter.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    shown = ("".join(text) for o in outputs for text in o.get("data", {}).values() if text)
    return list(dict.fromkeys(text for text in shown if 'class="mm-figure"' in text))


def key(figure):
    """Name -> (glyph or dash, colour), as the key of a figure says."""
    entries = re.findall(r"<li>(.*?)</li>", figure, re.S)
    found = {}
    for entry in entries:
        name = unescape(re.sub(r"<[^>]*>", " ", entry)).strip()
        glyph, _, meaning = name.partition(" ") if name[0] in "●■▲◆▼✚✖★|" else ("", "", name)
        dash = re.search(r'stroke-dasharray="([^"]*)"', entry)
        colour = re.search(r'(?:color:|stroke=")([^;"]+)', entry)[1]
        found[meaning.strip()] = (dash[1] if dash else glyph, colour)
    assert len(found) == len(entries)
    return found


def test_the_book_has_figures_to_look_at():
    assert sum(len(figures(chapter)) for chapter in CHAPTERS) > 40


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_a_key_names_at_most_eight_and_a_colour_means_one_thing_on_a_page(chapter):
    meanings = defaultdict(set)
    for figure in figures(chapter):
        told = key(figure)
        assert len(told) <= 8, list(told)
        assert len(set(told.values())) == len(told), "two names look alike"
        for name, (_, colour) in told.items():
            meanings[colour].add(name)
    meanings.pop("currentColor", None)  # ticks and dashes, which say themselves what they are
    assert {colour: names for colour, names in meanings.items() if len(names) > 1} == {}


def test_a_name_has_one_look_in_the_whole_book():
    looks = defaultdict(set)
    for chapter in CHAPTERS:
        for figure in figures(chapter):
            for name, (glyph, colour) in key(figure).items():
                dashed = glyph == "none" or glyph[0].isdigit()  # a line, else a marker
                looks[name, dashed].add((glyph, colour))
    assert {name: seen for name, seen in looks.items() if len(seen) > 1} == {}
    marked = {name: seen for (name, dashed), seen in looks.items() if not dashed}
    lines = {name: seen for (name, dashed), seen in looks.items() if dashed}
    for name in marked.keys() & lines.keys():
        colours = {colour for _, colour in marked[name] | lines[name]}
        assert len(colours - {"currentColor"}) <= 1, name  # a line without colour has its dashes


def cells(panel):
    """Pairs of the number that is written into a cell of a matrix and the colour of that cell."""
    numbers = [text.get_text(strip=True).replace("−", "-") for text in panel.find_all("text")]
    numbers = [float(text) for text in numbers if re.fullmatch(r"-?\d+\.\d\d", text)]
    fills = [path.get("style", "") for path in panel.find_all("path")]
    fills = [match[1] for style in fills if (match := re.fullmatch(r"fill: (#\w{6})", style))]
    return list(zip(numbers, fills, strict=True)) if len(numbers) == len(fills) else []


def test_matrices_with_signed_values_are_on_a_map_with_0_in_its_middle():
    seen = 0
    for chapter in CHAPTERS:
        for figure in figures(chapter):
            drawn = [cells(panel) for panel in BeautifulSoup(figure, "lxml").find_all("svg")]
            pairs = sorted({pair for panel in drawn for pair in panel if pair})
            if not pairs or pairs[0][0] >= -0.01:
                continue
            seen += 1
            tint = [(value, rgb(colour)[2] - rgb(colour)[0]) for value, colour in pairs]
            most = max(abs(value) for value, _ in tint)
            # purple above 0 and orange below, by the map that is not ours, and nothing at 0
            strong = [(value, hue) for value, hue in tint if abs(value) > most / 10]
            assert all((value > 0) == (hue > 0) for value, hue in strong), chapter.stem
    assert seen
