"""The rules of layer swapping, on planted tables whose effects are known beforehand."""

import pandas as pd
import pytest
from planted import expert_log, swapped, systems

from mmlib.claims.rules import EXPLORATORY, NO, NOT_TESTABLE, UNDECIDED, YES, judge
from mmlib.claims.swapping import ALTERNATIVES, CONTROLS

NAMED = [name for name in CONTROLS if name != "random"]

FIT = {"math expert": 0.1, "language expert": 0.1}
RANDOM = (("random", 1), ("random", 2))


def outcome(claim, gains, *, last=0.1, **options):
    return judge(
        claim, {"swap": swapped(gains, **options), "evidence/expert_log": expert_log(last)}
    )


def verdict(claim, gains, **options):
    return outcome(claim, FIT | gains, **options).verdict


def test_a_swap_has_to_beat_each_alternative_by_ten_percent():
    others = dict.fromkeys(ALTERNATIVES, 0.05)
    assert verdict("L1", others | FIT | {"swap": 0.3}) == EXPLORATORY[YES]
    assert verdict("L1", others | FIT | {"swap": -0.1}) == EXPLORATORY[NO]
    better = outcome("L1", others | FIT | {"swap": 0.3, "TIES": 0.4})
    assert (better.verdict, better.cell) == (EXPLORATORY[NO], "TIES")
    assert (better.complying, better.cells) == (len(ALTERNATIVES) - 1, len(ALTERNATIVES))
    assert better.effect == pytest.approx(0.35 + 0.3 - 1.1 * (0.35 + 0.4), abs=0.02)
    missing = outcome("L1", FIT | {"swap": 0.3})
    assert missing.verdict == NOT_TESTABLE
    assert "TIES" in missing.reason


@pytest.mark.parametrize(
    ("gain", "expected", "cell"),
    [
        ({"de": -0.05, "hi": 0.3, "sw": 0.3, "bn": 0.4}, YES, "de"),
        ({"de": 0.4, "hi": 0.3, "sw": 0.3, "bn": 0.4}, NO, "de"),
        ({"de": -0.1, "hi": -0.2, "sw": 0.3, "bn": 0.4}, NO, "hi"),
    ],
)
def test_weak_languages_gain_and_the_strong_one_loses(gain, expected, cell):
    result = outcome("L2", FIT | {"swap": gain})
    assert (result.verdict, result.cell) == (expected, cell)


@pytest.mark.parametrize(("other", "expected"), [(0.105, YES), (0.3, NO), (-0.1, NO)])
def test_transition_layers_that_change_nothing(other, expected):
    gains = {"swap": 0.1, "no transition": other}
    assert verdict("L3", gains, spread=0.005) == expected


def test_every_control_is_a_cell_and_random_layers_are_one():
    controls = dict.fromkeys([*NAMED, *RANDOM], 0.0)
    result = outcome("L4", FIT | controls | {"swap": 0.2})
    assert (result.verdict, result.cells) == ("exploratory yes", 5)
    assert verdict("L4", controls | {"swap": -0.1}) == "exploratory no"
    half = outcome("L4", FIT | controls | {"swap": 0.15, RANDOM[0]: 0.3})  # mean of draws: .15
    assert (half.verdict, half.cell) == (UNDECIDED, "random")
    assert "needs random" in outcome("L4", FIT | dict.fromkeys(NAMED, 0.0) | {"swap": 0.2}).reason


@pytest.mark.parametrize(("late", "expected"), [(0.3, YES), (-0.2, NO)])
def test_transition_layers_after_long_training(late, expected):
    rows = [
        systems({(f"{zone}", "sw"): 0.4 + zone * gain}, spread=0.005).assign(
            length=length, transition=zone
        )
        for length, gain in ((25, 0.0), (400, late))
        for zone in (0, 1)
    ]
    table = pd.concat(rows, ignore_index=True)
    assert judge("L5", {"swap_lengths": table}).verdict == expected
    assert "two lengths" in judge("L5", {"swap_lengths": table[table.length == 25]}).reason
    hole = table[(table.length == 25) | (table.seed > 1)]
    assert judge("L5", {"swap_lengths": hole}).verdict == NOT_TESTABLE


@pytest.mark.parametrize(("sign", "expected"), [(1, YES), (-1, NO)])
def test_the_weaker_the_more(sign, expected):
    """Ranks agree but for one exchange in one training, so that the interval has a width."""
    gains = {"de": 0.1, "hi": 0.2, "sw": 0.3, "bn": 0.4}
    swap = {lang: 0.25 + sign * (gain - 0.25) for lang, gain in gains.items()}
    table = swapped(FIT | {"swap": swap})
    other = swapped(FIT | {"swap": swap | {"hi": swap["sw"], "sw": swap["hi"]}})
    table = pd.concat([table[table.seed != 3], other[other.seed == 3]])
    result = judge("L6", {"swap": table, "evidence/expert_log": expert_log()})
    assert (result.verdict, result.seeds) == (expected, 3)
    few = table[table.lang.isin(["de", "hi", "en"])]
    assert "4 languages" in judge("L6", {"swap": few, "evidence/expert_log": expert_log()}).reason


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"math expert": -0.1}, "English math"),
        ({"language expert": -0.1}, "math in their language"),
        ({"last": 0.6}, "held-out loss"),
    ],
)
def test_experts_that_are_worse_than_the_base_make_the_laboratory_unfit(change, word):
    last = change.pop("last", 0.1)
    gains = dict.fromkeys(ALTERNATIVES, 0.05) | FIT | {"swap": 0.3} | change
    result = outcome("L1", gains, last=last)
    assert result.verdict == NOT_TESTABLE
    assert result.reason.startswith("laboratory unfit")
    assert word in result.reason
