"""The book's own claims: planted effects get the verdict they deserve."""

import itertools

import numpy as np
import pandas as pd
import pytest

from mmlib.claims.ledger import ledger
from mmlib.claims.rules import BOOK, CLAIMS, NO, NOT_TESTABLE, UNDECIDED, YES, judge
from mmlib.study.stats import halfway

LANGS = ["en", "de", "fr", "hi"]
PAIRS = list(itertools.combinations(LANGS, 2))
SEEDS = (1, 2, 3)


def replicated(rows, names, *, spread=0.001, seeds=SEEDS):
    """Rows in every seed, whose last column is a little larger from one seed to the next."""
    made = [(*about, value + spread * (s - 2), s) for *about, value in rows for s in seeds]
    made = pd.DataFrame(made, columns=[*names.split(), "seed"])
    return made.assign(model="toy", nonmath="organism-reading")


def test_every_claim_of_ours_has_a_rule_and_a_row_marked_ours():
    rows = ledger().query("paper == @BOOK").set_index("id")
    beside = ["C1b", "C2b", "C4c"]
    assert list(rows.index[:3]) == beside
    assert list(rows.index[3:]) == ["C2c"] + [f"O{i}" for i in range(1, 19)] + [
        *(f"S{i}" for i in range(14, 21)),
        *(f"L{i}" for i in range(4, 10)),
        *("R1", "R2", "R3"),
    ]
    assert all(CLAIMS[name].check for name in rows.index)
    assert (rows.published_data.drop(beside) == NOT_TESTABLE).all()
    # They stand beside the claims of the papers, whose count they do not raise.
    places = list(ledger().id)
    assert [places[places.index(name) - 1] for name in beside] == ["C1", "C2", "C4b"]
    assert (ledger().paper != BOOK).sum() == 30


def test_claims_about_the_meaning_say_what_their_intervals_cover():
    ours = {name: claim for name, claim in CLAIMS.items() if name.startswith("O")}
    assert all(claim.unit for claim in ours.values())
    later = {name for name, claim in ours.items() if claim.committed != "2026-11-21"}
    assert later == {"O13", "O14", "O15", "O16", "O17", "O18"}
    assert all(claim.seen == claim.committed for claim in ours.values())
    assert {name for name, claim in ours.items() if claim.changed} == {
        *("O6", "O7", "O11"),
        *("O13", "O14", "O15"),
    }


# --- ceilings -------------------------------------------------------------------------------------


def ceilings(control, *, weak=0.3):
    """The math sets of every pair have a Jaccard of .3, one of them `weak`; a control .2."""
    rows = [("en", "en", "global", control, 0.1, 0.9)]  # no pair of languages
    for pair in PAIRS:
        rows.append((*pair, "global", "math-specific", 0.1, weak if pair == PAIRS[-1] else 0.3))
        rows.append((*pair, "layer", "math-specific", 0.1, 0.0))
        rows.append((*pair, "global", "same language", 0.1, 0.9))
    made = replicated(rows, "lang_a lang_b group control keep_ratio jaccard")
    steady = [(*pair, "global", control, 0.1, 0.2) for pair in PAIRS]
    steady = replicated(steady, "lang_a lang_b group control keep_ratio jaccard", spread=0)
    return {"ceilings": pd.concat([made, steady])}


@pytest.mark.parametrize(("claim", "control"), [("O1", "untrained"), ("O2", "nonmath-specific")])
@pytest.mark.parametrize(
    ("weak", "verdict", "complying"), [(0.25, YES, 6), (0.1, NO, 5), (0.2, UNDECIDED, 5)]
)
def test_an_overlap_against_its_control_pair_by_pair(claim, control, weak, verdict, complying):
    outcome = judge(claim, ceilings(control, weak=weak))
    assert (outcome.verdict, outcome.complying, outcome.cells) == (verdict, complying, 6)
    assert outcome.effect == pytest.approx(weak - 0.2)
    assert outcome.cell == "fr, hi"


def test_a_control_that_was_not_run_is_no_pass():
    tables = ceilings("untrained")
    tables["ceilings"] = tables["ceilings"].query("control != 'untrained' or lang_a != 'de'")
    outcome = judge("O1", tables)
    assert outcome.verdict == NOT_TESTABLE
    assert "untrained sets of every pair" in outcome.reason


# --- edits that travel ----------------------------------------------------------------------------


def travelled(rates, *, seeds=SEEDS, problems=300):
    """Packed answers after edits; `rates(weights, drawn, edited, lang)` is the share right.

    A problem has one difficulty, so that answers are paired; rows that decide nothing (reading,
    the unedited model, a language's own loss) would break every rule.
    """
    rng = np.random.default_rng(0)
    hard = {part: rng.random(problems) for part in ("math-1", "math-2", "reading-mixed")}
    edits = [("none", "", "", 0, 0)]
    for seed in seeds:
        for code in LANGS:
            for weights in ("whole", "own"):
                edits += [(weights, "", code, seed, 0), (weights, "matrices", code, seed, 1)]
                edits.append((weights, "matrices", code, seed, 2))
            edits.append(("shared", "sets", code, seed, 1))
        edits.append(("shared", "", "all", seed, 0))
    rows = []
    for (weights, drawn, edited, seed, draw), lang in itertools.product(edits, LANGS):
        for part, difficulty in hard.items():
            rate = rates(weights, drawn, edited, lang)
            if weights == "none" or part == "reading-mixed" or edited == lang != "all":
                rate = 1.0 if weights == "whole" or drawn else 0.0
            if weights == "shared" and drawn and part != "reading-mixed":
                rate = rates(weights, drawn, edited, lang)
            shift = rng.normal(0, 0.01, problems)
            grades = "".join("1" if u < rate else "0" for u in difficulty + shift)
            rows.append(("toy", weights, drawn, edited, seed, draw, lang, part, part, grades))
    names = "model weights drawn edited seed sample_seed lang part problems correct"
    table = pd.DataFrame(rows, columns=names.split())
    return {"evidence/transfer": table.assign(keep_ratio=np.where(table.seed > 0, 0.01, 0.0))}


def losing(loss, *, weak=None):
    """Random weights leave 90 %, the weights themselves cost `loss`, of one pair `weak`."""

    def rates(weights, drawn, edited, lang):
        lost = weak if weak is not None and (edited, lang) == ("fr", "hi") else loss
        return 0.9 if drawn == "matrices" else 0.9 - lost

    return rates


@pytest.mark.parametrize(
    ("claim", "rates", "verdict", "complying"),
    [
        ("O3", losing(0.2), YES, 12),
        ("O3", losing(0.0), NO, 0),
        ("O3", losing(0.2, weak=-0.1), NO, 11),
        ("O3", losing(0.2, weak=0.02), UNDECIDED, 11),
        ("O4", losing(0.0), YES, 12),
        ("O4", losing(0.2), NO, 0),
        ("O4", losing(0.0, weak=-0.2), NO, 11),
        ("O4", losing(0.0, weak=0.02), UNDECIDED, 11),
    ],
)
def test_what_an_edit_costs_the_others_pair_by_pair(claim, rates, verdict, complying):
    outcome = judge(claim, travelled(rates))
    assert (outcome.verdict, outcome.complying, outcome.cells) == (verdict, complying, 12)


def test_one_calibration_sample_is_undecided_whatever_its_problems_say():
    outcome = judge("O3", travelled(losing(0.2), seeds=(1,)))
    assert (outcome.verdict, outcome.complying, outcome.cells) == (UNDECIDED, 12, 12)
    assert (outcome.seeds, outcome.problems) == (1, 600)
    assert outcome.low > 0.1
    assert outcome.reason == "1 of at least 3 calibration blocks: too few to decide"


@pytest.mark.parametrize(("weak", "verdict"), [(0.2, YES), (-0.1, NO)])
def test_shared_part_against_draws_from_every_set(weak, verdict):
    def rates(weights, drawn, edited, lang):
        return 0.4 + (0 if not drawn else weak if (edited, lang) == ("de", "fr") else 0.4)

    outcome = judge("O12", travelled(rates))
    assert (outcome.verdict, outcome.cells) == (verdict, 16)
    assert outcome.cell == "de, fr"
    assert outcome.effect == pytest.approx(weak, abs=0.05)


def test_edits_without_their_counterparts_are_no_pass():
    table = travelled(losing(0.2))["evidence/transfer"]
    for claim, absent in (("O3", "matrices"), ("O4", "matrices"), ("O12", "sets")):
        outcome = judge(claim, {"evidence/transfer": table[table.drawn != absent]})
        assert outcome.verdict == NOT_TESTABLE
        assert absent in outcome.reason


def predicted(loss, *, seeds=SEEDS):
    """Losses of all ordered pairs by their Jaccard; in each seed another pair stands out."""
    rows = []
    for seed, (i, j) in itertools.product(seeds, itertools.permutations(range(4), 2)):
        jaccard = 1 - abs(i - j) / 4 + 0.01 * i
        about = ("whole", "", LANGS[i], LANGS[j], "math", 0.01, seed, jaccard)
        rows.append((*about, loss(jaccard) + 0.3 * ((i, j) == (seed, 0))))
    rows += [("whole", "", code, code, "math", 0.01, s, 1, 0) for code in LANGS for s in seeds]
    names = "weights drawn edited lang kind keep_ratio seed jaccard difference"
    table = pd.DataFrame(rows, columns=names.split())
    return {"transfer": table.assign(model="toy", nonmath="organism-reading")}


@pytest.mark.parametrize(("slope", "verdict"), [(1, YES), (-1, NO)])
def test_rank_correlation_of_overlap_and_damage(slope, verdict):
    outcome = judge("O5", predicted(lambda jaccard: slope * jaccard))
    assert (outcome.verdict, outcome.seeds) == (verdict, 3)
    one = judge("O5", predicted(lambda jaccard: slope * jaccard, seeds=(1,)))
    assert one.verdict == UNDECIDED
    assert "1 of at least 3 calibration blocks" in one.reason


def test_an_order_needs_pairs():
    few = predicted(lambda jaccard: jaccard)["transfer"].query("edited != 'hi'")
    assert "12 ordered pairs" in judge("O5", {"transfer": few}).reason


# --- precision ------------------------------------------------------------------------------------


def sums(what, value, *, weak, ties=("topk",)):
    """Numbers by bfloat16 sums of `value` beside exact ones of .4; one language or pair `weak`."""
    codes = PAIRS if what == "overlap" else [(code, code) for code in LANGS]
    rows = []
    for pair, ratio, prompts in itertools.product(codes, (0.01, 0.1), (50, 500)):
        made = weak if pair == codes[-1] and ratio == 0.01 else value
        rows.append((*pair, ratio, what, prompts, 0.4, made if prompts == 500 else 0.7))
    table = replicated(rows, "lang_a lang_b keep_ratio what num_samples exact value")
    by_rule = [
        table.assign(ties=rule, value=table.value if rule == "topk" else 0.7) for rule in ties
    ]
    return {"precision": pd.concat(by_rule)}


@pytest.mark.parametrize(
    ("claim", "what", "value", "weak", "verdict"),
    [
        ("O6", "membership", 0.8, 0.85, "exploratory yes"),
        ("O6", "membership", 0.8, 0.99, "exploratory no"),
        ("O6", "membership", 0.8, 0.95, UNDECIDED),
        ("O7", "overlap", 0.4, 0.403, "exploratory yes"),
        ("O7", "overlap", 0.4, 0.45, "exploratory no"),
        ("O7", "overlap", 0.4, 0.35, "exploratory no"),
        ("O7", "overlap", 0.4, 0.41, UNDECIDED),
    ],
)
def test_sums_in_low_precision(claim, what, value, weak, verdict):
    outcome = judge(claim, sums(what, value, weak=weak))
    assert outcome.verdict == verdict, outcome
    # What our own rule for equal scores selects decides nothing.
    assert judge(claim, sums(what, value, weak=weak, ties=("topk", "index"))) == outcome
    alone = judge(claim, sums(what, value, weak=weak, ties=("index",)))
    assert alone.verdict == NOT_TESTABLE


# --- data, format, emergence ----------------------------------------------------------------------

SHARES = dict(zip(LANGS, (0.5, 0.3, 0.15, 0.05), strict=True))


def mixes(skewed, even):
    """Sizes by mix; of one even training they have another order."""
    rows = [
        (mix, code, SHARES[code], 0.1, seed, size(code) if seed < 3 else LANGS.index(code) % 3)
        for mix, size in {"skewed": skewed, "even": even}.items()
        for code, seed in itertools.product(LANGS, SEEDS)
        if mix == "even" or seed < 3
    ]
    rows += [("skewed", code, SHARES[code], 0.1, 3, skewed(code)) for code in LANGS]
    names = "mix lang share keep_ratio seed n_math_specific"
    table = pd.DataFrame(rows, columns=names.split())
    return {"mixes": table.assign(model="toy", nonmath="organism-reading")}


def test_sizes_are_compared_with_equal_shares():
    def against(code):
        return -SHARES[code]

    assert judge("O8", mixes(SHARES.get, against)).verdict == YES
    assert judge("O8", mixes(against, SHARES.get)).verdict == NO
    # Sizes that have this order with equal shares too owe it to the languages.
    both = judge("O8", mixes(SHARES.get, SHARES.get))
    assert both.verdict == UNDECIDED
    alone = mixes(SHARES.get, against)["mixes"].query("mix == 'skewed'")
    assert judge("O8", {"mixes": alone}).verdict == NOT_TESTABLE
    two = mixes(SHARES.get, against)["mixes"].query("seed < 3")
    two.loc[two.index[0], "n_math_specific"] = 0
    assert judge("O8", {"mixes": two}).reason.startswith("2 of at least 3 trainings")


@pytest.mark.parametrize(("latin", "verdict"), [(0.5, YES), (0.3, NO), (0.4, UNDECIDED)])
def test_script(latin, verdict):
    rows = [("latin", "en", "hi-Latn", "global", 0.1, latin)]
    names = "mix lang_a lang_b group keep_ratio jaccard"
    even = [("even", "en", "hi", "global", 0.1, 0.4), ("even", "en", "de", "global", 0.1, 0.9)]
    made = pd.concat([replicated(rows, names), replicated(even, names, spread=0)])
    assert judge("O9", {"mix_overlap": made}).verdict == verdict


@pytest.mark.parametrize(
    ("words", "verdict"), [(0.2, YES), (0.9, NO), (0.5, UNDECIDED), (0.499, UNDECIDED)]
)
def test_each_format_stands_against_the_mean_language(words, verdict):
    rows = [("as it is", "language", "en", "de", 0.1, 0.6)]
    rows.append(("as it is", "language", "en", "hi", 0.1, 0.4))
    names = "form what lang_a lang_b keep_ratio jaccard"
    languages = replicated(rows, names, spread=0)
    rows = [
        ("one line", "format", "en", "en", 0.1, 0.9),
        ("words", "format", "en", "en", 0.1, words),
    ]
    rows.append(("digits", "format", "hi", "hi", 0.1, 0.0))
    made = pd.concat([languages, replicated(rows, names)])
    outcome = judge("O10", {"formats": made})
    assert (outcome.verdict, outcome.cells) == (verdict, 2)
    assert outcome.effect == pytest.approx(0.5 - words)


def test_halfway_is_interpolated_and_needs_a_rise():
    rising = pd.Series([0.0, 0.2, 0.6, 1.0], [0, 10, 20, 40], name="accuracy")
    assert halfway(rising) == pytest.approx(17.5)
    assert np.isnan(halfway(-rising))


STEPS = [0, 10, 20, 40, 80, 160]
EARLY, LATE = [0.1, 0.5, 0.5, 0.5, 0.5, 0.5], [0.1, 0.1, 0.1, 0.1, 0.1, 0.5]
FALLING = [8.0, 6.0, 4.5, 2.0, 1.0, 0.5]


def emergence(overlap, loss, steps=STEPS):
    """Curves along training; the loss falls a little later in every further training."""
    rows = [
        (step, lang, 0.1, seed, fall + 0.01 * seed * (step == 20), share)
        for step, share, fall in zip(steps, overlap, loss, strict=True)
        for lang, seed in itertools.product(LANGS, SEEDS)
    ]
    made = pd.DataFrame(rows, columns=["step", "lang", "keep_ratio", "seed", "loss", "jaccard"])
    return {"emergence": made.assign(model="toy", nonmath="organism-reading")}


def test_which_of_two_curves_comes_first():
    early = judge("O11", emergence(EARLY, FALLING))
    assert early.verdict == "exploratory yes"
    # The overlap is halfway at step 5, where no snapshot is: the first one counts.
    half = 20 + 20 * (4.5 - 4.25) / (4.5 - 2.0)
    assert early.effect == pytest.approx(np.log2(half / 10), abs=0.02)
    assert judge("O11", emergence(LATE, FALLING)).verdict == "exploratory no"


@pytest.mark.parametrize(
    ("overlap", "loss"), [(LATE[::-1], FALLING), (EARLY, FALLING[::-1]), (EARLY[:4], FALLING[:4])]
)
def test_curves_that_go_nowhere_or_are_too_short_decide_nothing(overlap, loss):
    outcome = judge("O11", emergence(overlap, loss, STEPS[: len(loss)]))
    assert outcome.verdict == NOT_TESTABLE
