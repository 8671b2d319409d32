"""The rules of layer swapping, on planted tables whose effects are known beforehand."""

import pandas as pd
import pytest

from mmlib.claims.rules import NO, NOT_TESTABLE, UNDECIDED, YES, judge
from mmlib.claims.swapping import ALTERNATIVES

BASE = {"de": 0.6, "hi": 0.4, "sw": 0.3, "bn": 0.2}
PARTS = ("bottom only", "top only", "reversed", "revert", ("random", 1), ("random", 2))


def swapped(gains, spread=0.001):
    """The base once, and every system with its gain over it by language in three trainings."""
    rows = [("base", 0, 0, lang, value) for lang, value in BASE.items()]
    for name, gain in gains.items():
        system, draw = (name, 0) if isinstance(name, str) else name
        for seed in (1, 2, 3):
            for lang, value in BASE.items():
                own = gain[lang] if isinstance(gain, dict) else gain
                rows.append((system, draw, seed, lang, value + own + spread * (seed - 2)))
    table = pd.DataFrame(rows, columns=["system", "draw", "seed", "lang", "accuracy"])
    return table.assign(part="math-1", model="m")


def decided(claim, gains, **more):
    outcome = judge(claim, {"swap": swapped(gains, **more)})
    return outcome.verdict, pytest.approx(outcome.effect, abs=1e-6)


def test_the_best_alternative_on_average_is_what_counts():
    """Means are .375 + gain: (.375 + .12) / (.375 + .05) = 1.1647."""
    gains = dict.fromkeys(ALTERNATIVES, 0.0) | {"swap": 0.12, "TIES": 0.05}
    verdict, effect = decided("L1", gains, spread=0.0)
    assert (verdict, effect) == (YES, 0.495 / 0.425 - 1.05)
    assert decided("L1", gains | {"swap": 0.06})[0] == NO
    # Ahead in two languages each: the best one of every language would be out of reach.
    lucky = {"joint": {"de": 0.2, "hi": 0.1, "sw": -0.2, "bn": -0.1}}
    lucky["soup"] = {"de": -0.2, "hi": -0.1, "sw": 0.2, "bn": 0.1}
    assert decided("L1", gains | lucky)[0] == YES
    outcome = judge("L1", {"swap": swapped({"swap": 0.1})})
    assert (outcome.verdict, "TIES" in outcome.reason) == (NOT_TESTABLE, True)


@pytest.mark.parametrize(
    ("gain", "verdict", "effect"),
    [
        ({"de": -0.05, "hi": 0.1, "sw": 0.2, "bn": 0.3}, YES, 0.05),
        ({"de": 0.05, "hi": 0.1, "sw": 0.2, "bn": 0.3}, NO, -0.05),
        ({"de": -0.05, "hi": -0.1, "sw": 0.2, "bn": 0.3}, NO, -0.1),
    ],
)
def test_weak_languages_gain_and_the_strong_one_loses(gain, verdict, effect):
    assert decided("L2", {"swap": gain, "math expert": 0.0}) == (verdict, effect)


@pytest.mark.parametrize(("other", "verdict"), [(0.1, YES), (0.15, NO), (0.02, NO)])
def test_transition_layers_that_change_nothing(other, verdict):
    assert decided("L3", {"swap": 0.1, "no transition": other})[0] == verdict


def test_a_swap_has_to_beat_its_best_part():
    gains = dict.fromkeys(PARTS, 0.0) | {"swap": 0.1}
    assert decided("L4", gains) == (YES, 0.1)
    for part in PARTS[:4]:
        assert decided("L4", gains | {part: 0.14}) == (NO, -0.04)
    # Of random layers the mean counts: one lucky draw does not.
    assert decided("L4", gains | {("random", 1): 0.14}) == (YES, 0.03)
    without = {name: gain for name, gain in gains.items() if "random" not in name[0]}
    assert decided("L4", without)[0] == NOT_TESTABLE


def test_english_and_missing_languages_do_not_enter():
    gains = {"de": -0.05, "hi": 0.1, "sw": 0.2, "bn": 0.3}
    table = swapped({"swap": gains, "math expert": 0.0})
    english = table[table.lang == "de"].assign(lang="en", accuracy=0.99)
    told = [judge("L2", {"swap": rows}) for rows in (table, pd.concat([table, english]))]
    assert told[0] == told[1]
    for claim in ("L2", "L3", "L6"):
        systems = {"swap": gains, "math expert": 0.0, "no transition": 0.1}
        table = swapped(systems)
        holes = table[(table.lang != "de") | (table.seed != 2)]
        assert judge(claim, {"swap": holes}).verdict == NOT_TESTABLE


def test_the_largest_gain_of_a_strong_language_counts():
    table = swapped({"swap": {"de": -0.05, "hi": 0.1, "sw": 0.2, "bn": 0.3}, "math expert": 0.0})
    more = table[table.lang == "de"].assign(lang="ja")
    more.loc[more.system == "swap", "accuracy"] += 0.02
    assert judge("L2", {"swap": pd.concat([table, more])}).effect == pytest.approx(0.03)


@pytest.mark.parametrize(("late", "verdict"), [(0.1, YES), (-0.1, NO), (0.0, UNDECIDED)])
def test_transition_after_long_training(late, verdict):
    rows = [
        (zone, length, seed, 0.5 + zone * length * late / 16 + 1e-3 * seed * zone * (length - 1))
        for zone in (0, 1, 2)
        for length in (1, 4, 16)
        for seed in (-1, 0, 1)
    ]
    table = pd.DataFrame(rows, columns=["transition", "length", "seed", "accuracy"])
    table = table.assign(lang="sw", part="math-1", model="m")
    outcome = judge("L5", {"swap_lengths": table})
    assert outcome.effect == pytest.approx(late * 15 / 16)
    assert outcome.verdict == verdict
    hindi = table.assign(lang="hi")
    for rows in (
        table[table.length == 1],
        table[table.transition == 0],
        pd.concat([table, table]),
        pd.concat([table, hindi[hindi.transition == 0]]),
        pd.concat([table, hindi[hindi.length > 1]]),
    ):
        assert judge("L5", {"swap_lengths": rows}).verdict == NOT_TESTABLE


def test_the_weaker_gains_more():
    more = {"de": 0.0, "hi": 0.1, "sw": 0.2, "bn": 0.3}
    assert decided("L6", {"swap": more, "math expert": 0.0}, spread=0.0) == (YES, 1.0)
    less = {"de": 0.3, "hi": 0.2, "sw": 0.1, "bn": 0.0}
    assert decided("L6", {"swap": less, "math expert": 0.0}, spread=0.0) == (NO, -1.0)
    table = swapped({"swap": more, "math expert": 0.0})
    few = table[table.lang.isin(["de", "sw"])]
    assert judge("L6", {"swap": few}).verdict == NOT_TESTABLE
    assert (
        judge("L6", {"swap": swapped({"swap": more, "math expert": more})}).verdict == NOT_TESTABLE
    )
