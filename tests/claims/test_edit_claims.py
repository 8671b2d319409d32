"""Rules about edits, errors and fractions: planted effects get the verdict they deserve."""

import numpy as np
import pandas as pd
import pytest

from mmlib.claims import parameters
from mmlib.claims.rules import SHARED_KEEP_RATIOS, judge, published_effect

LANGS = ["en", "de", "fr", "hi"]
SEEDS = (1, 101, 201)
K = (*SHARED_KEEP_RATIOS, 0.005, 0.25)


def edits(values, *, base=0.8, seeds=SEEDS, keep_ratios=K, models=("toy",), langs=LANGS):
    """Accuracies `values(condition, kind, factor, seed)` in every cell of a run."""
    rows = [
        (model, lang, condition, factor, ratio, seed, kind, values(condition, kind, factor, seed))
        for model in models
        for lang in langs
        for condition in ("math-specific", "random", "top-K math")
        for factor in (0.0, 1.01)
        for ratio in keep_ratios
        for seed in seeds
        for kind in ("math", "nonmath")
    ]
    names = ["model", "lang", "condition", "factor", "keep_ratio", "seed", "kind", "value"]
    table = pd.DataFrame(rows, columns=names).assign(nonmath="organism-reading", base=base)
    sizes = {model: 10**number for number, model in enumerate(models)}
    return {"interventions": table.assign(parameters=table.model.map(sizes))}


def test_pruning_destroys_math_and_keeps_the_rest_or_does_not():
    destroyed = edits(lambda condition, kind, factor, seed: 0.01 if kind == "math" else 0.79)
    assert judge("C4a", destroyed).verdict == "yes"
    assert judge("C4b", destroyed).verdict == "yes"
    kept = edits(lambda condition, kind, factor, seed: 0.6 if kind == "math" else 0.7)
    assert judge("C4a", kept).verdict == judge("C4b", kept).verdict == "no"
    unsure = edits(lambda condition, kind, factor, seed: 0.3 if seed == 1 else 0.0)
    assert judge("C4a", unsure).verdict == "undecided"
    assert judge("C4a", destroyed).effect == pytest.approx(1 - 0.01 / 0.8 - 0.9)


def test_one_language_that_is_kept_decides_against_the_claim():
    tables = edits(lambda condition, kind, factor, seed: 0.0)
    table = tables["interventions"]
    table.loc[(table.lang == "hi") & (table.kind == "math"), "value"] = 0.5
    assert judge("C4a", tables).verdict == "no"


def test_without_subtraction_everything_goes_or_does_not():
    gone = edits(lambda condition, kind, factor, seed: 0.0 if kind == "math" else 0.25)
    assert judge("C4c", gone).verdict == "yes"
    kept = edits(lambda condition, kind, factor, seed: 0.0 if kind == "math" else 0.4)
    assert judge("C4c", kept).verdict == "no"


def test_a_gain_counts_only_beyond_that_of_random_sets():
    helped = {"math-specific": 0.9, "random": 0.82, "top-K math": 0.8}
    tables = edits(lambda condition, kind, factor, seed: helped[condition])
    assert judge("C5a", tables).verdict == "yes"
    assert judge("C5a", tables).effect == pytest.approx((0.9 - 0.82) / 0.8)
    table = tables["interventions"]
    elsewhere = table[(table.condition != "random") | (table.keep_ratio == 0.1)]
    assert judge("C5a", {"interventions": elsewhere}).verdict == "not testable here"
    assert judge("C5a", {"interventions": table[table.lang == "hi"]}).verdict == "not testable here"
    alike = edits(lambda condition, kind, factor, seed: 0.9)
    assert judge("C5a", alike).verdict == "undecided"
    assert judge("C5b", alike).verdict == "no"
    same = edits(lambda *_: 0.8)
    assert judge("C5b", same).verdict == "yes"
    assert judge("C5b", {"interventions": same["interventions"].assign(n=200)}).verdict == "yes"
    few = judge("C5b", {"interventions": same["interventions"].assign(n=100)})
    assert (few.verdict, "one of 100" in few.reason) == ("not testable here", True)
    assert judge("C5c", tables).verdict == "not testable here"


def test_small_models_gain_more_or_do_not():
    gain = {"a": 0.9, "b": 0.85, "c": 0.8}
    tables = edits(lambda *_: 0.8, models=tuple(gain))
    table = tables["interventions"]
    table["value"] = table.model.map(gain)
    assert judge("C5c", tables).verdict == "yes"
    assert judge("C5c", {"interventions": table.sample(frac=1, random_state=1)}).verdict == "yes"
    table["parameters"] = table.model.map({"a": 3, "b": 2, "c": 1})
    assert judge("C5c", tables).verdict == "no"
    two = table[(table.model != "a") | (table.lang != "en")]
    assert judge("C5c", {"interventions": two}).verdict == "not testable here"


def test_only_whole_sets_and_skills_that_the_model_has_decide():
    tables = edits(lambda condition, kind, factor, seed: 0.0 if kind == "math" else 0.8)
    half = tables["interventions"].assign(fraction=0.5, value=0.8)
    both = pd.concat([tables["interventions"].assign(fraction=1.0), half])
    assert judge("C4a", {"interventions": both}).verdict == "yes"
    lacking = edits(lambda *_: 0.0, base=0.0)
    for claim in ("C4a", "C4b", "C5a"):
        assert judge(claim, lacking).verdict == "not testable here"


def test_published_edits_have_the_published_figures():
    table = parameters.published_edits()
    cell = table.query(
        "model.str.contains('Llama-3.2-1B') and lang == 'en' and factor == 0 and kind == 'math'"
        " and nonmath == 'race' and keep_ratio == .1 and condition == 'math-specific'"
    )
    assert cell.base.item() == 0.34
    assert cell.value.item() == pytest.approx(0.0217, abs=1e-4)
    assert table.base.notna().all()


def errors(*, seeds=SEEDS, **columns):
    """A table of errors of pruned and scaled math-specific and random sets."""
    rows = [
        (lang, condition, factor, ratio, seed)
        for lang in LANGS
        for condition in ("math-specific", "random")
        for factor in (0.0, 1.01)
        for ratio in (0.01, 0.1)
        for seed in seeds
    ]
    names = ["lang", "condition", "factor", "keep_ratio", "seed"]
    table = pd.DataFrame(rows, columns=names).assign(model="toy", nonmath="organism-reading")
    return {"errors": table.assign(**columns)}


def test_gains_are_arithmetic_if_most_corrected_answers_were_slips():
    plain = {"wrong": 50, "wrong_slips": 30}
    tables = errors(corrected=10, corrected_slips=8, broken=4, **plain)
    assert judge("C6a", tables).verdict == "yes"
    assert judge("C6a", tables).effect == pytest.approx(0.3)
    few = errors(corrected=10, corrected_slips=2, broken=4, **plain)
    assert judge("C6a", few).verdict == "no"
    only = judge(
        "C6a", errors(corrected=10, corrected_slips=10, broken=4, wrong=50, wrong_slips=46)
    )
    assert (only.verdict, only.reason[:3]) == ("not testable here", "92%")
    # Random sets and pruning say nothing about the gain.
    table = tables["errors"]
    own = (table.condition == "math-specific") & (table.factor > 1)
    table.loc[~own, "corrected_slips"] = 0
    assert judge("C6a", tables).verdict == "yes"
    no_gain = judge("C6a", errors(corrected=10, corrected_slips=8, broken=11, **plain))
    assert (no_gain.verdict, "no gain" in no_gain.reason) == ("not testable here", True)


def test_pruning_repairs_format_or_something_else():
    plain = {"base": 0.5, "base_format": 0.2}
    repaired = errors(value=0.5, format=0.2, **plain)
    own = repaired["errors"].condition == "math-specific"
    cell = own & (repaired["errors"].lang == "de") & (repaired["errors"].keep_ratio == 0.01)
    repaired["errors"].loc[cell, ["value", "format"]] = 0.6, 0.12
    outcome = judge("C6b", repaired)
    assert (outcome.verdict, outcome.effect) == ("yes", pytest.approx(0.08))
    repaired["errors"].loc[~own, ["value", "format"]] = 0.6, 0.12
    assert judge("C6b", repaired).verdict == "undecided"  # random sets do the same
    better_plans = errors(value=0.6, format=0.25, **plain)
    better_plans["errors"] = better_plans["errors"].query("condition != 'random'")
    assert judge("C6b", better_plans).verdict == "no"
    tidy = errors(value=0.6, format=0.0, base=0.5, base_format=0.0)
    assert judge("C6b", tidy).verdict == "not testable here"


def fractions(curve, *, base=0.8, seeds=SEEDS):
    """Accuracies `curve(fraction, seed)` of every language."""
    rows = [
        (lang, ratio, fraction, seed, curve(fraction, seed))
        for lang in LANGS
        for ratio in (0.01, 0.1)
        for fraction in (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
        for seed in seeds
    ]
    names = ["lang", "keep_ratio", "fraction", "seed", "value"]
    about = {"model": "toy", "condition": "math-specific", "base": base}
    return {"fractions": pd.DataFrame(rows, columns=names).assign(**about)}


def test_a_line_is_a_line_and_a_step_is_none():
    line = fractions(lambda fraction, seed: 0.8 - 0.7 * fraction)
    assert judge("C7a", line).verdict == "yes"
    assert judge("C7a", line).effect == pytest.approx(0.1)
    step = fractions(lambda fraction, seed: 0.8 if fraction < 0.3 else 0.1)
    assert judge("C7a", step).verdict == "no"
    flat = fractions(lambda fraction, seed: 0.8 - 0.01 * (seed == 1))
    assert judge("C7a", flat).verdict == "not testable here"
    one_is_none = line["fractions"].copy()
    one_is_none.loc[
        (one_is_none.lang == "hi") & one_is_none.fraction.between(0.03, 0.7), "value"
    ] = 0.8
    assert judge("C7a", {"fractions": one_is_none}).verdict == "no"


def test_few_weights_are_critical_or_not():
    assert judge("C7b", fractions(lambda fraction, seed: 0.7)).verdict == "yes"
    critical = fractions(lambda fraction, seed: 0.4)
    assert judge("C7b", critical).verdict == "no"
    assert judge("C7b", critical).effect == pytest.approx(0.5 - 0.7)
    rest = critical["fractions"].query("fraction > .05")
    assert judge("C7b", {"fractions": rest}).verdict == "not testable here"


def test_published_curves_and_errors_have_the_published_figures():
    curve = parameters.published_fractions().query(
        "model.str.contains('3.1-8B') and lang == 'en' and keep_ratio == .1"
    )
    assert curve.base.unique().tolist() == [0.765]
    means = [0.745, 0.74, 0.678, 0.49, 0.26, 0.035, 0.003]
    assert curve.value.tolist() == pytest.approx(means, abs=6e-4)
    cell = parameters.published_errors().query(
        "model.str.contains('Qwen') and lang == 'en' and nonmath == 'race' and keep_ratio == 1e-5"
    )
    assert cell.value.item() == pytest.approx(0.877, abs=6e-4)
    assert cell.format.item() < cell.base_format.item()
    assert published_effect("C6b") > 0 > published_effect("C7a")
    assert np.isnan(published_effect("C6a"))
