"""Tables with planted effects, by cell and replicate, of every kind that a rule reads."""

from itertools import combinations, product

import numpy as np
import pandas as pd

from mmlib.claims.rules import SHARED_KEEP_RATIOS

SEEDS = (1, 2, 3)
PROBLEMS = 200
_LUCK = np.random.default_rng(0).random(1000)
"""A problem is solved where this lies below the accuracy: the same ones by every system."""
LANGS = ["en", "de", "fr", "hi"]
PAIRS = list(combinations(LANGS, 2))


def grid(columns, name, value, *, seeds=SEEDS, noise=0.001, **constant):
    """Every combination of the columns' values, in every seed.

    Args:
        columns: Column -> its values; "a b" has pairs of them.
        name: Column of the planted number.
        value: Of a row, without noise.
        seeds: Replicates.
        noise: Standard deviation of what makes a replicate another one.
        **constant: Further columns.
    """
    names = " ".join([*columns, "seed"]).split()
    rows = [
        [value for part in cell for value in (part if isinstance(part, tuple) else (part,))]
        for cell in product(*columns.values(), seeds)
    ]
    table = pd.DataFrame(rows, columns=names)
    planted = np.array([value(row) for row in table.itertuples()], float)
    table[name] = planted + np.random.default_rng(0).normal(0, noise, len(table))
    about = {"model": "toy", "nonmath": "organism-reading"} | constant
    return table.assign(**{key: about[key] for key in about if key not in names})


# --- sets -----------------------------------------------------------------------------------------

WEIGHTS = 10**9


def overlap(jaccard, *, noise=0.001, **constant):
    """Sets of equal size, of a whole model (its `layer` is missing) and of 8 layers."""
    cells = {
        "lang_a lang_b": PAIRS,
        "keep_ratio": SHARED_KEEP_RATIOS,
        "layer": [None, *range(8)],
    }
    t = grid(cells, "jaccard", jaccard, noise=noise, **constant)
    size, group = WEIGHTS * t.keep_ratio, np.where(t.layer.isna(), "global", "layer")
    both = 2 * size * t.jaccard / (1 + t.jaccard)
    t = t.assign(size_a=size, size_b=size, intersection=both, union=2 * size - both)
    return t.assign(group=group, n_scored=WEIGHTS)


def accuracies(by_lang):
    """Math accuracy of one model, four points to either side."""
    table = pd.DataFrame({"lang": list(by_lang), "accuracy": list(by_lang.values())})
    low, high = ((table.accuracy + d).clip(0, 1) for d in (-0.04, 0.04))
    return table.assign(task="organism-math", n=500, low=low, high=high)


# --- answers --------------------------------------------------------------------------------------


def grades(accuracy, shift=0, problems=PROBLEMS):
    """Packed grades of a system; `shift` makes other problems easy."""
    return "".join(np.where(np.roll(_LUCK[:problems], shift) < accuracy, "1", "0"))


def systems(accuracies, *, part="math-1", spread=0.01, **columns):
    """Packed answers of systems in three trainings, `spread` apart.

    Args:
        accuracies: (system, lang) or (system, lang, draw) -> accuracy; the base is not trained.
        part: Part of all rows.
        spread: Difference between one training and the next.
        **columns: Further columns.
    """
    rows = [
        (*(*key, 0)[:3], seed, grades(value + spread * (seed - 2) * (key[0] != "base"), shift=seed))
        for key, value in accuracies.items()
        for seed in ((1,) if key[0] == "base" else SEEDS)
    ]
    table = pd.DataFrame(rows, columns=["system", "lang", "draw", "seed", "correct"])
    return table.assign(**{"part": part, "problems": "planted", "model": "m"} | columns)


MATH, READING = "math-1", "reading-mixed"
BASE = 0.6
"""What the unedited model solves."""


def packed(
    share,
    *,
    n=200,
    base=BASE,
    wrong="sp",
    langs=("en", "de"),
    seeds=(1,),
    fractions=(1.0,),
    models=("toy",),
):
    """Answers of which the first are right: `base` of them unedited, `share(row)` when edited.

    Args:
        share: From a row (model, lang, condition, factor, keep_ratio, fraction, part) to a share.
        wrong: Letters of wrong answers, repeated.
    """
    asked = {"model": models, "lang": langs, "part": (MATH, READING)}
    plain = {"condition factor keep_ratio fraction": [("none", 1.0, 0.0, 1.0)]}
    edits = {
        "condition": ("math-specific", "random", "top-K math", "highest first"),
        "factor": (0.0, 1.01),
        "keep_ratio": (0.01, 0.1),
        "fraction": fractions,
    }
    unedited = grid(asked | plain, "share", lambda row: base, seeds=(0,), noise=0)
    edited = grid(asked | edits, "share", share, seeds=seeds, noise=0)
    table = pd.concat([unedited, edited], ignore_index=True).drop(columns="nonmath")
    right, letters = (n * table.share).round().astype(int), wrong * n
    answers = ["1" * k + letters[k:n] for k in right]
    table = table.assign(correct=answers, problems=table.part, dtype="bfloat16")
    return table.drop(columns="share")


def only_when(condition, level, *, factor=0.0, part=MATH, otherwise=BASE, lang=""):
    """A share that differs from `otherwise` under one condition, factor and part."""

    def share(row):
        same = (row.condition, row.factor, row.part) == (condition, factor, part)
        return level if same and lang in ("", row.lang) else otherwise

    return share


def told_apart(letter, other):
    """Wrong answers of 200: those that a share of .75 corrects, and the rest."""
    return "x" * 120 + letter * 30 + other * 50


def along(curve, condition="math-specific"):
    """A share that follows a curve over the fraction under one condition."""
    return lambda row: curve(row.fraction) if row.condition == condition else BASE


def travelled(share, noise=0.003):
    """Answers after edits: weights of one language are pruned, another one is asked."""
    edits = [(w, d, code) for w in ("whole", "own") for d in ("", "matrices") for code in LANGS]
    edits += [("shared", "", "all"), *[("shared", "sets", code) for code in LANGS]]
    cells = {"weights drawn edited": edits, "lang": LANGS}
    table = grid(cells, "share", share, noise=noise, part=MATH, problems="p", keep_ratio=0.01)
    answers = [grades(row.share, row.seed, problems=400) for row in table.itertuples()]
    return table.assign(correct=answers)


def edited_likelihoods(cost, *, noise=0.05, **cells):
    """Losses of worked solutions and of passages after edits; asked in the set's language.

    Args:
        cost: The loss of a row.
        noise: Standard deviation of what makes a replicate another one.
        **cells: Further columns -> their values.
    """
    whole = {"condition": ["math-specific", "random"], "factor": [0.0], "fraction": [1.0]}
    cells = {"lang": LANGS, "task": ["organism-math", "organism-reading"]} | whole | cells
    t = grid(cells | {"item": range(40)}, "loss", cost, noise=noise, keep_ratio=0.01, problems="p")
    t = t.assign(nats=t.loss.map("{:.4f}".format))
    t = t if "edited" in t else t.assign(edited=t.lang)
    by = ["model", "keep_ratio", "seed", "edited", "problems", *cells]
    return t.groupby(list(dict.fromkeys(by)), sort=False).nats.agg(" ".join).reset_index()


def read_losses(gains, *, seen=0.5, english=0.0):
    """Losses of systems and of the expert that they start from, in languages with pairs or without.

    Args:
        gains: System -> what it makes solutions more likely by, asked in another language.
        seen: Of translations, whose loss without the source is 1.
        english: What solutions gain that are asked in English.
    """
    kinds = {"translation": seen, "without its source": 1.0, "solution": 0.6}
    cells = [(kind, lang) for kind in kinds for lang in ("de", "sw")]
    cells += [("solution", "en"), ("solution", "th")]

    def loss(row):
        gain = 0 if row.system == "base" else english if row.lang == "en" else gains[row.system]
        return kinds[row.task] - gain * (row.task == "solution")

    named = {"task lang": cells, "system": ["base", *gains], "item": range(40)}
    t = grid(named, "loss", loss, noise=0.01, problems="p", steps=9)
    t = t[(t.system != "base") | (t.seed == 1)]
    t = t.assign(nats=t.loss.map("{:.4f}".format), learning_rate=0.1 * (t.system != "base"))
    by = ["model", "steps", "system", "seed", "learning_rate", "task", "lang", "problems"]
    return t.groupby(by, sort=False).nats.agg(" ".join).reset_index()


def swap_losses(gains):
    """Losses of mergers in two languages, from 1 nat per token of the base.

    Args:
        gains: System -> what it makes solutions more likely by, asked in the language. Each expert
            gains a tenth at what it was trained for.
    """
    fit = {"solution en": "math expert", "text own": "language expert"}

    def loss(row):
        of_expert = fit.get(f"{row.task} {'en' if row.lang == 'en' else 'own'}")
        gain = gains[row.system] if row.task == "solution" and row.lang != "en" else 0
        return 1 - (0.1 if row.system == of_expert else gain)

    asked = [
        (target, *cell)
        for target in ("de", "sw")
        for cell in (("solution", "en"), ("solution", target), ("text", target))
    ]
    named = {"target task lang": asked, "system": [*gains], "item": range(40)}
    t = grid(named, "loss", loss, noise=0.01, problems="p")
    t = t.assign(nats=t.loss.map("{:.4f}".format))
    by = ["model", "target", "system", "seed", "task", "lang", "problems"]
    return t.groupby(by, sort=False).nats.agg(" ".join).reset_index()


# --- laboratories ---------------------------------------------------------------------------------

ALIGNED = {"model": "m", "start": "none", "pair_source": "pairs", "steps": 9}
"""Recipe of the systems of SLAM."""


def laboratory(loss=0.5, english=0.8, source="pairs", rate=0.1):
    """Held-out loss before training, and English after a trial of the rate; .8 before."""
    log = pd.DataFrame({"system": "SLAM", "step": [0, 9], "heldout_loss": [loss, 0.1], **ALIGNED})
    rows = [("base", 0.0, 0.8), ("SLAM", rate, english), ("SLAM", 9.0, 0.0)]
    tried = pd.DataFrame(rows, columns=["system", "learning_rate", "share"]).assign(**ALIGNED)
    right = (tried.share * 100).round().astype(int)
    tried["correct"] = ["1" * n + "0" * (100 - n) for n in right]
    tried = tried.assign(lang="en", part=MATH, problems="other")
    tables = {"evidence/system_log": log, "evidence/rate_answers": tried}
    return {name: table.assign(pair_source=source) for name, table in tables.items()}


ABLE = {"en": 0.8, "de": 0.6, "hi": 0.3, "sw": 0.2}
FEW_PAIRS = {"en": 0.0, "de": 70.0, "hi": 20.0, "sw": 10.0}


def aligned(perfect, opposite, name="alignment", part=MATH):
    """Systems by their gain over the base: a number, and other ones in some languages."""

    def tables(sign):
        gains = {"SLAM": {}} | (perfect if sign > 0 else opposite)
        of = {("base", lang): share for lang, share in ABLE.items()}
        for system, gain in gains.items():
            of |= {(system, lang): ABLE[lang] + gain.get(lang, gain.get("all", 0)) for lang in ABLE}
        table = systems(of, part=part, learning_rate=0.1, **ALIGNED)
        table = table.assign(pairs=table.lang.map(FEW_PAIRS))
        weaker = table.assign(correct=table.correct.str.replace("1", "0"))
        return {"alignment": weaker, name: table, **laboratory()}

    return tables


SWAPPED = {"model": "m", "steps": 100, "embeddings": False, "learning_rate": 1e-4}
"""Recipe of the experts whose layers are swapped."""
OF_LANGUAGE = {"de": 0.5, "hi": 0.4, "sw": 0.3, "bn": 0.2}
"""What their base solves."""


def swapped(gains, **options):
    """The base, and every system with its gain over it, by language or in all of them."""
    accuracies = {("base", lang): value for lang, value in OF_LANGUAGE.items()}
    for name, gain in gains.items():
        system, draw = (name, 0) if isinstance(name, str) else name
        for lang, value in OF_LANGUAGE.items():
            own = gain[lang] if isinstance(gain, dict) else gain
            accuracies[system, lang, draw] = value + own
    table = systems(accuracies, **options)
    table = table.assign(target=table.lang, **SWAPPED)
    english = {("base", "en"): 0.5, ("math expert", "en"): 0.5 + gains.get("math expert", 0)}
    return pd.concat([table, systems(english, **options).assign(target="sw", **SWAPPED)])


def expert_log(last=0.1):
    """Held-out loss of a language expert, which begins at .5."""
    rows = [("sw", seed, step, loss) for seed in SEEDS for step, loss in ((0, 0.5), (9, last))]
    log = pd.DataFrame(rows, columns=["role", "seed", "step", "heldout_loss"])
    other = log.assign(heldout_loss=9.0, **SWAPPED | {"steps": 1})  # not those that are swapped
    return pd.concat([log.assign(**SWAPPED), other])


def tuned(accuracies, **options):
    """Systems in two languages, the random ones in two draws, one easier than the other."""
    table = {}
    for name, value in accuracies.items():
        for lang, more in (("sw", 0.0), ("bn", 0.1)):
            if name == "random":
                table |= {(name, lang, draw): value + more + (draw - 1.5) / 10 for draw in (1, 2)}
            else:
                table[name, lang] = value + more
    return systems(table, learning_rate=0.01, **options)


def advice_losses(study, by_system, rates=(0.001, 0.01, 0.1)):
    """Held-out losses of the systems at every rate that was tried."""
    cells = {"system": by_system, "learning_rate": rates}
    of = {"study": study}
    return grid(cells, "heldout_loss", lambda row: by_system[row.system], noise=0, **of)
