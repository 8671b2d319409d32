"""What a figure shows equals what its table says, re-derived here by another route."""

import re
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from scipy import stats

from mmlib.book import figures as plotting
from mmlib.book import page as pages
from mmlib.study.tables import RunInfo, published

CODES = ["en", "de", "fr", "hi"]
RNG = np.random.default_rng(5)


def overlaps(codes=CODES, *, model="organism-skewed", seeds=(1, 101, 201), layers=4, same=False):
    pairs = [(c, c) for c in codes] if same else list(combinations(codes, 2))
    rows = []
    for (a, b), k, seed in ((p, k, s) for p in pairs for k in (0.01, 0.1) for s in seeds):
        for layer in [None, *range(layers)]:
            size_a, size_b, shared = 900, 700, int(RNG.integers(100, 600))
            rows.append({
                "model": model, "lang_a": a, "lang_b": b, "keep_ratio": k, "seed": seed,
                "nonmath": "organism-reading", "group": "global" if layer is None else "layer",
                "layer": layer, "size_a": size_a, "size_b": size_b, "intersection": shared,
                "union": size_a + size_b - shared, "jaccard": shared / (size_a + size_b - shared),
                "n_scored": 30_000, "expected_intersection": 25.0,
            })  # fmt: skip
    return pd.DataFrame(rows).astype({"layer": "Int64"})


def sizes(codes=CODES, *, keep_ratios=(0.001, 0.01, 0.1), seeds=(1, 101, 201)):
    return pd.DataFrame(
        {"model": "organism-skewed", "lang": c, "keep_ratio": k, "seed": s, "group": "global",
         "n_topk": int(1e6 * k), "n_math_specific": int(RNG.integers(100, 1e6 * k))}
        for c in codes for k in keep_ratios for s in seeds
    )  # fmt: skip


def controls():
    untrained = overlaps(["en", "de", "hi"], model="random-weights").assign(control="untrained")
    return pd.concat([overlaps(same=True).assign(control="same language"), untrained])


def answers():
    row = {"accuracy": [0.9, 0.8, 0.5], "low": [0.85, 0.75, 0.4], "high": [0.94, 0.84, 0.6]}
    table = pd.DataFrame({"lang": ["hi", "en", "de"], **row})
    return pd.concat([table.assign(task="math"), table.assign(task="reading", accuracy=0.5)])


def texts():
    tokens = RNG.integers(20, 200, 240)
    return pd.DataFrame({"lang": CODES * 60, "task": ["math", "reading"] * 120, "tokens": tokens})


def measured():
    return pd.DataFrame({
        "quantity": ["localisation over the bare forward pass", "sweep over published procedure"],
        "ratio": [1.11, 27.0], "aim": [1.2, 20], "direction": ["at most", "at least"],
        "low": [1.05, np.nan], "high": [1.2, np.nan],
    })  # fmt: skip


def travelled():
    """Losses of every ordered pair of languages, by two kinds of weights."""
    rows = [
        (kind, a, b, 0.1 * i + 0.02 * j + shift, 0.9 - 0.1 * i)
        for kind, shift in (("whole", 0.3), ("own", 0.0))
        for i, a in enumerate(CODES)
        for j, b in enumerate(CODES)
    ]
    return pd.DataFrame(rows, columns=["weights", "edited", "lang", "loss", "jaccard"])


def log():
    return pd.DataFrame({"tokens": [1e5, 2e5, 3e5], "loss": [6, 3, 2.5], "lr": [1, np.nan, 0.5]})


FIGURES = {
    "set_sizes": lambda: plotting.set_sizes(
        sizes(), published("mathlang_set_sizes").query("source == 'jaccard_file'"), sizes()
    ),
    "overlap_pairs": lambda: plotting.overlap_pairs(
        overlaps(), published("mathlang_overlap"), controls()
    ),
    "layer_profile": lambda: plotting.layer_profile(
        overlaps(), published("mathlang_overlap"), controls()
    ),
    "overlap_heatmap": lambda: plotting.overlap_heatmap(
        pd.concat([overlaps(), overlaps(same=True)])
    ),
    "accuracy": lambda: plotting.accuracy(answers()),
    "training_curve": lambda: plotting.training_curve(log(), columns=["loss", "lr"]),
    "ratios": lambda: plotting.ratios(measured()),
    "token_lengths": lambda: plotting.token_lengths(texts()),
    "dots": lambda: plotting.dots(travelled(), "Loss", y="lang", x="loss", look="weights"),
    "matrix": lambda: plotting.matrix(travelled(), "Loss", **PAIRS, value="loss", panel="weights"),
    "scatter": lambda: plotting.scatter(
        travelled(), "Loss", x="jaccard", y="loss", look="edited", panel="weights"
    ),
}
PAIRS = {"rows": "edited", "columns": "lang"}


@pytest.fixture(scope="module", params=FIGURES)
def figure(request):
    return FIGURES[request.param]()


def drawn_lines(axes):
    """Lines that show something: seaborn's bars come with invisible ones."""
    return [x for x in axes.lines if {x.get_linestyle(), x.get_marker()} != {"None"}]


def points(axes, *, color, marker=None):
    """Positions of all points drawn in one colour and marker, sorted."""
    lines = [line for line in drawn_lines(axes) if to_hex(line.get_color()) == color]
    lines = [line for line in lines if marker is None or line.get_marker() == marker]
    return sorted(tuple(map(float, xy)) for line in lines for xy in line.get_xydata())


def bars(axes, color):
    """End points of the interval bars in one colour, sorted."""
    found = [c for c in axes.collections if pd.Series(c.get_colors()[0][:3]).equals(rgb(color))]
    return sorted(tuple(segment.ravel()) for c in found for segment in c.get_segments())


def rgb(color):
    return pd.Series([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])


def near(drawn, expected):
    expected = np.array([np.atleast_1d(row) for row in expected], dtype=float)
    return np.allclose(np.array(drawn, dtype=float).reshape(expected.shape), expected, rtol=1e-6)


def t_interval(values):
    return stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))


# --- drawn values -------------------------------------------------------------------------------


@settings(max_examples=8, deadline=None)
@given(
    codes=st.lists(st.sampled_from(CODES), min_size=1, unique=True),
    ratios=st.lists(st.sampled_from([0.001, 0.01, 0.1]), min_size=1, unique=True),
)
def test_set_sizes_draws_the_mean_share_of_the_languages_there_are(codes, ratios):
    table = sizes(codes, keep_ratios=ratios)
    (panel,) = plotting.set_sizes(table).panels
    for code, rows in table.groupby("lang"):
        order = sorted(codes, key=CODES.index)
        expected = [
            (k, np.mean(g["n_math_specific"].to_numpy() / g["n_topk"].to_numpy()))
            for k, g in rows.groupby("keep_ratio")
        ]
        drawn = points(panel.axes[0], color=plotting.COLOURS[order.index(code)])
        assert near(drawn, expected)


def test_set_sizes_bars_are_t_intervals_over_seeds():
    table = sizes(["en"], keep_ratios=[0.1])
    (panel,) = plotting.set_sizes(table).panels
    low, high = t_interval(table["n_math_specific"] / table["n_topk"])
    ((x0, y0, x1, y1),) = bars(panel.axes[0], plotting.COLOURS[0])
    assert (x0, x1, y0, y1) == pytest.approx((0.1, 0.1, low, high))


def test_published_panels_hold_the_published_numbers():
    table = published("mathlang_set_sizes").query("source == 'jaccard_file' and group == 'global'")
    panels = plotting.set_sizes(sizes(), table).panels
    names = [panel.axes[0].get_title() for panel in panels]
    assert names[0] == "organism-skewed"
    assert names[1:] == [m.split("/")[1] for m in dict.fromkeys(table["model"])]
    rows = table[table["model"].str.endswith(names[2]) & (table["lang"] == "de")]
    drawn = points(panels[2].axes[0], color=plotting.COLOURS[1])
    expected = zip(rows["keep_ratio"], rows["n_math_specific"] / rows["n_topk"], strict=True)
    assert near(drawn, sorted(expected))


def test_the_floor_is_a_line_of_our_model_only():
    floor = sizes()
    table = published("mathlang_set_sizes").query("source == 'jaccard_file'")
    ours, *others = plotting.set_sizes(sizes(), table, floor).panels
    mean = (floor["n_math_specific"] / floor["n_topk"]).groupby(floor["keep_ratio"]).mean()
    assert near(points(ours.axes[0], color=plotting.INK), mean.items())
    assert not any(points(panel.axes[0], color=plotting.INK) for panel in others)
    assert plotting.set_sizes(sizes(), None, pd.DataFrame()).key[-1][2] == "Hindi (hi)"


@pytest.mark.parametrize("draw", [plotting.overlap_pairs, plotting.layer_profile])
def test_our_model_comes_first_and_pairs_keep_their_colours(draw):
    figure = draw(overlaps(["hi", "de"]).query("lang_a == 'hi'"), published("mathlang_overlap"))
    titles = [panel.axes[0].get_title() for panel in figure.panels]
    assert titles[0] == "organism-skewed"
    assert titles[1:] == [m.split("/")[1] for m in published("mathlang_overlap")["model"].unique()]
    table = published("mathlang_set_sizes").query("source == 'jaccard_file'")
    figure = plotting.set_sizes(sizes(["hi"]), table)
    assert figure.panels[0].axes[0].get_title() == "organism-skewed"
    assert [entry[2][-3:-1] for entry in figure.key] == CODES


def test_overlap_pairs_draws_every_pair_its_controls_and_chance():
    ours, extra = overlaps(), controls()
    figure = plotting.overlap_pairs(ours, published("mathlang_overlap"), extra, keep_ratio=0.1)
    axes = figure.panels[0].axes[0]
    labels = [tick.get_text() for tick in axes.get_yticklabels()]
    assert labels[:6] == ["en–de", "en–fr", "en–hi", "de–fr", "de–hi", "fr–hi"]
    assert labels[6:] == ["en–en", "de–de", "fr–fr", "hi–hi"]
    here = "group == 'global' and keep_ratio == 0.1"
    for kind, table, colour in (
        ("", ours, 0),
        ("untrained", extra[extra["control"] == "untrained"], 1),
        ("same language", extra[extra["control"] == "same language"], 2),
    ):
        expected = [
            (rows["jaccard"].mean(), labels.index("–".join(pair)))
            for pair, rows in table.query(here).groupby(["lang_a", "lang_b"])
        ]
        assert near(points(axes, color=plotting.COLOURS[colour]), sorted(expected)), kind
        spans = [
            t_interval(rows["jaccard"])
            for _, rows in table.query(here).groupby(["lang_a", "lang_b"])
        ]
        drawn = [(x0, x1) for x0, _, x1, _ in bars(axes, plotting.COLOURS[colour])]
        assert near(drawn, sorted(spans)), kind
    assert near([x for x, _ in points(axes, color=plotting.INK)], [25 / (900 + 700 - 25)] * 6)


def test_chance_of_published_rows_follows_from_sizes():
    table = published("mathlang_overlap").query("keep_ratio == 0.1")
    figure = plotting.overlap_pairs(overlaps(), table)
    for panel, (_, rows) in zip(figure.panels[1:], table.groupby("model", sort=False), strict=True):
        rows = rows[rows["group"] == "global"]
        q, r = rows["size_a"] / rows["n_scored"], rows["size_b"] / rows["n_scored"]
        drawn = [x for x, _ in points(panel.axes[0], color=plotting.INK)]
        assert near(drawn, sorted(q * r / (q + r - q * r)))
        dots = [x for x, _ in points(panel.axes[0], color=plotting.COLOURS[0])]
        assert near(dots, sorted(rows["jaccard"]))


def test_layer_profile_draws_layers_by_depth_and_controls_as_means():
    ours, extra = overlaps(layers=5), controls()
    figure = plotting.layer_profile(ours, None, extra, keep_ratio=0.01)
    axes = figure.panels[0].axes[0]
    rows = ours.query("group == 'layer' and keep_ratio == 0.01")
    mine = rows.query("lang_a == 'en' and lang_b == 'de'").groupby("layer")["jaccard"].mean()
    expected = [(layer / 4, value) for layer, value in mine.items()]
    assert near(points(axes, color=plotting.COLOURS[0], marker="o"), expected)
    by_dash = {line.get_linestyle(): line.get_ydata() for line in axes.lines}
    for kind, dash in plotting.DASHES.items():
        if kind == "chance":
            assert by_dash[dash] == pytest.approx([25 / (900 + 700 - 25)] * 5)
            continue
        table = extra[(extra["control"] == kind) & (extra["keep_ratio"] == 0.01)]
        mean = table[table["group"] == "layer"].groupby("layer")["jaccard"].mean()
        assert by_dash[dash] == pytest.approx(list(mean))


def test_heatmap_cells_say_what_the_table_says():
    table = pd.concat([overlaps(), overlaps(same=True)])
    (panel,) = plotting.overlap_heatmap(table, keep_ratio=0.1).panels
    written = {text.get_position(): text.get_text() for text in panel.axes[0].texts}
    assert len(written) == 16
    for (a, b), rows in table.query("group == 'global' and keep_ratio == 0.1").groupby(
        ["lang_a", "lang_b"]
    ):
        x, y = CODES.index(b) + 0.5, CODES.index(a) + 0.5
        assert written[x, y] == written[y, x] == f"{rows['jaccard'].mean():.2f}"
    assert len(plotting.overlap_heatmap(overlaps()).panels[0].axes[0].texts) == 12


def test_accuracy_draws_dots_and_wilson_bars_in_the_order_of_languages():
    figure = plotting.accuracy(answers())
    math, reading = (panel.axes[0] for panel in figure.panels)
    assert [t.get_text()[-3:-1] for t in math.get_yticklabels()] == ["en", "de", "hi"]
    assert points(math, color=plotting.COLOURS[0]) == [(0.5, 1), (0.8, 0), (0.9, 2)]
    assert bars(math, plotting.COLOURS[0])[0] == pytest.approx((0.4, 1, 0.6, 1))
    assert {x for x, _ in points(reading, color=plotting.COLOURS[0])} == {0.5}


def test_token_lengths_draws_quantiles():
    table = texts()
    math = plotting.token_lengths(table).panels[0].axes[0]
    rows = table[table["task"] == "math"]
    expected = sorted(np.median(g["tokens"]) for _, g in rows.groupby("lang"))
    upright = {x[0] for x in (line.get_xdata() for line in math.lines) if len({*x}) == 1}
    assert upright >= set(expected)
    first = rows.loc[rows["lang"] == "en", "tokens"].to_numpy()
    low, high = np.percentile(first, [5, 95])
    inside = first[(first >= low) & (first <= high)]  # whiskers end at a text
    assert upright >= {inside.min(), inside.max()}


def test_several_models_stand_beside_each_other_and_are_named():
    two = pd.concat([answers().assign(model=name) for name in ("a", "b")])
    figure = plotting.accuracy(two)
    first, second = figure.panels[0].axes[0].lines[:2]
    assert list(first.get_xdata()) == list(second.get_xdata())
    assert np.subtract(second.get_ydata(), first.get_ydata()) == pytest.approx([0.22] * 3)
    assert [name for *_, name in figure.key] == ["a", "b"]
    assert "a hi 0.900" in figure.alt
    assert "b hi 0.900" in figure.alt


def test_training_curves_of_several_models_have_a_line_each():
    both = pd.concat([log().assign(model=name) for name in ("a", "b")])
    figure = plotting.training_curve(both)
    styles = [line.get_linestyle() for line in figure.panels[0].axes[0].lines]
    assert styles == ["-", "--"]
    assert [name for *_, name in figure.key] == ["a", "b"]


def test_training_curve_leaves_out_empty_cells():
    loss, rate = plotting.training_curve(log(), columns=["loss", "lr"]).panels
    assert loss.axes[0].lines[0].get_xydata().tolist() == [[0.1, 6], [0.2, 3], [0.3, 2.5]]
    assert rate.axes[0].lines[0].get_xydata().tolist() == [[0.1, 1], [0.3, 0.5]]


def swept():
    """Two languages, two conditions, three keep ratios, two skills."""
    rows = [
        (skill, condition, ratio, lang, level - drop * (ratio > 0.005) - shift)
        for skill, level in (("math", 0.9), ("reading", 0.8))
        for condition, drop in (("math-specific", 0.6), ("random", 0.1))
        for ratio in (0.001, 0.01, 0.1)
        for lang, shift in (("en", 0.0), ("de", 0.1))
    ]
    return pd.DataFrame(rows, columns=["skill", "condition", "keep_ratio", "lang", "accuracy"])


def test_curves_draws_means_ranges_and_the_unedited_level():
    names = {"x": "keep_ratio", "y": "accuracy", "panel": "skill", "line": "condition"}
    figure = plotting.curves(swept(), "Accuracy", levels={"math": 0.95}, **names)
    math, reading = (panel.axes[0] for panel in figure.panels)
    own, random, level = (line.get_xydata().tolist() for line in drawn_lines(math))
    assert np.allclose(own, [(0.001, 0.85), (0.01, 0.25), (0.1, 0.25)])
    assert np.allclose(random, [(0.001, 0.85), (0.01, 0.75), (0.1, 0.75)])
    assert {y for _, y in level} == {0.95}
    segments = [bar.tolist() for bar in math.collections[0].get_segments()]
    assert np.allclose(segments[1], [[0.01, 0.2], [0.01, 0.3]])
    assert len(drawn_lines(reading)) == 2
    assert math.get_xscale() == "log"
    assert [name for *_, name in figure.key] == ["math-specific", "random", "not edited"]
    assert "math-specific 0.001 0.85, 0.1 0.25" in figure.alt
    near = plotting.curves(swept().query("keep_ratio > .001"), "Accuracy", **names)
    assert near.panels[0].axes[0].get_xscale() == "linear"


def test_dots_draws_every_value_with_its_bar():
    table = travelled().query("edited == 'en'").assign(low=0.0, high=1.0)
    figure = plotting.dots(table, "Loss", y="lang", x="loss", look="weights")
    (axes,) = figure.panels[0].axes
    whole = points(axes, color=plotting.COLOURS[0])
    assert [x for x, _ in whole] == pytest.approx([0.3, 0.32, 0.34, 0.36])
    assert [round(y) for _, y in whole] == [0, 1, 2, 3]
    assert all(x0 == 0 and x1 == 1 for x0, _, x1, _ in bars(axes, plotting.COLOURS[0]))
    assert "whole: en 0.30, de 0.32" in figure.alt


def test_matrix_puts_each_number_at_its_pair():
    figure = plotting.matrix(travelled(), "Loss", **PAIRS, value="loss", panel="weights")
    whole, own = (panel.axes[0] for panel in figure.panels)
    texts = [text.get_text() for text in whole.texts]
    assert texts[:4] == ["0.30", "0.32", "0.34", "0.36"]
    assert texts[4] == "0.40"
    assert [t.get_text() for t in own.get_yticklabels()] == CODES
    for axes in (whole, own):
        assert axes.collections[0].get_clim() == pytest.approx((0.0, 0.66))


def test_scatter_draws_the_points_and_tells_their_correlation():
    drawn = {"x": "jaccard", "y": "loss", "look": "edited", "panel": "weights"}
    figure = plotting.scatter(travelled(), "Loss", **drawn, xlabel="Jaccard")
    axes = figure.panels[0].axes[0]
    (dots,) = axes.collections
    english = dots.get_offsets()[:4]
    assert np.allclose(english, [(0.9, 0.3), (0.9, 0.32), (0.9, 0.34), (0.9, 0.36)])
    assert {to_hex(colour) for colour in dots.get_facecolors()[:4]} == {plotting.COLOURS[0]}
    rows = travelled().query("weights == 'whole'")
    rho = stats.spearmanr(rows.jaccard, rows.loss).statistic
    assert f"rank correlation {rho:.2f}" in figure.alt
    assert "correlation" not in plotting.scatter(travelled(), "A map", **drawn).alt


def test_ratios_draws_measured_and_aim():
    axes = plotting.ratios(measured()).panels[0].axes[0]
    assert points(axes, color=plotting.COLOURS[0]) == [(1.11, 0), (27, 1)]
    assert points(axes, color=plotting.INK) == [(1.2, 0), (20, 1)]
    plotting.ratios(measured()[["quantity", "ratio"]])


# --- the page -----------------------------------------------------------------------------------


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


def test_colours_stand_out_on_both_pages_and_have_markers():
    for colour in plotting.COLOURS:
        assert contrast(colour, "#ffffff") >= 3
        assert contrast(colour, "#121212") >= 3
    assert len(plotting.MARKERS) >= len(plotting.COLOURS) == len(set(plotting.COLOURS))


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
    plotting.accuracy(answers()).save(path, panel=1)
    assert path.stat().st_size > 1000


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "draw"),
    [
        ("lang_b", lambda t: plotting.overlap_pairs(t)),
        ("jaccard", lambda t: plotting.layer_profile(t)),
        ("model", lambda t: plotting.overlap_heatmap(t)),
    ],
)
def test_a_missing_column_is_named(column, draw):
    with pytest.raises(ValueError, match=column):
        draw(overlaps().drop(columns=column))


def test_bad_tables_are_refused_with_the_way_out():
    table = overlaps()
    with pytest.raises(ValueError, match=r"0\.3.*0\.01, 0\.1"):
        plotting.overlap_pairs(table, keep_ratio=0.3)
    with pytest.raises(ValueError, match="filter to one run"):
        plotting.overlap_pairs(pd.concat([table, table]))
    with pytest.raises(ValueError, match=r"'shuffled'.*same language"):
        plotting.overlap_pairs(table, None, table.assign(control="shuffled"))
    with pytest.raises(ValueError, match="no rows"):
        plotting.accuracy(answers().head(0))
    with pytest.raises(ValueError, match="n_topk"):
        plotting.set_sizes(sizes().drop(columns="n_topk"))


def test_an_unknown_language_is_drawn_under_its_code():
    figure = plotting.accuracy(answers().replace("hi", "yo"))
    assert "yo" in [t.get_text() for t in figure.panels[0].axes[0].get_yticklabels()]


# --- ledger, badges, provenance -----------------------------------------------------------------


def ledger_rows():
    common = {"claim": "a < b", "restatement": "check", "published_numbers": "21/21", "low": 0.1}
    verdicts = {"published_data": "yes", "organism": "undecided", "research_run": "no run yet"}
    numbers = {"effect": 0.2, "high": 0.3, "n": 3, "threshold": 0.0, "reason": "interval"}
    row = {"id": "C1", **common, **verdicts, **numbers, "smallest_detectable_effect": 0.1}
    bare = dict.fromkeys(["effect", "low", "high", "threshold", "smallest_detectable_effect"])
    return pd.DataFrame([row, row | bare | {"id": "C2", "organism": "no run yet", "n": 0}])


def test_ledger_is_a_table_with_heads_scopes_and_escaped_text():
    html = pages.ledger_html(ledger_rows(), links={"C1": "04_overlap.html"})
    root = ElementTree.fromstring(html)
    assert root.find("caption").text
    assert {th.get("scope") for th in root.iterfind("thead/tr/th")} == {"col"}
    first, second = root.iterfind("tbody/tr")
    assert first.find("th/a").get("href") == "04_overlap.html"
    assert second.find("th/a") is None
    words = " ".join(first.itertext())
    for part in ("a < b", "check", "21/21", "0.2 (0.1 to 0.3, 3 seeds)", "detectable effect 0.1"):
        assert part in words
    assert "nan" not in " ".join(second.itertext()).lower()
    assert [badge.text for badge in first.iter("span")] == ["yes", "undecided", "no run yet"]


def test_ledger_refuses_unknown_verdicts_and_missing_columns():
    with pytest.raises(ValueError, match=r"'maybe'.*undecided"):
        pages.ledger_html(ledger_rows().assign(organism="maybe"))
    with pytest.raises(ValueError, match="'organism'"):
        pages.ledger_html(ledger_rows().drop(columns="organism"))


def test_every_verdict_of_the_ledger_has_a_badge():
    claims = pytest.importorskip("mmlib.claims.ledger")
    assert set(claims.VERDICTS) == set(pages.VERDICTS)
    assert pages.ledger_html(claims.ledger()).count("<tr") == len(claims.CLAIMS) + 1


def test_provenance_takes_a_run_or_its_manifest():
    run = RunInfo("organism-skewed", dtype="float32", date="2026-11-20", parameters={"a": "<b>"})
    html = pages.provenance_html(run, seconds=12.3)
    assert html == pages.provenance_html(vars(run), seconds=12.3)
    about = ElementTree.fromstring(html)
    words = dict(zip((d.text for d in about[::2]), (d.text for d in about[1::2]), strict=True))
    assert words["model"].split() == ["organism-skewed", "float32"]
    assert words["parameters"] == "a='<b>'"
    assert words["duration"] == "12 s"
    assert "hardware" not in words, "what is unknown is left out"
