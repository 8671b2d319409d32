"""What an edit costs a model per token: of worked gold solutions, and of text that is not math.

A likelihood has no floor and no format, and costs less than an answer: a model that solves few of
the problems can be asked too.
"""

import random
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mmlib.study.evidence import audit_values, check_made, made_by, read_evidence
from mmlib.study.settings import Loading, Sampling
from mmlib.study.stats import seed_means
from mmlib.study.sweeps import Sets, cells, grader
from mmlib.study.tables import (
    MATH_TASKS,
    RunInfo,
    item_costs,
    item_losses,
    pack_answers,
    pack_losses,
)
from mmlib.study.variants import Variant, measured
from mmlib.study.yardsticks import layer_edits
from mmlib.tasks import skills
from mmlib.tasks.evaluation import evaluate, gold_likelihood, text_likelihood

EDIT = ["model", "condition", "factor", "keep_ratio", "seed", "fraction", "sample_seed", "edited"]
"""What names an edit: the model, which weights and by what factor, K, calibration sample, which
share of the set, the seed of a draw, and whose set it is."""
AUDITED = 8
"""Items of each task that an audit asks."""


def planned(given: Mapping[str, Any]) -> pd.DataFrame:
    """Every edit and the languages it is asked in.

    With `travel` a set is asked in all languages, else in its own alone.

    Returns:
        Columns of `cells`, `edited` (the language of the set; "" of the unedited model), and
        `asked`, a tuple of languages.

    Raises:
        ValueError: As in `mmlib.study.sweeps.cells`, a task is among the texts too, an example is
            wanted of a language that is not there, or a share of a set by layer.
    """
    if given["by_layer"] and {*given["fractions"]} != {1.0}:
        raise ValueError(f"fractions={given['fractions']} with by_layer: whole sets alone, [1.0]")
    if twice := sorted({*given["tasks"]} & {*given["texts"]}):
        raise ValueError(f"{twice[0]!r} is in tasks and in texts: give it once")
    if absent := sorted({*given["example_sets"]} - {*given["languages"]}):
        raise ValueError(f"example_sets has {absent[0]!r}, which is not among the languages")
    names = ("languages", "seeds", "keep_ratios", "conditions")
    names += ("factors", "fractions", "sample_seeds")
    table = cells(**{name: given[name] for name in names})
    whose = table.lang.mask(table.condition == "none", "")
    everywhere = tuple(given["languages"])
    pairs = zip(table.lang, whose, strict=True)
    asked = [everywhere if code and given["travel"] else (lang,) for lang, code in pairs]
    return table.assign(edited=whose, asked=asked)


class Bench(NamedTuple):
    """A model, sets of its weights, and what it is asked."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    sets: Sets
    given: Mapping[str, Any]
    """Parameters of the page."""
    run: RunInfo

    def _states(self, wanted: pd.DataFrame) -> Iterator[Variant]:
        """The model with each set edited in turn."""
        for cell in wanted.to_dict("records"):
            columns = {name: cell[name] for name in EDIT[1:]} | {"model": self.run.model}
            asked = {"languages": cell["asked"]}
            if not self.given["by_layer"] or cell["condition"] == "none":
                yield Variant(columns, self.sets.change(self.model, cell), asked)
                continue
            mask = self.sets.mask(cell)
            for layer, edit in enumerate(layer_edits(self.model, mask, factor=cell["factor"])):
                yield Variant(columns | {"layer": layer}, edit, asked)

    def losses(self) -> pd.DataFrame:
        """Edit every set and measure what the model loses.

        Returns:
            One row per edit, language asked and task: `EDIT`, lang, task, n_weights, mask, the
            losses that `mmlib.study.tables.pack_losses` shrinks, and with `by_layer` the layer.
        """
        options = {"limit": self.given["items"], "batch_size": self.given["batch_size"]}
        options |= {"data_dir": self.given["data_dir"] or None}
        both = (gold_likelihood, self.given["tasks"]), (text_likelihood, self.given["texts"])

        def measure(model: PreTrainedModel, **asked: Any) -> dict[str, pd.DataFrame]:
            found = [
                ask(model, self.tokenizer, names, **asked, **options)
                for ask, names in both
                if names
            ]
            return {"losses": pack_losses(pd.concat(found), ["lang", "task"])}

        table = measured(self._states(planned(self.given)), measure)["losses"]
        first = [*EDIT, "lang", "task"]
        return table[[*first, *(name for name in table if name not in first)]]

    def answers(self) -> pd.DataFrame:
        """Let the unedited model, or one with some sets edited, solve problems in words.

        Returns:
            Grades of the first `solve` problems, packed (see `mmlib.study.tables.pack_answers` and
            `mmlib.study.sweeps.grades`) by `EDIT`, part (the task), lang and extraction.
        """
        given = self.given
        options = {"limit": given["solve"], "batch_size": given["batch_size"]}
        options |= {"data_dir": given["data_dir"] or None}
        grade, by = grader(given), ["part", "lang", "extraction"]

        def measure(model: PreTrainedModel, **asked: Any) -> dict[str, pd.DataFrame]:
            rows = evaluate(model, self.tokenizer, given["tasks"], **options, **asked)
            rows = rows.assign(part=rows.task, grade=grade(rows))
            return {"answers": pack_answers(rows, by)}

        sets = planned(given)
        table = measured(self._states(sets[sets.condition.isin(given["solved"])]), measure)
        return table["answers"][[*EDIT, *by, "n_weights", "mask", "problems", "correct"]]

    def example(self, packed: pd.DataFrame) -> pd.DataFrame:
        """Answers to one problem in all languages, with the sets of some of them pruned.

        Of the problems that the unedited model solves in the first language (of all, where it
        solves none), it is the one that pruning this language's set costs the median there (of an
        even number the lower one): neither the best nor the worst to show.

        `packed` are losses of this model, perhaps the shipped ones.

        Returns:
            `EDIT`, lang, problem_id, target, response, prediction and correct, strictly extracted;
            the unedited model first, as many random weights as the first set has last.
        """
        given, (first, *_) = self.given, self.given["languages"]
        task, data_dir = given["tasks"][0], given["data_dir"] or None
        options = {"tasks": task, "data_dir": data_dir, "batch_size": given["batch_size"]}
        ask = partial(evaluate, tokenizer=self.tokenizer, **options)
        costs = problem_costs(packed, task, first)
        plain = ask(self.model, languages=[first], limit=max(costs.index) + 1)
        right = plain[plain.extraction == "strict"].correct.to_numpy()
        ordered = costs[right[costs.index]] if right[costs.index].any() else costs
        document = skills.documents(task, first, data_dir)[ordered.index[(len(ordered) - 1) // 2]]
        sets = planned(given | {"seeds": given["seeds"][:1]})
        sets = sets[(sets.keep_ratio == given["keep_ratios"][0]) | (sets.condition == "none")]
        chosen = (sets.condition == "math-specific") & sets.edited.isin(given["example_sets"])
        wanted = pd.concat(
            [
                sets[sets.condition == "none"].head(1),
                sets[chosen],
                sets[(sets.condition == "random") & (sets.edited == first)],
            ]
        )
        asked = {"languages": given["languages"], "only": {task: {document["id"]}}}

        def answer(model: PreTrainedModel, **_: Any) -> dict[str, pd.DataFrame]:
            return {"answers": ask(model, **asked)}

        table = measured(self._states(wanted), answer)["answers"].query("extraction == 'strict'")
        told = ["lang", "problem_id", "target", "response", "prediction", "correct"]
        return table[[*EDIT, *told]].reset_index(drop=True)


def bench(given: Mapping[str, Any]) -> Bench:
    """Load the model and score its weights on every sample."""
    planned(given)  # what is wrong is told before the work
    given = drawn(given) if given["audit"] else given
    loading, sampling = Loading.of(given), Sampling.of(given)
    model, tokenizer = loading.load()
    sets = Sets(sampling.scores(model, tokenizer), sampling.math, sampling.nonmath)
    return Bench(model, tokenizer, sets, given, loading.run(model, given))


def drawn(given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of an audit: one language, one sample and few items, drawn by `audit_seed`."""
    draw = random.Random(given["audit_seed"])
    one = {name: [draw.choice(given[name])] for name in ("languages", "seeds")}
    return {**given, **one, "items": min(AUDITED, given["items"])}


def audit(packed: pd.DataFrame, run: RunInfo) -> pd.DataFrame:
    """Compare losses that were measured again with the shipped ones, and the sizes of the sets.

    `packed` are `Bench.losses`, perhaps of the first problems only.

    Returns:
        Rows of `mmlib.study.evidence.audit_values`: losses to a twentieth, sizes to a hundredth.

    Raises:
        AuditError: As there.
        ValueError: The shipped losses were made with other weights or texts.
    """
    shipped, manifest = read_evidence("desk_likelihoods")
    check_made(manifest, run, ("dtype", "math", "nonmath", "num_samples", "drawing"))
    on = [*EDIT, "lang", "task"]
    again, kept = item_losses(packed), item_losses(shipped)
    losses = audit_values(kept, again, on=[*on, "problem"], values=["nats"], tolerance=0.05)
    sizes = audit_values(shipped, packed, on=on, values=["n_weights"])
    return pd.concat([losses, sizes], ignore_index=True)


def problem_costs(packed: pd.DataFrame, task: str, lang: str) -> pd.Series:
    """What pruning the set of its language costs every problem, mean over samples, by its place.

    The cheapest comes first.
    """
    table = item_costs(packed)
    table = table[(table.condition == "math-specific") & (table.task == task)]
    table = table[(table.edited == lang) & (table.lang == lang)]
    return table.groupby("place", sort=False).cost.mean().sort_values(kind="stable")


def summary(packed: pd.DataFrame) -> pd.DataFrame:
    """Mean cost by edit and language, with the 95 % t interval over calibration samples.

    From `Bench.losses`.

    Returns:
        Columns model, task, condition, factor, keep_ratio, fraction, edited, lang, mean, low, high,
        n; the mean over the draws of a random set.
    """
    by = ["model", "task", "condition", "factor", "keep_ratio", "fraction", "edited", "lang"]
    return seed_means(item_costs(packed), "cost", by)


def beyond_random(packed: pd.DataFrame) -> pd.DataFrame:
    """What an edit of the math-specific set costs beyond one of as many random weights.

    From `Bench.losses`: model, task, factor, keep_ratio, seed, edited, lang, and cost, the mean
    over the problems in nats per token.
    """
    by = ["model", "task", "factor", "keep_ratio", "seed", "edited", "lang"]
    means = item_costs(packed).groupby(["condition", *by], sort=False).cost.mean()
    return (means["math-specific"] - means["random"]).rename("cost").reset_index()


class Desk(NamedTuple):
    """What was computed on a real LLM and is shipped."""

    packed: pd.DataFrame
    """See `Bench.losses`."""
    conditions: pd.DataFrame | None
    """The same of two further controls."""
    examples: pd.DataFrame | None
    """See `Bench.example`."""
    num_samples: int
    """Prompts per block."""


def desk_losses(name: str = "likelihoods") -> pd.DataFrame:
    """Shipped losses of a real LLM, such as "likelihoods", "travel" or "fractions"."""
    return read_evidence(f"desk_{name}")[0]


def desk() -> Desk:
    """Losses and answers of a real LLM."""
    packed, manifest = read_evidence("desk_likelihoods")
    num_samples = made_by(manifest)[0]["parameters"]["num_samples"]
    more = read_evidence("desk_conditions")[0]
    return Desk(packed, more, read_evidence("desk_examples")[0], num_samples)


def told(desk: Desk, keep_ratio: float) -> dict[str, Any]:
    """Numbers that the page repeats, at a keep ratio; `low` and `high` of the languages.

    A number that these parameters do not give is missing.
    """
    packed = desk.packed[desk.packed.keep_ratio.isin([0, keep_ratio])]
    tables = [packed] if desk.conditions is None else [packed, desk.conditions]
    rows = pd.concat(map(summary, tables))
    rows = rows[rows.edited == rows.lang].set_index("lang")
    random = rows[rows.condition == "random"]["mean"]
    pruned = packed[packed.condition == "math-specific"]
    numbers = {
        "k": keep_ratio,
        "blocks": int(rows.n.max()),
        "prompts": desk.num_samples,
        "problems": int(packed.nats.str.split().map(len).max()),
        "weights": pruned.n_weights.max() / 1e6,
        "random": random.abs().max(),
    }
    is_math, of_set = rows.task.isin(MATH_TASKS), rows.condition == "math-specific"
    parts = {"math": is_math & of_set, "text": ~is_math & of_set}
    others = {"size": "same magnitude", "top": "top-K math"}
    for name, other in others.items():
        parts |= {name: is_math & (rows.condition == other)}
        parts |= {f"{name}_text": ~is_math & (rows.condition == other)}
    for name, part in parts.items():
        means = rows[part]["mean"].sort_values()
        for end, place in {"low": 0, "high": -1}.items():
            numbers[f"{name}_{end}"] = means.iloc[place] if len(means) else float("nan")
            numbers[f"{name}_{end}_lang"] = means.index[place] if len(means) else "none"
    return {f"desk_{name}": value for name, value in numbers.items()}
