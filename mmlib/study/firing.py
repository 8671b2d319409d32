"""Which neurons fire, and which layers that selects: draws of questions, readings, resamples."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, get_args

import numpy as np
import pandas as pd
from torch import nn
from transformers import PreTrainedTokenizerBase

from mmlib.forward import batches
from mmlib.models import untrained_like
from mmlib.neurons import (
    Aggregation,
    Denominator,
    Firing,
    firing_rates,
    overlap_with_english,
    ranges,
    select_layers,
)
from mmlib.study.evidence import made_by, read_evidence
from mmlib.study.settings import Loading
from mmlib.study.tables import RunInfo
from mmlib.tasks.problems import load_problems


def draw_questions(
    task: str,
    languages: Sequence[str],
    *,
    number: int,
    seed: int,
    data_dir: str = "",
    split: str = "calibration",
    drawing: str = "once",
) -> dict[str, list[str]]:
    """Draw the same questions in several languages, as they are asked, without their answers.

    So many per language without replacement, from a split that grades nothing. `seed` is that of
    the draw, or with `drawing="blocks"` in place of "once" the number of the block.

    Returns:
        Language -> prompts, of the same problems in the same order.

    Raises:
        ValueError: Fewer problems than that are there in all languages, or another `drawing`.
    """
    if drawing not in ("once", "blocks"):
        raise ValueError(f"drawing={drawing!r}: questions are drawn once, or in blocks")
    prompts = {}
    for code in languages:
        problems = load_problems(task, code, data_dir=data_dir or None, split=split)
        prompts[code] = {problem.id: problem.prompt for problem in problems}
    shared = sorted(set.intersection(*map(set, prompts.values())))
    last = number * seed if drawing == "blocks" else number
    if not 0 < number <= last <= len(shared):
        raise ValueError(
            f"number={number} and seed={seed} with drawing={drawing!r}: {len(shared)} problems of "
            f"{task} are in all languages"
        )
    if drawing == "blocks":
        drawn = np.random.default_rng(1).permutation(shared)[last - number : last]
    else:
        drawn = np.random.default_rng(seed).choice(shared, number, replace=False)
    return {code: [texts[i] for i in drawn] for code, texts in prompts.items()}


def question_firing(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    questions: Mapping[str, Sequence[str]],
    *,
    batch_size: int = 32,
) -> dict[str, Firing]:
    """How often every neuron fires in questions of several languages, one language after another.

    Padding and the token that begins a text do not count.
    """
    skip = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    counted = {}
    for code, texts in questions.items():
        # Longest first: questions of one length have no padding to read.
        lengths = np.array([len(ids) for ids in tokenizer(list(texts)).input_ids])
        order = np.argsort(-lengths, kind="stable")
        read = batches(tokenizer, [texts[i] for i in order], batch_size=batch_size, sort=False)
        counted[code] = firing_rates(model, read, skip=skip).take(np.argsort(order))
    return counted


def overlap_by_question(firings: Mapping[str, Firing], **how: Any) -> pd.DataFrame:
    """As `overlap_with_english`, with the sets of every question for themselves: their mean.

    The firings are counts of the same questions in the same order; `how` as there.
    """
    questions = range(min(len(firing.tokens) for firing in firings.values()))
    rates = ({x: f.counts[q] / f.tokens[q] for x, f in firings.items()} for q in questions)
    found = [overlap_with_english(of_question, **how) for of_question in rates]
    return pd.concat(found).groupby(level="layer").mean()


def bootstrap_layers(
    firings: Mapping[str, Firing],
    *,
    draws: int = 200,
    aggregation: Aggregation = "token_rate",
    english: str = "en",
    threshold: float = 0.5,
    of: Denominator = "english",
    **selecting: int | bool | None,
) -> pd.DataFrame:
    """How often each layer is selected when other questions had been drawn.

    The same resamples of the questions for all languages; `selecting`: further arguments of
    `select_layers`.

    Returns:
        A row per layer: `selected`, the share of resamples that select it, and `peak`, the share
        that has the peak there; resamples without a selection count in neither.

    Raises:
        ValueError: Languages with different numbers of questions.
    """
    sizes = {language: len(f.tokens) for language, f in firings.items()}
    if len(set(sizes.values())) != 1:
        raise ValueError(f"languages have different numbers of questions: {sizes}")
    (n,), rng = set(sizes.values()), np.random.default_rng(0)
    found = np.zeros((next(iter(firings.values())).counts.shape[1], 2))
    for _ in range(draws):
        weights = rng.multinomial(n, np.full(n, 1 / n))
        rates = {x: f.rates(aggregation, weights, threshold) for x, f in firings.items()}
        overlap = overlap_with_english(rates, english=english, threshold=threshold, of=of)
        try:
            chosen = select_layers(ranges(rates), overlap, **selecting)
        except ValueError:
            continue
        found[chosen.layers, 0] += 1
        found[chosen.peak, 1] += 1
    return pd.DataFrame(found / draws, columns=["selected", "peak"]).rename_axis("layer")


OVERLAPS = {
    "of English": {"of": "english"},
    "of the other": {"of": "other"},
    "of both": {"of": "union"},
    "rates": {"threshold": None},
    "of English, above .3": {"threshold": 0.3},
    "of English, above .7": {"threshold": 0.7},
    "of English, by question": {"by_question": True},
}
"""Ways to measure the overlap with English: options of `overlap_with_english`, or the sets of every
question for themselves (`overlap_by_question`)."""


def sensitivity(
    firings: Mapping[str, Firing],
    *,
    aggregations: Sequence[Aggregation] = get_args(Aggregation),
    overlaps: Mapping[str, Mapping] = OVERLAPS,
    english: str = "en",
    threshold: float = 0.5,
    last: bool = False,
) -> pd.DataFrame:
    """The selection under several readings of what the paper leaves open.

    The firings are counts of the same questions in the same order; for `overlaps` see `OVERLAPS`.

    Returns:
        One row per aggregation, overlap and end (of the candidates, before the peak or with it):
        layers (joined by blanks), peak, theta, reason (why there are none, else empty).
    """
    rows, how = [], {"english": english, "threshold": threshold}
    by_question = {
        name: overlap_by_question(firings, **how)
        for name, options in overlaps.items()
        if options.get("by_question")
    }
    for aggregation in aggregations:
        rates = {x: f.rates(aggregation, threshold=threshold) for x, f in firings.items()}
        measured = {
            name: overlap_with_english(rates, **how | dict(options))
            for name, options in overlaps.items()
            if name not in by_question
            and (aggregation != "set" or "threshold" not in options)  # 0 and 1 have no other
        }
        for name, overlap in (measured | by_question).items():
            for end in ("before the peak", "with the peak"):
                try:
                    inclusive = end == "with the peak"
                    chosen = select_layers(ranges(rates), overlap, last=last, inclusive=inclusive)
                    told = (" ".join(map(str, chosen.layers)), chosen.peak, chosen.threshold, "")
                except ValueError as error:
                    told = ("", None, np.nan, str(error))
                rows.append((aggregation, name, end, *told))
    columns = ["aggregation", "overlap", "candidates", "layers", "peak", "theta", "reason"]
    return pd.DataFrame(rows, columns=columns).astype({"peak": "Int64"})


class Readings(NamedTuple):
    """What `rows` finds."""

    questions: pd.DataFrame
    """The first question, by language."""
    firing: pd.DataFrame
    """Firing rates: seed (draw of the questions), layer, lang, rate, model."""
    untrained: pd.DataFrame
    """The same of the network before training: layer, lang, rate."""
    overlap: pd.DataFrame
    """Overlap with English: seed, layer, lang, overlap."""
    beside: pd.DataFrame
    """What it is to be compared with: layer, control ("ceiling": English with other questions,
    "untrained", "chance": a set of the same size), overlap."""
    resampled: pd.DataFrame
    """By layer: selected and peak (see `bootstrap_layers`), msd (variance over languages, 1e-4)."""
    by_draw: pd.DataFrame
    """By draw of the questions: peak and selected layers of the printed rule."""
    selection: pd.DataFrame
    """Result of `sensitivity` by text, and `changes`: how many choices are not the page's."""
    run: RunInfo


def rows(given: Mapping[str, Any]) -> Readings:
    """Count what fires in every draw of the questions, and select layers by every reading."""
    loading, languages, seeds = Loading.of(given), given["languages"], given["seeds"]
    lm, tokenizer = loading.load()
    run = loading.run(lm, given)
    asked = _texts(given)
    batching = {"batch_size": given["batch_size"]}
    firings = {
        key: question_firing(lm, tokenizer, texts, **batching) for key, texts in asked.items()
    }
    first, english = firings["math", seeds[0]], languages[0]
    few = {code: counted.take(slice(given["fewer"])) for code, counted in first.items()}
    firings["fewer questions", seeds[0]] = few
    counting = (given["aggregation"], None, given["threshold"])
    rates = {
        seed: {code: counted.rates(*counting) for code, counted in firings["math", seed].items()}
        for seed in seeds
    }
    blank = question_firing(
        untrained_like(lm, seed=seeds[0]), tokenizer, asked["math", seeds[0]], **batching
    )
    blank = {code: counted.rates(*counting) for code, counted in blank.items()}
    how = {"english": english, "threshold": given["threshold"], "of": given["of"]}
    firing = pd.concat({seed: ranges(of).stack() for seed, of in rates.items()}, names=["seed"])
    firing = firing.rename("rate").reset_index().assign(model=run.model)
    shared = {seed: overlap_with_english(of, **how).stack() for seed, of in rates.items()}
    spread = firing.pivot_table(index=["seed", "layer"], columns="lang", values="rate")
    asking = how | {"aggregation": given["aggregation"], "last": True}
    resampled = bootstrap_layers(first, draws=given["draws"], **asking)
    printed = {"aggregations": [given["aggregation"]], "overlaps": {"": how}, "last": True}
    by_draw = {
        seed: sensitivity(firings["math", seed], **printed, english=english).iloc[0]
        for seed in seeds
    }
    texts = ("math", "fewer questions", "test questions", "wrapped", "no math")
    readings = {
        text: sensitivity(firings[text, seeds[0]], english=english, threshold=given["threshold"])
        for text in texts
        if (text, seeds[0]) in firings
    }
    selection = pd.concat(readings, names=["text", None]).reset_index("text")
    return Readings(
        questions=pd.DataFrame({"question": {c: t[0] for c, t in asked["math", seeds[0]].items()}}),
        firing=firing,
        untrained=ranges(blank).stack().rename("rate").reset_index(),
        overlap=pd.concat(shared, names=["seed"]).rename("overlap").reset_index(),
        beside=_beside(rates, blank, seeds, how),
        resampled=resampled.assign(msd=spread.var(axis=1, ddof=0).groupby("layer").mean() * 1e4),
        by_draw=pd.DataFrame(by_draw).T[["peak", "layers"]].rename_axis("draw"),
        selection=selection.assign(changes=_changes(selection, given)),
        run=run,
    )


def _texts(given: Mapping[str, Any]) -> dict[tuple[str, int], dict[str, list[str]]]:
    """Questions by what they are and their draw: those of the page, and of other readings."""
    seeds = given["seeds"]
    where = {"number": given["num_questions"], "split": given["split"]}
    where |= {name: given[name] for name in ("languages", "data_dir", "drawing")}
    asked = {("math", s): draw_questions(given["task"], seed=s, **where) for s in seeds}
    fewer = where | {"number": given["fewer"], "seed": seeds[0]}
    if given["control_task"]:
        asked["no math", seeds[0]] = draw_questions(given["control_task"], **fewer)
    if given["other_task"]:
        fewer |= {"split": given["other_split"]}
        asked["test questions", seeds[0]] = draw_questions(given["other_task"], **fewer)
    asked["wrapped", seeds[0]] = {
        code: [given["wrapper"].format(text) for text in texts[: given["fewer"]]]
        for code, texts in asked["math", seeds[0]].items()
    }
    return asked


def _beside(
    rates: Mapping[int, Mapping[str, np.ndarray]],
    blank: Mapping[str, np.ndarray],
    seeds: Sequence[int],
    how: Mapping[str, Any],
) -> pd.DataFrame:
    english = how["english"]
    twice = {english: rates[seeds[0]][english], "ceiling": rates[seeds[-1]][english]}
    sizes = {code: (of > how["threshold"]).mean(1) for code, of in rates[seeds[0]].items()}
    columns = {
        "ceiling": overlap_with_english(twice, **how).ceiling,
        "untrained": overlap_with_english(blank, **how).mean(axis=1),
        "chance": pd.DataFrame(sizes).drop(columns=english).mean(axis=1),
    }
    table = pd.concat(columns, names=["control", "layer"]).rename("overlap").reset_index()
    return table[["layer", "control", "overlap"]]


def _changes(selection: pd.DataFrame, given: Mapping[str, Any]) -> pd.Series:
    """How many of the choices that make a reading are not those of the page."""
    measure = {"english": "of English", "other": "of the other", "union": "of both"}[given["of"]]
    read = {"text": "math", "aggregation": given["aggregation"], "overlap": measure}
    read["candidates"] = "before the peak"
    return sum((selection[name] != value).astype(int) for name, value in read.items())


def desk() -> tuple[Readings, int]:
    """What was counted in a real LLM and is shipped, and the questions of a draw.

    The questions themselves and the choices of the printed rule by draw are not.
    """
    names = ("untrained", "shared", "controls", "layers", "selection")
    untrained, overlap, beside, layers, selection = (
        read_evidence(f"desk_firing_{name}")[0] for name in names
    )
    firing, manifest = read_evidence("desk_firing")
    (run,) = made_by(manifest)
    selection = selection.assign(peak=selection.peak.astype("Int64"))
    readings = Readings(
        questions=pd.DataFrame(),
        firing=firing,
        untrained=untrained,
        overlap=overlap,
        beside=beside,
        resampled=layers.set_index("layer"),
        by_draw=pd.DataFrame(),
        selection=selection,
        run=RunInfo(**run),
    )
    return readings, run["parameters"]["num_questions"]


def lines(readings: Readings, trained: str, untrained: str) -> pd.DataFrame:
    """Firing rates as they are drawn: English beside the others, before and after training.

    `trained` and `untrained` name their panels.
    """
    panels = {trained: readings.firing, untrained: readings.untrained}
    table = pd.concat([rows.assign(panel=name) for name, rows in panels.items()])
    return table.assign(line=np.where(table.lang == "en", "English", "other languages"))


def told(readings: Readings) -> dict[str, Any]:
    """Numbers that the page repeats; those of the default reading are of the first draw."""
    by_layer = readings.firing.groupby("layer").rate.mean()
    beside = readings.beside.groupby("control").overlap.mean()
    maths = readings.selection[readings.selection.text == "math"]
    default = readings.selection[readings.selection.changes == 0].iloc[0]
    layers = [int(layer) for layer in default.layers.split()]
    chosen = f"layers {' and '.join(default.layers.split())}" if layers else "nothing"
    selected, peak = readings.resampled.selected, readings.resampled.peak
    some = maths[maths.layers != ""]
    return {
        "depth": len(by_layer),
        "rate_first": by_layer.iloc[0],
        "rate_middle": by_layer.iloc[len(by_layer) // 2],
        "rate_last": by_layer.iloc[-1],
        "rate_lowest": by_layer.min(),
        "layer_lowest": int(by_layer.idxmin()),
        "overlap_trained": readings.overlap.overlap.mean(),
        "overlap_untrained": beside["untrained"],
        "overlap_ceiling": beside["ceiling"],
        "overlap_chance": beside["chance"],
        "n_variants": len(maths),
        "n_none": len(maths) - len(some),
        "n_distinct": some.layers.nunique(),
        "selects": chosen + (f" ({default.reason})" if default.reason else ""),
        "often_default": selected[layers].min() if layers else 0.0,
        "often_printed": int(selected.drop(index=layers).idxmax()),
        "peak_last": peak.iloc[-1],
    }
