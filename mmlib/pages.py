"""Put results on a page: themed SVG figures, verdict badges, the ledger, the provenance strip.

Everything here is self-contained HTML: it needs no script, and what a stylesheet adds (colours of
badges, cards on a narrow page) is in ``book/_static/mmlib.css``.
"""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure as Canvas

INK = "#010203"  # stands for currentColor while matplotlib draws; nothing else has this colour
VERDICTS = {"yes": "yes", "no": "no", "undecided": "undecided"}
VERDICTS |= {"not testable here": "none", "no run yet": "none"}


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
        return [_svg(panel, alt) for panel, alt in zip(self.panels, alts, strict=True)]

    def _repr_html_(self) -> str:
        key = "".join(f"<li>{_swatch(*entry[:2])} {escape(entry[2])}</li>" for entry in self.key)
        return (
            f'<div class="mm-figure" role="group" aria-label="{escape(self.alt)}">'
            f'<div style="{_FLEX}gap:.5rem 1rem">{"".join(self.svgs())}</div>'
            + (f'<ul style="{_LIST}">{key}</ul></div>' if key else "</div>")
        )

    def save(self, path: str | Path, *, panel: int = 0) -> None:
        """Write one panel to `path` on white, in the format its suffix names (svg, png, pdf)."""
        with mpl.rc_context(STYLE):
            dated = {"Date": None} if Path(path).suffix == ".svg" else None
            self.panels[panel].savefig(path, facecolor="white", dpi=200, metadata=dated)


def _swatch(glyph: str, colour: str) -> str:
    colour = "currentColor" if colour == INK else colour
    dashes = {"-": "none", "--": "5 2", "-.": "6 2 1.5 2", ":": "1.5 2"}
    if glyph not in dashes:
        return f'<span aria-hidden="true" style="color:{colour}">{glyph}</span>'
    dash = dashes[glyph]
    line = f'<path d="M0 4h28" stroke="{colour}" stroke-width="1.5" stroke-dasharray="{dash}"/>'
    return f'<svg aria-hidden="true" width="28" height="8">{line}</svg>'


def _svg(panel: Canvas, alt: str) -> str:
    """Draw `panel` and make its SVG themed, labelled and free of ids that repeat on a page."""
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
    css = f"flex:1 1 {width * 1.2:.0f}px;min-width:0;max-width:{width * 1.9:.0f}px;height:auto"
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{box}" role="img" aria-label="{escape(alt)}" style="{css}">'
        + body.replace(INK, "currentColor")
    )


def badge(verdict: str) -> str:
    """Return a verdict as an HTML badge; the word carries it, the colour repeats it."""
    if verdict not in VERDICTS:
        raise ValueError(f"unknown verdict {verdict!r}; choose one of {list(VERDICTS)}")
    return f'<span class="mm-badge mm-{VERDICTS[verdict]}">{verdict}</span>'


_VERDICTS_OF = {
    "published_data": "Published data",
    "organism": "Organism",
    "research_run": "Research run",
}


def ledger_html(ledger: pd.DataFrame, *, links: Mapping[str, str] | None = None) -> str:
    """Return the claims ledger as an HTML table, which is a pile of cards on a narrow page.

    Args:
        ledger: The result of `claims.ledger`, all of it or some claims; of its columns `id, claim,
            published_data, organism` and `research_run` have to be there.
        links: Page of the chapter that treats a claim, by claim id.
    """
    missing = [column for column in ("id", "claim", *_VERDICTS_OF) if column not in ledger]
    if missing:
        raise ValueError(f"the ledger has no column {missing[0]!r}; it has {list(ledger.columns)}")
    body = ""
    for row in ledger.astype(object).where(ledger.notna(), "").to_dict("records"):
        page = (links or {}).get(row["id"])
        name = f'<a href="{escape(page)}">{row["id"]}</a>' if page else escape(row["id"])
        text = {"published_data": row.get("published_numbers", ""), "organism": _found(row)}
        text["research_run"] = row.get("research_reason", "")
        check = f"<small>{escape(row.get('restatement', ''))}</small>"
        cells = f'<th scope="row" role="rowheader">{name} {escape(row["claim"])} {check}</th>'
        for column, head in _VERDICTS_OF.items():
            found = f"{badge(row[column])} {escape(text[column])}"
            cells += f'<td role="cell" data-label="{head}">{found}</td>'
        body += f'<tr role="row">{cells}</tr>'
    heads = "".join(
        f'<th scope="col" role="columnheader">{head}</th>'
        for head in ("Claim and check", *_VERDICTS_OF.values())
    )
    return (
        '<table class="mm-ledger" role="table"><caption>What the papers claim and what the numbers '
        f'say</caption><thead role="rowgroup"><tr role="row">{heads}</tr></thead>'
        f'<tbody role="rowgroup">{body}</tbody></table>'
    )


def _found(row: Mapping[str, object]) -> str:
    """Effect with interval, what an undecided run could have seen, and the reason, in words."""
    parts = []
    if row.get("effect", "") != "":
        parts.append(f"effect {row['effect']:.3g}")
        if row["low"] != "":
            parts[0] += f" ({row['low']:.3g} to {row['high']:.3g}, {row['n']} seeds)"
        parts[0] += f", yes if above {row['threshold']:.3g}"
    if row["organism"] == "undecided" and row.get("smallest_detectable_effect", "") != "":
        parts.append(f"smallest detectable effect {row['smallest_detectable_effect']:.3g}")
    return "; ".join([*parts, row["reason"]] if row.get("reason") else parts)


def provenance_html(run: object, *, seconds: float | None = None) -> str:
    """Return the strip at a chapter's end: model, code, machine, date and parameters of its run.

    Args:
        run: The `RunInfo` of the chapter's tables, or the `run` entry of a table's manifest.
        seconds: How long the chapter took.
    """
    run = dict(run) if isinstance(run, Mapping) else vars(run)
    about = {
        "model": "{model} {revision} {dtype}".format(**run),
        "checkpoint": run["checkpoint_hash"][:12],
        "code": f"mmlib {run['package_version']} {run['commit'][:12]}",
        "software": ", ".join(f"{name} {version}" for name, version in run["versions"].items()),
        "hardware": run["hardware"],
        "date": run["date"],
        "duration": "" if seconds is None else f"{seconds:.0f} s",
        "parameters": ", ".join(f"{name}={value!r}" for name, value in run["parameters"].items()),
    }
    items = "".join(f"<dt>{k}</dt><dd>{escape(v)}</dd>" for k, v in about.items() if v.strip())
    return f'<dl class="mm-provenance" aria-label="How this page was made">{items}</dl>'
