"""Verdicts from the CSV files by pandas and scipy alone, without the package."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import bootstrap, t

ROOT = Path(__file__).resolve().parents[2]
MATH = ["math-1", "math-2", "math-3"]
SHARED = [0.001, 0.01, 0.025, 0.05, 0.1, 0.15]
PAIR = ["keep_ratio", "lang_a", "lang_b"]


def read(folder, name):
    return pd.read_csv(ROOT / folder / f"{name}.csv", dtype={"correct": str}, low_memory=False)


def result(name):
    return read("book/results", name)


def graded(name, query):
    """Shipped answers with a row per problem."""
    table = read("mmlib/evidence", name).query(query)
    table = table.assign(correct=table.correct.map(list), place=table.correct.map(len).map(range))
    table = table.explode(["correct", "place"], ignore_index=True)
    problem = table.part + table.place.astype(str)
    return table.assign(problem=problem, correct=(table.correct == "1").astype(float))


def over_seeds(x):
    se, df = x.std(ddof=1) / np.sqrt(len(x)), len(x) - 1
    half = t.ppf(0.975, df) * se
    return x.mean(), x.mean() - half, x.mean() + half, t.cdf(x.mean() / se, df)


def over_problems(x):
    """Mean, percentile interval and share of the draws above nothing."""
    options = {"n_resamples": 9999, "method": "percentile", "rng": 1, "batch": 500}
    drawn = bootstrap((np.asarray(x, float),), np.mean, **options)
    return x.mean(), *drawn.confidence_interval, (drawn.bootstrap_distribution >= 0).mean()


def over_both(grid):
    """Trainings in rows and problems in columns, both random."""
    k, m = grid.shape
    rows, columns, mean = grid.mean(axis=1), grid.mean(axis=0), grid.to_numpy().mean()
    rest = grid.sub(rows, axis=0).sub(columns, axis=1).to_numpy() + mean
    squares = [m * rows.var(ddof=1), k * columns.var(ddof=1)]
    squares.append((rest**2).sum() / ((k - 1) * (m - 1)))
    variance = max(squares[0] + squares[1] - squares[2], *squares[:2])
    parts = squares[0] ** 2 / (k - 1) + squares[1] ** 2 / (m - 1)
    parts += squares[2] ** 2 / ((k - 1) * (m - 1))
    df = min(max(variance**2 / parts, k - 1), m - 1)
    half = t.ppf(0.975, df) * np.sqrt(variance / (k * m))
    alone = t.ppf(0.975, k - 1) * rows.std(ddof=1) / np.sqrt(k)
    if alone > half:
        half, df = alone, k - 1
    below = t.cdf(mean / (half / t.ppf(0.975, df)), df)
    return mean, mean - half, mean + half, below


def every(tests):
    """Intersection-union: yes, no after Holm, or undecided; with the weakest cell."""
    table = pd.DataFrame(list(tests), columns=["effect", "low", "high", "below"])
    p_values = 2 * table.below.sort_values()
    steps = p_values * np.arange(len(p_values), 0, -1) <= 0.05
    verdict = "yes" if (table.low > 0).all() else "no" if steps.iloc[0] else "undecided"
    weakest = table.loc[table.effect.idxmin()]
    return verdict, weakest, int((table.low > 0).sum()), len(table)


def overlaps(name="overlap", group="global", ratios=SHARED):
    table = result(name).query("group == @group and lang_a != lang_b and keep_ratio in @ratios")
    return table.assign(j=table.intersection / table.union)


def c1():
    table = overlaps()
    k = table.keep_ratio
    table = table.assign(a=table.j - k * (1 - k) / (k**2 - k + 2), b=2 / 3 - table.j)
    return [over_seeds(cell[side]) for side in "ab" for _, cell in table.groupby(PAIR)]


def c1b():
    table = overlaps()
    chance = table.expected_intersection
    chance = chance / (table.size_a + table.size_b - chance)
    return [over_seeds(cell) for _, cell in (table.j - chance).groupby([table[c] for c in PAIR])]


def c2():
    means = overlaps(group="layer", ratios=[0.1]).groupby(["seed", "layer"]).j.mean().unstack()
    n = means.shape[1]
    middle = means.loc[:, n // 4 : n - n // 4 - 1]
    return [over_seeds(middle.max(axis=1) - means.drop(columns=middle).max(axis=1))]


def edited(parts, ratio, value, base):
    """value · pruned + base · unedited, by language and part of skill, means over the draws."""
    query = f"dtype == 'bfloat16' and part in {parts} and fraction == 1"
    pruned = f" and condition == 'math-specific' and factor == 0 and keep_ratio == {ratio}"
    keys = ["lang", "part", "problem"]
    after, before = (
        graded("interventions", query + rows).groupby(keys).correct.mean()
        for rows in (pruned, " and condition == 'none'")
    )
    return value * after + base * before


def c4a():
    cells = []
    for ratio in (0.01, 0.1):
        effects = edited(["math-1", "math-3"], ratio, -1, 0.1)
        cells += [over_problems(cell) for _, cell in effects.groupby("lang")]
    return cells


def c4b():
    cells = []
    for ratio in (0.01, 0.1):
        effects = edited(["reading-mixed", "reading-mixed-ranked"], ratio, 1, -0.95)
        cells += [over_problems(cell) for _, cell in effects.groupby(["lang", "part"])]
    return cells


def beyond(control):
    table = overlaps("ceilings", ratios=[0.1]).set_index(["lang_a", "lang_b", "seed"])
    lead = table[table.control == "math-specific"].j - table[table.control == control].j
    return [over_seeds(cell) for _, cell in lead.groupby(["lang_a", "lang_b"])]


def o3():
    query = "weights == 'whole' and part in ['math-1', 'math-2'] and keep_ratio == 0.01"
    keys = ["edited", "lang", "problem"]
    table = graded("transfer", query).query("edited != lang").fillna({"drawn": ""})
    whole, drawn = (table[table.drawn == d].set_index(keys).correct for d in ("", "matrices"))
    return [over_problems(cell) for _, cell in (drawn - whole - 0.02).groupby(keys[:2])]


def o6():
    table = result("precision").query("what == 'membership' and num_samples == 500")
    table = table[(table.keep_ratio == 0.01) & (table.ties == "topk")]
    return [over_seeds(0.95 - cell) for _, cell in table.groupby("lang_a").value]


def trained(name, query, systems):
    """Grades by training and problem, mean over languages; a column per system."""
    table = graded(name, query + f" and system in {systems} and part in {MATH}")
    return table.pivot_table(index=["seed", "problem"], columns="system", values="correct")


def s14():
    query = "model == 'organism-base' and start == 'none' and pair_source == 'organism'"
    query += " and steps == 100 and lang == 'en'"
    wide = trained("system_answers", query, ["base", "QAlign stage 1"])
    base = wide.base.dropna().droplevel("seed")
    wide = wide["QAlign stage 1"].dropna().unstack("seed")
    return [over_both((-wide).add(base, axis=0).sub(0.02).T)]


def r1():
    wide = trained("advice_answers", "study == 'layers'", ["middle", "outer", "random"])
    return [over_both((wide.middle - wide[c]).unstack()) for c in ("outer", "random")]


def r2():
    query = "study == 'weights' and learning_rate == 0.01 and lang == target"
    wide = trained("advice_answers", query, ["own", "shared", "random"])
    return [over_both((wide.own - wide[c]).unstack()) for c in ("shared", "random")]


UNFIT = "not testable here"
CASES = {
    "C1": (c1, "yes"),
    "C1b": (c1b, "yes"),
    "C2": (c2, "exploratory"),
    "C4a": (c4a, ""),
    "C4b": (c4b, ""),
    "O1": (lambda: beyond("untrained"), ""),
    "O2": (lambda: beyond("nonmath-specific"), ""),
    "O3": (o3, "undecided"),  # by one calibration sample
    "O6": (o6, "exploratory"),
    "S14": (s14, UNFIT),
    "R1": (r1, UNFIT),
    "R2": (r2, UNFIT),
}


@pytest.mark.parametrize("claim", list(CASES))
def test_verdicts_of_the_ledger(claim):
    row = result("ledger").set_index("id").loc[claim]
    tests, gate = CASES[claim]
    verdict, weakest, complying, cells = every(tests())
    told = [row.effect - row.threshold, row.low - row.threshold, row.high - row.threshold]
    assert told == pytest.approx(weakest[["effect", "low", "high"]].to_list(), abs=0.004)
    assert [row.complying, row.cells] == [complying, cells]
    if gate == UNFIT:
        assert row.organism == UNFIT
        assert row.reason.endswith(f"{verdict})")
    elif gate == "exploratory":
        assert row.organism == f"exploratory {verdict}"
    elif claim == "O3":
        assert (verdict, row.organism) == ("yes", "undecided")
    else:
        assert row.organism == verdict


def test_the_verdict_on_a_real_llm():
    t = read("mmlib/evidence", "desk_likelihoods").query("task == 'gsm8k' and condition != 'none'")
    grids = t.assign(nats=t.nats.map(lambda text: np.array(text.split(), float)))
    grids = grids.pivot(index=["lang", "seed"], columns="condition", values="nats")
    lost = (grids["math-specific"] - grids["random"]).groupby(level="lang")
    tests = [over_both(pd.DataFrame(np.stack(list(part))) - 0.1) for _, part in lost]
    verdict, weakest, complying, cells = every(tests)
    row = result("ledger").set_index("id").loc["O13"]
    told = [row[f"real_{name}"] - row.threshold for name in ("effect", "low", "high")]
    assert told == pytest.approx(weakest[["effect", "low", "high"]].to_list(), abs=0.004)
    found = [row.real_llm, row.real_complying, row.real_cells]
    assert found == [f"exploratory {verdict}", complying, cells]
