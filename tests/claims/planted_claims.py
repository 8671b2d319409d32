"""Of every claim a perfect table and an opposite one; replicates that cannot differ.

A new claim has to be added to `PLANTED`, or knowingly to `NEVER`.
"""

from itertools import permutations
from types import MappingProxyType

import pandas as pd
from planted import (
    BASE,
    LANGS,
    MATH,
    PAIRS,
    READING,
    accuracies,
    advice_losses,
    aligned,
    along,
    edited_likelihoods,
    expert_log,
    grid,
    only_when,
    overlap,
    packed,
    read_losses,
    swap_losses,
    swapped,
    systems,
    told_apart,
    travelled,
    tuned,
)

from mmlib.claims.rules import SHARED_KEEP_RATIOS
from mmlib.claims.swapping import ALTERNATIVES, CONTROLS, MERGED

NEVER = {
    "S8": "about another system: the shapes of Llama 2",
    "S9": "about another system: percentages in the printed text",
    "S10": "about another system: RFT-MuggleMath, which does not run here",
    "S12": "about another system: LangBridge, which does not run here",
}
"""Claims that no table of ours can decide, and why."""


def _likelihoods(task, cost):
    """Pruning the set costs a task so much, by the sign, and random weights nothing."""

    def tables(sign):
        def loss(row):
            return 1 + cost(sign) * (row.task == task and row.condition == "math-specific")

        return {"likelihoods": edited_likelihoods(loss)}

    return tables


def _travel_likelihoods(sign):
    """Pruning a set costs every language half a nat, or next to nothing."""
    cost = 0.5 if sign > 0 else 0.02
    at = {"edited": LANGS, "task": ["gsm8k"]}
    of_set = edited_likelihoods(lambda row: 1 + cost * (row.condition == "math-specific"), **at)
    return {"travel_likelihoods": of_set}


def _fraction_likelihoods(sign):
    """The few that score highest cost a tenth of what the whole set costs, or nine tenths."""
    few = 0.1 if sign > 0 else 0.9
    costs = {"none": 0.0, "math-specific": 1.0, "highest first": few}
    at = {"condition": [*costs], "fraction": [0.05, 1.0], "lang": ["en"], "task": ["gsm8k"]}
    return {"fraction_likelihoods": edited_likelihoods(lambda row: 1 + costs[row.condition], **at)}


def _aligned_losses(perfect, opposite):
    """Gains of systems, and of English, by the sign; a trial of the rates left English alone."""

    def tables(sign):
        gains = dict(perfect if sign > 0 else opposite)
        english = gains.pop("en", 0.0)
        trial = read_losses({"SLAM": 0.1})
        return {"aligned_losses": read_losses(gains, english=english), "aligned_rates": trial}

    return tables


def _scaling_likelihoods(sign):
    """Enlarging the set by a tenth wins or costs half a nat, and by a hundredth next to nothing."""

    def loss(row):
        return 1 - sign * 5 * (row.factor - 1) * (row.condition == "math-specific")

    at = {"factor": [1.01, 1.1], "lang": ["en"], "task": ["gsm8k"]}
    return {"scaling_likelihoods": edited_likelihoods(loss, **at)}


# --- sets -----------------------------------------------------------------------------------------


def _middle(row):
    return 2 <= row.layer < 6


def _profile(sign, begun=0.0):
    """The middle layers stand out by a tenth, from what the network began with."""
    return {"overlap": overlap(lambda row: 0.4 + (0.1 * sign + begun) * _middle(row))}


def _net(sign):
    begun = overlap(lambda row: 0.4 - 0.2 * _middle(row), noise=0, control="untrained")
    return _profile(sign, begun=-0.2) | {"overlap_controls": begun}


def _order(sign):
    """Sizes in the order of the accuracies, or in the opposite one."""
    able = {"en": 0.9, "fr": 0.7, "de": 0.5, "hi": 0.2}
    cells = {"lang": LANGS, "keep_ratio": SHARED_KEEP_RATIOS}
    size = {lang: 1e6 * (2 + sign * share) for lang, share in able.items()}
    more = {"group": "global", "n_topk": 1000}
    sizes = grid(cells, "n_math_specific", lambda row: size[row.lang], noise=1e3, **more)
    return {"set_sizes": sizes, "accuracy": accuracies(able)}


def _growth(sign):
    """The ratio of English to Hindi grows with the model, or shrinks."""
    cells = {"lang": ["en", "hi"], "keep_ratio": [0.1], "n_topk": [200, 400, 1000]}

    def size(row):
        return 1e6 * (2 + sign * row.n_topk / 1000 if row.lang == "en" else 1)

    t = grid(cells, "n_math_specific", size, noise=1e3, group="global")
    model = t.n_topk.astype(str) + "-" + t.seed.astype(str)
    return {"model_sets": t.assign(model=model, training_seed=t.seed)}


# --- edits ----------------------------------------------------------------------------------------


def _edits(perfect, opposite, name="interventions", **options):
    tables = {1: perfect, -1: opposite}
    return lambda sign: {f"evidence/{name}": packed(tables[sign], **options)}


def _small_models(sign):
    gain = {"a": 0.75, "b": 0.65, "c": 0.6}
    table = packed(lambda row: gain[row.model], models=tuple(gain))
    size = dict(zip(gain, (1, 2, 3)[::sign], strict=True))
    return {"evidence/interventions": table.assign(parameters=table.model.map(size))}


def _corrected(sign):
    wrong = told_apart(*("sp" if sign > 0 else "ps"))
    share = only_when("math-specific", 0.75, factor=1.01)
    return {"evidence/interventions": packed(share, wrong=wrong)}


def _without_top(row):
    """One answer in a thousand is right, so that there is an interval."""
    return BASE if row.condition != "top-K math" else 0.001 if row.part == MATH else 0.2


def _nothing_left(row):
    return _without_top(row) * (row.part != MATH or row.condition != "top-K math")


FRACTIONS = {"name": "fractions", "fractions": (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)}


def _step(fraction):
    return BASE - 0.05 * (fraction > 0.7) - 0.45 * (fraction > 0.9)


# --- the meaning of overlap -----------------------------------------------------------------------


def _ceiling(control):
    cells = {"lang_a lang_b": PAIRS, "control": ["math-specific", control]}
    more = {"group": "global", "keep_ratio": 0.1}
    return lambda sign: {
        "ceilings": grid(
            cells, "jaccard", lambda row: 0.3 + 0.1 * sign * (row.control != control), **more
        )
    }


def _travel(weights, drawn, loss):
    """`loss(sign)` by pruning these weights, beyond those that are drawn."""
    return lambda sign: {
        "evidence/transfer": travelled(
            lambda row: 0.5 - loss(sign) * ((row.weights, row.drawn) == (weights, ""))
        )
    }


def _predicted(sign):
    places = [(LANGS[i], LANGS[j], 1 - abs(i - j) / 4 + 0.01 * i) for i, j in _ORDERED]
    more = {"weights": "whole", "drawn": "", "kind": "math", "keep_ratio": 0.01}
    cells = {"edited lang jaccard": places}
    return {
        "transfer": grid(cells, "difference", lambda row: sign * row.jaccard, noise=0.1, **more)
    }


_ORDERED = list(permutations(range(4), 2))


def _sums(what, exact, perfect, opposite, **options):
    pairs = PAIRS if what == "overlap" else [(code, code) for code in LANGS]
    cells = {"lang_a lang_b": pairs, "keep_ratio": [0.01, 0.1]}
    more = {"what": what, "exact": exact, "num_samples": 500, "ties": "topk"} | options
    return lambda sign: {
        "precision": grid(cells, "value", lambda row: perfect if sign > 0 else opposite, **more)
    }


def _quantised(sign):
    tables = _sums("overlap", 0.4, 0.401, 0.5, stored="Q5_0")(sign)
    return {"quantised": tables["precision"]}


def _mixes(sign, exchange=MappingProxyType({"fr": "hi", "hi": "fr"})):
    """Sizes follow the shares in skewed organisms alone; two languages change places once."""
    share = dict(zip(LANGS, (0.5, 0.3, 0.15, 0.05), strict=True))

    def size(row):
        follows = sign if row.mix == "skewed" else -sign
        odd = row.mix == "even" and row.seed == 3
        return 1e6 * (1 + follows * share[exchange.get(row.lang, row.lang) if odd else row.lang])

    cells = {"mix": ["skewed", "even"], "lang": LANGS}
    t = grid(cells, "n_math_specific", size, keep_ratio=0.1)
    return {"mixes": t.assign(share=t.lang.map(share))}


def _script(sign):
    cells = {"mix lang_a lang_b": [("latin", "en", "hi-Latn"), ("even", "en", "hi")]}
    more = {"group": "global", "keep_ratio": 0.1}
    jaccard = {"latin": 0.4 + 0.1 * sign, "even": 0.4}
    return {"mix_overlap": grid(cells, "jaccard", lambda row: jaccard[row.mix], **more)}


def _formats(sign):
    forms = [("words", "format", "en", "en"), ("one line", "format", "en", "en")]
    cells = {"form what lang_a lang_b": [*forms, ("as it is", "language", "en", "de")]}
    jaccard = {"words": 0.5 - 0.2 * sign, "one line": 0.8, "as it is": 0.5}
    return {"formats": grid(cells, "jaccard", lambda row: jaccard[row.form], keep_ratio=0.1)}


def _emergence(sign):
    """Overlap is there at the first snapshot or at the last one; the loss falls in between."""
    losses = dict(zip([0, 10, 20, 40, 80, 160], [8.0, 6.0, 4.5, 2.0, 1.0, 0.5], strict=True))
    t = grid({"step": losses}, "loss", lambda row: losses[row.step], noise=0.05, keep_ratio=0.1)
    shared = t.step > (0 if sign > 0 else 80)
    return {"emergence": t.assign(jaccard=0.1 + 0.4 * shared)}


# --- alignment ------------------------------------------------------------------------------------

FALLS = [0.6, 0.5, 0.3, 0.3, 0.3, 0.29]
RISES = [0.3, 0.4, 0.7, 0.7, 0.7, 0.7]


def _firing(sign):
    cells = {"lang": LANGS, "layer": range(6)}
    return {"firing": grid(cells, "rate", lambda row: FALLS[::sign][row.layer])}


def _firing_overlap(sign):
    cells = {"state": ["before", "after"], "lang": LANGS, "layer": range(6)}

    def shape(row):
        return RISES[row.layer] + 0.05 * sign * (row.state == "after")

    return {"firing_overlap": grid(cells, "overlap", shape)}


def _retrieval(sign):
    cells = {"system": ["SLAM"], "lang": LANGS, "layer": [6], "depth": [9]}
    after = grid(cells, "retrieval", lambda row: 0.4 + 0.3 * sign)
    before = grid(cells | {"system": ["base"]}, "retrieval", lambda row: 0.4, noise=0, seeds=(0,))
    return {"final_states": pd.concat([before, after])}


def _costs(sign):
    cells = {"system stage": [("SLAM", 1), ("QAlign", 1), ("QAlign", 2)]}
    spent = {"SLAM": 10, "QAlign": 30 if sign > 0 else 12}  # 6 times and 2.4 times as much
    more = {"trained": 7e9, "share": 1.0}
    return {
        "alignment_costs": grid(cells, "seconds", lambda row: spent[row.system], noise=0.1, **more)
    }


def _slam(perfect, opposite, **options):
    return aligned({"SLAM": perfect}, {"SLAM": opposite}, **options)


_OTHERS = {system: {} for system in ("QAlign stage 1", "QAlign", "LoRA", "MathOctopus")}

# --- swapping and advice --------------------------------------------------------------------------

FIT = {"math expert": 0.1, "language expert": 0.1}


def _swap(perfect, opposite, others=(), **options):
    """Gains over the base, of the swap and of what it is compared with."""

    def tables(sign):
        gains = dict.fromkeys(others, 0.05) | FIT | {"swap": perfect if sign > 0 else opposite}
        return {"swap": swapped(gains, **options), "evidence/expert_log": expert_log()}

    return tables


def _likely_swap(perfect, opposite, others):
    """Gains over the base in likelihood, of the swap and of what it is compared with."""

    def tables(sign):
        gains = {"base": 0.0, "math expert": 0.0, "language expert": 0.1}
        gains |= {name: gains.get(name, 0.05) for name in others}
        return {"swap_losses": swap_losses(gains | {"swap": perfect if sign > 0 else opposite})}

    return tables


def _weaker_more(sign, exchange=MappingProxyType({"hi": "sw", "sw": "hi"})):
    """Ranks agree but for one exchange in one training, so that the interval has a width."""
    gains = {lang: 0.25 + sign * gain for lang, gain in _STEPS.items()}
    other = {lang: gains[exchange.get(lang, lang)] for lang in gains}
    tables = [swapped(FIT | {"swap": gain}) for gain in (gains, other)]
    table = pd.concat([tables[0].query("seed != 3"), tables[1].query("seed == 3")])
    return {"swap": table, "evidence/expert_log": expert_log()}


_STEPS = {"de": -0.15, "hi": -0.05, "sw": 0.05, "bn": 0.15}


def _lengths(sign):
    rows = [
        systems({(str(zone), "sw"): 0.4 + zone * gain}, spread=0.005).assign(
            length=length, transition=zone
        )
        for length, gain in ((25, 0.0), (400, 0.2 * sign))
        for zone in (0, 1)
    ]
    return {"swap_lengths": pd.concat(rows, ignore_index=True)}


def _advice(study, first, *controls):
    def tables(sign):
        table = tuned({first: 0.5 + 0.2 * sign} | dict.fromkeys(controls, 0.5))
        losses = advice_losses(study, dict.fromkeys([first, *controls], 0.05))
        return {f"advice_{study}": table.assign(target=table.lang), "advice_losses": losses}

    return tables


def _form(sign):
    cells = {"system": ["math", "whole", "random"], "shots": [0, 2]}
    shares = {"math": 0.5 + 0.3 * sign}
    t = grid(cells, "as_asked", lambda row: shares.get(row.system, 0.5), keep_ratio=0.001)
    return {"advice_format": t}


_SCALED = {"factor": 1.01}
_FALL = {"hi": -0.3, "sw": -0.2}
PLANTED = {
    "C1": lambda sign: {"overlap": overlap(lambda row: 0.4 if sign > 0 else 0.9)},
    "C1b": lambda sign: {"overlap": overlap(lambda row: 0.4 if sign > 0 else 0.02)},
    "C2": _profile,
    "C2b": _profile,
    "C2c": _net,
    "C3a": _order,
    "C3b": _order,
    "C3c": _growth,
    "C4a": _edits(only_when("math-specific", 0.01), only_when("random", 0.01)),
    "C4b": _edits(only_when("math-specific", 0.01), only_when("math-specific", 0.3, part=READING)),
    "C4c": _edits(_without_top, only_when("math-specific", 0.01), n=1000),
    "C5a": _edits(
        only_when("math-specific", 0.75, **_SCALED), only_when("random", 0.75, **_SCALED)
    ),
    "C5b": _edits(
        only_when("math-specific", BASE + 1 / 2000, part=READING, **_SCALED),
        only_when("math-specific", 0.7, part=READING, **_SCALED),
        n=2000,
    ),
    "C5c": _small_models,
    "C6a": _corrected,
    "C6b": _edits(
        only_when("math-specific", 0.75),
        only_when("math-specific", 0.4),
        wrong=told_apart("f", "p"),
    ),
    "C7a": _edits(along(lambda f: BASE - 0.5 * f), along(_step), **FRACTIONS),
    "C7b": _edits(
        along(lambda f: 0.55, "highest first"), along(lambda f: 0.2, "highest first"), **FRACTIONS
    ),
    "O1": _ceiling("untrained"),
    "O2": _ceiling("nonmath-specific"),
    "O3": _travel("whole", "matrices", lambda sign: 0.2 if sign > 0 else 0.0),
    "O4": _travel("own", "matrices", lambda sign: 0.0 if sign > 0 else 0.2),
    "O5": _predicted,
    "O6": _sums("membership", 1.0, 0.8, 0.99),
    "O7": _sums("overlap", 0.4, 0.402, 0.45),
    "O8": _mixes,
    "O9": _script,
    "O10": _formats,
    "O11": _emergence,
    "O12": _travel("shared", "sets", lambda sign: 0.2 if sign > 0 else 0.0),
    "O13": _likelihoods("organism-math", lambda sign: 0.5 if sign > 0 else 0.05),
    "O14": _likelihoods("organism-reading", lambda sign: 0.02 if sign > 0 else 0.5),
    "O15": _travel_likelihoods,
    "O16": _fraction_likelihoods,
    "O17": _quantised,
    "O18": _scaling_likelihoods,
    "S1": aligned({**_OTHERS, "SLAM": {"all": 0.1}}, {**_OTHERS, "LoRA": {"all": 0.1}}),
    "S2": _firing,
    "S3": _firing_overlap,
    "S4": _slam({"all": 0.3, "en": 0.1}, {"all": -0.2, "en": 0.0}),
    "S5": _slam({"hi": 0.4, "sw": 0.4}, {"all": 0.3, "en": 0.2} | _FALL),
    "S6": _slam({"all": 0.2}, {"all": 0.2, "en": -0.7}, part="math-new"),
    "S7": _costs,
    "S11": _slam(
        {"all": 0.2}, {"all": 0.2, "en": -0.7}, name="alignment_knowledge", part="knowledge"
    ),
    "S13": _slam({"all": -0.2, "en": 0.15}, {"all": 0.2, "en": -0.3}),
    "S14": aligned({"QAlign stage 1": {"en": -0.3}}, {"QAlign stage 1": {"en": 0.1}}),
    "S15": _retrieval,
    "S16": aligned(
        {"SLAM": {"all": 0.15}, "unbalanced pairs": {}},
        {"SLAM": {}, "unbalanced pairs": {"all": 0.15}},
    ),
    "S17": _slam({"all": 0.15, "en": -0.3}, {"all": -0.15, "en": 0.1}, name="alignment_stronger"),
    "S18": _aligned_losses({"SLAM": 0.1}, {"SLAM": -0.1}),
    "S19": _aligned_losses({"SLAM": 0.1}, {"SLAM": 0.1, "en": -0.1}),
    "S20": _aligned_losses(
        {"SLAM": 0.1, "random layers": 0.0}, {"SLAM": 0.0, "random layers": 0.1}
    ),
    "L1": _swap(0.3, -0.1, ALTERNATIVES),
    "L2": _swap(
        {"de": -0.05, "hi": 0.3, "sw": 0.3, "bn": 0.4}, {"de": 0.4, "hi": 0.0, "sw": 0.0, "bn": 0.0}
    ),
    "L3": _swap(0.055, 0.3, ["no transition"], spread=0.005),
    "L4": _swap(0.3, -0.1, CONTROLS),
    "L5": _lengths,
    "L6": _weaker_more,
    "L7": _likely_swap(0.3, -0.1, MERGED),
    "L8": _likely_swap(0.3, -0.1, CONTROLS),
    "L9": _likely_swap(0.055, 0.3, ["no transition"]),
    "R1": _advice("layers", "middle", "outer", "random"),
    "R2": _advice("weights", "own", "shared", "random"),
    "R3": _form,
}
"""Of a claim, its tables by a sign: 1 is a perfect run, -1 the opposite."""
CELLS = {"S1": 5, "S4": 4, "S5": 2 + 2 * 2, "S6": 4, "S11": 4, "S13": 1, "S14": 1, "S16": 2}
CELLS |= {"S17": 1, "S18": 2, "S19": 1, "S20": 2}
CELLS |= {"C1": 2 * 6 * 6, "O3": 12, "O12": 16, "L1": 7, "L4": 5, "L7": 2 * 6}
CELLS |= {"L8": 2 * 5, "L9": 2, "R1": 2}
"""How many cells some of them have, as their words count them."""


STILL = {
    "C4c": lambda n: _edits(_nothing_left, None, n=n)(1),
    "C5b": lambda n: _edits(lambda row: BASE, None, n=n)(1),
    "L3": lambda n: again(_swap(0.05, None, ["no transition"])(1), n),
    "L6": lambda n: again(_weaker_more(1, exchange={}), n),
    "O4": lambda n: again({"evidence/transfer": travelled(lambda row: 0.5, noise=0)}, n),
    "O7": lambda n: again(_sums("overlap", 0.4, 0.4, None, noise=0)(1), n),
    "O8": lambda n: again(_mixes(1, exchange={}), n),
}
"""Of a claim whose measure can be at its end in every replicate such tables, by how many."""


def again(tables, n):
    """Tables whose first training or draw is there n times; what is not trained stays."""
    repeated = {}
    for name, table in tables.items():
        untrained = table.system == "base" if "system" in table else table.index < 0
        once = table[~untrained]
        once = once[once.seed == once.seed.min()]
        copies = [once.assign(seed=seed) for seed in range(1, n + 1)]
        repeated[name] = pd.concat([*copies, table[untrained]], ignore_index=True)
    return repeated
