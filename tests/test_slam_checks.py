"""The rules of SLAM's claims on made tables."""

import pandas as pd
import pytest

from mmlib.claims import NO, NOT_TESTABLE, UNDECIDED, YES, judge, published_effect

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
