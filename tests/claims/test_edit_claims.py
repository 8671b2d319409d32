"""Rules about edits, errors and fractions: planted effects get the verdict they deserve."""

import numpy as np
import pandas as pd
import pytest
from planted import BASE, MATH, READING, along, only_when, packed, told_apart

from mmlib.claims import parameters
from mmlib.claims.rules import judge, published_outcome

LANGS = ["en", "de"]


def judged(claim, share, **options):
    table = "fractions" if claim.startswith("C7") else "interventions"
    return judge(claim, {f"evidence/{table}": packed(share, **options)})


@pytest.mark.parametrize(
    ("level", "verdict"), [(0.01, "yes"), (0.5, "no"), (BASE / 10, "undecided")]
)
def test_pruning_destroys_math_or_does_not(level, verdict):
    outcome = judged("C4a", only_when("math-specific", level))
    assert outcome.verdict == verdict
    assert outcome.effect == pytest.approx(BASE / 10 - level, abs=1e-9)
    assert (outcome.cells, outcome.problems) == (2 * len(LANGS), 200)


def test_an_unedited_model_that_every_sweep_asked_counts_once():
    table = packed(only_when("math-specific", 0.01))
    again = pd.concat([table, table[table.condition == "none"]], ignore_index=True)
    once, twice = (judge("C4a", {"evidence/interventions": t}) for t in (table, again))
    assert once == twice
    assert once.problems == 200


def test_one_language_that_is_kept_decides_against_the_claim():
    table = packed(only_when("math-specific", 0.0))
    kept = packed(lambda row: BASE)
    german = (table.lang == "de") & (table.part == MATH)
    table["correct"] = table.correct.where(~german, kept.correct)
    outcome = judge("C4a", {"evidence/interventions": table})
    assert (outcome.verdict, outcome.cell.split(",")[0]) == ("no", "de")
    assert (outcome.complying, outcome.cells) == (2, 4)
    # Sets made with MMLU as non-math text, and other precisions with fewer rows, do not count.
    about_mmlu = table.assign(
        nonmath=np.where(german & (table.condition != "none"), "mmlu", "race")
    )
    assert judge("C4a", {"evidence/interventions": about_mmlu}).verdict == "yes"
    few = table[german].assign(dtype="float32")
    both = pd.concat([packed(only_when("math-specific", 0.0)), few])
    assert judge("C4a", {"evidence/interventions": both}).verdict == "yes"


@pytest.mark.parametrize(
    ("level", "verdict"), [(BASE, "yes"), (0.3, "no"), (0.95 * BASE, "undecided")]
)
def test_pruning_keeps_the_rest_or_does_not(level, verdict):
    outcome = judged("C4b", only_when("math-specific", level, part=READING))
    assert outcome.verdict == verdict
    assert outcome.cells == 2 * len(LANGS)


def test_without_subtraction_everything_goes_or_does_not():
    def gone(row):
        return (0.001 if row.part == MATH else 0.2) if row.condition == "top-K math" else BASE

    assert judged("C4c", gone, n=1000).verdict == "yes"
    assert judged("C4c", only_when("top-K math", 0.4, part=READING)).verdict == "no"


@pytest.mark.parametrize("claim", ["C4a", "C4b", "C4c", "C7a", "C7b"])
def test_a_model_that_can_do_no_math_or_all_of_it_decides_nothing(claim):
    for base in (0.1, 0.85, 0.95):
        options = {"base": base, "fractions": (0.05, 0.5, 1.0)}
        outcome = judged(claim, lambda row: 0.04 / row.fraction, **options)
        assert (outcome.verdict == "not testable here") == (base != 0.85)
        if base == 0.95:
            assert "95% in de" in outcome.reason


def test_a_gain_counts_only_beyond_that_of_random_weights():
    helped = only_when("math-specific", 0.75, factor=1.01)
    outcome = judged("C5a", helped)
    assert outcome.verdict == "exploratory yes"
    assert outcome.effect == pytest.approx(0.15)
    assert judged("C5a", only_when("random", 0.75, factor=1.01)).verdict == "exploratory no"
    alike = judged("C5a", lambda row: 0.75)
    assert (alike.verdict, "no variation" in alike.reason) == ("not testable here", True)
    table = packed(helped)
    for rows in (table[table.condition != "random"], table[table.lang != "en"]):
        assert judge("C5a", {"evidence/interventions": rows}).verdict == "no run yet"


@pytest.mark.parametrize("claim", ["C5a", "C5b", "C5c"])
def test_where_all_errors_are_slips_scaling_shows_nothing(claim):
    def share(row):
        return BASE + 0.2 * (row.condition == "math-specific") + 0.01 * (row.model == "b")

    table = packed(share, wrong="s", models=("a", "b", "c"))
    table = table.assign(parameters=table.model.map({"a": 1, "b": 2, "c": 3}))
    outcome = judge(claim, {"evidence/interventions": table})
    assert outcome.verdict == "not testable here"
    assert "errors are slips" in outcome.reason


@pytest.mark.parametrize(
    ("n", "level", "verdict"),
    [
        (2000, BASE + 1 / 2000, "exploratory yes"),
        (200, 0.7, "exploratory no"),
        (100, BASE + 0.01, "undecided"),
    ],
)
def test_no_change_needs_many_problems(n, level, verdict):
    share = only_when("math-specific", level, factor=1.01, part=READING)
    assert judged("C5b", share, n=n).verdict == verdict


def test_small_models_gain_more_or_do_not():
    gain = {"a": 0.75, "b": 0.65, "c": 0.6}
    table = packed(lambda row: gain[row.model], models=tuple(gain))
    for parameters_of, verdict in (
        ({"a": 1, "b": 2, "c": 3}, "exploratory yes"),
        ({"a": 3, "b": 2, "c": 1}, "exploratory no"),
    ):
        given = table.assign(parameters=table.model.map(parameters_of))
        assert judge("C5c", {"evidence/interventions": given}).verdict == verdict
    two = given[given.model != "a"]
    assert "there is 2" in judge("C5c", {"evidence/interventions": two}).reason
    assert judge("C5c", {"evidence/interventions": table}).verdict == "not testable here"


def test_gains_are_arithmetic_if_most_corrected_answers_were_slips():
    gain = only_when("math-specific", 0.75, factor=1.01)
    for letters, verdict in (("sp", "exploratory yes"), ("ps", "exploratory no")):
        assert judged("C6a", gain, wrong=told_apart(*letters)).verdict == verdict
    assert judged("C6a", gain, wrong="sp").verdict == "undecided"
    assert "errors are slips" in judged("C6a", gain, wrong="s").reason
    loss = judged("C6a", only_when("math-specific", 0.5, factor=1.01))
    assert (loss.verdict, "gains nothing" in loss.reason) == ("not testable here", True)


def test_pruning_repairs_format_or_something_else():
    repaired = only_when("math-specific", 0.75)
    assert judged("C6b", repaired, wrong=told_apart("f", "p")).verdict == "exploratory yes"
    plans = judged("C6b", repaired, wrong=told_apart("p", "f"))
    assert plans.verdict == "not testable here"  # nothing that failed by format is repaired
    worse = judged("C6b", only_when("math-specific", 0.4), wrong=told_apart("f", "p"))
    assert worse.verdict == "exploratory no"
    tidy = judged("C6b", only_when("math-specific", 0.4))
    assert (tidy.verdict, "fail by format" in tidy.reason) == ("not testable here", True)


SHARES = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)


@pytest.mark.parametrize(
    ("curve", "verdict"),
    [
        (lambda f: 0.6 - 0.5 * f, "exploratory yes"),
        (lambda f: 0.6 - 0.05 * (f > 0.7) - 0.45 * (f > 0.9), "exploratory no"),
        (lambda f: 0.6 - 0.05 * f, "not testable here"),
    ],
)
def test_a_line_is_a_line_and_a_step_is_none(curve, verdict):
    outcome = judged("C7a", along(curve), fractions=SHARES, langs=["en"])
    assert outcome.verdict == verdict, outcome


def test_the_jackknife_agrees_with_a_bootstrap():
    random = np.random.default_rng(0)
    x = np.array([0.0, *SHARES])
    chance = 0.6 - 0.4 * x**2
    grid = pd.DataFrame((random.random((200, 1)) < chance).astype(float), columns=x)
    values = parameters._pseudo_values(grid)
    drawn = random.integers(200, size=(2000, 200))
    curves = grid.to_numpy()[drawn].mean(axis=1)
    spread = np.std([np.corrcoef(x, curve)[0, 1] ** 2 for curve in curves])
    assert values.std(ddof=1) / 200**0.5 == pytest.approx(spread, rel=0.2)
    assert values.mean() == pytest.approx(np.corrcoef(x, grid.mean())[0, 1] ** 2, abs=0.01)


def test_few_weights_are_critical_or_not():
    for level, verdict in ((0.55, "yes"), (0.2, "no"), (0.7 * BASE, "undecided")):
        share = along(lambda fraction, level=level: level, "highest first")
        outcome = judged("C7b", share, fractions=SHARES)
        assert outcome.verdict.removeprefix("exploratory ") == verdict
    # A random part of the set decides nothing.
    assert judged("C7b", along(lambda fraction: 0.0), fractions=SHARES).verdict[-3:] == "yes"
    table = packed(share, fractions=(0.1, 1.0))
    assert judge("C7b", {"evidence/fractions": table}).verdict == "no run yet"


def test_published_edits_have_the_published_figures():
    table = parameters.published_edits()
    assert table.base.notna().all()
    large = table[table.condition == "math-specific"].set_index(
        ["model", "part", "nonmath", "lang"]
    )
    small = large.query("keep_ratio == .1 and factor == 0")
    cell = small.loc[("meta-llama/Llama-3.2-1B-Instruct", "gsm8k", "race", "en")].squeeze()
    assert (cell.base, cell.n) == (0.34, 200)
    assert cell.value == pytest.approx(0.0217, abs=1e-4)
    cell = large.query("keep_ratio == 1e-5 and factor == 0")
    cell = cell.loc[("Qwen/Qwen3-4B-Instruct-2507", "gsm8k", "race", "en")].squeeze()
    assert cell.value == pytest.approx(0.877, abs=6e-4)
    assert cell.format < cell.base_format
    assert np.isnan(published_outcome("C6a").effect)


def test_published_curves_have_the_published_figures():
    curve = parameters.published_fractions().query(
        "model.str.contains('3.1-8B') and lang == 'en' and keep_ratio == .1"
    )
    assert curve.base.unique().tolist() == [0.765]
    means = [0.745, 0.74, 0.678, 0.49, 0.26, 0.035, 0.003]
    assert curve.value.tolist() == pytest.approx(means, abs=6e-4)
