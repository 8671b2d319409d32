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


def by_t(mean, se, df, level=0.95):
    half = t.ppf((1 + level) / 2, df) * se
    return mean, mean - half, mean + half, t.cdf(mean / se, df)


def of_seeds(x):
    return x.mean(), x.std(ddof=1) / np.sqrt(len(x)), len(x) - 1


def over_seeds(x):
    return by_t(*of_seeds(x))


def over_problems(x):
    """Mean, percentile interval and share of the draws above nothing."""
    options = {"n_resamples": 9999, "method": "percentile", "rng": 1, "batch": 500}
    drawn = bootstrap((np.asarray(x, float),), np.mean, **options)
    return x.mean(), *drawn.confidence_interval, (drawn.bootstrap_distribution >= 0).mean()


def of_both(grid):
    """Trainings in rows and problems in columns, both random: mean, standard error, freedom."""
    k, m = grid.shape
    rows, columns, mean = grid.mean(axis=1), grid.mean(axis=0), grid.to_numpy().mean()
    rest = grid.sub(rows, axis=0).sub(columns, axis=1).to_numpy() + mean
    squares = [m * rows.var(ddof=1), k * columns.var(ddof=1)]
    squares.append((rest**2).sum() / ((k - 1) * (m - 1)))
    variance = max(squares[0] + squares[1] - squares[2], *squares[:2])
    parts = squares[0] ** 2 / (k - 1) + squares[1] ** 2 / (m - 1)
    parts += squares[2] ** 2 / ((k - 1) * (m - 1))
    df = min(max(variance**2 / parts, k - 1), m - 1)
    joint = mean, np.sqrt(variance / (k * m)), df
    alone = mean, rows.std(ddof=1) / np.sqrt(k), k - 1
    return max(joint, alone, key=lambda estimate: t.ppf(0.975, estimate[2]) * estimate[1])


def over_both(grid):
    return by_t(*of_both(grid))


def holm(p_values):
    """Which two-sided tests reject at 5 %, given the chance of one side."""
    p_values = pd.Series(p_values).mul(2).clip(upper=1).sort_values()
    return (p_values * np.arange(len(p_values), 0, -1)).cummax() <= 0.05


def every(tests):
    """Intersection-union: yes, no after Holm, or undecided; with the weakest cell."""
    table = pd.DataFrame(list(tests), columns=["effect", "low", "high", "below"])
    no = holm(table.below).any()
    verdict = "yes" if (table.low > 0).all() else "no" if no else "undecided"
    weakest = table.loc[table.effect.idxmin()]
    return verdict, weakest, int((table.low > 0).sum()), len(table)


def some(tests):
    """Yes if one cell lies above nothing after Holm, no if each lies below it."""
    table = pd.DataFrame(list(tests), columns=["effect", "low", "high", "below"])
    beyond = holm(1 - table.below) & (table.effect > 0)
    verdict = "yes" if beyond.any() else "no" if (table.high < 0).all() else "undecided"
    return verdict, table.loc[table.effect.idxmax()], int(beyond.sum()), len(table)


def equal(estimates, margin):
    """Two one-sided tests: yes within the margin, no beyond it after Holm."""
    table = pd.DataFrame([(*e, *by_t(*e, level=0.9)[1:3]) for e in estimates])
    table.columns = ["effect", "se", "df", "low", "high"]
    within = (table.low > -margin) & (table.high < margin)
    outside = t.cdf((margin - table.effect.abs()) / table.se, table.df)
    verdict = "yes" if within.all() else "no" if holm(outside).any() else "undecided"
    return verdict, table.loc[table.effect.abs().idxmax()], int(within.sum()), len(table)


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
    keys = ["edited", "lang", "seed", "problem"]
    table = graded("transfer", query).query("edited != lang").fillna({"drawn": ""})
    whole, drawn = (table[table.drawn == d].set_index(keys).correct for d in ("", "matrices"))
    cells = (drawn - whole - 0.02).unstack("problem").groupby(keys[:2])
    return [over_both(blocks) for _, blocks in cells]


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
    "O3": (o3, ""),
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
    else:
        assert row.organism == verdict


# --- other kinds of tests, and the real LLM -------------------------------------------------------


def differences(name, query, margin):
    """Changes of an overlap, by pair and keep ratio."""
    table = result(name).query(f"what == 'overlap' and keep_ratio in [0.01, 0.1] and {query}")
    cells = (table.value - table.exact).groupby([table[c] for c in PAIR])
    return equal([of_seeds(cell) for _, cell in cells], margin)


def o10():
    table = result("formats").query("keep_ratio == 0.1 and lang_a == 'en'").set_index("seed")
    others = table[table.what == "language"].groupby("seed").jaccard.mean()
    formats = table[table.what == "format"].groupby("form").jaccard
    return some(over_seeds(others.reindex(cell.index) - cell) for _, cell in formats)


def c7b():
    keys = ["lang", "part", "problem"]
    table = graded("fractions", f"part in {MATH} and dtype == 'bfloat16'")
    before = table[table.condition == "none"].drop_duplicates(keys).set_index(keys).correct
    after = table.query("condition == 'highest first' and fraction == 0.05")
    after = after.set_index(["keep_ratio", *keys]).correct
    lead = after - 0.7 * before.reindex(after.index.droplevel(0)).to_numpy()
    return every(over_problems(cell) for _, cell in lead.groupby(["lang", "keep_ratio"]))


def s15():
    table = result("final_states").query("layer == 2 * depth // 3").set_index(["lang", "seed"])
    before = table[table.system == "base"].retrieval.droplevel("seed")
    rise = table[table.system == "SLAM"].retrieval.sub(before, level="lang")
    return every(over_seeds(cell) for _, cell in rise.groupby("lang"))


def losses(name, query):
    """Shipped losses with a row per problem; the means over draws of what is not told apart."""
    table = read("mmlib/evidence", name).query(query)
    table = table.assign(nats=table.nats.str.split())
    table = table.assign(place=table.nats.map(len).map(range)).explode(["nats", "place"])
    return table.astype({"nats": float}).assign(problem=table.task + table.place.astype(str))


def lost(name, query, by, scale=1):
    """Nats that a set costs beyond random weights: a grid of blocks and problems per cell."""
    math = "task in ['gsm8k', 'mgsm']" if "task" not in query else "keep_ratio == 0.01"
    table = losses(name, f"{math} and {query} and condition in ['math-specific', 'random']")
    wide = table.pivot_table("nats", [by, "edited", "lang", "seed", "problem"], "condition")
    cells = scale * (wide["math-specific"] - wide["random"])
    cells = cells.groupby([by] if by == "factor" else ["edited", "lang"])
    return [cell.droplevel([0, 1, 2]).unstack() for _, cell in cells]


def s2():
    table = read("mmlib/evidence", "desk_firing")
    table = table.assign(third=table.layer * 3 // (table.layer.max() + 1))
    wide = table.pivot_table("rate", ["lang", "seed"], "third")
    sides = [wide[0] - wide[1] + sign * (wide[1] - wide[2]) for sign in (-1, 1)]
    return every(over_seeds(cell) for side in sides for _, cell in side.groupby("lang"))


def aligned(system, other, langs):
    """English solutions: losses with one system - those with another, by language."""
    table = losses("desk_aligned", "task == 'solution'")
    wide = table.pivot_table("nats", ["lang", "seed", "problem"], "system")
    base = table[table.system == "base"].groupby(["lang", "problem"]).nats.first()
    wide = wide.drop(columns="base").dropna()
    wide["base"] = base.reindex(wide.index.droplevel("seed")).to_numpy()
    return [(wide[system] - wide[other]).loc[lang].unstack() for lang in langs]


def read_by_the_expert():
    table = losses("desk_aligned", "system == 'base'").groupby(["task", "lang"]).nats.mean()
    share = table["translation"] / table["without its source"]
    return list(share.index[share <= 0.7])


OTHERS = {
    "O7": lambda: differences("precision", "num_samples == 500 and ties == 'topk'", 0.01),
    "O17": lambda: differences("quantised", "stored == 'Q5_0'", 0.02),
    "O10": o10,
    "C7b": c7b,
    "S15": s15,
}
REAL = {
    "O13": lambda: every(
        over_both(grid - 0.1)
        for grid in lost("desk_likelihoods", "edited == lang and fraction == 1", "keep_ratio")
    ),
    "O14": lambda: equal(
        map(of_both, lost("desk_likelihoods", "task == 'mmlu' and edited == lang", "keep_ratio")),
        0.1,
    ),
    "O15": lambda: every(
        over_both(grid - 0.1) for grid in lost("desk_travel", "edited != lang", "keep_ratio")
    ),
    "O18": lambda: some(map(over_both, lost("desk_scaling", "factor > 1", "factor", scale=-1))),
    "S2": s2,
    "S18": lambda: every(map(over_both, aligned("base", "SLAM", read_by_the_expert()))),
    "S19": lambda: equal(map(of_both, aligned("SLAM", "base", ["en"])), 0.02),
    "S20": lambda: every(map(over_both, aligned("random layers", "SLAM", read_by_the_expert()))),
}


@pytest.mark.parametrize("claim", [*OTHERS, *REAL])
def test_verdicts_by_other_tests_and_on_a_real_llm(claim):
    prefix = "real_" if claim in REAL else ""
    row = result("ledger").set_index("id").loc[claim]
    verdict, deciding, complying, cells = (OTHERS | REAL)[claim]()
    shift = row.threshold if row.test == "every" else 0
    told = [row[f"{prefix}{name}"] - shift for name in ("effect", "low", "high")]
    near = 0.004 if claim == "C7b" else 1e-6  # a bootstrap of other draws, or the same formula
    assert told == pytest.approx(deciding[["effect", "low", "high"]].to_list(), abs=near)
    assert [row[f"{prefix}complying"], row[f"{prefix}cells"]] == [complying, cells]
    assert row["real_llm" if prefix else "organism"].removeprefix("exploratory ") == verdict
