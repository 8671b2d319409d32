"""Laws of verdicts: planted effects get the verdict that they deserve, whatever the claim."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mmlib.claims import rules
from mmlib.claims.ledger import ledger
from mmlib.claims.rules import CLAIMS, Claim, NotTestableError, decide, judge

BASE = {"words": "w", "restatement": "r", "needs": ("toy",), "paper": "p", "where": "x"}
BASE |= {"satisfied": "not_testable", "figure": ""}
LANGS = ["bn", "de", "en", "fr", "hi", "sw"]


def claim(**fields):
    return Claim("X1", **BASE | {"unit": "items", "keep_ratios": ()} | fields)


def effects(means, *, n=100, sd=0.2, level="problem", seed=0):
    """One cell per language; n replicates about its mean."""
    rng = np.random.default_rng(seed)
    names = ["lang", level]
    places = pd.MultiIndex.from_product([LANGS[: len(means)], range(n)], names=names)
    return pd.Series(np.repeat(means, n) + rng.normal(0, sd, len(places)), places)


@pytest.mark.parametrize(
    ("test", "means", "verdict", "complying"),
    [
        ("every", [0.5, 0.2, 0.3], "yes", 3),
        ("every", [0.5, 0.2, -0.3], "no", 2),
        ("every", [0.5, 0.2, 0.0], "undecided", 2),
        ("some", [-0.5, 0.0, 0.3], "yes", 1),
        ("some", [-0.5, -0.2, -0.3], "no", 0),
        ("some", [-0.5, 0.0, -0.3], "undecided", 0),
    ],
)
def test_cells_are_joined_as_the_claim_says(test, means, verdict, complying):
    outcome = decide(claim(test=test), effects(means))
    assert (outcome.verdict, outcome.complying, outcome.cells) == (verdict, complying, 3)
    place = int(np.argmax(means) if test == "some" else np.argmin(means))
    assert outcome.cell == LANGS[place]
    assert outcome.effect == pytest.approx(means[place], abs=0.06)
    assert np.isnan(outcome.detectable) == (verdict != "undecided")


@pytest.mark.parametrize(
    ("means", "verdict"),
    [([0.0, 0.02], "yes"), ([0.0, 0.4], "no"), ([0.0, -0.4], "no"), ([0.0, 0.1], "undecided")],
)
def test_no_difference_is_a_test_of_its_own(means, verdict):
    assert decide(claim(test="equal", threshold=0.1), effects(means)).verdict == verdict


def test_no_difference_agrees_with_statsmodels():
    from statsmodels.stats.weightstats import ttost_paired

    for seed, mean in enumerate([0.0, 0.06, 0.08, 0.1]):
        values = effects([mean], level="seed", n=40, seed=seed)
        p_value = ttost_paired(values.to_numpy(), np.zeros(40), -0.1, 0.1)[0]
        rule = claim(test="equal", threshold=0.1, unit="calibration blocks")
        assert (decide(rule, values).verdict == "yes") == (p_value < 0.05)


def test_the_minimum_over_cells_would_say_no_to_a_null_claim():
    """What the first edition did: an interval around the smallest of six cells per seed."""
    values = effects([0.0] * 6, n=4, level="seed", sd=0.1)
    smallest = values.groupby("seed").min().rename_axis("seed")
    assert decide(claim(unit="trainings"), smallest).verdict == "no"
    assert decide(claim(unit="trainings"), values).verdict == "undecided"


def test_one_cell_of_many_refutes_a_claim_only_by_holm():
    """One that lies 2.2 standard errors below: alone it does (p = .028), among six it does not."""
    rule = claim(unit="calibration samples and items")
    cells = pd.DataFrame({"effect": [-2.2, *[9.0] * 5], "se": 1.0}, pd.Index(LANGS, name="lang"))
    assert decide(rule, cells.head(1)).verdict == "no"
    assert decide(rule, cells).verdict == "undecided"


def test_a_claim_with_one_replicate_or_few_trainings_is_undecided():
    one = decide(claim(unit="calibration blocks"), effects([0.5], n=1, level="seed"))
    assert one.verdict == "undecided"
    assert "1 of at least 3 calibration blocks" in one.reason
    draw = decide(claim(unit="calibration samples"), effects([0.5], n=1, level="seed"))
    assert "no interval" in draw.reason
    two = decide(claim(unit="trainings"), effects([9.0], n=2, level="seed"))
    assert two.verdict == "undecided"
    assert "too few" in two.reason


def test_what_cannot_vary_is_no_result():
    with pytest.raises(NotTestableError, match="no variation"):
        decide(claim(), effects([0.5, 0.5], sd=0))
    still = pd.concat([effects([0.5]), effects([0.0, 0.0], sd=0).xs("de", drop_level=False)])
    outcome = decide(claim(), still)  # one of its cells has no interval
    assert outcome.verdict == "undecided"
    assert (outcome.complying, outcome.cells) == (1, 2)


def test_a_rule_needs_the_replicates_of_its_unit():
    with pytest.raises(NotTestableError, match="needs seed of every effect"):
        decide(claim(unit="trainings"), effects([0.5]))
    one = decide(claim(unit="trainings and items"), effects([0.5]))
    assert (one.verdict, one.problems) == ("undecided", 100)
    assert one.low > 0


@pytest.fixture
def recorded(monkeypatch):
    """Record a claim for one test; its table is its effects."""

    def add(**fields):
        rule = replace(claim(**fields), check=lambda tables: tables["toy"].set_index(INDEX).effect)
        monkeypatch.setitem(CLAIMS, "X1", rule)

    return add


INDEX = ["lang", "problem"]


def table(means, **options):
    return effects(means, **options).rename("effect").reset_index()


def test_an_unfit_laboratory_gives_no_verdict_but_keeps_the_numbers(recorded):
    recorded(precondition=lambda tables: "the base solves 2 %, 20 are needed")
    outcome = judge("X1", {"toy": table([0.5])})
    assert outcome.verdict == "not testable here"
    told = "laboratory unfit: the base solves 2 %, 20 are needed (the test alone: yes)"
    assert outcome.reason == told
    assert outcome.effect == pytest.approx(0.5, abs=0.1)
    recorded(precondition=lambda tables: "")
    assert judge("X1", {"toy": table([0.5])}).verdict == "yes"


def test_a_rule_changed_after_a_look_is_exploratory(recorded):
    recorded(changed="the rate was chosen again")
    for mean, verdict in ((0.5, "exploratory yes"), (-0.5, "exploratory no"), (0, "undecided")):
        assert judge("X1", {"toy": table([mean])}).verdict == verdict


def test_the_verdict_on_published_numbers_follows_them_not_the_record(monkeypatch):
    points = pd.Series([0.5, 0.2], pd.Index(["en", "de"], name="lang"))
    for number, (sign, verdict) in enumerate([(1, "yes"), (-1, "no")]):
        name = f"X{number + 2}"  # verdicts are kept by name
        check = lambda tables: tables["toy"]  # noqa: E731
        rule = replace(claim(satisfied="yes", keep_ratios=rules.SHARED_KEEP_RATIOS), check=check)
        monkeypatch.setitem(CLAIMS, name, rule)
        monkeypatch.setitem(rules.PUBLISHED, "toy", lambda sign=sign: sign * points)
        assert rules.published_outcome(name).verdict == verdict


def test_what_came_out_is_told_words_first(recorded):
    recorded(precondition=lambda tables: "")
    (row,) = rules.verdicts(["X1"], {"toy": table([0.5, -0.5])}).to_dict("records")
    assert rules.told(row).startswith("holds in 1 of 2 cells; the one that decides (de) is -0.")
    assert rules.effect(row) == f"{row['effect']:.3g} ({row['low']:.3g} to {row['high']:.3g})"
    assert f"{rules.effect(row)} against 0, over " in rules.told(row)
    nothing = row | {"cells": 0, "effect": np.nan, "detectable": np.nan, "reason": ""}
    assert rules.effect(nothing) == rules.told(nothing) == ""
    assert rules.effect(row | {"effect": -0.0, "low": np.nan}) == "0"
    (alone,) = rules.verdicts(["X1"], {"toy": table([0.5])}).to_dict("records")
    assert rules.told(alone).startswith("holds in 1 of 1 cells; the effect is ")


def test_tables_that_are_not_there_mean_no_run(recorded):
    recorded()
    assert judge("X1", None).verdict == judge("X1", {}).verdict == "no run yet"
    recorded(keep_ratios=(0.1,))
    outcome = judge("X1", {"toy": table([0.5]).assign(keep_ratio=0.01)})
    assert outcome.verdict == "not testable here"
    assert "needs keep_ratio 0.1" in outcome.reason


def test_unknown_claims_units_and_tests_are_refused():
    with pytest.raises(ValueError, match="unknown claim 'C99'"):
        judge("C99", None)
    with pytest.raises(ValueError, match="choose from every, some, equal"):
        claim(test="all")
    with pytest.raises(ValueError, match="'votes'; choose from every"):
        claim(unit="votes")


def test_every_claim_says_what_decides_it():
    for name, rule in CLAIMS.items():
        assert rule.check is None or (rule.unit in rules.UNITS and rule.check.__doc__), name
        assert rule.check is None or (rule.committed and rule.needs), name
        assert rule.check is not None or rule.reason, name
        assert all([rule.words, rule.restatement, rule.paper, rule.where, rule.figure]), name
        assert rule.changed or rule.seen >= rule.committed, f"{name} was written after a look"
        assert not rule.precondition or rule.precondition.__doc__, name
    assert len({rule.check for rule in CLAIMS.values() if rule.check}) == sum(
        rule.check is not None for rule in CLAIMS.values()
    )


def test_without_a_run_nothing_of_ours_is_decided():
    table = ledger()
    assert set(table.organism) == set(table.real_llm) == {"no run yet"}
    assert set(table.published_data) <= {"yes", "no", "undecided", "not testable here"}
    point = table.published_reason == "point only"
    assert table.published_data[point].isin(["yes", "no"]).all()


def test_a_chapter_loads_only_its_part():
    code = (
        "import sys; from mmlib.claims.rules import judge; judge('R1', None);"
        "print([m for m in sys.modules if m.startswith('mmlib.claims.')], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "parameters" not in done.stdout
    assert "False" in done.stdout
