"""The book's own claims: planted effects get the verdict they deserve."""

import numpy as np
import pandas as pd
import pytest

from mmlib.claims.ledger import ledger
from mmlib.claims.rules import BOOK, CLAIMS, NO, NOT_TESTABLE, UNDECIDED, YES, judge
from mmlib.study.stats import halfway

LANGS = ["en", "de", "fr", "hi"]
SEEDS = (1, 2, 3)
JITTER = {1: -0.001, 2: 0.0, 3: 0.001}


def table(rows, names):
    """Rows with a jitter per seed in the last column, so that intervals have a width."""
    made = pd.DataFrame(
        [(*row, value + JITTER[seed], seed) for *row, value in rows for seed in SEEDS],
        columns=[*names.split(), "seed"],
    )
    return made.assign(model="toy", nonmath="organism-reading")


def ceilings(math, untrained, nonmath):
    values = {"math-specific": math, "untrained": untrained, "nonmath-specific": nonmath}
    pairs = [(a, b) for i, a in enumerate(LANGS) for b in LANGS[i + 1 :]]
    rows = [(*p, "global", c, 0.1, values[c] * (2 - JITTER[1])) for p in pairs for c in values]
    rows += [("en", "en", "global", "math-specific", 0.1, 0.0)]  # no pair of languages
    return {"ceilings": table(rows, "lang_a lang_b group control keep_ratio jaccard")}


def transfer(weights, losses, *, jaccard=None):
    """Losses of all ordered pairs; those of a language itself would break every rule."""
    jaccard = jaccard or (lambda a, b: 0.5)
    rows = []
    for i, a in enumerate(LANGS):
        for j, b in enumerate(LANGS):
            for kind in ("math", "nonmath"):
                value = losses(i, j) if kind == "math" and a != b else 0.5 * (weights == "own")
                rows.append((weights, "", a, b, kind, 0.01, 1000, jaccard(i, j), value))
    names = "weights drawn edited lang kind keep_ratio n jaccard difference"
    return {"transfer": table(rows, names)}


def test_every_claim_of_ours_has_a_rule_and_a_row_marked_ours():
    rows = ledger().query("paper.str.contains('ours')").set_index("id")
    assert list(rows.index) == [f"O{i}" for i in range(1, 13)] + [
        *("S14", "S15", "S16", "S17"),
        *("L4", "L5", "L6"),
        *("R1", "R2", "R3"),
    ]
    assert all(CLAIMS[name].paper == BOOK and CLAIMS[name].check for name in rows.index)
    assert (rows.published_data == NOT_TESTABLE).all()


@pytest.mark.parametrize(
    ("claim", "values", "verdict"),
    [
        ("O1", (0.3, 0.1, 0.2), YES),
        ("O1", (0.1, 0.3, 0.2), NO),
        ("O2", (0.3, 0.1, 0.2), YES),
        ("O2", (0.2, 0.1, 0.3), NO),
    ],
)
def test_ceilings(claim, values, verdict):
    assert judge(claim, ceilings(*values)).verdict == verdict


def test_a_control_that_was_not_run_is_no_pass():
    tables = ceilings(0.3, 0.1, 0.2)
    tables["ceilings"] = tables["ceilings"].query("control != 'untrained' or lang_a != 'de'")
    outcome = judge("O1", tables)
    assert outcome.verdict == NOT_TESTABLE
    assert "untrained sets of every pair" in outcome.reason


@pytest.mark.parametrize(
    ("claim", "weights", "loss", "verdict"),
    [
        ("O3", "whole", 0.10, YES),
        ("O3", "whole", 0.01, NO),
        ("O3", "whole", 0.02, UNDECIDED),
        ("O4", "own", 0.0, YES),
        ("O4", "own", 0.05, NO),
    ],
)
def test_edits_that_travel(claim, weights, loss, verdict):
    outcome = judge(claim, transfer(weights, lambda i, j: loss))
    assert outcome.verdict == verdict


def test_one_pair_decides_what_every_pair_has_to_show():
    def weak(i, j):
        return 0.0 if (i, j) == (2, 3) else 0.4

    assert judge("O3", transfer("whole", weak)).verdict == NO
    assert judge("O3", transfer("whole", weak)).effect == pytest.approx(-0.02)


def test_rank_correlation_of_overlap_and_damage():
    def near(i, j):
        return 1 - abs(i - j) / 4

    falling = transfer("whole", lambda i, j: 0.5 * near(i, j), jaccard=near)
    assert judge("O5", falling).effect == pytest.approx(0.5)
    assert judge("O5", falling).verdict == YES
    rising = transfer("whole", lambda i, j: 0.5 - 0.4 * near(i, j), jaccard=near)
    assert judge("O5", rising).effect == pytest.approx(-1.5)


@pytest.mark.parametrize(("worst", "verdict"), [(0.2, YES), (0.39, NO)])
def test_shared_part_against_the_worst_draw_of_any_set(worst, verdict):
    names = "weights drawn edited lang kind keep_ratio n difference"
    rows = [("shared", "", "all", code, "math", 0.01, 1000, 0.4) for code in LANGS]
    for a in LANGS:
        value = worst if a == LANGS[0] else 0.1
        rows += [("shared", "sets", a, b, "math", 0.01, 1000, value) for b in LANGS]
    rows.append(("shared", "sets", "en", "en", "nonmath", 0.01, 1000, 0.9))
    outcome = judge("O12", {"transfer": table(rows, names)})
    assert outcome.effect == pytest.approx(0.4 - worst - 0.02)
    assert outcome.verdict == verdict
    assert judge("O12", {"transfer": table(rows[:4], names)}).verdict == NOT_TESTABLE


@pytest.mark.parametrize(("value", "verdict"), [(0.8, YES), (0.97, NO)])
def test_sums_in_low_precision(value, verdict):
    rows = [("membership", 500, 0.01, np.nan, value), ("membership", 50, 0.01, np.nan, 0.99)]
    tables = {"precision": table(rows, "what num_samples keep_ratio exact value")}
    assert judge("O6", tables).verdict == verdict


@pytest.mark.parametrize(("shift", "verdict"), [(0.003, YES), (0.05, NO), (-0.05, NO)])
def test_overlap_in_low_precision(shift, verdict):
    rows = [("overlap", 500, ratio, 0.4, 0.4 + shift) for ratio in (0.01, 0.1)]
    tables = {"precision": table(rows, "what num_samples keep_ratio exact value")}
    assert judge("O7", tables).verdict == verdict


def test_sizes_are_compared_with_equal_shares():
    shares = dict(zip(LANGS, (0.5, 0.3, 0.15, 0.05), strict=True))
    follow = [("skewed", c, s, 0.1, 1000 * s) for c, s in shares.items()]
    other = [("even", c, 0.25, 0.1, 10 * i) for i, c in enumerate(LANGS)]
    always = [("even", c, 0.25, 0.1, 1000 * s) for c, s in shares.items()]
    names = "mix lang share keep_ratio n_math_specific"
    assert judge("O8", {"mixes": table(follow + other, names)}).effect == pytest.approx(2.0)
    # Sizes that have this order with equal shares too owe it to the languages.
    assert judge("O8", {"mixes": table(follow + always, names)}).effect == pytest.approx(0.0)
    alone = judge("O8", {"mixes": table(follow, names)})
    assert alone.verdict == NOT_TESTABLE


@pytest.mark.parametrize(("latin", "verdict"), [(0.5, YES), (0.3, NO)])
def test_script(latin, verdict):
    rows = [("latin", "en", "hi-Latn", "global", 0.1, latin + 2 * JITTER[3])]
    rows += [("even", "en", "hi", "global", 0.1, 0.4), ("even", "en", "de", "global", 0.1, 0.9)]
    made = table(rows, "mix lang_a lang_b group keep_ratio jaccard")
    made.jaccard += made.seed * (made.mix == "latin") * 1e-4
    assert judge("O9", {"mix_overlap": made}).verdict == verdict


def test_the_lowest_format_counts_against_the_mean_language():
    rows = [("language", "en", "de", 0.1, 0.6), ("language", "en", "hi", 0.1, 0.4)]
    rows += [("format", "en", "marks", 0.1, 0.9), ("format", "en", "words", 0.1, 0.2)]
    rows += [("format", "hi", "digits", 0.1, 0.0), ("language", "de", "hi", 0.1, 0.0)]
    effect = judge("O10", {"formats": table(rows, "what lang_a lang_b keep_ratio jaccard")}).effect
    assert effect == pytest.approx(0.5 - 0.2)


def test_halfway_is_interpolated_and_needs_a_rise():
    rising = pd.Series([0.0, 0.2, 0.6, 1.0], [0, 10, 20, 40], name="accuracy")
    assert halfway(rising) == pytest.approx(17.5)
    assert np.isnan(halfway(-rising))


def test_which_of_two_curves_comes_first():
    steps = [0, 10, 20, 40, 80, 160]
    accuracy = [0.0, 0.0, 0.0, 0.2, 0.8, 1.0]
    jaccard = [0.1, 0.3, 0.5, 0.5, 0.5, 0.5]
    rows = [
        (s, lang, 0.1, a + 0.01, j)
        for s, a, j in zip(steps, accuracy, jaccard, strict=True)
        for lang in LANGS
    ]
    made = table(rows, "step lang keep_ratio accuracy jaccard")
    made.accuracy += np.where(made.step == 160, 0.01 * made.seed, 0)
    outcome = judge("O11", {"emergence": made})
    assert outcome.verdict == YES
    assert outcome.effect == pytest.approx(np.log2(60 / 10), abs=0.03)
