"""The rules of the advice, on planted tables whose effects are known beforehand."""

import pandas as pd
import pytest
from planted import SEEDS, advice_losses, tuned

from mmlib.claims.rules import NOT_TESTABLE, UNDECIDED, judge

LAYERS = {"middle": 0.6, "outer": 0.4, "random": 0.5}
WEIGHTS = {"own": 0.6, "shared": 0.4, "random": 0.5}


def outcome(claim, accuracies, *, loss=None, **options):
    study = {"R1": "layers", "R2": "weights"}[claim]
    table = tuned(accuracies)
    told = advice_losses(study, dict.fromkeys(accuracies, 0.05) | (loss or {}), **options)
    tables = {f"advice_{study}": table.assign(target=table.lang), "advice_losses": told}
    return judge(claim, tables)


@pytest.mark.parametrize(("claim", "plan"), [("R1", LAYERS), ("R2", WEIGHTS)])
def test_what_is_advised_has_to_beat_each_control(claim, plan):
    first, second, _ = plan
    prefix = "" if claim == "R1" else "exploratory "
    good = outcome(claim, plan)
    assert (good.verdict, good.cell, good.cells) == (f"{prefix}yes", "random", 2)
    assert good.effect == pytest.approx(0.1, abs=0.03)  # against the mean of both draws
    assert outcome(claim, plan | {first: 0.2}).verdict == f"{prefix}no"
    assert outcome(claim, plan | {second: 0.8}).cell == second
    assert outcome(claim, plan | {first: 0.5}).verdict == UNDECIDED
    few = outcome(claim, {name: plan[name] for name in (first, second)})
    assert few.verdict == NOT_TESTABLE
    assert "random" in few.reason


def test_another_target_does_not_count():
    table = tuned(WEIGHTS)
    mixed = pd.concat([table.assign(target=table.lang), tuned({"own": 0}).assign(target="hi")])
    told = advice_losses("weights", dict.fromkeys(WEIGHTS, 0.05))
    result = judge("R2", {"advice_weights": mixed, "advice_losses": told})
    assert result.verdict == "exploratory yes"


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"loss": {"outer": 0.03}}, "not equal held-out loss: 0.0300 (outer) to 0.0500"),
        ({"rates": (0.001, 0.01)}, "the rate 0.01 lies at the edge"),
    ],
)
def test_systems_are_compared_at_equal_loss_and_a_tried_rate(options, word):
    result = outcome("R1", LAYERS, **options)
    assert result.verdict == NOT_TESTABLE
    assert word in result.reason
    assert "the test alone: yes" in result.reason


def forms(math, whole=0.5, random=0.5, shots=(0, 2)):
    rows = [
        (n, seed, system, 0, 0.001, share + 0.001 * seed)
        for n in shots
        for seed in SEEDS
        for system, share in {"math": math, "whole": whole, "random": random}.items()
    ]
    columns = ["shots", "seed", "system", "draw", "keep_ratio", "as_asked"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(as_asked=table.as_asked + 0.002 * (table.seed == 2) * (table.shots + 1))


def form(table):
    return judge("R3", {"advice_format": table})


def test_pruning_has_to_mend_the_form_with_and_without_examples():
    table = forms(0.8)
    table.loc[(table.system == "math") & (table.seed == 3), "as_asked"] += 0.01
    assert form(table).verdict == "yes"
    assert form(table).cells == 4
    worse = table.assign(
        as_asked=table.as_asked.where(table.system != "math", 0.3 + table.seed / 99)
    )
    assert form(worse).verdict == "no"
    mixed = table.copy()
    mixed.loc[(mixed.system == "math") & (mixed.shots == 0), "as_asked"] = [0.49, 0.5, 0.52]
    assert form(mixed).verdict == UNDECIDED


def test_a_form_that_is_kept_anyway_needs_no_mending():
    table = forms(0.8)
    table.loc[(table.system == "math") & (table.seed == 3), "as_asked"] += 0.01
    table.loc[(table.system == "whole") & (table.shots > 0), "as_asked"] = 1.0
    assert form(table).cells == 2  # without examples alone
    assert "closes all but 2 %" in form(forms(0.8, whole=0.995)).reason
    assert "with and without" in form(forms(0.8, shots=(2,))).reason
