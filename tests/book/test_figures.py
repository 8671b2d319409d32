"""What a figure shows equals what its table says, re-derived here by another route."""

import numpy as np
import pandas as pd
import pytest
from drawings import (
    BARS,
    CODES,
    PAIRS,
    answers,
    controls,
    log,
    overlaps,
    rgb,
    sizes,
    travelled,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from scipy import stats

from mmlib.book import figures as plotting
from mmlib.study.tables import published


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
        expected = [
            (k, np.mean(g["n_math_specific"].to_numpy() / g["n_topk"].to_numpy()))
            for k, g in rows.groupby("keep_ratio")
        ]
        drawn = points(panel.axes[0], color=plotting.styles([code])[code]["color"])
        assert near(drawn, expected)


def test_set_sizes_bars_are_t_intervals_over_seeds():
    table = sizes(["en"], keep_ratios=[0.1])
    (panel,) = plotting.set_sizes(table).panels
    low, high = t_interval(table["n_math_specific"] / table["n_topk"])
    ((x0, y0, x1, y1),) = bars(panel.axes[0], plotting.LANGUAGE_COLOURS[0])
    assert (x0, x1, y0, y1) == pytest.approx((0.1, 0.1, low, high))


def test_published_panels_hold_the_published_numbers():
    table = published("mathlang_set_sizes").query("source == 'jaccard_file' and group == 'global'")
    panels = plotting.set_sizes(sizes(), table).panels
    names = [panel.axes[0].get_title() for panel in panels]
    assert names[0] == "organism-skewed"
    assert names[1:] == [m.split("/")[1] for m in dict.fromkeys(table["model"])]
    rows = table[table["model"].str.endswith(names[2]) & (table["lang"] == "de")]
    drawn = points(panels[2].axes[0], color=plotting.LANGUAGE_COLOURS[1])
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
def test_our_model_comes_first(draw):
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
    looks = plotting.styles(["two languages", "untrained", "same language"])
    for kind, table in (
        ("two languages", ours),
        ("untrained", extra[extra["control"] == "untrained"]),
        ("same language", extra[extra["control"] == "same language"]),
    ):
        colour = looks[kind]["color"]
        expected = [
            (rows["jaccard"].mean(), labels.index("–".join(pair)))
            for pair, rows in table.query(here).groupby(["lang_a", "lang_b"])
        ]
        assert near(points(axes, color=colour), sorted(expected)), kind
        spans = [
            t_interval(rows["jaccard"])
            for _, rows in table.query(here).groupby(["lang_a", "lang_b"])
        ]
        drawn = [(x0, x1) for x0, _, x1, _ in bars(axes, colour)]
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
        between = plotting.styles(["two languages"])["two languages"]["color"]
        dots = [x for x, _ in points(panel.axes[0], color=between)]
        assert near(dots, sorted(rows["jaccard"]))


def test_layer_profile_draws_layers_by_depth_and_controls_as_means():
    ours, extra = overlaps(layers=5), controls()
    figure = plotting.layer_profile(ours, None, extra, keep_ratio=0.01)
    axes = figure.panels[0].axes[0]
    rows = ours.query("group == 'layer' and keep_ratio == 0.01")
    pairs = rows.groupby(["layer", "lang_a", "lang_b"])["jaccard"].mean().groupby("layer")
    between = plotting.styles(["two languages"])["two languages"]["color"]
    expected = [(layer / 4, value) for layer, value in pairs.mean().items()]
    assert near(points(axes, color=between), expected)
    ends = zip(pairs.min(), pairs.max(), strict=True)
    assert near([(low, high) for _, low, _, high in bars(axes, between)], ends)
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


ACCURACY = {"y": "lang", "x": "accuracy", "look": "model", "panel": "task"}


def test_dots_have_the_bars_that_are_given_and_names_of_languages():
    figure = plotting.dots(answers().assign(model="a"), "Accuracy", **ACCURACY)
    math, reading = (panel.axes[0] for panel in figure.panels)
    labels = ["Hindi (hi)", "English (en)", "German (de)"]
    assert [t.get_text() for t in math.get_yticklabels()] == labels
    assert points(math, color=plotting.COLOURS[0]) == [(0.5, 2), (0.8, 1), (0.9, 0)]
    assert bars(math, plotting.COLOURS[0])[0] == pytest.approx((0.4, 2, 0.6, 2))
    assert {x for x, _ in points(reading, color=plotting.COLOURS[0])} == {0.5}


def test_cells_say_no_minus_nothing_and_count_without_decimals():
    table = pd.DataFrame({"edited": ["a", "b"], "lang": "c", "panel": "p"})
    for values, written in ([-0.001, 0.5], ["0.00", "0.50"]), ([0.0, 12.0], ["0", "12"]):
        drawn = table.assign(value=values)
        figure = plotting.matrix(drawn, "Loss", **PAIRS, value="value", panel="panel")
        assert [text.get_text() for text in figure.panels[0].axes[0].texts] == written
        assert "-0.0" not in figure.alt


def test_bars_put_the_parts_of_a_name_end_to_end():
    table = travelled().sample(frac=1, random_state=1).query("lang != 'hi' or edited != 'de'")
    figure = plotting.bars(table, "Loss", **BARS)
    for panel in figure.panels:
        (axes,) = panel.axes
        part = table[table.weights == axes.get_title()]
        names = [tick.get_text() for tick in axes.get_yticklabels()]
        assert names == list(part.lang.unique())
        ends = dict.fromkeys(names, 0.0)
        kinds = [(name, colour) for _, colour, name in figure.key]
        assert [name for name, _ in kinds] == [plotting._name(c) for c in table.edited.unique()]
        for patches, (kind, colour) in zip(axes.containers, kinds, strict=True):
            for name, patch in zip(names, patches, strict=True):
                here = part[(part.lang == name) & (part.edited.map(plotting._name) == kind)]
                assert to_hex(patch.get_facecolor()) == colour
                assert patch.get_width() == pytest.approx(here.loss.sum())
                assert patch.get_x() == pytest.approx(ends[name])
                ends[name] += here.loss.sum()


def test_several_models_stand_beside_each_other_and_are_named():
    two = pd.concat([answers().assign(model=name) for name in ("a", "b")])
    figure = plotting.dots(two, "Accuracy", **ACCURACY)
    first, second = figure.panels[0].axes[0].lines[:2]
    assert list(first.get_xdata()) == list(second.get_xdata())
    assert np.subtract(second.get_ydata(), first.get_ydata()) == pytest.approx([0.12] * 3)
    assert [name for *_, name in figure.key] == ["a", "b"]
    assert "a: hi 0.90" in figure.alt
    assert "b: hi 0.90" in figure.alt


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
    colour = plotting.styles(["whole"])["whole"]["color"]
    whole = points(axes, color=colour)
    assert [x for x, _ in whole] == pytest.approx([0.3, 0.32, 0.34, 0.36])
    assert [round(y) for _, y in whole] == [0, 1, 2, 3]
    assert all(x0 == 0 and x1 == 1 for x0, _, x1, _ in bars(axes, colour))
    assert "whole: en 0.30, de 0.32" in figure.alt


def test_matrix_puts_each_number_at_its_pair():
    named = {"value": "loss", "panel": "weights", "xlabel": "asked", "ylabel": "set of"}
    figure = plotting.matrix(travelled(), "Loss", **PAIRS, **named)
    whole, own = (panel.axes[0] for panel in figure.panels)
    texts = [text.get_text() for text in whole.texts]
    assert texts[:4] == ["0.30", "0.32", "0.34", "0.36"]
    assert texts[4] == "0.40"
    assert [t.get_text() for t in own.get_yticklabels()] == CODES
    for axes in (whole, own):
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("asked", "set of")
        assert axes.collections[0].get_clim() == pytest.approx((0.0, 0.66))
    names = dict(zip(CODES, ["9", "11", "8", "10"], strict=True))  # not in the order of letters
    layers = travelled().assign(edited=lambda table: table.edited.map(names))
    axes = plotting.matrix(layers, "Loss", **PAIRS, value="loss", panel="weights").panels[0].axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["8", "9", "10", "11"]


def test_scatter_draws_the_points_and_tells_their_correlation():
    drawn = {"x": "jaccard", "y": "loss", "look": "edited", "panel": "weights"}
    figure = plotting.scatter(travelled(), "Loss", **drawn, xlabel="Jaccard")
    axes = figure.panels[0].axes[0]
    (dots,) = axes.collections
    english = dots.get_offsets()[:4]
    assert np.allclose(english, [(0.9, 0.3), (0.9, 0.32), (0.9, 0.34), (0.9, 0.36)])
    english = plotting.LANGUAGE_COLOURS[0]
    assert {to_hex(colour) for colour in dots.get_facecolors()[:4]} == {english}
    rows = travelled().query("weights == 'whole'")
    rho = stats.spearmanr(rows.jaccard, rows.loss).statistic
    assert f"rank correlation {rho:.2f}" in figure.alt
    assert "correlation" not in plotting.scatter(travelled(), "A map", **drawn).alt


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
        plotting.training_curve(log().head(0))
    with pytest.raises(ValueError, match="n_topk"):
        plotting.set_sizes(sizes().drop(columns="n_topk"))


def test_an_unknown_language_is_drawn_under_its_code():
    table = answers().replace("hi", "yo").assign(model="a")
    figure = plotting.dots(table, "Accuracy", **ACCURACY)
    assert "yo" in [t.get_text() for t in figure.panels[0].axes[0].get_yticklabels()]


def test_shares_of_a_layer_are_stacked_by_who_has_them():
    kinds = {0: 4, 1: 2, 2: 1}  # of three languages
    table = pd.DataFrame(
        {"lang": lang, "layer": layer, "seed": seed, "others": n, "n_scored": 200}
        | {"n_weights": count * (seed + layer)}
        for lang in ("hi", "en")
        for layer in (0, 1)
        for seed in (1, 3)
        for n, count in kinds.items()
    )
    (canvas,) = plotting.shared_by_layer(table).panels
    assert [axes.get_title() for axes in canvas.axes] == ["English (en)", "Hindi (hi)"]
    bands = [band.get_paths()[0].vertices for band in canvas.axes[0].collections]
    assert [band[band[:, 0] == 0, 1].max() for band in bands] == pytest.approx([4.0, 6.0, 7.0])
    figure = plotting.shared_by_layer(table)
    assert "en this language alone 5.00, some others too 2.50, all 3 languages 1.25" in figure.alt
