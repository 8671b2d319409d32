"""Laws of the claims ledger: planted effects get the verdict they deserve."""

import subprocess
import sys
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmlib.claims.ledger import ledger, rules
from mmlib.claims.rules import CLAIMS, SHARED_KEEP_RATIOS, VERDICTS, judge, verdicts

LANGS = ["en", "de", "fr", "hi"]
SEEDS = (1, 101, 201)
PEAK = {1: 3, 101: 0, 201: 3}  # layer that stands out, by seed
K = (*SHARED_KEEP_RATIOS, 0.005, 0.25)
N = 1_000_000


def overlap(jaccard, *, seeds=SEEDS, layers=8, keep_ratios=K):
    """Sets of equal size whose Jaccard is `jaccard(layer, seed)`; layer None is the whole model."""
    rows = []
    for a, b in combinations(LANGS, 2):
        for ratio in keep_ratios:
            for seed in seeds:
                for layer in (None, *range(layers)):
                    size = int(N * ratio)
                    j = jaccard(layer, seed)
                    both = int(2 * size * j / (1 + j))
                    rows.append((a, b, ratio, seed, layer, size, both))
    names = ["lang_a", "lang_b", "keep_ratio", "seed", "layer", "size_a", "intersection"]
    t = pd.DataFrame(rows, columns=names).astype({"layer": "Int64"})
    t = t.assign(size_b=t.size_a)
    return t.assign(
        model="toy",
        nonmath="organism-reading",
        group=np.where(t.layer.isna(), "global", "layer"),
        union=2 * t.size_a - t.intersection,
        n_scored=N,
        expected_intersection=t.size_a * t.size_b / N,
    )


def set_sizes(size, *, seeds=SEEDS, models=(1,), keep_ratios=K, langs=LANGS):
    """Whole-model sets of `size(lang, seed, model)` weights."""
    rows = [
        (lang, ratio, seed, f"toy-{m}", int(1000 * m * ratio), size(lang, seed, m))
        for lang in langs
        for ratio in keep_ratios
        for seed in seeds
        for m in models
    ]
    names = ["lang", "keep_ratio", "seed", "model", "n_topk", "n_math_specific"]
    return pd.DataFrame(rows, columns=names).assign(nonmath="organism-reading", group="global")


def accuracy(values, *, n=500):
    low, high = (np.clip(np.array(list(values.values())) + d, 0, 1) for d in (-0.04, 0.04))
    return pd.DataFrame(
        {"lang": list(values), "task": "organism-math", "accuracy": list(values.values()), "n": n}
    ).assign(low=low, high=high)


def middle(layer):
    return layer is not None and 2 <= layer < 6


ORDERED = {"en": 400, "de": 300, "fr": 301, "hi": 200}
SPREAD = {"en": 0.9, "de": 0.5, "fr": 0.7, "hi": 0.2}


@pytest.mark.parametrize(
    ("claim", "jaccard", "verdict"),
    [
        ("C1", lambda layer, seed: 0.4, "yes"),
        ("C1", lambda layer, seed: 0.9, "no"),
        ("C1", lambda layer, seed: 0.01, "no"),
        ("C1", lambda layer, seed: 0.6 + 0.1 * (seed == 1), "undecided"),
        ("C1b", lambda layer, seed: 0.4, "yes"),
        ("C1b", lambda layer, seed: 0.02, "no"),
        ("C1b", lambda layer, seed: 0.08 + 0.01 * (seed == 1), "undecided"),
        ("C2", lambda layer, seed: 0.3 + 0.1 * middle(layer), "yes"),
        ("C2", lambda layer, seed: 0.3 - 0.1 * middle(layer), "no"),
        ("C2", lambda layer, seed: 0.3, "undecided"),
        ("C2", lambda layer, seed: 0.3 + 0.1 * (layer == PEAK[seed]), "undecided"),
        ("C2b", lambda layer, seed: 0.3 + 0.1 * middle(layer), "yes"),
        ("C2b", lambda layer, seed: 0.3 + 0.1 * (layer == 0), "no"),
    ],
)
def test_planted_overlap(claim, jaccard, verdict):
    outcome = judge(claim, {"overlap": overlap(jaccard)})
    assert outcome.verdict == verdict, outcome


def test_one_weak_cell_decides_a_claim_about_every_cell():
    t = overlap(lambda layer, seed: 0.4)
    weak = (t.lang_b == "hi") & (t.keep_ratio == 0.15) & (t.group == "global")
    t.loc[weak, "intersection"] = 0
    t["union"] = t.size_a + t.size_b - t.intersection
    assert judge("C1", {"overlap": t}).verdict == "no"
    # The same cell outside the published grid of keep ratios decides nothing.
    t["keep_ratio"] = t.keep_ratio.replace({0.15: 0.25, 0.25: 0.15})
    assert judge("C1", {"overlap": t}).verdict == "yes"


def test_the_layer_profile_is_the_mean_over_pairs():
    t = overlap(lambda layer, seed: 0.3 + 0.1 * middle(layer), keep_ratios=(0.1,))
    odd = (t.layer == 0).fillna(False) & (t.lang_b == "hi") & (t.lang_a == "en")
    t.loc[odd, "intersection"] = t.loc[odd, "size_a"] * 0.8
    t["union"] = t.size_a + t.size_b - t.intersection
    assert judge("C2", {"overlap": t}).verdict == "yes"


def test_chance_per_matrix_replaces_the_pooled_one():
    t = overlap(lambda layer, seed: 0.4)
    assert judge("C1b", {"overlap": t}).effect == pytest.approx(
        judge("C1b", {"overlap": t.drop(columns="expected_intersection")}).effect
    )
    t["expected_intersection"] = t.size_a * 0.9
    assert judge("C1b", {"overlap": t}).verdict == "no"


def test_undecided_tells_the_smallest_detectable_effect():
    t = overlap(lambda layer, seed: 0.3 + 0.01 * (layer == PEAK[seed]))
    row = ledger({"overlap": t}).set_index("id").loc["C2"]
    assert row.organism == "undecided"
    assert row.low < row.threshold < row.high
    assert row.smallest_detectable_effect == pytest.approx(row.high - row.effect)


@pytest.mark.parametrize("claim", ["C1", "C1b", "C2", "C2b"])
def test_one_seed_is_undecided(claim):
    t = overlap(lambda layer, seed: 0.3 + 0.1 * middle(layer), seeds=(1,))
    outcome = judge(claim, {"overlap": t})
    assert (outcome.verdict, outcome.n) == ("undecided", 1)
    assert np.isnan(outcome.low)


@given(st.floats(0.05, 0.6), st.floats(-0.05, 0.05), st.permutations(LANGS))
@settings(max_examples=15, deadline=None)
def test_names_of_languages_and_order_of_rows_do_not_matter(base, bump, names):
    t = overlap(lambda layer, seed: base + bump * middle(layer) + seed * 1e-5, keep_ratios=(0.1,))
    renamed = t.replace(dict(zip(LANGS, names, strict=True))).sample(frac=1, random_state=0)
    ours, same = (judge("C2", {"overlap": x}) for x in (t, renamed))
    assert ours.verdict == same.verdict
    assert ours.effect == pytest.approx(same.effect)


@pytest.mark.parametrize(
    ("order", "verdict"),
    [
        ({"en": 4, "de": 3, "fr": 3, "hi": 2}, "yes"),
        ({"en": 3, "de": 4, "fr": 3, "hi": 2}, "no"),
        ({"en": 4, "de": 3, "fr": 3, "hi": 5}, "no"),
        ({"en": 3, "de": 3, "fr": 3, "hi": 3}, "undecided"),
    ],
)
def test_size_order(order, verdict):
    tables = {"set_sizes": set_sizes(lambda lang, seed, m: 100 * order[lang])}
    assert judge("C3a", tables).verdict == verdict


def test_languages_the_claim_names_are_needed():
    t = set_sizes(lambda lang, seed, m: 5, langs=["en", "de"])
    outcome = judge("C3a", {"set_sizes": t})
    assert outcome.verdict == "not testable here"
    assert "fr, hi" in outcome.reason


@pytest.mark.parametrize(
    ("sizes", "scores", "verdict"),
    [
        ({"en": 9, "de": 5, "fr": 7, "hi": 2}, SPREAD, "yes"),
        ({"en": 2, "de": 7, "fr": 5, "hi": 9}, SPREAD, "no"),
        ({"en": 9, "de": 5, "fr": 7, "hi": 2}, SPREAD | {"de": 0.69}, "undecided"),
        ({"en": 9, "de": 8, "fr": 7, "hi": 2}, {"en": 1, "de": 1, "fr": 0.8, "hi": 0}, "undecided"),
        ({"en": 9, "de": 5, "fr": 7, "hi": 2}, dict.fromkeys(LANGS, 0.9), "not testable here"),
    ],
)
def test_size_follows_accuracy(sizes, scores, verdict):
    t = {"set_sizes": set_sizes(lambda lang, seed, m: sizes[lang]), "accuracy": accuracy(scores)}
    outcome = judge("C3b", t)
    assert outcome.verdict == verdict, outcome
    other = accuracy(dict.fromkeys(LANGS, 0.5)).assign(task="organism-reading")
    t["accuracy"] = pd.concat([t["accuracy"], other])
    assert judge("C3b", t) == outcome or verdict == "not testable here"


def test_seeds_that_disagree_leave_the_order_undecided():
    swap = {"en": "en", "de": "fr", "fr": "de", "hi": "hi"}
    t = set_sizes(lambda lang, seed, m: 1000 * SPREAD[swap[lang] if seed == 1 else lang])
    outcome = judge("C3b", {"set_sizes": t, "accuracy": accuracy(SPREAD)})
    assert outcome.verdict == "undecided"
    assert outcome.low <= outcome.effect <= outcome.high


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [
        (lambda m, seed: m, "yes"),
        (lambda m, seed: {2: 1, 4: 3, 10: 2}[m], "no"),
        (lambda m, seed: m if seed == 1 else 12 - m, "undecided"),
    ],
)
def test_growth_with_model_size(ratio, verdict):
    def size(lang, seed, m):
        return 1200 * (ratio(m, seed) if lang == "en" else 1)

    tables = {"model_sets": set_sizes(size, models=(4, 10, 2))}  # not in order of size
    assert judge("C3c", tables).verdict == verdict
    assert "3 model sizes" in judge("C3c", {"model_sets": set_sizes(size, models=(2,))}).reason


def test_what_cannot_be_decided_says_why():
    t = overlap(lambda layer, seed: 0.4)
    cases = {
        "keep_ratio 0.1": ("C2", t[t.keep_ratio != 0.1]),
        "at least 4 layers": ("C2", overlap(lambda layer, seed: 0.4, layers=3)),
        "group 'layer'": ("C2", t[t.group == "global"]),
        "different cells": ("C1", t.drop(t[(t.seed == 1) & (t.lang_b == "hi")].index)),
        "two languages": ("C1", t.assign(lang_b=t.lang_a)),
    }
    for reason, (claim, table) in cases.items():
        outcome = judge(claim, {"overlap": table})
        assert outcome.verdict == "not testable here"
        assert reason in outcome.reason
    with pytest.raises(ValueError, match="intersection"):
        judge("C1", {"overlap": t.drop(columns="intersection")})


def test_missing_tables_are_no_run_and_claims_without_a_rule_say_why():
    frame = ledger({"overlap": overlap(lambda layer, seed: 0.4)}).set_index("id")
    assert frame.organism["C1"] == "yes"
    assert frame.organism["C3a"] == "no run yet"
    assert "set_sizes" in frame.reason["C3a"]
    no_rule = frame.loc[[name for name, claim in CLAIMS.items() if claim.check is None]]
    assert list(no_rule.index) == ["S8", "S9", "S10", "S12"]
    assert (no_rule.organism == "not testable here").all()
    assert "LangBridge" in no_rule.reason["S12"]
    assert (frame.research_run == "no run yet").all()


@pytest.mark.parametrize("level", [0.01, 0.4, 0.9])
def test_our_runs_never_change_the_published_columns(level):
    kept = ["id", "claim", "published_data", "published_numbers", "published_effect"]
    tables = {
        "overlap": overlap(lambda layer, seed: level - 0.005 * middle(layer)),
        "set_sizes": set_sizes(lambda lang, seed, m: 1000 - ORDERED[lang]),
        "accuracy": accuracy(SPREAD),
    }
    ours = ledger(tables)
    pd.testing.assert_frame_equal(ours[kept], ledger()[kept])
    assert set(ours.organism) <= set(VERDICTS)
    assert (ours.research_run == "no run yet").all()
    theirs = ledger(None, tables)
    assert list(theirs.research_run) == list(ours.organism)
    assert (theirs.organism == "no run yet").all()


def test_every_rule_is_told_in_words():
    frame = rules().set_index("id")
    assert set(frame.index) == {name for name, claim in CLAIMS.items() if claim.check}
    assert frame.notna().all(axis=None)
    assert frame.keep_ratios["C2"] == "0.1"


def test_rows_of_some_claims_are_those_of_the_ledger():
    tables = {"overlap": overlap(lambda layer, seed: 0.4)}
    whole = ledger(tables).set_index("id")
    names = ["O1", "C2", "S12", "C1"]
    some = verdicts(names, tables).set_index("id")
    pd.testing.assert_frame_equal(some, whole.loc[names])
    for name in whole.index:
        row = verdicts([name], tables).set_index("id")
        pd.testing.assert_frame_equal(row, whole.loc[[name]], check_dtype=False)


def test_a_verdict_imports_only_the_part_of_its_claim():
    code = (
        "import sys; from mmlib.claims.rules import judge; judge('O1', None); "
        "print(*sorted(m for m in sys.modules if m.startswith('mmlib.claims.')))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["mmlib.claims.meaning", "mmlib.claims.rules"]


def test_an_unknown_claim_is_named():
    with pytest.raises(ValueError, match="'C99'"):
        judge("C99", None)


def test_every_claim_with_a_rule_tells_its_day_and_every_other_its_reason():
    ledger()
    for claim in CLAIMS.values():
        assert bool(claim.committed) == bool(claim.check) != bool(claim.reason), claim.id
