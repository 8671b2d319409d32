"""The rules of the advice, on planted tables whose effects are known beforehand."""

import pandas as pd
import pytest

from mmlib.claims.rules import NO, NOT_TESTABLE, YES, judge


def planted(values, **columns):
    """Each system (or system and draw) with its value in three trainings, a thousandth apart."""
    rows = [
        {
            "system": name if isinstance(name, str) else name[0],
            "draw": 0 if isinstance(name, str) else name[1],
            "seed": seed,
            "accuracy": value + 0.001 * (seed - 2),
            **columns,
        }
        for name, value in values.items()
        for seed in (1, 2, 3)
    ]
    return pd.DataFrame(rows).assign(model="m", part="math-1")


def decided(claim, **tables):
    outcome = judge(claim, tables)
    return outcome.verdict, pytest.approx(outcome.effect, abs=1e-9)


def test_middle_layers_have_to_beat_outer_ones_and_the_mean_of_random_ones():
    values = {"middle": 0.6, "outer": 0.5, ("random", 1): 0.3, ("random", 2): 0.64}
    table = planted(values, lang="en")
    assert decided("R1", advice_layers=table) == (YES, 0.1)
    assert decided("R1", advice_layers=planted(values | {"outer": 0.65}, lang="en")) == (NO, -0.05)
    assert decided("R1", advice_layers=planted(values | {("random", 1): 0.8}, lang="en"))[0] == NO
    # Other skills do not count, and nothing is decided without the control.
    other = planted(
        {"middle": 0.0, "outer": 1.0, ("random", 1): 1.0, ("random", 2): 1.0}, lang="en"
    )
    both = pd.concat([table, other.assign(part="reading-mixed")])
    assert decided("R1", advice_layers=both) == (YES, 0.1)
    # Other systems may be there, also ones that are not trained.
    untrained = table[table.system == "outer"].head(1).assign(system="base", seed=0)
    assert decided("R1", advice_layers=pd.concat([table, untrained])) == (YES, 0.1)
    uneven = table[(table.system != "outer") | (table.seed != 2)]
    assert judge("R1", {"advice_layers": uneven}).verdict == NOT_TESTABLE
    rest = table[table.system != "random"]
    assert judge("R1", {"advice_layers": rest}).verdict == NOT_TESTABLE
    asked_more = pd.concat([table, table[table.system == "outer"]])
    assert judge("R1", {"advice_layers": asked_more}).verdict == NOT_TESTABLE


def test_own_weights_are_judged_in_the_language_that_was_tuned():
    values = {"own": 0.5, "shared": 0.45, ("random", 1): 0.4, ("random", 2): 0.4}
    table = planted(values, lang="sw", target="sw")
    other = planted({name: 1 - v for name, v in values.items()}, lang="hi", target="sw")
    assert decided("R2", advice_weights=pd.concat([table, other])) == (YES, 0.05)
    worse = planted(values | {"shared": 0.52}, lang="sw", target="sw")
    assert decided("R2", advice_weights=worse) == (NO, -0.02)


def closed(without, examples):
    """Shares of answers that are closed as asked, at two keep ratios."""
    kinds = [(0, "strict", without), (2, "strict", examples), (2, "other", examples)]
    tables = [planted(v, shots=n, phrase=phrase) for n, phrase, v in kinds]
    table = pd.concat(tables).rename(columns={"accuracy": "as_asked"})
    return pd.concat([table.assign(keep_ratio=0.001), table.assign(keep_ratio=0.1, as_asked=0.5)])


def test_pruning_has_to_mend_both_and_more_than_random_weights_do():
    without = {"whole": 0.5, "math": 0.7, ("random", 1): 0.55, ("random", 2): 0.65}
    examples = {"whole": 0.8, "math": 0.85, ("random", 1): 0.8, ("random", 2): 0.8}
    assert decided("R3", advice_format=closed(without, examples)) == (YES, 0.05)
    assert decided("R3", advice_format=closed(without, examples | {"math": 0.75})) == (NO, -0.05)
    assert decided("R3", advice_format=closed(without | {"math": 0.58}, examples)) == (NO, -0.02)
    # Nothing can be mended where the whole model closes all answers as asked.
    perfect = examples | {"whole": 0.985, "math": 0.985}
    assert decided("R3", advice_format=closed(without, perfect)) == (YES, 0.1)
    both = closed(perfect, perfect)
    assert judge("R3", {"advice_format": both}).verdict == NOT_TESTABLE
    only = closed(without, examples).query("shots == 0")
    assert judge("R3", {"advice_format": only}).verdict == NOT_TESTABLE
