"""Laws of all claims: a perfect table is a yes, the opposite a no, an unfit laboratory neither."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from planted_claims import CELLS, NEVER, PLANTED, STILL
from scipy.stats import binom
from unfit import UNFIT

from mmlib.claims.ledger import CLAIMS
from mmlib.claims.rules import (
    EXPLORATORY,
    NO,
    NO_RUN,
    NOT_TESTABLE,
    TESTS,
    UNDECIDED,
    UNITS,
    YES,
    Claim,
    NotTestableError,
    decide,
    judge,
)


def test_every_claim_is_planted_or_known_never_to_be_decided():
    undecidable = {name for name, claim in CLAIMS.items() if claim.check is None}
    gates = {claim.precondition.__name__ for claim in CLAIMS.values() if claim.precondition}
    assert ({*PLANTED}, {*NEVER}, {*UNFIT}) == ({*CLAIMS} - undecidable, undecidable, gates)


@pytest.mark.parametrize("name", CLAIMS)
def test_a_perfect_run_is_a_yes_and_its_opposite_a_no(name):
    if name in NEVER:
        outcome = judge(name, {})
        assert (outcome.verdict, outcome.reason) == (NOT_TESTABLE, NEVER[name])
        return
    assert name in PLANTED, f"plant a perfect and an opposite table of claim {name} in PLANTED"
    for sign, verdict in ((1, YES), (-1, NO)):
        outcome = judge(name, PLANTED[name](sign))
        expected = EXPLORATORY[verdict] if CLAIMS[name].changed else verdict
        assert outcome.verdict == expected, outcome
        assert outcome.cells == CELLS.get(name, outcome.cells)
        if verdict == YES and CLAIMS[name].test != "some":
            assert outcome.complying == outcome.cells


GATED = [name for name in CLAIMS if CLAIMS[name].precondition]


def needed(name):
    """The tables of a perfect run that a claim reads."""
    tables = PLANTED[name](1)
    return {table: tables[table] for table in CLAIMS[name].needs}


@pytest.mark.parametrize("gate", UNFIT)
def test_a_laboratory_is_fit_or_says_why_not(gate):
    name = next(name for name in GATED if CLAIMS[name].precondition.__name__ == gate)
    tables, precondition = needed(name), CLAIMS[name].precondition
    assert precondition(tables) == ""
    for why, damage in UNFIT[gate].items():
        assert why in precondition(damage(tables))


@pytest.mark.parametrize("name", GATED)
def test_in_an_unfit_laboratory_even_a_perfect_run_decides_nothing(name):
    why, damage = next(iter(UNFIT[CLAIMS[name].precondition.__name__].items()))
    outcome = judge(name, damage(needed(name)))
    assert outcome.verdict == NOT_TESTABLE
    assert outcome.reason.startswith("laboratory unfit: ")
    assert why in outcome.reason
    assert np.isfinite(outcome.effect)  # the numbers stay


@pytest.mark.parametrize("name", PLANTED)
def test_without_one_of_its_tables_there_was_no_run(name):
    tables = PLANTED[name](1)
    for absent in CLAIMS[name].needs:
        outcome = judge(name, {table: tables[table] for table in tables if table != absent})
        assert (outcome.verdict, outcome.reason) == (NO_RUN, f"needs the table(s) {absent}")


ENOUGH = {"C4c": (200, 1000), "C5b": (200, 1000), "L6": (5, 6), "O8": (5, 6)}
ENOUGH |= {"L3": (4, 5), "O4": (4, 5), "O7": (4, 5)}
"""Equal replicates that are too few, and that are enough: problems, or trainings and draws."""


@pytest.mark.parametrize("name", STILL)
def test_a_perfect_run_that_does_not_vary_is_a_yes_where_it_has_enough_replicates(name):
    few, enough = (judge(name, STILL[name](n)) for n in ENOUGH[name])
    assert few.verdict in (NOT_TESTABLE, UNDECIDED), few
    assert "no variation" in few.reason or "not every cell" in few.reason
    assert enough.verdict == (EXPLORATORY[YES] if CLAIMS[name].changed else YES), enough
    assert enough.complying == enough.cells


# --- noise ----------------------------------------------------------------------------------------


def verdict(values, level, **fields):
    record = dict.fromkeys(["words", "restatement", "paper", "where", "satisfied", "figure"], "")
    try:
        return decide(Claim("X1", needs=(), **record, **fields), pd.Series(values, level)).verdict
    except NotTestableError:
        return NOT_TESTABLE


@pytest.mark.parametrize("trainings", [5, 6])
def test_trainings_that_fall_to_either_side_by_chance_seldom_agree(trainings):
    """Of all ways in which so many coins can fall, equally likely ones."""
    seeds = pd.RangeIndex(trainings, name="seed")
    told = [verdict(f, seeds, unit="trainings") for f in product([-1.0, 1.0], repeat=trainings)]
    assert [told.count(each) for each in (YES, NO)] == [trainings > 5] * 2


def test_no_error_among_so_many_problems_is_a_yes_where_chance_seldom_gives_it():
    """One problem in a hundred is solved, and fewer than that are claimed to be."""
    for n in (100, 360, 380, 1000):
        problems = pd.RangeIndex(n, name="problem")
        told = verdict(np.full(n, 0.01), problems, unit="items", reach=1.0)
        assert (told == YES) == (0.99**n <= 0.025)


RUNS = 40
KINDS = {levels: unit for unit, levels in UNITS.items()}
"""A unit of each kind: what varies."""


def at_the_threshold(test, levels, random):
    """Effects of two cells, three trainings and 60 problems; nothing but noise beyond the limit.

    Of "every" and "equal" the other cell complies, so that the verdict hangs on the first.
    """
    means = {"every": [0.0, 9.0], "some": [0.0, 0.0], "equal": [0.2, 0.0]}[test]
    if not levels:
        effects = np.array(means) + random.normal(0, 0.02, 2)
        return pd.DataFrame({"effect": effects, "se": 0.02}, pd.Index(["a", "b"], name="cell"))
    sizes = [{"seed": 3, "problem": 60}[level] for level in levels]
    noise = random.normal(0, 0.02, (2, *sizes))
    if "problem" in levels:  # a problem goes the same way in every training
        answers = random.choice([-0.1, 0.1], (2, 60))
        noise = answers if len(levels) == 1 else noise + answers[:, None]
    if len(levels) == 2:
        noise += random.normal(0, 0.02, (2, 3, 1))
    places = pd.MultiIndex.from_product([["a", "b"], *map(range, sizes)], names=["cell", *levels])
    return pd.Series((np.reshape(means, (2, *[1] * len(sizes))) + noise).ravel(), places)


@pytest.mark.parametrize("test", TESTS)
def test_noise_at_the_threshold_is_seldom_a_yes_or_a_no(test):
    """At most 5 % over the kinds; of a single kind as far as its runs can tell."""
    record = dict.fromkeys(["words", "restatement", "paper", "where", "satisfied", "figure"], "")
    limit = 0.2 if test == "equal" else 0.0
    random, told = np.random.default_rng(0), {}
    for levels, unit in KINDS.items():
        claim = Claim("X1", needs=(), **record, unit=unit, test=test, threshold=limit)
        runs = [decide(claim, at_the_threshold(test, levels, random)) for _ in range(RUNS)]
        told[unit] = [[run.verdict for run in runs].count(verdict) for verdict in (YES, NO)]
    assert np.max([*told.values()]) <= binom.ppf(0.99, RUNS, 0.05), told
    assert np.sum([*told.values()], axis=0).max() <= 0.05 * RUNS * len(KINDS), told
