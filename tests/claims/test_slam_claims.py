"""The rules of SLAM's claims on made tables."""

import pandas as pd
import pytest

from mmlib.claims.rules import NO, NOT_TESTABLE, UNDECIDED, YES, judge, published_effect

FALLS = [0.6, 0.5, 0.3, 0.3, 0.3, 0.29]
FLAT = [0.3, 0.3, 0.3, 0.3, 0.3, 0.3]
ON = [0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
RISES = [0.3, 0.4, 0.7, 0.7, 0.7, 0.7]


def table(shapes, name, **more):
    rows = [
        (lang, layer, value + 0.001 * seed, seed)
        for lang, shape in shapes.items()
        for layer, value in enumerate(shape)
        for seed in (1, 2, 3)
    ]
    return pd.DataFrame(rows, columns=["lang", "layer", name, "seed"]).assign(model="m", **more)


@pytest.mark.parametrize(
    ("other", "verdict", "effect"),
    [
        (FALLS, YES, 0.245),
        (FLAT, UNDECIDED, 0.0),
        (ON, UNDECIDED, 0.0),
        (FALLS[::-1], NO, -0.255),
    ],
)
def test_rates_that_fall_and_then_flatten(other, verdict, effect):
    outcome = judge("S2", {"firing": table({"en": FALLS, "hi": other}, "rate")})
    assert outcome.effect == pytest.approx(effect)
    assert outcome.verdict == verdict


def test_values_are_told_apart_by_model_and_not_averaged():
    deep = table({"en": [x for x in FALLS for _ in range(3)]}, "rate").assign(model="deep")
    both = pd.concat([table({"en": FALLS}, "rate"), deep], ignore_index=True)
    assert judge("S2", {"firing": both}).effect == pytest.approx(0.245)
    outcome = judge("S2", {"firing": pd.concat([both, both])})
    assert (outcome.verdict, "one value" in outcome.reason) == (NOT_TESTABLE, True)


def test_a_shallow_model_has_no_shape():
    outcome = judge("S2", {"firing": table({"en": FALLS[:4]}, "rate")})
    assert (outcome.verdict, "6 layers" in outcome.reason) == (NOT_TESTABLE, True)


@pytest.mark.parametrize(("gain", "verdict"), [(0.05, YES), (-0.05, NO)])
def test_overlap_that_rises_flattens_and_grows(gain, verdict):
    before = table({"de": RISES}, "overlap", state="before")
    after = table({"de": [x + gain for x in RISES]}, "overlap", state="after")
    both = pd.concat([before, after], ignore_index=True)
    both.overlap += 1e-3 * both.seed * (both.state == "after")
    assert judge("S3", {"firing_overlap": both}).verdict == verdict
    flat = table({"de": FLAT}, "overlap", state="before")
    assert judge("S3", {"firing_overlap": flat}).verdict == NOT_TESTABLE


def test_curves_without_printed_values_decide_nothing():
    assert pd.isna(published_effect("S2"))


SYSTEMS = ["SLAM", "QAlign stage 1", "QAlign", "LoRA", "MathOctopus"]
LANGS = ["en", "de", "hi", "sw"]
BASE = {"en": 0.9, "de": 0.6, "hi": 0.4, "sw": 0.3}


def alignment(gains, part="math-1", **more):
    """The base once, and every system with its gain by language in three trainings."""
    rows = [("base", 0, part, lang, BASE[lang]) for lang in LANGS]
    for system, gain in gains.items():
        for seed in (1, 2, 3):
            for lang in LANGS:
                own = gain.get(lang, gain.get("all", 0)) if isinstance(gain, dict) else gain
                rows.append((system, seed, part, lang, BASE[lang] + own + 1e-4 * seed))
    return pd.DataFrame(rows, columns=["system", "seed", "part", "lang", "accuracy"]).assign(**more)


def decided(claim, table, name="alignment"):
    outcome = judge(claim, {name: table})
    return outcome.verdict, pytest.approx(outcome.effect)


def test_the_best_other_system_is_what_counts():
    gains = dict.fromkeys(SYSTEMS, 0.1)
    assert decided("S1", alignment(gains)) == (YES, 0.01)
    assert decided("S1", alignment(gains | {"MathOctopus": 0.3})) == (NO, -0.19)
    outcome = judge("S1", {"alignment": alignment({"SLAM": 0.1})})
    assert (outcome.verdict, "LoRA" in outcome.reason) == (NOT_TESTABLE, True)


def test_gains_of_the_weak_half():
    weak = {"hi": 0.3, "sw": 0.2, "all": 0.05}
    assert decided("S5", alignment({"SLAM": weak})) == (YES, 0.15)
    assert decided("S5", alignment({"SLAM": weak | {"en": 0.25}})) == (NO, -0.05)
    harm = {"hi": -0.05, "sw": -0.05, "all": -0.3}
    assert decided("S5", alignment({"SLAM": harm})) == (NO, -0.0498)


@pytest.mark.parametrize(
    ("claim", "part", "gain", "verdict", "effect"),
    [
        ("S6", "math-new", {"all": 0.1, "en": 0.02}, YES, 0.0202),
        ("S6", "math-new", {"all": 0.1, "en": -0.02}, NO, -0.0198),
        ("S13", "math-1", {"all": -0.3, "en": 0.0}, YES, 0.0102),
        ("S13", "math-1", {"all": 0.3, "en": -0.05}, NO, -0.0398),
    ],
)
def test_gains_in_one_or_all_languages(claim, part, gain, verdict, effect):
    outcome = judge(claim, {"alignment": alignment({"SLAM": gain}, part)})
    assert (outcome.verdict, outcome.effect) == (verdict, pytest.approx(effect))


@pytest.mark.parametrize(("lost", "verdict"), [(0.5, YES), (0.0, NO)])
def test_forgetting_is_the_loss_in_english(lost, verdict):
    table = alignment({"QAlign stage 1": {"all": 0.2, "en": -lost}})
    assert judge("S14", {"alignment": table}).verdict == verdict


def test_consistency_retrieval_and_a_stronger_start():
    table = alignment({"SLAM": {"all": 0.2, "de": 0.1}})
    told = table.rename(columns={"accuracy": "consistency"}).drop(columns="part")
    assert judge("S4", {"consistency": told}).effect == pytest.approx(0.1002)
    worse = alignment({"SLAM": {"all": 0.2, "en": -0.4}}).rename(
        columns={"accuracy": "consistency"}
    )
    assert judge("S4", {"consistency": worse}).verdict == NO
    places = pd.concat(
        table.rename(columns={"accuracy": "retrieval"}).assign(layer=layer, depth=9)
        for layer in (0, 6)
    )
    places.loc[places.layer == 0, "retrieval"] = 0.0
    assert judge("S15", {"final_states": places}).effect == pytest.approx(0.1002)
    knowledge = {"alignment_knowledge": table.assign(part="knowledge")}
    assert judge("S11", knowledge).effect == pytest.approx(0.1002)
    stronger = table.assign(accuracy=table.accuracy + 0.05)
    both = {"alignment": table, "alignment_stronger": stronger}
    assert judge("S17", both).effect == pytest.approx(0.5 / 3 + 2e-4)
    assert judge("S17", both | {"alignment_stronger": table}).verdict == NOT_TESTABLE


def test_gaps_and_mixtures_are_not_averaged():
    """Another seed missing, or two runs of one name, decide nothing."""
    table = alignment(dict.fromkeys(SYSTEMS, 0.1))
    gap = table[(table.system != "QAlign") | (table.seed == 1)]
    assert judge("S1", {"alignment": gap}).verdict == NOT_TESTABLE
    outcome = judge("S13", {"alignment": pd.concat([table, table])})
    assert (outcome.verdict, "one value" in outcome.reason) == (NOT_TESTABLE, True)


def test_costs_and_balance():
    costs = pd.DataFrame(
        [(s, seed, t) for s, t in (("SLAM", 10), ("QAlign", 25)) for seed in (1, 2, 3)],
        columns=["system", "seed", "seconds"],
    )
    two = pd.concat([costs, costs[costs.system == "QAlign"]])
    assert judge("S7", {"alignment_costs": costs}).effect == pytest.approx(0.5)
    assert judge("S7", {"alignment_costs": two}).effect == pytest.approx(3.0)
    table = alignment({"SLAM": 0.2, "unbalanced pairs": {"de": 0.3, "hi": 0.1, "sw": 0.0}})
    table["pairs"] = table.lang.map({"en": 0, "de": 70, "hi": 20, "sw": 10})
    assert judge("S16", {"alignment": table}).effect == pytest.approx(0.15)
