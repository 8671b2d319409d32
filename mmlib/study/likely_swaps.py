"""Swaps of layers in a real LLM, judged by likelihoods: it solves too few problems for grades.

One expert learns English math, one a language from text without math, both from the same model by
LoRA on the decoder layers. What counts is how likely the English solution of a problem is, asked in
English and in the language, and how likely text of the language is: a swap must not buy one with
the other.
"""

import copy
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mmlib.finetune import encode
from mmlib.merging import update_magnitude
from mmlib.study.evidence import read_evidence
from mmlib.study.experts import MATH
from mmlib.study.moves import layer_shares, swapped_shares
from mmlib.study.pairs import draw_pairs, translation_prompt
from mmlib.study.selective import SOLUTION, START, Asked, Measured, losses
from mmlib.study.settings import Steps
from mmlib.study.stats import seed_interval, seed_means
from mmlib.study.swaps import mergers, named_plans, select
from mmlib.study.systems import Examples, Texts, align
from mmlib.study.tables import RunInfo, item_costs
from mmlib.study.variants import Variant, measured, reweighted

TEXT = "text"
"""What is read beside `selective.SOLUTION`: sentences of the language, that nothing precedes."""
FORMS = (TEXT, "translation", "reading")
"""How a language expert sees a sentence: alone, or as the translation of its English original, with
a loss on the sentence; or with a loss on the original, as its translation."""


def sentence_examples(
    tokenizer: PreTrainedTokenizerBase, pairs: pd.DataFrame, forms: Sequence[str]
) -> Examples:
    """Sentences of a language in these `FORMS` by turns.

    Raises:
        ValueError: An unknown form, or none.
    """
    if not forms or not {*forms} <= {*FORMS}:
        raise ValueError(f"forms={list(forms)}: give some of {', '.join(FORMS)}")
    return encode(tokenizer, map(_seen, pairs.itertuples(), itertools.cycle(forms)))


def _seen(pair: Any, form: str) -> tuple[str, str]:
    """What comes before, and what the loss is on."""
    if form == "reading":
        return translation_prompt(pair.text, pair.lang), pair.english
    return translation_prompt(pair.english, "en", pair.lang) if form != TEXT else "", pair.text


class Bench(Asked):
    """A model, what its experts learn from, and what is read of them."""

    def __init__(self, given: Mapping[str, Any]):
        """Load the model; see `Texts` and `problems_in` for what is refused."""
        super().__init__(given)
        self.steps = Steps.of(given)
        self.texts = {
            code: Texts.of(given, languages=["en", code]) for code in given["languages"][1:]
        }
        self.pairs, self.aside = {}, {}
        for code, texts in self.texts.items():
            _, aside = self.parted(replace(texts, pair_split=given["read_split"]))
            pairs, _ = self.parted(replace(texts, heldout=1))
            self.pairs[code], self.aside[code] = pairs[~pairs.id.isin(aside.id)], aside
        self.recipe = {"model": self.run.model, "steps": given["steps"]}
        self.recipe |= {name: given[name] for name in ("rate_math", "rate_language")}

    def asked(self, language: str) -> Measured:
        """What is read of every merger with the expert in a language."""
        aside, solved = self.aside[language], self.solutions()
        texts = sentence_examples(self.tokenizer, aside, [TEXT])
        asked = {(SOLUTION, code): solved[SOLUTION, code] for code in ("en", language)}
        return asked | {(TEXT, language): ([*aside.id], texts)}

    def _learned(self, role: str, seed: int) -> tuple[Examples, Examples]:
        """Examples of an expert, and those whose loss its log tells."""
        number, held = self.steps.examples, self.given["heldout"]
        if role == MATH:
            code = next(iter(self.texts))
            return self.solved(self.texts[code], self.pairs[code], number=number, seed=seed)
        drawn = draw_pairs(self.pairs[role], number + held, seed=seed)
        rest = sentence_examples(self.tokenizer, drawn[held:], self.given["forms"])
        return rest, sentence_examples(self.tokenizer, drawn[:held], [TEXT])

    def expert(self, role: str, seed: int) -> tuple[PreTrainedModel, pd.DataFrame]:
        """An expert in English math or in a language, and the log of its training.

        One that is trained already is loaded. It shares what it does not train with the model.
        """
        given, of_math = self.given, role == MATH
        stage = replace(START, data=START.data if of_math else role)
        plan = self.steps.plan(given["rate_math" if of_math else "rate_language"], seed=seed)
        rest, aside = self._learned(role, seed)
        marks = [role, *([] if of_math else given["forms"]), self.steps.steps, given["heldout"]]
        made, log, _ = align(
            _trainable_copy(self.model),
            [stage],
            {stage.data: rest},
            self.out / f"seed-{seed}" / "-".join(map(str, marks)),
            {stage.kind: plan},
            heldout=aside,
        )
        return made, log.assign(role=role, seed=seed, learning_rate=plan.learning_rate)

    def swapped(
        self, math: PreTrainedModel, expert: PreTrainedModel, language: str, seed: int
    ) -> dict[str, pd.DataFrame]:
        """Merge a math expert and one in a language in every way, and read what comes out.

        Returns:
            "losses" (see `selective.losses`), with target, seed, system and draw; "moves": the
            share of every layer in what either expert moved, see `layer_shares`.
        """
        given, asked = self.given, self.asked(language)
        experts = {MATH: math, language: expert}
        depth = self.model.config.get_text_config().num_hidden_layers
        plans = named_plans(depth, draws=given["draws"])
        made = mergers(self.model, *experts.values(), plans, others="math")  # all have the same
        reader = copy.deepcopy(self.model)
        reader = reader.to(torch.bfloat16) if given["bf16"] else reader
        variants = [
            Variant({"system": merger.system, "draw": merger.draw}, partial(reweighted, reader, at))
            for merger, at in select(made, given["systems"]).items()
        ]
        tables = measured(variants, lambda model: {"losses": losses(model, asked, bf16=False)})
        moves = {role: update_magnitude(self.model, expert) for role, expert in experts.items()}
        updates = pd.concat(moves, names=["role"]).reset_index("role").assign(seed=seed)
        tables["moves"] = layer_shares(updates).reset_index()
        return {kind: table.assign(target=language, seed=seed) for kind, table in tables.items()}


def _trainable_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A copy that shares embeddings and head, which LoRA on the layers leaves as they are."""
    outside = [*model.get_input_embeddings().parameters()]
    outside += [*model.get_output_embeddings().parameters()]
    return copy.deepcopy(model, {id(weight): weight for weight in outside})


class Swapped(NamedTuple):
    """What `rows` gives, and what is shipped."""

    losses: pd.DataFrame
    """See `Bench.swapped`, as the next; empty if no systems are wanted."""
    moves: pd.DataFrame
    log: pd.DataFrame
    """Of the trainings of all experts: role, seed, learning_rate and what `fine_tune` tells."""
    run: RunInfo | None = None


def rows(given: Mapping[str, Any]) -> Swapped:
    """Train the experts, merge those of equal seeds, and read what comes out.

    Without `systems` the language experts alone are trained.
    """
    bench, tables = Bench(given), {"log": [], "losses": [], "moves": []}
    for seed in given["seeds"]:
        if given["systems"]:
            math, log = bench.expert(MATH, seed)
            tables["log"].append(log)
        for code in given["languages"][1:]:
            expert, log = bench.expert(code, seed)
            tables["log"].append(log)
            if given["systems"]:
                for kind, table in bench.swapped(math, expert, code, seed).items():
                    tables[kind].append(table)
    joined = dict.fromkeys(tables, pd.DataFrame())
    for kind, parts in tables.items():
        if parts:
            joined[kind] = pd.concat(parts, ignore_index=True).assign(**bench.recipe)
    return Swapped(**joined, run=bench.run)


def desk() -> Swapped:
    """What is shipped of a real LLM."""
    return Swapped(*(read_evidence(f"desk_swapped{end}")[0] for end in ("", "_moves", "_log")))


def reading() -> pd.DataFrame:
    """Losses with a language expert that learns to read, see `FORMS`, of a real LLM."""
    return read_evidence("desk_swapped_reading")[0]


def tried() -> pd.DataFrame:
    """Loss of sentences that were set aside, before and after trials of learning rates."""
    log = read_evidence("desk_swapped_rates")[0].dropna(subset="heldout_loss")
    ends = log.groupby("learning_rate", sort=False).heldout_loss.agg(["first", "last"])
    return ends.rename(columns={"first": "before", "last": "after twelve steps"})


def gains(packed: pd.DataFrame) -> pd.DataFrame:
    """How much more likely a text is than to the model that nobody trained, nats per token.

    From `Swapped.losses`, one row per text of every merger, see `item_costs`: gain (-1 times the
    cost) and measure: "asked in English", "asked in the language" (solutions) or "text of the
    language".
    """
    table = item_costs(packed, "system", "base")
    asked = table.lang.eq("en").map({True: "asked in English", False: "asked in the language"})
    measure = asked.where(table.task == SOLUTION, "text of the language")
    return table.assign(gain=-table.cost, measure=measure)


def summary(packed: pd.DataFrame) -> pd.DataFrame:
    """Mean gain of every merger, with a 95 % t interval over trainings; draws count as one.

    Columns target, system, measure, mean, low, high, n.
    """
    return seed_means(gains(packed), "gain", ["target", "system", "measure"])


def told(found: Swapped) -> dict[str, Any]:
    """Numbers that the page repeats: gains are means over texts, trainings and languages."""
    table = gains(found.losses)
    numbers: dict[str, Any] = {
        **found.losses.iloc[0][["model", "steps"]],
        "trainings": table.seed.nunique(),
        "problems": table[table.task == SOLUTION].place.nunique(),
    }
    means = table.groupby(["measure", "system", "target"]).gain.mean()
    words = {
        "asked in the language": "asked",
        "asked in English": "en",
        "text of the language": TEXT,
    }
    for measure, word in words.items():
        of = means[measure].groupby("system", sort=False).mean()
        numbers |= {f"{name.replace(' ', '_')}_{word}": gain for name, gain in of.items()}
        others = of.drop("swap")
        numbers |= {f"best_{word}": others.idxmax(), f"best_gain_{word}": others.max()}
    swap = means["asked in the language", "swap"]
    for end, lang in {"low": swap.idxmin(), "high": swap.idxmax()}.items():
        numbers |= {end: swap[lang], f"{end}_lang": lang}
    outer, even = swapped_shares(found.moves.groupby(["role", "seed", "layer"]).share.mean())
    of_math = outer.index.get_level_values("role") == MATH
    numbers |= {"outer_math": outer[of_math].mean(), "outer_language": outer[~of_math].mean()}
    return {f"swap_{name}": value for name, value in (numbers | {"outer_even": even}).items()}


def told_reading() -> dict[str, Any]:
    """Of `reading`, solutions of problems that are asked in the language.

    Gains of the mergers, and that of the language expert with a 95 % t interval over the problems.
    """
    table = gains(reading())
    asked = table[table.measure == "asked in the language"]
    means = asked.groupby("system").gain.mean().rename(lambda name: name.replace(" ", "_"))
    gate = seed_interval(asked[asked.system == "language expert"].gain)
    numbers = {**means, "mean": gate.mean, "low": gate.low, "high": gate.high}
    return {f"reading_{name}": value for name, value in numbers.items()}
