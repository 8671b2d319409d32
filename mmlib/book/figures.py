"""Draw the book's figures from tidy tables.

One function per kind of figure. Columns are named as in ``published/*.csv``; languages, layers or
keep ratios that a table lacks are not drawn. Bars are 95 % intervals, over calibration seeds where
a table has `seed`. An *overlap table* is the result of `masks.overlap_table` with `model` and
`seed`; `published` are such tables of the papers' models; `controls` are rows with the column
`control`: "same language" (lang_a == lang_b, two calibration samples: the ceiling) or "untrained"
(a model with random weights). Chance at the same set sizes is computed and needs no rows.
"""

import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import count, cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from mmlib.masks import chance_of
from mmlib.study.stats import seed_interval
from mmlib.study.tables import require_columns
from mmlib.tasks.languages import LANGUAGES

INK = "#010203"  # stands for currentColor while matplotlib draws; nothing else has this colour
_INKED = ["text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "grid.color"]
_INKED += ["xtick.color", "ytick.color", "xtick.labelcolor", "ytick.labelcolor"]
STYLE = {
    **dict.fromkeys(_INKED, INK),
    **dict.fromkeys(["axes.facecolor", "figure.facecolor", "savefig.facecolor"], "none"),
    **dict.fromkeys(["axes.spines.top", "axes.spines.right"], False),
    **{"axes.grid": True, "axes.axisbelow": True, "grid.alpha": 0.15, "grid.linewidth": 0.6},
    **{"lines.linewidth": 1.4, "lines.markersize": 4.5, "font.size": 8.5, "axes.titlesize": 9},
    **{"svg.fonttype": "none", "svg.hashsalt": "mmlib"},
}
_FLEX = "display:flex;flex-wrap:wrap;justify-content:center;align-items:flex-start;"
_LIST = _FLEX + "gap:.1rem 1.2rem;list-style:none;padding:0;margin:.3rem 0;font-size:.85em"


@dataclass(frozen=True)
class Figure:
    """Panels beside or, on a narrow page, below each other; SVG in the ink of the page."""

    alt: str
    """What the figure shows, in words and with the numbers drawn."""
    panels: tuple[Canvas, ...]
    key: tuple[tuple[str, str, str], ...] = ()
    """What each glyph or dash means: (glyph, colour, meaning)."""

    def svgs(self) -> list[str]:
        """Return each panel as a labelled SVG element, the same bytes from run to run."""
        titles = [panel.axes[0].get_title() for panel in self.panels]
        alts = [f"{title}. {self.alt}" for title in titles] if len(titles) > 1 else [self.alt]
        half = len(self.panels) > 1
        return [_svg(panel, alt, half) for panel, alt in zip(self.panels, alts, strict=True)]

    def _repr_html_(self) -> str:
        key = "".join(f"<li>{_swatch(*entry[:2])} {escape(entry[2])}</li>" for entry in self.key)
        return (
            f'<div class="mm-figure" role="group" aria-label="{escape(self.alt)}">'
            f'<div style="{_FLEX}gap:.5rem 1rem">{"".join(self.svgs())}</div>'
            + (f'<ul style="{_LIST}">{key}</ul></div>' if key else "</div>")
        )

    def save(self, path: str | Path) -> None:
        """Write the first panel to `path` on white, as its suffix says (svg, png, pdf)."""
        with mpl.rc_context(STYLE):
            dated = {"Date": None} if Path(path).suffix == ".svg" else None
            self.panels[0].savefig(path, facecolor="white", dpi=200, metadata=dated)


def _swatch(glyph: str, colour: str) -> str:
    colour = "currentColor" if colour == INK else colour
    dashes = {"-": "none", "--": "5 2", "-.": "6 2 1.5 2", ":": "1.5 2"}
    if glyph not in dashes:
        return f'<span aria-hidden="true" style="color:{colour}">{glyph}</span>'
    dash = dashes[glyph]
    line = f'<path d="M0 4h28" stroke="{colour}" stroke-width="1.5" stroke-dasharray="{dash}"/>'
    return f'<svg aria-hidden="true" width="28" height="8">{line}</svg>'


def _svg(panel: Canvas, alt: str, half: bool) -> str:
    """Draw `panel` and make its SVG themed, labelled and free of ids that repeat on a page.

    With `half` it is never wider than half of what is there, or as wide as it has to be on a phone,
    so that an odd last panel is as large as those above.
    """
    buffer = io.StringIO()
    with mpl.rc_context({**STYLE, "svg.hashsalt": alt}):
        panel.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    box = re.search(r'viewBox="([^"]+)"', svg)[1]
    body = svg[svg.index(">", svg.index("<svg")) + 1 :].strip()
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)  # named by matplotlib, referred to by nothing
    body = re.sub(r"font: ([\d.]+px) [^;\"]+", r"font-size: \1; font-family: inherit", body)
    body = re.sub(r"font-family: [^;\"]+", "font-family: inherit", body)
    width = float(box.split()[2])
    most = f"{width * 1.9:.0f}px"
    most = f"min({most},max({width * 1.2:.0f}px,50% - .5rem))" if half else most
    css = f"flex:1 1 {width * 1.2:.0f}px;min-width:0;max-width:{most};height:auto"
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{box}" role="img" aria-label="{escape(alt)}" style="{css}">'
        + body.replace(INK, "currentColor")
    )


# Two palettes without a common colour, one for languages and one for all else. Every colour has 3:1
# against a white and a near-black page, and differs from the others of its palette for readers with
# any kind of colour blindness (tests compute both); a marker or a dash says the same once more.
LANGUAGE_COLOURS = ("#1e78b4", "#c3870f", "#0fa578", "#b43c2d", "#9687a5", "#695ad2")
COLOURS = ("#964bb4", "#a54b00", "#4ba54b", "#4b6978", "#e169b4", "#6987ff", "#879678", INK)
MARKERS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼", "P": "✚", "X": "✖", "*": "★", "|": "|"}
DASHES = {"chance": "--", "same language": "-.", "untrained": ":"}
CONTROLS = ["same language", "untrained"]
# A name has one look in the whole book, and names that meet on a page have different ones: its
# place in a row is that of its colour. Names that are not here take what a figure leaves free.
_ROWS = """
- / same language / untrained / - / - / two languages
math-specific / random / same magnitude / nonmath-specific / top-K math
- / - / - / - / untrained nonmath / - / shuffled norms / chance, same sizes
random part / highest first / lowest first / of a random set / K = 0.001 / K = 0.01 / K = 0.1
SLAM / LoRA / QAlign stage 1 / MathOctopus / QAlign / English math / unbalanced pairs / base
- / - / - / - / - / known templates / new templates
organism-skewed / organism-even / organism-base
skewed / even / latin
overlap / math-1 / reading-mixed / width 32 / width 64 / width 96 / width 192
other languages / ceiling / - / - / - / - / - / chance
math / random layers / math in English / other skills / whole
exploratory yes / no / yes / not testable here / exploratory no / - / undecided
"""
_PLACES = {
    name: place
    for row in _ROWS.strip().splitlines()
    for place, name in enumerate(row.split(" / "))
    if name != "-"
}
_LANGUAGE_PLACES = {code: i for i, code in enumerate(("en", "de", "fr", "hi", "sw", "bn"))}
_LANGUAGE_PLACES |= {LANGUAGES[code].name: i for code, i in _LANGUAGE_PLACES.items()}


def styles(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Give each name its colour and marker; languages have a palette of their own."""
    names = list(dict.fromkeys(names))
    tongues = [name for name in names if name in LANGUAGES or name in _LANGUAGE_PLACES]
    others = [name for name in names if name not in tongues]
    found = _palette(tongues, _LANGUAGE_PLACES, LANGUAGE_COLOURS)
    found |= _palette(others, _PLACES, COLOURS)
    return {name: found[name] for name in names}


def _palette(
    names: Sequence[str], places: Mapping[str, int], colours: Sequence[str]
) -> dict[str, dict[str, str]]:
    first = {places[name]: name for name in reversed(names) if name in places}
    free = (place for place in count() if place not in first)
    at = {name: place for place, name in first.items()}
    at |= {name: next(free) for name in names if name not in at}
    markers, n = [*MARKERS][:-1], len(colours)  # the last is that of ticks
    return {
        name: {"color": colours[place % n], "marker": markers[(place + place // n) % len(markers)]}
        for name, place in at.items()
    }


_TICK = {"color": INK, "marker": "|"}
# Of a weight that one language alone has, some others too, or all.
_SHARED = COLOURS[4], COLOURS[6], COLOURS[0]
_MEANING = {"chance": "chance at the same set sizes", "untrained": "untrained model"}
_MEANING |= {"same language": "same language, other calibration sample"}
_WIDTH = 3.5  # inches: one panel fills a phone at natural size, two stand side by side on a page
_OVERLAP = ["model", "lang_a", "lang_b", "keep_ratio", "group"]
_OVERLAP += ["size_a", "size_b", "n_scored", "jaccard"]


# --- tables -------------------------------------------------------------------------------------


def _need(table: pd.DataFrame, figure: str, *columns: str) -> pd.DataFrame:
    require_columns(table, columns, f"the table of {figure}")
    if table.empty:
        raise ValueError(f"the table of {figure} has no rows; check the filter that made it")
    return table


def _over_seeds(table: pd.DataFrame, by: list[str], value: str) -> pd.DataFrame:
    """Return mean, low and high of `value` over calibration seeds, one row per group of `by`."""
    if "seed" in table and table.duplicated([*by, "seed"]).any():
        raise ValueError(f"several rows with equal {', '.join([*by, 'seed'])}: filter to one run")
    groups = table.dropna(subset=[value]).groupby(by, sort=False)  # empty sets have no Jaccard
    rows = [(*key, *seed_interval(group[value])[:3]) for key, group in groups]
    return pd.DataFrame(rows, columns=[*by, "mean", "low", "high"])


def _languages(codes: Iterable[Any]) -> list[Any]:
    """Order codes as in `LANGUAGES`; others come last, numbers by size and names as they are."""
    places = {code: (0, place) for place, code in enumerate(LANGUAGES)}
    return sorted(
        dict.fromkeys(codes),
        key=lambda code: places.get(code, (1, int(code) if str(code).isdigit() else 0)),
    )


def _overlaps(
    figure: str,
    group: str,
    keep_ratio: float,
    ours: pd.DataFrame,
    published: pd.DataFrame | None = None,
    controls: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Stack overlap tables at one group and keep ratio, with pair, control and chance."""
    tables = [t for t in (ours, published) if t is not None]
    tables = [_need(t, figure, *_OVERLAP).assign(control="") for t in tables]
    if controls is not None and not controls.empty:
        _need(controls, f"{figure} (controls)", *_OVERLAP, "control")
        if unknown := sorted(set(controls["control"]) - set(CONTROLS)):
            raise ValueError(f"unknown control {unknown[0]!r}; choose one of {CONTROLS}")
        tables.append(controls[controls["model"].isin(ours["model"])])
    rows = pd.concat(tables).query("group == @group")
    have = sorted(set(rows["keep_ratio"]))
    rows = rows[(rows["keep_ratio"] - keep_ratio).abs() < 1e-12]
    if rows.empty:
        raise ValueError(f"{figure}: no {group} rows at keep_ratio {keep_ratio}; there are {have}")
    rows = rows.assign(pair=rows["lang_a"] + "–" + rows["lang_b"], chance=chance_of(rows))
    return _in_order(rows, ["lang_a", "lang_b"])


def _in_order(rows: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Sort rows by language; models group in their order of appearance, ours first."""
    order = _languages([code for column in by for code in rows[column]])
    rows = rows.assign(model=pd.Categorical(rows["model"], rows["model"].unique()))
    return rows.sort_values(by, key=lambda c: c.map(order.index), kind="stable")


def _listed(names: Iterable[str], values: Iterable[float], form: str = "z.3f") -> str:
    return ", ".join(f"{name} {value:{form}}" for name, value in zip(names, values, strict=True))


# --- drawing ------------------------------------------------------------------------------------


@mpl.rc_context(STYLE)
def _figure(
    about: str,
    groups: Iterable[tuple[str, pd.DataFrame]],
    draw: Callable[[Axes, pd.DataFrame], str],
    looks: Mapping[str, Mapping[str, str]] | None = None,
    **labels,
) -> Figure:
    """Draw one panel per group; `draw` returns what its panel shows, in words and numbers."""
    panels, notes = [], []
    for title, rows in groups:
        panels.append(Canvas(figsize=(_WIDTH, 2.6), layout="constrained"))
        axes = panels[-1].subplots()
        axes.set(title=title.rsplit("/", 1)[-1])
        notes.append(f"{axes.get_title()}: {draw(axes, rows)}".removeprefix(": "))
        axes.set(**{"xlabel": "", "ylabel": ""} | labels)  # seaborn writes names of columns
        for axis in (axes.xaxis, axes.yaxis):
            if axis.get_scale() != "linear":
                _plain(axis)
    key = [
        (MARKERS[look["marker"]] if "marker" in look else look["ls"], look["color"], _name(meaning))
        for meaning, look in (looks or {}).items()
    ]
    return Figure(f"{about}. {'; '.join(notes)}.", tuple(panels), tuple(key))


def _name(code: str) -> str:
    return f"{LANGUAGES[code].name} ({code})" if code in LANGUAGES else code


def _hues(by: str, looks: Mapping[str, Mapping[str, str]], part: pd.DataFrame) -> dict[str, Any]:
    """Arguments of seaborn that give each kind in column `by` its look."""
    kinds = [kind for kind in looks if kind in set(part[by])]
    markers = {kind: looks[kind].get("marker", "o") for kind in kinds}
    colours = {kind: looks[kind]["color"] for kind in kinds}
    order = {"hue_order": kinds, "style_order": kinds, "palette": colours, "markers": markers}
    return {"hue": by, "style": by, "legend": False, **order}


def _lines(
    axes: Axes,
    rows: pd.DataFrame,
    x: str,
    y: str,
    by: str,
    looks: Mapping[str, Mapping[str, str]],
    interval: Callable[[pd.Series], tuple[float, float]],
) -> None:
    """Draw the means of `y` along `x`, a line per kind, with bars over what they are means of."""
    bars = {"errorbar": interval, "err_style": "bars", "err_kws": {"elinewidth": 0.8}}
    look = {"dashes": False, "lw": 1, "ms": 4, "markeredgewidth": 0}
    sns.lineplot(rows, x=x, y=y, ax=axes, **bars, **look, **_hues(by, looks, rows))


def _range(values: pd.Series) -> tuple[float, float]:
    mean = values.mean()  # that of equal values may lie a rounding beside them
    return min(values.min(), mean), max(values.max(), mean)


def _dots(
    axes: Axes, names: Sequence[str], rows: pd.DataFrame, by: str, *, shift: float = 0, **look
) -> None:
    """Draw a dot with its interval for each row, at the height of its name in `names`."""
    rows = rows[rows[by].isin(names)]
    y = rows[by].map(names.index) + shift
    axes.plot(rows["mean"], y, ls="", **look)
    # The bars are given (Wilson, bootstrap): seaborn's dots would compute their own.
    axes.hlines(y, rows["low"], rows["high"], color=look["color"], lw=1.4)


def _cells(axes: Axes, values: pd.DataFrame, low: float, high: float, **look) -> None:
    """Draw a matrix with its numbers; where some are negative, the middle of the map is 0.

    seaborn writes the numbers white or dark grey, never in INK.
    """
    ends = {"vmin": low, "vmax": high, "cmap": "cividis"}
    if low < 0:
        most = max(-low, high)
        ends = {"vmin": -most, "vmax": most, "cmap": "PuOr"}
    form = "z.2f" if (values % 1).any(axis=None) else "z.0f"
    sns.heatmap(values, ax=axes, annot=True, fmt=form, cbar=False, **ends, **look)
    axes.tick_params(axis="y", rotation=0)


def _name_rows(axes: Axes, labels: Sequence[str], *, height: float = 0.23) -> None:
    """Label the rows of a dot plot from top to bottom and give each its height in inches."""
    axes.figure.set_figheight(0.9 + height * len(labels))
    axes.set(ylim=(len(labels) - 0.5, -0.5), yticks=range(len(labels)), yticklabels=labels)


def _plain(axis: Axis) -> None:
    """Label a logarithmic axis with plain decimals: powers of ten, on a short one 2 and 5 too."""
    zero, (low, high) = [], axis.get_view_interval()
    if low < 0:  # there is a place for 0, left of the smallest of the positive values
        zero, low = [0.0], axis.get_transform().linthresh
    steps = (1,) if high >= 100 * low else (1, 2, 5)
    ticks = [step * 10.0**n for n in range(-8, 9) for step in steps]
    axis.set_major_locator(FixedLocator([*zero, *(tick for tick in ticks if low <= tick <= high)]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.9f}".rstrip("0").rstrip(".") or "0"))


def _depth(layer: pd.Series) -> pd.Series:
    """Relative depth of layers counted from 0: 0 is the first, 1 the last."""
    return layer.astype(float) / max(float(layer.max()), 1.0)


# --- figures ------------------------------------------------------------------------------------


def set_sizes(
    ours: pd.DataFrame,
    published: pd.DataFrame | None = None,
    controls: pd.DataFrame | None = None,
) -> Figure:
    """Draw the share of the top-K that is math-specific against the keep ratio, per model.

    Sizes themselves span four decades, which hides the differences between languages.

    Args:
        ours: `model, lang, keep_ratio, group, n_topk, n_math_specific`, one row per `seed`; only
            `group == "global"` is drawn.
        published: The same columns.
        controls: The same columns for one sample of math text minus another (empty: none), drawn
            as the mean of the languages: what the draw of the prompts alone leaves.
    """
    needed = ["model", "lang", "keep_ratio", "group", "n_topk", "n_math_specific"]
    tables = [_need(t, "set_sizes", *needed) for t in (ours, published) if t is not None]
    floor = pd.DataFrame(columns=needed) if controls is None or controls.empty else controls
    sizes, floor = (
        table.query("group == 'global'").assign(share=lambda t: t["n_math_specific"] / t["n_topk"])
        for table in (pd.concat(tables), floor)
    )
    sizes = _in_order(sizes, ["lang"])
    looks, dotted = styles(sizes["lang"].unique()), {"color": INK, "ls": ":"}

    def draw(axes: Axes, table: pd.DataFrame) -> str:
        rows = _over_seeds(table, ["lang", "keep_ratio"], "share").sort_values("keep_ratio")
        _lines(axes, table, "keep_ratio", "share", "lang", looks, lambda v: seed_interval(v)[1:3])
        mine = floor[floor["model"] == table["model"].iloc[0]]
        axes.plot(mine.groupby("keep_ratio")["share"].mean(), **dotted)
        axes.set_xscale("log")
        axes.set_ylim(0)
        largest = rows["keep_ratio"].max()
        top = rows[rows["keep_ratio"] == largest].set_index("lang")["mean"].reindex(list(looks))
        percent = (100 * largest * top).dropna()
        return f"{_listed(percent.index, percent, 'z.2f')} at keep ratio {largest:g}"

    about = "Size of the math-specific set by language, here in percent of the scored weights"
    labels = {"xlabel": "keep ratio", "ylabel": "math-specific share of top-K"}
    key = looks | ({} if floor.empty else {"math text minus other math text": dotted})
    return _figure(about, sizes.groupby("model", observed=True), draw, key, **labels)


@mpl.rc_context(STYLE)
def shared_by_layer(table: pd.DataFrame) -> Figure:
    """Draw how much of every layer is in the set of each language, and who else has it.

    Args:
        table: `lang, layer, seed, others` (languages that have the weight too), `n_weights,
            n_scored`, of one model and keep ratio; the mean over seeds is drawn.
    """
    needed = ("lang", "layer", "seed", "others", "n_weights", "n_scored")
    table = _need(table, "shared_by_layer", *needed)
    most = int(table["others"].max())
    names = dict.fromkeys(range(most), "some others too")
    names |= {most: f"all {most + 1} languages", 0: "this language alone"}
    colours = zip(("this language alone", "some others too", names[most]), _SHARED, strict=True)
    looks = {name: colour for name, colour in colours if name in names.values()}
    kind = table["others"].map(names)
    percent = 100 * table["n_weights"] / table["n_scored"]
    by = ["lang", "layer", "seed", "kind"]
    means = table.assign(kind=kind, percent=percent).groupby(by).percent.sum()
    means = means.groupby(["lang", "layer", "kind"]).mean().unstack("kind")[list(looks)]
    languages = _languages(table["lang"])
    canvas = Canvas(figsize=(_WIDTH, 0.3 + 1.5 * -(-len(languages) // 2)), layout="constrained")
    grid = canvas.subplots(-(-len(languages) // 2), 2, sharex=True, sharey=True, squeeze=False)
    notes = []
    for axes, code in zip(grid.flat, languages, strict=False):
        rows = means.loc[code]
        axes.stackplot(rows.index, rows.T, colors=list(looks.values()), lw=0)
        axes.set(title=_name(code), ylim=0, xlim=(rows.index[0], rows.index[-1]))
        notes.append(f"{code} {_listed(looks, rows.mean(), '.2f')}")
    for axes in grid.flat[len(languages) :]:
        axes.set_visible(False)
    canvas.supxlabel("layer", fontsize="medium")
    canvas.supylabel("% of the layer's weights", fontsize="medium")
    about = "Math-specific weights of every layer, in percent of its weights, by who has them"
    key = tuple(("■", colour, meaning) for meaning, colour in looks.items())
    return Figure(f"{about}. Means over layers: {'; '.join(notes)}.", (canvas,), key)


def overlap_pairs(
    ours: pd.DataFrame,
    published: pd.DataFrame | None = None,
    controls: pd.DataFrame | None = None,
    *,
    keep_ratio: float = 0.1,
) -> Figure:
    """Draw the global Jaccard of each language pair beside its controls, one panel per model."""
    overlaps = _overlaps("overlap_pairs", "global", keep_ratio, ours, published, controls)
    looks = styles(["two languages", *CONTROLS])

    def draw(axes: Axes, table: pd.DataFrame) -> str:
        pairs = table[table["control"] == ""]
        ceiling = table[table["control"] == "same language"]
        names = list(dict.fromkeys([*pairs["pair"], *ceiling["pair"]]))
        _dots(axes, names, _over_seeds(pairs, ["pair"], "chance"), "pair", ms=9, **_TICK)
        notes = []
        for kind, rows in table.groupby("control"):
            mean = _over_seeds(rows, ["pair"], "jaccard")
            _dots(axes, names, mean, "pair", **looks[kind or "two languages"])
            notes.append(f"{kind} {_listed(mean['pair'], mean['mean'])}".strip())
        _name_rows(axes, names)
        return ", ".join(notes)

    key = {"two languages": looks["two languages"], _MEANING["chance"]: _TICK}
    key |= {_MEANING[kind]: looks[kind] for kind in CONTROLS if kind in set(overlaps["control"])}
    about = f"Global Jaccard of math-specific sets at keep ratio {keep_ratio:g}"
    labels = {"xlabel": "Jaccard", "xlim": (-0.02, 1.02)}
    return _figure(about, overlaps.groupby("model", observed=True), draw, key, **labels)


def layer_profile(
    ours: pd.DataFrame,
    published: pd.DataFrame | None = None,
    controls: pd.DataFrame | None = None,
    *,
    keep_ratio: float = 0.1,
) -> Figure:
    """Draw the mean Jaccard of the pairs by depth, and of the controls, one panel per model.

    Bars go from the lowest to the highest pair (means over calibration seeds).
    """
    overlaps = _overlaps("layer_profile", "layer", keep_ratio, ours, published, controls)
    looks = styles(["two languages"])

    def draw(axes: Axes, table: pd.DataFrame) -> str:
        pairs = table[table["control"] == ""]
        rows = _over_seeds(pairs, ["pair", "layer"], "jaccard").sort_values("layer")
        deep = rows.assign(depth=_depth(rows["layer"]), pair="two languages")
        _lines(axes, deep, "depth", "mean", "pair", looks, _range)
        lines = {"chance": pairs.assign(jaccard=pairs["chance"])}
        known = [kind for kind in CONTROLS if kind in set(table["control"])]
        lines |= {kind: table[table["control"] == kind] for kind in known}
        for kind, control in lines.items():
            mean = control.groupby("layer")["jaccard"].mean().reset_index()
            axes.plot(_depth(mean["layer"]), mean["jaccard"], ls=DASHES[kind], color=INK, lw=1.1)
        mean = rows.groupby("layer")["mean"].mean()
        peak = f"highest {mean.max():.3f} at layer {mean.idxmax()}"
        return f"{_listed(('first', 'last'), mean.iloc[[0, -1]])}, {peak}"

    drawn = [kind for kind in DASHES if kind in {"chance", *overlaps["control"]}]
    key = looks | {_MEANING[kind]: {"color": INK, "ls": DASHES[kind]} for kind in drawn}
    about = f"Jaccard by layer at keep ratio {keep_ratio:g}, mean of the language pairs"
    labels = {"xlabel": "relative depth", "ylabel": "Jaccard", "xlim": (-0.03, 1.03)}
    models = overlaps.groupby("model", observed=True)
    return _figure(about, models, draw, key, ylim=(0, 1), **labels)


def overlap_heatmap(table: pd.DataFrame, *, keep_ratio: float = 0.1) -> Figure:
    """Draw the global Jaccard as a matrix of languages, one panel per model.

    Rows with lang_a == lang_b fill the diagonal, which stays empty without them; the colours go
    from the lowest to the highest of different languages.
    """
    overlaps = _overlaps("overlap_heatmap", "global", keep_ratio, table)

    def draw(axes: Axes, rows: pd.DataFrame) -> str:
        mean = _over_seeds(rows, ["lang_a", "lang_b", "pair"], "jaccard")
        codes = _languages([*mean["lang_a"], *mean["lang_b"]])
        half = mean.pivot(index="lang_a", columns="lang_b", values="mean")
        half = half.reindex(index=codes, columns=codes)
        between = mean.loc[mean["lang_a"] != mean["lang_b"], "mean"]
        _cells(axes, half.fillna(half.T), between.min(), between.max(), square=True)
        return _listed(mean["pair"], mean["mean"])

    about = f"Global Jaccard between languages at keep ratio {keep_ratio:g}"
    return _figure(about, overlaps.groupby("model", observed=True), draw)


def matrix(
    table: pd.DataFrame, about: str, *, rows: str, columns: str, value: str, panel: str, **labels
) -> Figure:
    """Draw a number for every pair of names, one panel per kind.

    Args:
        table: One row per pair and kind.
        about: What is drawn, as the beginning of the description.
        rows: Column of the names from top to bottom.
        columns: Column of the names from left to right.
        value: Column of the numbers; colours go from the lowest to the highest of all panels, or,
            where some are negative, equally far to both sides of 0.
        panel: Column of which every value has a panel.
        **labels: Properties of the axes, such as `xlabel`.
    """
    _need(table, "matrix", rows, columns, value, panel)
    ends = table[value].min(), table[value].max()

    def draw(axes: Axes, part: pd.DataFrame) -> str:
        wide = part.pivot(index=rows, columns=columns, values=value)
        wide = wide.reindex(index=_languages(part[rows]), columns=_languages(part[columns]))
        _cells(axes, wide.astype(float), *ends)
        axes.figure.set_figheight(1.2 + 0.3 * len(wide))
        names = part[rows].astype(str) + " " + part[columns].astype(str)
        return _listed(names, part[value], "z.2f")

    return _figure(about, table.groupby(panel, sort=False), draw, **labels)


def scatter(
    table: pd.DataFrame, about: str, *, x: str, y: str, look: str, panel: str, **labels
) -> Figure:
    """Draw one number against another, a marker per kind.

    Args:
        table: One row per point.
        about: What is drawn, as the beginning of the description.
        x: Column of the horizontal axis.
        y: Column of the vertical axis.
        look: Column of the kinds.
        panel: Column of which every value has a panel.
        **labels: Properties of the axes, such as `xlabel` and `ylim`; without an `xlabel` it is a
            map, whose axes mean nothing.
    """
    _need(table, "scatter", x, y, look, panel)
    looks = styles(table[look].unique())

    def draw(axes: Axes, rows: pd.DataFrame) -> str:
        sns.scatterplot(rows, x=x, y=y, ax=axes, s=25, linewidth=0, **_hues(look, looks, rows))
        related = f", rank correlation {rows[x].corr(rows[y], 'spearman'):z.2f}"
        return f"{len(rows)} points" + (related if "xlabel" in labels else "")

    key = looks if len(looks) > 1 else {}
    return _figure(about, table.groupby(panel, sort=False), draw, key, **labels)


def curves(
    table: pd.DataFrame,
    about: str,
    *,
    x: str,
    y: str,
    panel: str,
    line: str,
    levels: Mapping[str, float] | None = None,
    **labels,
) -> Figure:
    """Draw the mean of a quantity against another, and the range that it is the mean of.

    Args:
        table: One row per value, for instance of every language.
        about: What is drawn, as the beginning of the description.
        x: Column of the horizontal axis, which is logarithmic where its values span more than a
            factor of 30; a zero then stands to the left of the smallest.
        y: Column of the values; bars go from the lowest to the highest.
        panel: Column of which every value has a panel.
        line: Column of which every value has a line.
        levels: Panel -> value of the unedited model, drawn as a dashed line.
        **labels: Properties of the axes, such as `xlabel` and `ylim`.
    """
    _need(table, "curves", panel, line, x, y)
    positive = table[x][table[x] > 0]
    logarithmic = positive.max() > 30 * positive.min()
    looks = styles(table[line].unique())

    def draw(axes: Axes, rows: pd.DataFrame) -> str:
        notes = []
        _lines(axes, rows, x, y, line, looks, _range)
        for name, part in rows.groupby(line, sort=False):
            ends = part.groupby(x)[y].mean().iloc[[0, -1]]
            notes.append(f"{name} {_listed(ends.index.map('{:g}'.format), ends, 'z.2f')}")
        if levels and rows[panel].iloc[0] in levels:
            axes.axhline(levels[rows[panel].iloc[0]], color=INK, ls="--", lw=0.8)
        if logarithmic and (table[x] == 0).any():
            axes.set_xscale("symlog", linthresh=positive.min(), linscale=0.3)
            axes.set_xlim(left=-0.3 * positive.min())
        elif logarithmic:
            axes.set_xscale("log")
        return ", ".join(notes)

    key = looks if len(looks) > 1 else {}
    key = key | ({"not edited": {"color": INK, "ls": "--"}} if levels else {})
    return _figure(about, table.groupby(panel, sort=False), draw, key, **labels)


def dots(
    table: pd.DataFrame, about: str, *, y: str, x: str, look: str, panel: str = "", **labels
) -> Figure:
    """Draw values with their bars, a row per name and a marker per kind of value.

    Args:
        table: One row per value; `low` and `high`, where there are any, are the ends of its bar.
        about: What is drawn, as the beginning of the description.
        y: Column of the names, top to bottom in their order.
        x: Column of the values.
        look: Column of the kinds.
        panel: Column of which every value has a panel; default: one panel.
        **labels: Properties of the axes, such as `xlabel` and `xlim`.
    """
    _need(table, "dots", y, x, look, *([panel] if panel else []))
    table = table.assign(mean=table[x], low=table.get("low", table[x]))
    table = table.assign(high=table.get("high", table[x]))
    looks, kinds = styles(table[look].unique()), list(table[look].unique())

    def draw(axes: Axes, rows: pd.DataFrame) -> str:
        names, notes = list(rows[y].unique()), []
        for place, (kind, part) in enumerate(rows.groupby(look, sort=False)):
            shift = 0.12 * (place - (len(kinds) - 1) / 2)
            _dots(axes, names, part, y, shift=shift, **looks[kind] | {"ms": 5})
            notes.append(f"{kind}: {_listed(part[y], part[x], 'z.2f')}")
        _name_rows(axes, [_name(name) for name in names], height=0.14 + 0.05 * len(kinds))
        return "; ".join(notes)

    groups = table.groupby(panel, sort=False) if panel else [("", table)]
    return _figure(about, groups, draw, looks if len(looks) > 1 else {}, **labels)


def bars(
    table: pd.DataFrame, about: str, *, y: str, x: str, look: str, panel: str, **labels
) -> Figure:
    """Draw amounts end to end, a bar per name and a part of it per kind.

    Args:
        table: One row per amount.
        about: What is drawn, as the beginning of the description.
        y: Column of the names, top to bottom in their order.
        x: Column of the amounts.
        look: Column of the kinds, left to right in their order.
        panel: Column of which every value has a panel.
        **labels: Properties of the axes, such as `xlabel`.
    """
    _need(table, "bars", y, x, look, panel)
    looks = {kind: look | {"marker": "s"} for kind, look in styles(table[look].unique()).items()}

    def draw(axes: Axes, rows: pd.DataFrame) -> str:
        wide = rows.pivot(index=y, columns=look, values=x)
        wide = wide.reindex(index=rows[y].unique(), columns=list(looks)).fillna(0)
        colours = {kind: each["color"] for kind, each in looks.items()}
        wide.plot.barh(stacked=True, ax=axes, color=colours, width=0.7, legend=False)
        _name_rows(axes, list(wide.index))
        return "; ".join(f"{kind}: {_listed(wide.index, wide[kind], 'g')}" for kind in looks)

    return _figure(about, table.groupby(panel, sort=False), draw, looks, **labels)


def training_curve(log: pd.DataFrame, *, columns: Sequence[str] = ("loss",)) -> Figure:
    """Draw columns of a training log against `tokens`, one panel each and a line per `model`.

    Rows without a value of the column are left out.
    """
    _need(log, "training_curve", "tokens", *columns)
    log = log.assign(model=log.get("model", "model"))
    looks = {
        model: {"color": look["color"], "ls": dash}
        for (model, look), dash in zip(
            styles(log["model"].unique()).items(), cycle(["-", "--", ":"])
        )
    }

    def draw(axes: Axes, rows: pd.DataFrame) -> str:
        column, notes = axes.get_title(), []
        for model, line in rows.groupby("model", sort=False):
            axes.plot(line["tokens"] / 1e6, line[column], lw=1, **looks[model])
            name = f"{model} " if len(looks) > 1 else ""
            notes.append(f"{name}from {line[column].iloc[0]:.3g} to {line[column].iloc[-1]:.3g}")
        return ", ".join(notes)

    groups = [(column, log.dropna(subset=[column])) for column in columns]
    about = f"Training over {log['tokens'].max() / 1e6:.3g} million tokens"
    key = looks if len(looks) > 1 else {}
    return _figure(about, groups, draw, key, xlabel="million tokens seen")
