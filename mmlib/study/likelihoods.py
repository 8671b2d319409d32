"""What an edit costs a model per token: of worked gold solutions, and of text that is not math.

A likelihood has no floor and no format, and costs a tenth of an answer: a model that solves an
eighth of the problems can be asked too.
"""

import random
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mmlib.study.evidence import audit_values, made_by, read_evidence
from mmlib.study.settings import Loading, Sampling
from mmlib.study.stats import seed_intervals
from mmlib.study.sweeps import Sets, cells
from mmlib.study.tables import RunInfo, item_losses, pack_losses
from mmlib.study.variants import Variant, edited, measured
from mmlib.tasks import skills
from mmlib.tasks.evaluation import evaluate, gold_likelihood, text_likelihood

EDIT = ["model", "condition", "keep_ratio", "seed", "edited"]
"""What names an edit: the model, which weights, K, calibration sample, and whose set it is."""
AUDITED = 8
"""Items of each task that an audit asks."""


def planned(given: Mapping[str, Any]) -> pd.DataFrame:
    """Every edit and the languages it is asked in.

    Args:
        given: Parameters of the page: with `travel` a set is asked in all languages, else in its
            own alone.

    Returns:
        Columns of `cells`, `edited` (the language of the set; "" of the unedited model), and
        `asked`, a tuple of languages.

    Raises:
        ValueError: As in `mmlib.study.sweeps.cells`.
    """
    names = ("languages", "seeds", "keep_ratios", "conditions")
    table = cells(**{name: given[name] for name in names})
    own = [(lang,) for lang in table.lang]
    everywhere = [tuple(given["languages"])] * len(table)
    plain = table.condition == "none"
    asked = pd.Series(everywhere if given["travel"] else own).where(~plain, pd.Series(own))
    return table.assign(edited=table.lang.mask(plain, ""), asked=asked)


class Bench(NamedTuple):
    """A model, sets of its weights, and what it is asked."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    sets: Sets
    given: Mapping[str, Any]
    """Parameters of the page."""
    run: RunInfo

    def _states(self, wanted: pd.DataFrame) -> Iterator[Variant]:
        """The model with each set pruned in turn."""
        for cell in wanted.to_dict("records"):
            columns = {name: cell[name] for name in EDIT[1:]} | {"model": self.run.model}
            change = partial(edited, self.model, partial(self.sets.mask, cell), factor=0.0)
            yield Variant(columns, change, {"languages": cell["asked"]})

    def losses(self) -> pd.DataFrame:
        """Prune every set and measure what the model loses.

        Returns:
            One row per edit, language asked and task: `EDIT`, lang, task, n_weights, mask, and the
            losses that `mmlib.study.tables.pack_losses` shrinks.
        """
        options = {"limit": self.given["items"], "batch_size": self.given["batch_size"]}
        options |= {"data_dir": self.given["data_dir"] or None}
        both = (gold_likelihood, self.given["tasks"]), (text_likelihood, self.given["texts"])

        def measure(model: PreTrainedModel, **asked: Any) -> dict[str, pd.DataFrame]:
            found = [f(model, self.tokenizer, tasks, **asked, **options) for f, tasks in both]
            return {"losses": pack_losses(pd.concat(found), ["lang", "task"])}

        table = measured(self._states(planned(self.given)), measure)["losses"]
        first = [*EDIT, "lang", "task"]
        return table[[*first, *(name for name in table if name not in first)]]

    def example(self, packed: pd.DataFrame) -> pd.DataFrame:
        """Answers to one problem in all languages, with the sets of some of them pruned.

        The problem is the one that pruning the first language's set costs the median, in that
        language (of an even number the lower one): neither the best nor the worst to show.

        Args:
            packed: Result of `losses`, perhaps the shipped one of this model.

        Returns:
            `EDIT`, lang, problem_id, target, response, prediction and correct, strictly extracted;
            the unedited model first, as many random weights as the first set has last.
        """
        given, (first, *_) = self.given, self.given["languages"]
        task, data_dir = given["tasks"][0], given["data_dir"] or None
        document = skills.documents(task, first, data_dir)[median_problem(packed, task, first)]
        sets = planned(given | {"travel": True, "seeds": given["seeds"][:1]})
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
            return {"answers": evaluate(model, self.tokenizer, task, data_dir=data_dir, **asked)}

        table = measured(self._states(wanted), answer)["answers"].query("extraction == 'strict'")
        told = ["lang", "problem_id", "target", "response", "prediction", "correct"]
        return table[[*EDIT, *told]].reset_index(drop=True)


def bench(given: Mapping[str, Any]) -> Bench:
    """Load the model and score its weights on every sample.

    Args:
        given: Parameters of the page.

    Raises:
        ValueError: As in `planned` and `mmlib.study.localisation.score_samples`.
    """
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


def audit(packed: pd.DataFrame, shipped: pd.DataFrame) -> pd.DataFrame:
    """Compare losses that were measured again with the shipped ones, and the sizes of the sets.

    Args:
        packed: Result of `Bench.losses`, perhaps of the first problems only.
        shipped: The shipped result.

    Returns:
        Rows of `mmlib.study.evidence.audit_values`: losses to a twentieth, sizes to a hundredth.

    Raises:
        AuditError: As there.
    """
    on = [*EDIT, "lang", "task"]
    again, kept = item_losses(packed), item_losses(shipped)
    losses = audit_values(kept, again, on=[*on, "problem"], values=["nats"], tolerance=0.05)
    sizes = audit_values(shipped, packed, on=on, values=["n_weights"])
    return pd.concat([losses, sizes], ignore_index=True)


def median_problem(packed: pd.DataFrame, task: str, lang: str) -> int:
    """Place of the problem that pruning the set of its language costs the median, over samples."""
    table = costs(packed)
    table = table[(table.condition == "math-specific") & (table.task == task)]
    table = table[(table.edited == lang) & (table.lang == lang)]
    means = table.groupby("problem", sort=False).cost.mean().sort_values(kind="stable")
    return int(means.index[(len(means) - 1) // 2].rpartition(" ")[2])


def costs(packed: pd.DataFrame) -> pd.DataFrame:
    """What every edit costs every problem.

    Args:
        packed: See `Bench.losses`.

    Returns:
        Columns `EDIT`, lang, task, problem, and `cost`: nats per token more than unedited.
    """
    losses = item_losses(packed)
    on = ["model", "lang", "task", "problem"]
    plain = losses[losses.condition == "none"].drop_duplicates(on).set_index(on).nats
    table = losses[losses.condition != "none"]
    table = table.assign(
        cost=table.nats - plain.reindex(pd.MultiIndex.from_frame(table[on])).values
    )
    return table[[*EDIT, "lang", "task", "problem", "cost"]]


def summary(packed: pd.DataFrame) -> pd.DataFrame:
    """Mean cost by edit and language, with the 95 % t interval over calibration samples.

    Args:
        packed: See `Bench.losses`.

    Returns:
        Columns model, task, condition, keep_ratio, edited, lang, mean, low, high, n.
    """
    by = ["model", "task", "condition", "keep_ratio", "edited", "lang"]
    means = costs(packed).groupby([*by, "seed"], sort=False).cost.mean()
    return seed_intervals(means, by).reset_index()


class Desk(NamedTuple):
    """What was computed on a real LLM and is shipped."""

    packed: pd.DataFrame
    """See `Bench.losses`."""
    examples: pd.DataFrame | None
    """See `Bench.example`."""
    num_samples: int
    """Prompts per block."""


def desk_losses() -> tuple[pd.DataFrame, int]:
    """The shipped losses of a real LLM, and how many prompts a block had."""
    packed, manifest = read_evidence("desk_likelihoods")
    return packed, made_by(manifest)[0]["parameters"]["num_samples"]


def desk() -> Desk:
    """Losses and answers of a real LLM."""
    packed, num_samples = desk_losses()
    return Desk(packed, read_evidence("desk_examples")[0], num_samples)
