"""The rules of SLAM's claims on made tables: what a perfect run, the opposite and noise decide."""

import numpy as np
import pandas as pd
import pytest
from planted import ALIGNED, laboratory

from mmlib.claims.rules import (
    NO,
    NOT_TESTABLE,
    UNDECIDED,
    YES,
    NotTestableError,
    claim_of,
    judge,
    published_outcome,
)
from mmlib.claims.slam import _consistency
from mmlib.study.tables import published

FALLS = [0.6, 0.5, 0.3, 0.3, 0.3, 0.29]
FLAT = [0.3, 0.3, 0.3, 0.3, 0.3, 0.3]
ON = [0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
RISES = [0.3, 0.4, 0.7, 0.7, 0.7, 0.7]


def curves(shapes, name, **more):
    noise = np.random.default_rng(1)
    rows = [
        (lang, layer, value + 0.002 * noise.normal(), seed)
        for lang, shape in shapes.items()
        for layer, value in enumerate(shape)
        for seed in (1, 2, 3)
    ]
    return pd.DataFrame(rows, columns=["lang", "layer", name, "seed"]).assign(model="m", **more)


@pytest.mark.parametrize(
    ("other", "verdict", "effect"),
    [(FALLS, YES, 0.245), (FLAT, UNDECIDED, 0.0), (ON, UNDECIDED, 0.0), (FALLS[::-1], NO, -0.255)],
)
def test_rates_that_fall_and_then_flatten(other, verdict, effect):
    outcome = judge("S2", {"firing": curves({"en": FALLS, "hi": other}, "rate")})
    assert outcome.effect == pytest.approx(effect, abs=0.005)
    assert (outcome.verdict, outcome.cells) == (verdict, 4)


def test_values_are_told_apart_by_model_and_not_averaged():
    deep = curves({"en": [x for x in FALLS for _ in range(3)]}, "rate").assign(model="deep")
    both = pd.concat([curves({"en": FALLS}, "rate"), deep], ignore_index=True)
    assert judge("S2", {"firing": both}).cells == 4
    outcome = judge("S2", {"firing": pd.concat([both, both])})
    assert (outcome.verdict, "one value" in outcome.reason) == (NOT_TESTABLE, True)
    outcome = judge("S2", {"firing": curves({"en": FALLS[:4]}, "rate")})
    assert (outcome.verdict, "6 layers" in outcome.reason) == (NOT_TESTABLE, True)


@pytest.mark.parametrize(("gain", "verdict"), [(0.05, YES), (-0.05, NO)])
def test_overlap_that_rises_flattens_and_grows(gain, verdict):
    before = curves({"de": RISES}, "overlap", state="before")
    after = curves({"de": [x + gain for x in RISES]}, "overlap", state="after")
    both = pd.concat([before, after], ignore_index=True)
    both.overlap += 1e-3 * both.seed * (both.state == "after")
    outcome = judge("S3", {"firing_overlap": both})
    assert (outcome.verdict, outcome.cells) == (verdict, 3)
    one = judge("S3", {"firing_overlap": both[both.seed == 1]})
    assert (one.verdict, "1 of at least 3 trainings" in one.reason) == (UNDECIDED, True)
    assert judge("S3", {"firing_overlap": before}).verdict == NOT_TESTABLE


# --- systems --------------------------------------------------------------------------------------

BASE = {"en": 0.8, "de": 0.6, "hi": 0.3, "sw": 0.2}
OTHERS = ("base", "QAlign stage 1", "QAlign", "LoRA", "MathOctopus")
_N = 80


def grades(shares, part="math-1", seed=0):
    """Packed answers: the base once, every other system with its shares in three trainings."""
    rng, rows = np.random.default_rng(seed), []
    for system, by_lang in ({"base": BASE} | shares).items():
        for training in [0] if system == "base" else [1, 2, 3]:
            for lang in BASE:
                share = by_lang.get(lang, by_lang.get("all")) if by_lang else BASE[lang]
                right = "".join("01"[x] for x in (rng.random(_N) < share).astype(int))
                rows.append((system, training, part, lang, right))
    table = pd.DataFrame(rows, columns=["system", "seed", "part", "lang", "correct"])
    rate = 0.1 * (table.system != "base")
    return table.assign(problems=part, learning_rate=rate, **ALIGNED)


def more(gain, **by_lang):
    return {lang: share + by_lang.get(lang, gain) for lang, share in BASE.items()}


ALL = {system: {} for system in OTHERS[1:]}
PARTS = {"S6": "math-new", "S11": "knowledge"}
PAIRS = {"en": 0.0, "de": 70.0, "hi": 20.0, "sw": 10.0}


def tables_for(claim, shares, part, seed=0, **fit):
    """The tables that a claim needs; of S17 a first expert that is weaker in English."""
    table = grades(shares, part, seed)
    table["pairs"] = table.lang.map(PAIRS)
    name = next(need for need in claim_of(claim).needs if need.startswith("alignment"))
    weaker = table.assign(correct="0" * _N)
    return {"alignment": weaker, name: table, **laboratory(**fit)}


def plain(outcome):
    return outcome.verdict.removeprefix("exploratory ")


@pytest.mark.parametrize("claim", ["S4", "S5", "S6", "S11", "S14", "S16", "S17"])
def test_systems_like_the_base_are_no_yes(claim):
    null = {**ALL, "SLAM": {}, "unbalanced pairs": {}}
    assert plain(judge(claim, tables_for(claim, null, PARTS.get(claim, "math-1")))) != YES


@pytest.mark.parametrize(
    ("fit", "reason"),
    [
        ({}, ""),
        ({"english": 0.7}, "English falls by 10 points at this rate, under 1 is needed"),
        ({"rate": 0.5}, "English was not asked during the choice of the rate"),
        ({"source": "else"}, "the held-out translation loss is nan nats"),
    ],
)
def test_a_rate_that_harms_or_was_not_tried_is_unfit(fit, reason):
    tables = {"alignment": grades({"SLAM": {}}), **laboratory(**fit)}
    told = claim_of("S13").precondition(tables)
    assert told.startswith(reason) if reason else told == ""


def test_balance_is_asked_where_something_is_solved_and_strength_of_a_stronger_one():
    lost = {"SLAM": more(0, hi=-0.25, sw=-0.15), "unbalanced pairs": more(0, hi=-0.25, sw=-0.15)}
    outcome = judge("S16", tables_for("S16", lost, "math-1"))
    assert (outcome.verdict, "over 10 %" in outcome.reason) == (NOT_TESTABLE, True)
    tables = tables_for("S17", {"SLAM": more(0.15)}, "math-1")
    outcome = judge("S17", tables | {"alignment": tables["alignment_stronger"]})
    assert (outcome.verdict, "first expert" in outcome.reason) == (NOT_TESTABLE, True)


def test_consistency_of_a_training_is_that_of_the_definition():
    rng = np.random.default_rng(4)
    index = pd.MultiIndex.from_product([[1, 2], range(50)], names=["seed", "problem"])
    wide = pd.DataFrame(rng.integers(0, 2, (100, 3)).astype(float), index, ["en", "de", "hi"])
    for seed, rows in wide.groupby(level="seed"):
        told = _consistency(wide).loc[seed]
        shares = rows[rows.en == 1][["de", "hi"]].mean()
        assert told.mean().tolist() == pytest.approx(shares.tolist())
        # Delta method: sqrt(p (1 - p) / m) over the m problems that are right in English.
        se = np.sqrt(shares * (1 - shares) / rows.en.sum())
        assert (told.std(ddof=0) / np.sqrt(50)).tolist() == pytest.approx(se.tolist())
    with pytest.raises(NotTestableError, match="right in English"):
        _consistency(wide.assign(en=0.0))


def test_weak_languages_are_chosen_on_other_problems():
    """By the odd problems, on which hi and sw look strong; judged on the even ones."""
    table = grades({"SLAM": more(0.0)})
    rows = (table.system == "base") & table.lang.isin(["hi", "sw"])
    table.loc[rows, "correct"] = "01" * (_N // 2)
    rows = (table.system == "base") & ~table.lang.isin(["hi", "sw"])
    table.loc[rows, "correct"] = "10" * (_N // 2)
    outcome = judge("S5", {"alignment": table, **laboratory()})
    assert outcome.cell.split(", ")[0] in {"de", "en"}  # all wrong on the odd ones


def test_gaps_and_mixtures_are_not_averaged():
    """Another seed missing, or two runs of one name, decide nothing."""
    tables = tables_for("S1", {**ALL, "SLAM": more(0.2)}, "math-1")
    table = tables["alignment"]
    gap = table[(table.system != "QAlign") | (table.seed == 1)]
    assert judge("S1", tables | {"alignment": gap}).verdict == NOT_TESTABLE
    outcome = judge("S13", tables | {"alignment": pd.concat([table, table])})
    assert (outcome.verdict, "one grade" in outcome.reason) == (NOT_TESTABLE, True)
    outcome = judge("S1", tables | {"alignment": table[table.system != "LoRA"]})
    assert (outcome.verdict, "LoRA" in outcome.reason) == (NOT_TESTABLE, True)


@pytest.mark.parametrize(("rise", "verdict"), [(0.3, YES), (-0.3, NO)])
def test_retrieval_is_read_at_two_thirds_of_the_depth(rise, verdict):
    rows = [("base", 0, 6, lang, 0.4) for lang in ("de", "hi")]
    rows += [("SLAM", s, 6, lang, 0.4 + rise + s / 100) for s in (1, 2, 3) for lang in ("de", "hi")]
    columns = ["system", "seed", "layer", "lang", "retrieval"]
    table = pd.DataFrame(rows, columns=columns).assign(depth=9)
    outer = table.assign(layer=0, retrieval=-table.retrieval)
    outcome = judge("S15", {"final_states": pd.concat([outer, table])})
    assert (outcome.verdict, outcome.cells) == (verdict, 2)
    assert outcome.effect == pytest.approx(rise + 0.02)
    missing = table[(table.system == "SLAM") | (table.lang == "hi")]
    assert judge("S15", {"final_states": missing}).verdict == NOT_TESTABLE


def costs(factor, weights=7e9):
    rows = [
        (system, seed, seconds + 0.1 * seed, stage)
        for system, seconds, stages in (("SLAM", 10, [1]), ("QAlign", 10 * factor / 2, [1, 2]))
        for seed in (1, 2, 3)
        for stage in stages
    ]
    table = pd.DataFrame(rows, columns=["system", "seed", "seconds", "stage"])
    return {"alignment_costs": table.assign(trained=weights, share=1.0)}


def test_cost_is_the_published_factor_of_models_of_that_size():
    assert judge("S7", costs(6)).verdict == "exploratory yes"
    assert judge("S7", costs(2.5)).verdict == "exploratory no"
    small = judge("S7", costs(6, weights=4.3e6))
    assert (small.verdict, "4.3 million weights" in small.reason) == (NOT_TESTABLE, True)
    assert small.effect == pytest.approx(6, abs=0.2)
    one = {name: table[table.system == "SLAM"] for name, table in costs(6).items()}
    assert judge("S7", one).verdict == NOT_TESTABLE


def test_published_accuracies_have_the_intervals_of_their_items():
    """English of MSVAMP, 1,000 items, and the smallest lead over another system, by hand."""
    told = published("slam_accuracy").query("lang == 'en' and size == '7B'")
    told = told[told.table == 4].set_index("system").accuracy / 100
    outcome = published_outcome("S6")
    assert outcome.effect == pytest.approx(told["SLAM"] - told["MetaMath"])
    se = np.sqrt(sum(p * (1 - p) / 1000 for p in (told["SLAM"], told["MetaMath"])))
    assert outcome.high == pytest.approx(outcome.effect + 1.959964 * se)
    for claim in ("S1", "S5", "S6", "S11", "S13"):
        outcome = published_outcome(claim)
        assert (outcome.verdict, "1 of at least 3 trainings" in outcome.reason) == (UNDECIDED, True)
    assert published_outcome("S1").effect == pytest.approx(0.496 - 0.4964, abs=1e-9)
    assert published_outcome("S5").complying == 4 * (3 + 3 * 7)
    for claim in ("S2", "S4", "S14", "S17"):
        assert published_outcome(claim).verdict == NOT_TESTABLE
