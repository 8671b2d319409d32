"""Rules about sets: planted sizes and overlaps get the verdict they deserve."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmlib.claims.rules import SHARED_KEEP_RATIOS, judge
from mmlib.study.tables import read_table

LANGS = ["en", "de", "fr", "hi"]
SEEDS = (1, 101, 201)
JITTER = {1: -1e-4, 101: 0.0, 201: 1e-4}  # draws that never differ are no draws
PEAK = {1: 3, 101: 0, 201: 3}  # layer that stands out, by seed
K = (*SHARED_KEEP_RATIOS, 0.25)
N = 10**9


def overlap(jaccard, *, seeds=SEEDS, layers=8, keep_ratios=K):
    """Sets of equal size whose Jaccard is `jaccard(layer, seed)`; layer None is the whole model."""
    rows = []
    for a, b in combinations(LANGS, 2):
        for ratio in keep_ratios:
            for seed in seeds:
                for layer in (None, *range(layers)):
                    size, j = int(N * ratio), jaccard(layer, seed) + JITTER[seed]
                    rows.append((a, b, ratio, seed, layer, size, int(2 * size * j / (1 + j)), j))
    names = ["lang_a", "lang_b", "keep_ratio", "seed", "layer", "size_a", "intersection", "jaccard"]
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


def middle(layer):
    return layer is not None and 2 <= layer < 6


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
        ("C2", lambda layer, seed: 0.3 + (0.1 + JITTER[seed]) * middle(layer), "exploratory yes"),
        ("C2", lambda layer, seed: 0.3 - (0.1 + JITTER[seed]) * middle(layer), "exploratory no"),
        ("C2", lambda layer, seed: 0.3 + 0.1 * (layer == PEAK[seed]), "undecided"),
        ("C2b", lambda layer, seed: 0.3 + (0.1 + JITTER[seed]) * middle(layer), "exploratory yes"),
        ("C2b", lambda layer, seed: 0.3 + (0.1 + JITTER[seed]) * (layer == 0), "exploratory no"),
    ],
)
def test_planted_overlap(claim, jaccard, verdict):
    outcome = judge(claim, {"overlap": overlap(jaccard)})
    assert outcome.verdict == verdict, outcome


def test_one_weak_cell_decides_a_claim_about_every_cell():
    t = overlap(lambda layer, seed: 0.4)
    weak = (t.lang_b == "hi") & (t.keep_ratio == 0.15) & (t.group == "global")
    t.loc[weak, "intersection"] = t.loc[weak, "seed"] * 1000
    t["union"] = t.size_a + t.size_b - t.intersection
    outcome = judge("C1", {"overlap": t})
    assert (outcome.verdict, outcome.cells, outcome.complying) == ("no", 72, 69)
    # The same cell outside the published grid of keep ratios decides nothing.
    t["keep_ratio"] = t.keep_ratio.replace({0.15: 0.25, 0.25: 0.15})
    assert judge("C1", {"overlap": t}).verdict == "yes"


def test_the_layer_profile_is_the_mean_over_pairs():
    t = overlap(lambda layer, seed: 0.3 + (0.1 + JITTER[seed]) * middle(layer), keep_ratios=(0.1,))
    odd = (t.layer == 0).fillna(False) & (t.lang_b == "hi") & (t.lang_a == "en")
    t.loc[odd, "intersection"] = t.loc[odd, "size_a"] * 0.8
    t["union"] = t.size_a + t.size_b - t.intersection
    assert judge("C2", {"overlap": t}).verdict == "exploratory yes"


def test_what_training_adds_is_told_from_what_the_network_began_with():
    learned = {1: 0.1, 101: 0.101, 201: 0.102}
    begun = overlap(lambda layer, seed: 0.4 - 0.3 * middle(layer), keep_ratios=(0.1,))
    for sign, verdict in ((1, "exploratory yes"), (-1, "exploratory no")):
        t = overlap(
            lambda layer, seed, sign=sign: 0.4 + (sign * learned[seed] - 0.3) * middle(layer),
            keep_ratios=(0.1,),
        )
        tables = {"overlap": t, "overlap_controls": begun.assign(control="untrained")}
        assert judge("C2", tables).verdict == "exploratory no"
        outcome = judge("C2c", tables)
        assert (outcome.verdict, round(outcome.effect, 3)) == (verdict, sign * 0.101)
    tables["overlap_controls"] = tables["overlap_controls"].query("lang_a != 'en'")
    assert "untrained network in every pair" in judge("C2c", tables).reason


def test_the_note_of_c2_tells_the_trainings():
    t = read_table("evidence/emergence_overlap")
    t = t[(t.control == "two languages") & (t.group == "layer") & (t.seed == 1)]
    last = t[t.step == t.groupby(["width", "training_seed"]).step.transform("max")]
    layers = last.groupby(["width", "training_seed", "layer"]).jaccard.mean().unstack()
    effect = layers[[2, 3, 4, 5]].max(axis=1) - layers[[0, 1, 6, 7]].max(axis=1)
    half = 2.571 * effect.std() / 6**0.5  # t, 5 degrees of freedom
    told = [effect.mean(), effect.mean() - half, effect.mean() + half]
    assert [round(number, 3) for number in told] == [-0.016, -0.036, 0.004]


def test_chance_per_matrix_replaces_the_pooled_one():
    t = overlap(lambda layer, seed: 0.4)
    assert judge("C1b", {"overlap": t}).effect == pytest.approx(
        judge("C1b", {"overlap": t.drop(columns="expected_intersection")}).effect
    )
    t["expected_intersection"] = t.size_a * 0.9
    assert judge("C1b", {"overlap": t}).verdict == "no"


@pytest.mark.parametrize("claim", ["C1", "C1b", "C2", "C2b"])
def test_one_draw_is_undecided(claim):
    t = overlap(lambda layer, seed: 0.3 + 0.1 * middle(layer), seeds=(1,))
    outcome = judge(claim, {"overlap": t})
    assert (outcome.verdict, outcome.seeds) == ("undecided", 1)
    assert np.isnan(outcome.low)


@given(st.floats(0.05, 0.6), st.floats(-0.05, 0.05), st.permutations(LANGS))
@settings(max_examples=8, deadline=None)
def test_names_of_languages_and_order_of_rows_do_not_matter(base, bump, names):
    t = overlap(lambda layer, seed: base + bump * middle(layer) * seed, keep_ratios=(0.1,))
    renamed = t.replace(dict(zip(LANGS, names, strict=True))).sample(frac=1, random_state=0)
    ours, same = (judge("C2", {"overlap": x}) for x in (t, renamed))
    assert ours.verdict == same.verdict
    assert ours.effect == pytest.approx(same.effect, nan_ok=True)


def test_overlaps_that_cannot_decide_say_why():
    t = overlap(lambda layer, seed: 0.4)
    cases = {
        "keep_ratio 0.1": ("C2", t[t.keep_ratio != 0.1]),
        "at least 4 layers": ("C2", overlap(lambda layer, seed: 0.4, layers=3)),
        "group 'layer'": ("C2", t[t.group == "global"]),
        "two languages": ("C1", t.assign(lang_b=t.lang_a)),
    }
    for reason, (claim, table) in cases.items():
        outcome = judge(claim, {"overlap": table})
        assert outcome.verdict == "not testable here"
        assert reason in outcome.reason
    with pytest.raises(ValueError, match="intersection"):
        judge("C1", {"overlap": t.drop(columns="intersection")})


# --- sizes ----------------------------------------------------------------------------------------


def set_sizes(size, *, seeds=SEEDS, models=(1,), keep_ratios=SHARED_KEEP_RATIOS, langs=LANGS):
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


SPREAD = {"en": 0.9, "de": 0.5, "fr": 0.7, "hi": 0.2}


def sizes_of(order):
    return set_sizes(lambda lang, seed, m: 10**6 * order[lang] + seed * (lang in ("en", "fr")))


@pytest.mark.parametrize(
    ("order", "verdict"),
    [
        ({"en": 4, "de": 3, "fr": 3, "hi": 2}, "yes"),
        ({"en": 3, "de": 4, "fr": 3, "hi": 2}, "no"),
        ({"en": 4, "de": 3, "fr": 3, "hi": 5}, "no"),
    ],
)
def test_size_order(order, verdict):
    tables = {"set_sizes": sizes_of(order), "accuracy": accuracy(SPREAD)}
    outcome = judge("C3a", tables)
    assert outcome.verdict == verdict
    assert outcome.cells == 4 * len(SHARED_KEEP_RATIOS)
    # Languages that are equally able cannot differ for that reason.
    for claim in ("C3a", "C3b"):
        alike = judge(claim, tables | {"accuracy": accuracy(dict.fromkeys(LANGS, 0.9))})
        assert alike.verdict == "not testable here"
        assert "90.0% (86.0% to 94.0%)" in alike.reason


def test_draws_that_disagree_leave_the_order_undecided():
    t = set_sizes(
        lambda lang, seed, m: 1000 * {"en": 3, "hi": 1}.get(lang, 2) - 90 * (lang == "fr")
    )
    t.loc[(t.lang == "en") & (t.seed == 1), "n_math_specific"] = 1000
    assert judge("C3a", {"set_sizes": t, "accuracy": accuracy(SPREAD)}).verdict == "undecided"


def test_languages_the_claim_names_are_needed():
    tables = {"set_sizes": set_sizes(lambda lang, seed, m: 5, langs=["en", "de"])}
    tables |= {"accuracy": accuracy(SPREAD)}
    assert "fr, hi" in judge("C3a", tables).reason
    assert "at least 3 languages" in judge("C3b", tables).reason
    tables = {"set_sizes": sizes_of(SPREAD), "accuracy": accuracy({"en": 0.5, "hi": 0.1})}
    assert "math accuracy of de in toy-1, fr in toy-1" in judge("C3b", tables).reason


@pytest.mark.parametrize(
    ("sizes", "scores", "verdict"),
    [
        ({"en": 9, "de": 5, "fr": 7, "hi": 2}, SPREAD, "yes"),
        ({"en": 2, "de": 7, "fr": 5, "hi": 9}, SPREAD, "no"),
        ({"en": 9, "de": 7, "fr": 5, "hi": 2}, SPREAD, "no"),
        ({"en": 9, "de": 5, "fr": 7, "hi": 2}, SPREAD | {"de": 0.69}, "undecided"),
        ({"en": 9, "de": 8, "fr": 7, "hi": 2}, SPREAD | {"en": 1, "de": 1}, "undecided"),
    ],
)
def test_size_follows_accuracy(sizes, scores, verdict):
    tables = {"set_sizes": sizes_of(sizes), "accuracy": accuracy(scores)}
    outcome = judge("C3b", tables)
    assert (outcome.verdict, outcome.cells) == (verdict, 6)
    other = accuracy(dict.fromkeys(LANGS, 0.5)).assign(task="organism-reading")
    tables["accuracy"] = pd.concat([tables["accuracy"], other])
    assert judge("C3b", tables) == outcome


def test_a_null_order_is_seldom_a_yes():
    random = np.random.default_rng(1)
    verdicts = []
    for _ in range(40):
        drawn = {lang: random.binomial(500, 0.5) / 500 for lang in LANGS[:3]}
        sizes = set_sizes(lambda lang, seed, m: 1000 + random.integers(50), langs=LANGS[:3])
        wide = accuracy(drawn).assign(low=[0, 0, 0.9], high=[0.1, 0.1, 1])  # passes for fit
        verdicts.append(judge("C3b", {"set_sizes": sizes, "accuracy": wide}).verdict)
    assert verdicts.count("yes") <= 2


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [(lambda m: m, "yes"), (lambda m: {2: 1, 4: 3, 10: 2}[m], "no")],
)
def test_growth_with_model_size(ratio, verdict):
    def size(lang, seed, m):
        return 12000 * (ratio(m) + seed / 1e5 * m if lang == "en" else 1)

    trainings = [
        set_sizes(lambda *of: size(*of), models=(4, 10, 2), seeds=(seed,))  # not in order of size
        .assign(training_seed=seed)
        .replace({"model": {f"toy-{m}": f"toy-{m}-{seed}" for m in (2, 4, 10)}})
        for seed in SEEDS
    ]
    outcome = judge("C3c", {"model_sets": pd.concat(trainings)})
    assert (outcome.verdict, outcome.cells, outcome.seeds) == (verdict, 2, 3)
    two = judge("C3c", {"model_sets": pd.concat(trainings[:2])})
    assert (two.verdict, "too few" in two.reason) == ("undecided", True)
    small = pd.concat(trainings).query("model.str.contains('-2-')")
    assert "3 model sizes" in judge("C3c", {"model_sets": small}).reason
