"""Draw the book's figures from tidy tables.

One function per kind of figure. The tables have the column names of ``published/*.csv``; languages,
layers or keep ratios that a table lacks are simply not drawn. Every function returns a `Figure`:
inline SVG whose ink is ``currentColor``, so that it is right on a light and on a dark page, with a
text alternative written from the numbers drawn.
"""

import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from mmlib.languages import LANGUAGES
from mmlib.results import RunInfo, require_columns, seed_interval

INK = "#010203"  # stands for currentColor while matplotlib draws; no other colour may equal it
# At least 3:1 against a white and against a near-black page (a test computes it), and apart for
# colour-blind readers; a marker or a label always carries the same distinction.
COLOURS = ("#0072b2", "#d55e00", "#008f68", "#b8559b", "#8a7400", "#6f7782")
MARKERS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼", "P": "✚"}
VERDICTS = {
    "yes": "mm-yes",
    "no": "mm-no",
    "undecided": "mm-undecided",
    "not testable here": "mm-none",
    "no run yet": "mm-none",
}
_WIDTH = 3.5  # inches: one panel fills a phone at its natural size, two stand beside each other
_STYLE = {
    **{f"{part}.color": INK for part in ("text", "xtick", "ytick", "grid")},
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.15,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "font.size": 8.5,
    "axes.titlesize": 9,
    "svg.fonttype": "none",
}


@dataclass(frozen=True)
class Figure:
    """Panels that stand beside each other or, on a narrow page, below each other."""

    alt: str
    """What the figure shows, in words and numbers."""
    panels: tuple[Canvas, ...]
    key: tuple[tuple[str, str, str], ...] = ()
    """What each glyph means: (glyph, colour, meaning)."""

    def svgs(self) -> list[str]:
        """Return each panel as an SVG element, equal from run to run."""
        titles = [panel.axes[0].get_title() for panel in self.panels]
        alts = [f"{title}: {self.alt}" for title in titles] if len(titles) > 1 else [self.alt]
        return [_svg(panel, alt) for panel, alt in zip(self.panels, alts, strict=True)]

    def _repr_html_(self) -> str:
        """Return the figure as HTML for a notebook or the book."""
        svgs = "".join(self.svgs())
        key = "".join(
            f'<li><span aria-hidden="true" style="color:{_themed(colour)}">{glyph}</span> '
            f"{escape(meaning)}</li>"
            for glyph, colour, meaning in self.key
        )
        key = f'<ul class="mm-key" style="{_KEY_CSS}">{key}</ul>' if key else ""
        return (
            f'<div class="mm-figure" role="group" aria-label="{escape(self.alt)}">'
            f'<div style="{_PANELS_CSS}">{svgs}</div>{key}</div>'
        )

    def save(self, path: str | Path, *, panel: int = 0) -> None:
        """Write one panel to `path` on white, in the format its suffix names (svg, png, pdf)."""
        with mpl.rc_context({**_STYLE, "svg.hashsalt": "mmlib"}):
            metadata = {"Date": None} if str(path).endswith(".svg") else None
            self.panels[panel].savefig(path, facecolor="white", dpi=200, metadata=metadata)


_PANELS_CSS = "display:flex;flex-wrap:wrap;gap:.5rem 1rem;justify-content:center"
_KEY_CSS = (
    "display:flex;flex-wrap:wrap;gap:.1rem 1.2rem;justify-content:center;"
    "list-style:none;padding:0;margin:.3rem 0;font-size:.85em"
)


def _themed(colour: str) -> str:
    return "currentColor" if colour == INK else colour


def _svg(panel: Canvas, alt: str) -> str:
    """Draw `panel` and make its SVG themed, labelled and free of what changes between runs."""
    buffer = io.StringIO()
    with mpl.rc_context({**_STYLE, "svg.hashsalt": alt}):
        panel.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    box = re.search(r'viewBox="([^"]+)"', svg)[1]
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.S)
    body = re.sub(r'<g id="[^"]*"', "<g", body)  # not referenced, and not unique on a page
    body = re.sub(
        r"font: ((?:\w+ )*)([\d.]+px) [^;\"]+", r"font-size: \2; font-family: inherit", body
    )
    body = body.replace(INK, "currentColor")
    width = float(box.split()[2])
    css = f"flex:1 1 {width * 1.2:.0f}px;min-width:0;max-width:{width * 1.9:.0f}px;height:auto"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{box}" role="img" aria-label="{escape(alt)}" style="{css}">{body.strip()}'
    )


# --- tables ----------------------------------------------------------------------------------


def _need(table: pd.DataFrame, figure: str, *columns: str) -> pd.DataFrame:
    require_columns(table, columns, f"the table of {figure}")
    if table.empty:
        raise ValueError(f"the table of {figure} has no rows; check the filter that made it")
    return table


def _at(table: pd.DataFrame, figure: str, keep_ratio: float) -> pd.DataFrame:
    """Keep the rows at `keep_ratio`, or say which keep ratios there are."""
    rows = table[(table["keep_ratio"] - keep_ratio).abs() < 1e-12]
    if rows.empty:
        have = sorted(table["keep_ratio"].unique())
        raise ValueError(f"{figure}: no rows at keep_ratio {keep_ratio}; the table has {have}")
    return rows


def _over_seeds(table: pd.DataFrame, by: list[str], value: str) -> pd.DataFrame:
    """Return mean, low and high of `value` over calibration seeds, one row per group of `by`."""
    if "seed" in table.columns and table.duplicated([*by, "seed"]).any():
        raise ValueError(
            f"more than one row per {[*by, 'seed']}: filter the table to one run first"
        )
    groups = table.groupby(by, sort=False)[value]
    rows = [(*key, *seed_interval(values)[:3]) for key, values in groups]
    return pd.DataFrame(rows, columns=[*by, "mean", "low", "high"])


def _short(model: str) -> str:
    return str(model).rsplit("/", 1)[-1]


def _models(*tables: pd.DataFrame | None) -> Iterator[tuple[str, pd.DataFrame]]:
    for table in tables:
        if table is not None:
            yield from table.groupby("model", sort=False)


def _languages(codes: Sequence[str]) -> list[str]:
    """Order language codes as in `LANGUAGES`, unknown ones last."""
    known = list(LANGUAGES)
    return sorted(set(codes), key=lambda c: (known.index(c) if c in known else len(known), c))


def _pairs(table: pd.DataFrame) -> list[str]:
    """Order the pairs of a table with columns lang_a, lang_b and pair by their languages."""
    order = _languages([*table["lang_a"], *table["lang_b"]])
    pairs = table[["lang_a", "lang_b", "pair"]].drop_duplicates("pair")
    return list(pairs.sort_values(["lang_a", "lang_b"], key=lambda c: c.map(order.index))["pair"])


def _styles(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Give each name a colour and a marker, the same in every figure with the same names."""
    markers = list(MARKERS)
    return {name: (COLOURS[i % 6], markers[i % 6]) for i, name in enumerate(names)}


def _chance(table: pd.DataFrame) -> pd.Series:
    """Jaccard of independent sets of the same sizes: E / (a + b - E), E expected intersection.

    Without the column `expected_intersection` (published tables) E is size_a size_b / n_scored.
    """
    expected = table["size_a"] * table["size_b"] / table["n_scored"]
    if "expected_intersection" in table.columns:
        expected = table["expected_intersection"].fillna(expected)
    return expected / (table["size_a"] + table["size_b"] - expected)


def _panel(title: str, xlabel: str, ylabel: str, *, height: float = 2.6) -> tuple[Canvas, Axes]:
    canvas = Canvas(figsize=(_WIDTH, height), layout="constrained")
    axes = canvas.subplots()
    axes.set(title=_short(title), xlabel=xlabel, ylabel=ylabel)
    return canvas, axes


def _line(axes: Axes, x: pd.Series, rows: pd.DataFrame, style: tuple[str, str]) -> None:
    """Draw a line with markers, and its interval over seeds as vertical bars."""
    axes.plot(x, rows["mean"], color=style[0], marker=style[1])
    axes.vlines(x, rows["low"], rows["high"], color=style[0], alpha=0.6, lw=1)


def _dots(
    axes: Axes, rows: pd.DataFrame, place: Mapping[str, float], name: str = "pair", **marker
) -> None:
    """Draw one dot per row at the height of its name, its interval as a horizontal bar."""
    y = rows[name].map(place)
    axes.plot(rows["mean"], y, ls="", **marker)
    if {"low", "high"} <= set(rows.columns):
        axes.hlines(y, rows["low"], rows["high"], color=marker["color"], lw=1.4)


def _plain(axis: Axis, values: pd.Series) -> None:
    """Label a logarithmic axis around `values` at powers of ten, with plain decimals."""
    low, high = values.min(), values.max()
    ticks = [10.0**power for power in range(-8, 5) if low / 3 <= 10.0**power <= high * 3]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:.10f}".rstrip("0").rstrip("."))
    )


def _listed(names: Iterable[str], values: Iterable[float], form: str = ".3f") -> str:
    return ", ".join(f"{name} {value:{form}}" for name, value in zip(names, values, strict=True))


def _name(code: str) -> str:
    return f"{LANGUAGES[code].name} ({code})" if code in LANGUAGES else code


def _key(
    styles: Mapping[str, tuple[str, str]], name: Callable[[str], str]
) -> tuple[tuple[str, str, str], ...]:
    return tuple((MARKERS[m], colour, name(key)) for key, (colour, m) in styles.items())


# --- figures ---------------------------------------------------------------------------------


def _share(table: pd.DataFrame) -> pd.Series:
    """Share of the scored weights; the published tables imply n_scored = n_topk / keep_ratio."""
    if "n_scored" in table.columns:
        return table["n_math_specific"] / table["n_scored"]
    _need(table, "set_sizes", "n_topk")
    return table["n_math_specific"] * table["keep_ratio"] / table["n_topk"]


@mpl.rc_context(_STYLE)
def set_sizes(ours: pd.DataFrame, published: pd.DataFrame | None = None) -> Figure:
    """Draw the size of the math-specific set against the keep ratio, one panel per model.

    Args:
        ours: `model, lang, keep_ratio, group, n_math_specific` and `n_scored` or `n_topk`, one
            row per `seed` (bars are intervals over seeds); only `group == "global"` is drawn.
        published: The same columns for the models of the paper.
    """
    tables = [t for t in (ours, published) if t is not None]
    for table in tables:
        _need(table, "set_sizes", "model", "lang", "keep_ratio", "group", "n_math_specific")
    style = _styles(_languages(pd.concat([t["lang"] for t in tables])))
    panels, notes = [], []
    for model, table in _models(*tables):
        table = table[table["group"] == "global"].assign(share=_share)
        rows = _over_seeds(table, ["lang", "keep_ratio"], "share").sort_values("keep_ratio")
        canvas, axes = _panel(model, "keep ratio", "share of scored weights")
        axes.set(xscale="log", yscale="log")
        for lang in _languages(rows["lang"]):
            line = rows[rows["lang"] == lang]
            _line(axes, line["keep_ratio"], line, style[lang])
        _plain(axes.xaxis, rows["keep_ratio"])
        _plain(axes.yaxis, rows["mean"])
        panels.append(canvas)
        top = rows[rows["keep_ratio"] == rows["keep_ratio"].max()]
        percent = _listed(top["lang"], 100 * top["mean"], ".2f")
        notes.append(f"{_short(model)} at {top['keep_ratio'].iloc[0]:g}: {percent}")
    alt = (
        "Size of the math-specific set against the keep ratio, by language; it rises with the keep "
        f"ratio. In percent of the scored weights: {'; '.join(notes)}."
    )
    return Figure(alt, tuple(panels), _key(style, _name))


_CONTROLS = {"same language": "-.", "untrained": ":"}


def _overlaps(
    figure: str, group: str, keep_ratio: float, *tables: pd.DataFrame | None
) -> list[pd.DataFrame]:
    """Check overlap tables and keep the rows of one group and keep ratio, with pair and chance."""
    counts = ("lang_a", "lang_b", "keep_ratio", "group", "size_a", "size_b", "n_scored", "jaccard")
    kept = []
    for table in tables:
        if table is not None:
            rows = _need(table, figure, "model", *counts)
            rows = _at(rows[rows["group"] == group], figure, keep_ratio)
            pair = rows["lang_a"] + "–" + rows["lang_b"]
            kept.append(rows.assign(pair=pair, chance=_chance(rows)))
    return kept


def _split(controls: pd.DataFrame | None, model: str) -> dict[str, pd.DataFrame]:
    """Return the control rows to draw beside `model`, by kind.

    The untrained model has another name, so it is drawn beside the trained ones that are ours.
    """
    if controls is None:
        return {}
    rows = controls[(controls["model"] == model) | (controls["control"] == "untrained")]
    return dict(tuple(rows.groupby("control", sort=False)))


@mpl.rc_context(_STYLE)
def overlap_pairs(
    ours: pd.DataFrame,
    published: pd.DataFrame | None = None,
    controls: pd.DataFrame | None = None,
    *,
    keep_ratio: float = 0.1,
) -> Figure:
    """Draw the global Jaccard of each language pair, with its controls, one panel per model.

    Args:
        ours: Overlap table (`overlap_table` with `model` and `seed`); bars: interval over seeds.
        published: The same columns for the models of the paper.
        controls: The same columns and `control`: `"same language"` (lang_a == lang_b, two
            calibration samples: the ceiling) or `"untrained"` (a model with random weights).
        keep_ratio: The keep ratio drawn.
    """
    _check_controls(controls)
    ours, *others = _overlaps("overlap_pairs", "global", keep_ratio, ours, published, controls)
    control = others.pop() if controls is not None else None
    panels, notes = [], []
    for model, table in _models(ours, *others):
        extra = _split(control, model) if model in set(ours["model"]) else {}
        ceiling = extra.get("same language")
        names = _pairs(table) + ([] if ceiling is None else sorted(set(ceiling["pair"])))
        place = {name: -i for i, name in enumerate(names)}
        canvas, axes = _panel(model, "Jaccard", "", height=0.9 + 0.22 * len(names))
        rows = _over_seeds(table, ["pair"], "jaccard")
        _dots(axes, rows, place, color=COLOURS[0], marker="o")
        _dots(axes, _over_seeds(table, ["pair"], "chance"), place, color=INK, marker="|", ms=9)
        if ceiling is not None:
            same = _over_seeds(ceiling, ["pair"], "jaccard")
            _dots(axes, same, place, color=COLOURS[2], marker="D")
        if "untrained" in extra:
            bare = _over_seeds(extra["untrained"], ["pair"], "jaccard")
            bare = bare[bare["pair"].isin(names)]
            _dots(axes, bare, place, color=COLOURS[1], marker="s", mfc="none")
        axes.set(xlim=(-0.02, 1.02), yticks=list(place.values()), yticklabels=list(place))
        panels.append(canvas)
        notes.append(f"{_short(model)}: {_listed(rows['pair'], rows['mean'])}")
    alt = f"Global Jaccard of math-specific sets at keep ratio {keep_ratio:g}. {'; '.join(notes)}."
    key = [("●", COLOURS[0], "two languages"), ("|", INK, "chance at the same set sizes")]
    if control is not None:
        for kind, rows in control.groupby("control", sort=False):
            mean = _over_seeds(rows, ["pair"], "jaccard")
            alt += f" Control, {kind}: {_listed(mean['pair'], mean['mean'])}."
        key += [("◆", COLOURS[2], "same language, other calibration sample")]
        key += [("□", COLOURS[1], "untrained model")]
    return Figure(alt, tuple(panels), tuple(key))


def _check_controls(controls: pd.DataFrame | None) -> None:
    if controls is not None:
        _need(controls, "controls", "control")
        if unknown := sorted(set(controls["control"]) - set(_CONTROLS)):
            raise ValueError(f"unknown control {unknown[0]!r}; choose one of {list(_CONTROLS)}")


@mpl.rc_context(_STYLE)
def layer_profile(
    ours: pd.DataFrame,
    published: pd.DataFrame | None = None,
    controls: pd.DataFrame | None = None,
    *,
    keep_ratio: float = 0.1,
) -> Figure:
    """Draw the Jaccard of each pair by depth, with its controls as lines, one panel per model.

    Args:
        ours: Overlap table with `group == "layer"` rows, `model` and `seed`.
        published: The same columns for the models of the paper.
        controls: As in `overlap_pairs`; drawn as the mean over languages or pairs.
        keep_ratio: The keep ratio drawn.
    """
    _check_controls(controls)
    ours, *others = _overlaps("layer_profile", "layer", keep_ratio, ours, published, controls)
    control = others.pop() if controls is not None else None
    style = _styles(_pairs(pd.concat([ours, *others])))
    panels, notes = [], []
    for model, table in _models(ours, *others):
        canvas, axes = _panel(model, "relative depth", "Jaccard")
        rows = _over_seeds(table, ["pair", "layer"], "jaccard")
        for pair in _pairs(table):
            line = rows[rows["pair"] == pair].sort_values("layer")
            _line(axes, _depth(line["layer"]), line, style[pair])
        _mean_line(axes, table, "chance", "--")
        extra = _split(control, model) if model in set(ours["model"]) else {}
        for kind, lines in extra.items():
            _mean_line(axes, lines, "jaccard", _CONTROLS[kind])
        axes.set(xlim=(-0.03, 1.03), ylim=(0, 1))
        panels.append(canvas)
        mean = rows.groupby("layer")["mean"].mean()
        ends = _listed(("first layer", "last layer"), (mean.iloc[0], mean.iloc[-1]))
        peak = f"highest at layer {mean.idxmax()} of {len(mean)} ({mean.max():.3f})"
        notes.append(f"{_short(model)}: {peak}, {ends}")
    alt = (
        f"Jaccard by layer at keep ratio {keep_ratio:g}, one line per language pair. Mean over the "
        f"pairs: {'; '.join(notes)}."
    )
    lines = [("╌╌", INK, "chance at the same set sizes")]
    if control is not None:
        lines += [("─·", INK, "same language, other sample"), ("┈┈", INK, "untrained model")]
    return Figure(alt, tuple(panels), (*_key(style, str), *lines))


def _depth(layer: pd.Series) -> pd.Series:
    """Relative depth of a layer counted from 0: 0 is the first, 1 the last."""
    return layer.astype(float) / max(float(layer.max()), 1.0)


def _mean_line(axes: Axes, table: pd.DataFrame, value: str, dash: str) -> None:
    mean = table.groupby("layer")[value].mean()
    axes.plot(_depth(mean.index.to_series()), mean, color=INK, ls=dash, lw=1.1)


@mpl.rc_context(_STYLE)
def overlap_heatmap(table: pd.DataFrame, *, keep_ratio: float = 0.1) -> Figure:
    """Draw the global Jaccard as a matrix of languages, one panel per model.

    Args:
        table: Overlap table with `model`; rows with lang_a == lang_b (same language, other
            sample) fill the diagonal, which stays empty without them.
        keep_ratio: The keep ratio drawn.
    """
    (rows,) = _overlaps("overlap_heatmap", "global", keep_ratio, table)
    panels, notes = [], []
    for model, cells in _models(rows):
        mean = _over_seeds(cells, ["lang_a", "lang_b"], "jaccard")
        codes = _languages([*mean["lang_a"], *mean["lang_b"]])
        half = mean.pivot(index="lang_a", columns="lang_b", values="mean").reindex(codes)
        half = half.reindex(columns=codes)
        canvas, axes = _panel(model, "", "")
        # seaborn writes in white or dark grey by the cell's lightness: neither is INK
        sns.heatmap(half.fillna(half.T), ax=axes, vmin=0, vmax=1, cmap="cividis", annot=True,
                    fmt=".2f", square=True, cbar=False, linewidths=1, linecolor="#808080")  # fmt: skip
        panels.append(canvas)
        pairs = mean["lang_a"] + "–" + mean["lang_b"]
        notes.append(f"{_short(model)}: {_listed(pairs, mean['mean'])}")
    alt = f"Global Jaccard between languages at keep ratio {keep_ratio:g}. {'; '.join(notes)}."
    return Figure(alt, tuple(panels))


@mpl.rc_context(_STYLE)
def accuracy(table: pd.DataFrame) -> Figure:
    """Draw accuracies with their Wilson intervals, one panel per task.

    Args:
        table: The result of `summarize`: `lang, task, accuracy, low, high`.
    """
    _need(table, "accuracy", "lang", "task", "accuracy", "low", "high")
    panels, notes = [], []
    for task, rows in table.groupby("task", sort=False):
        place = {lang: -i for i, lang in enumerate(_languages(rows["lang"]))}
        canvas, axes = _panel(task, "accuracy", "", height=0.9 + 0.25 * len(place))
        rows = rows.rename(columns={"accuracy": "mean"})
        _dots(axes, rows, place, "lang", color=COLOURS[0], marker="o")
        axes.set(xlim=(-0.02, 1.02), ylim=(-len(place) + 0.5, 0.5))
        axes.set(yticks=list(place.values()), yticklabels=[_name(lang) for lang in place])
        panels.append(canvas)
        notes.append(f"{task}: {_listed(rows['lang'], rows['mean'])}")
    return Figure(f"Accuracy with 95 % intervals. {'; '.join(notes)}.", tuple(panels))


@mpl.rc_context(_STYLE)
def training_curve(log: pd.DataFrame, *, columns: Sequence[str] = ("loss",)) -> Figure:
    """Draw a training log against the tokens seen, one panel per column.

    Args:
        log: One row per logged step: `tokens` and each of `columns`.
        columns: The columns drawn; rows where a column is empty are left out.
    """
    _need(log, "training_curve", "tokens", *columns)
    panels, notes = [], []
    for column in columns:
        rows = log.dropna(subset=[column])
        canvas, axes = _panel(column, "million tokens seen", "")
        axes.plot(rows["tokens"] / 1e6, rows[column], color=COLOURS[0])
        panels.append(canvas)
        first, last = rows[column].iloc[0], rows[column].iloc[-1]
        notes.append(f"{column} from {first:.3g} to {last:.3g}")
    tokens = log["tokens"].max() / 1e6
    return Figure(f"Training over {tokens:.3g} million tokens: {', '.join(notes)}.", tuple(panels))


@mpl.rc_context(_STYLE)
def ratios(table: pd.DataFrame) -> Figure:
    """Draw measured ratios beside what was aimed at.

    Args:
        table: `quantity, ratio`, and where known `low, high` (spread), `aim` and `direction`
            (`"at most"` or `"at least"`).
    """
    _need(table, "ratios", "quantity", "ratio")
    rows = table.reindex(columns=[*table.columns.union(["low", "high", "aim", "direction"])])
    rows = rows.rename(columns={"ratio": "mean"}).reset_index(drop=True)
    canvas, axes = _panel("", "ratio", "", height=0.7 + 0.42 * len(rows))
    place = {name: -i for i, name in enumerate(rows["quantity"])}
    _dots(axes, rows, place, "quantity", color=COLOURS[0], marker="o")
    notes = []
    for row in rows.itertuples():
        aim = f", aim {row.direction} {row.aim:g}" if pd.notna(row.aim) else ""
        axes.plot([row.aim], [-row.Index], color=INK, marker="|", ms=11, ls="")
        text = f"{row.quantity}: {row.mean:.3g}{aim}"
        axes.text(0.01, -row.Index + 0.22, text, transform=axes.get_yaxis_transform())
        notes.append(text)
    axes.set(xscale="log", yticks=[], ylim=(-len(rows) + 0.6, 0.7))
    _plain(axes.xaxis, rows[["mean", "aim"]].stack())
    key = [("●", COLOURS[0], "measured"), ("|", INK, "aim")]
    return Figure(f"Measured ratios. {'; '.join(notes)}.", (canvas,), tuple(key))


@mpl.rc_context(_STYLE)
def token_lengths(table: pd.DataFrame, *, column: str = "tokens") -> Figure:
    """Draw how long texts are in each language, one panel per task.

    Args:
        table: One row per text: `lang, task` and `column`.
        column: The length drawn: median, middle half (thick) and 5th to 95th percentile (thin).
    """
    _need(table, "token_lengths", "lang", "task", column)
    panels, notes = [], []
    for task, rows in table.groupby("task", sort=False):
        place = {lang: -i for i, lang in enumerate(_languages(rows["lang"]))}
        canvas, axes = _panel(task, column, "", height=0.9 + 0.25 * len(place))
        spread = rows.groupby("lang")[column].quantile([0.05, 0.25, 0.5, 0.75, 0.95]).unstack()
        spread = spread.loc[list(place)]
        y = list(place.values())
        axes.hlines(y, spread[0.05], spread[0.95], color=COLOURS[0], lw=1)
        axes.hlines(y, spread[0.25], spread[0.75], color=COLOURS[0], lw=5, alpha=0.5)
        axes.plot(spread[0.5], y, color=COLOURS[0], marker="o", ls="")
        axes.set(yticks=y, yticklabels=[_name(lang) for lang in place])
        axes.set(ylim=(-len(place) + 0.5, 0.5), xlim=(0, None))
        panels.append(canvas)
        notes.append(f"{task}: {_listed(place, spread[0.5], 'g')}")
    return Figure(f"Median {column} by language. {'; '.join(notes)}.", tuple(panels))


# --- tables and strips -------------------------------------------------------------------------


def badge(verdict: str) -> str:
    """Return a verdict as an HTML badge; the word carries it, the colour repeats it."""
    if verdict not in VERDICTS:
        raise ValueError(f"unknown verdict {verdict!r}; choose one of {list(VERDICTS)}")
    return f'<span class="mm-badge {VERDICTS[verdict]}">{verdict}</span>'


def _cell(tag: str, label: str, html: str) -> str:
    role = 'scope="row" role="rowheader"' if tag == "th" else 'role="cell"'
    return f'<{tag} {role} data-label="{escape(label)}">{html}</{tag}>'


_LEDGER = {
    "published": "Published data",
    "organism": "Organism",
    "research": "Research run",
}


def ledger_html(ledger: pd.DataFrame, *, links: Mapping[str, str] | None = None) -> str:
    """Return the claims ledger as an accessible HTML table, cards on a narrow page.

    Args:
        ledger: One row per claim: `id, claim`, the three verdicts `published, organism, research`,
            and where present `restatement, effect, interval, n, reason`.
        links: Page of the chapter that treats a claim, by claim id.
    """
    _need(ledger, "ledger_html", "id", "claim", *_LEDGER)
    heads = ["Claim", "Stated so that it can be checked", *_LEDGER.values(), "Effect and reason"]
    head = "".join(f'<th scope="col" role="columnheader">{text}</th>' for text in heads)
    body = "".join(_ledger_row(row, links or {}) for row in ledger.to_dict("records"))
    return (
        '<table class="mm-ledger" role="table"><caption>Claims of the papers and what '
        f'the numbers say</caption><thead role="rowgroup"><tr role="row">{head}</tr></thead>'
        f'<tbody role="rowgroup">{body}</tbody></table>'
    )


def _ledger_row(row: Mapping[str, object], links: Mapping[str, str]) -> str:
    text = {k: "" if pd.isna(v) else escape(f"{v:.4g}" if isinstance(v, float) else str(v))
            for k, v in row.items()}  # fmt: skip
    name = text["id"]
    if row["id"] in links:
        name = f'<a href="{escape(links[row["id"]])}">{name}</a>'
    found = [text.get("effect", ""), text.get("interval", "")]
    found += [f"n = {text['n']}"] if text.get("n") else []
    found = [part for part in (" ".join(found).strip(), text.get("reason", "")) if part]
    return '<tr role="row">' + "".join([
        _cell("th", "Claim", f"{name} {text['claim']}"),
        _cell("td", "Stated so that it can be checked", text.get("restatement", "")),
        *(_cell("td", label, badge(str(row[key]))) for key, label in _LEDGER.items()),
        _cell("td", "Effect and reason", ". ".join(found)),
    ]) + "</tr>"  # fmt: skip


def provenance_html(run: RunInfo, *, seconds: float | None = None) -> str:
    """Return the strip at a chapter's end: model, code, machine, date and parameters of its run."""
    about = {
        "model": " ".join(t for t in (run.model, run.revision, run.dtype) if t),
        "checkpoint": run.checkpoint_hash[:12],
        "code": " ".join(t for t in (f"mmlib {run.package_version}", run.commit[:12]) if t),
        "software": f"Python {run.python_version}, torch {run.torch_version}, "
        f"transformers {run.transformers_version}",
        "hardware": run.hardware,
        "date": run.date,
        "duration": "" if seconds is None else f"{seconds:.0f} s",
        "parameters": ", ".join(f"{name}={value!r}" for name, value in run.parameters.items()),
    }
    items = "".join(f"<dt>{k}</dt><dd>{escape(v)}</dd>" for k, v in about.items() if v)
    return f'<dl class="mm-provenance" aria-label="How this page was made">{items}</dl>'
