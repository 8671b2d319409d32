"""One checkpoint in numbers: its training, what it can do, its sets, their overlap and reach."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mmlib.finetune import encode, mean_loss
from mmlib.models import load_model
from mmlib.study.localisation import Sample, score_samples, set_tables
from mmlib.study.settings import Asking, Sampling
from mmlib.study.stats import summarize
from mmlib.study.travel import Sets, edits, predictors, transfer
from mmlib.tasks.benchmarks.organism import organism_folder
from mmlib.tasks.problems import load_problems

BYTES = 259
"""Entries of a vocabulary of single bytes and three special tokens."""


def lineage(name: str) -> dict[str, Any]:
    """What is known of how a checkpoint was trained.

    Args:
        name: An organism's name, its folder, or a snapshot that `train` left beside it.

    Returns:
        `base` (the finished folder), `languages`, `shares`, `mix` (skewed, even, base, latin where
        Hindi is romanised, bytes where every byte is a token), training_seed, width, documents,
        step and tokens; of a checkpoint without a recipe `mix` and `base` only, both empty.

    Raises:
        ValueError: A snapshot of a run that is not finished.
    """
    folder = organism_folder(name)
    manifest = _manifest(folder)
    if "recipe" not in manifest:
        return {"base": "", "mix": ""}
    recipe, base = manifest["recipe"], folder.with_name(manifest.get("training", folder.name))
    mix = recipe["name"].removeprefix("organism-")
    if recipe["vocab_size"] == BYTES:
        mix = "bytes"
    elif "hi-Latn" in recipe["mix"]["languages"]:
        mix = "latin"
    if not _manifest(base):
        raise ValueError(f"{name} is a snapshot, but {base} is not there: finish the training")
    return {
        "base": str(base),
        "languages": list(recipe["mix"]["languages"]),
        "shares": recipe["mix"]["languages"],
        "mix": mix,
        "training_seed": recipe["seed"],
        "width": recipe["hidden_size"],
        "documents": recipe["mix"]["documents"],
        "step": manifest["steps"],
        "tokens": manifest["tokens"],
    }


def _manifest(folder: Path) -> dict[str, Any]:
    """What the manifest of a checkpoint says; nothing where there is none."""
    path = folder / "manifest.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def snapshots(name: str) -> list[str]:
    """The snapshots that `train` left beside a finished folder, in the order of their steps."""
    folder = organism_folder(name)
    told = {path: _manifest(path) for path in folder.parent.glob(f"{folder.name}-*")}
    own = {path: m["steps"] for path, m in told.items() if m.get("training") == folder.name}
    return [str(path) for path in sorted(own, key=own.get)]


def trainings(names: Sequence[str]) -> pd.DataFrame:
    """What the trainings behind some checkpoints cost; a snapshot counts as its whole training.

    Returns:
        One row per training: training, mix, width, training_seed, documents, tokens, steps, minutes
        (of wall time), threads and cpu_hours = minutes · threads / 60.
    """
    rows, told = [], ["mix", "width", "training_seed", "documents", "tokens"]
    for base in dict.fromkeys(lineage(name)["base"] for name in names):
        if base:
            about, manifest = lineage(base), _manifest(Path(base))
            threads, minutes = re.search(r"\d+$", manifest["hardware"])[0], manifest["seconds"] / 60
            cost = (about["step"], minutes, int(threads), minutes * int(threads) / 60)
            rows.append((Path(base).name, *(about[name] for name in told), *cost))
    columns = ["training", *told, "steps", "minutes", "threads", "cpu_hours"]
    return pd.DataFrame(rows, columns=columns)


TOLD = ("mix", "training_seed", "width", "step", "tokens")
"""What of a lineage becomes columns of the tables of `profiles`."""


def profiles(
    names: Sequence[str],
    sampling: Sampling,
    asking: Asking,
    *,
    dtype: str = "float32",
    **options: Any,
) -> dict[str, pd.DataFrame]:
    """The profiles of several checkpoints, with what is known of their training.

    Args:
        names: Organisms, folders, snapshots or hub ids.
        sampling: As in `profile`; without languages those of each one's recipe, without a folder
            each one's own.
        asking: As in `profile`; languages and folder are those of `sampling`.
        dtype: Precision in which they are loaded.
        **options: Further arguments of `profile`.

    Returns:
        The tables of `profile`, joined, with the columns model, parameters, `TOLD` (-1 for numbers
        that no manifest tells), and in "sizes" share, a language's share of the training text.

    Raises:
        ValueError: A checkpoint without a recipe, and no languages given.
    """
    joined: dict[str, list[pd.DataFrame]] = {}
    for name in names:
        about, languages, data_dir = lineage(name), sampling.languages, sampling.data_dir
        model, tokenizer, told, codes, folder = _open(name, dtype, languages, data_dir)
        own = {"languages": codes, "data_dir": folder}
        settings = (replace(record, **own) for record in (sampling, asking))
        tables = profile(model, tokenizer, *settings, **options)
        shares = about.get("shares", {})
        known = {code: share / sum(shares.values()) for code, share in shares.items()}
        tables["sizes"] = tables["sizes"].assign(share=tables["sizes"].lang.map(known))
        told |= {"parameters": model.num_parameters()}
        for kind, table in tables.items():
            joined.setdefault(kind, []).append(table.assign(**told))
    return {
        kind: pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)
        for kind, tables in joined.items()
    }


def _open(name: str, dtype: str, languages: Sequence[str], data_dir: str) -> tuple:
    """Model, tokenizer, columns that name it, languages and folder of its texts."""
    about = lineage(name)
    codes = list(languages) or about.get("languages")
    if not codes:
        raise ValueError(f"{name} has no manifest that tells its languages: give them")
    model, tokenizer = load_model(name, dtype=dtype)
    told = {"model": name} | {column: about.get(column, -1) for column in TOLD}
    told["width"] = model.config.hidden_size
    return model, tokenizer, told, codes, data_dir or about["base"]


def answer_losses(
    names: Sequence[str],
    *,
    task: str,
    number: int,
    dtype: str = "float32",
    languages: Sequence[str] = (),
    data_dir: str = "",
) -> pd.DataFrame:
    """How surprised checkpoints are by right answers: an ability that rises before the last step.

    They read the first `number` held-out problems of a task per language; the other arguments are
    those of `profiles`.

    Returns:
        One row per checkpoint and language: model, `TOLD`, lang, loss = mean over problems of the
        mean negative log-likelihood per token of the answer, in nats.
    """
    rows = []
    for name in names:
        model, tokenizer, told, codes, folder = _open(name, dtype, languages, data_dir)
        for code in codes:
            problems = load_problems(task, code, data_dir=folder or None)[:number]
            texts = [(problem.prompt, problem.response) for problem in problems]
            read = encode(tokenizer, texts, end=False)
            losses = [mean_loss(model, [example]) for example in read]
            rows.append(told | {"lang": code, "loss": sum(losses) / len(losses)})
    return pd.DataFrame(rows)


def profile(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sampling: Sampling,
    asking: Asking,
    *,
    keep_ratios: Sequence[float],
    edited: Sequence[str] = (),
    edit_ratio: float = 0.01,
) -> dict[str, pd.DataFrame]:
    """Localise, compare, ask, and let a few edits travel.

    The ceiling needs two seeds of `sampling`. Sets of some languages (`edited`, with K
    `edit_ratio`) are pruned, each beside as many random weights; all languages are asked, the first
    of the parts.

    Returns:
        "sizes" and "overlap" (see `localisation.set_tables`; `text_tokens` is the mean
        length of a math text; `control` is "two languages", "same language" or
        "nonmath-specific"), "accuracy" (see `mmlib.study.stats.summarize`) and "travel": weights,
        drawn, edited, lang, n, n_correct, accuracy, n_weights, jaccard (of both languages' sets).
    """
    math, nonmath, languages = sampling.math, sampling.nonmath, sampling.languages
    samples, first = sampling.draw(), sampling.seeds[0]
    scores = score_samples(model, tokenizer, samples)
    tables = set_tables(scores, math, nonmath, keep_ratios, reverse=True)
    texts = {code: tokenizer(list(samples[Sample(code, math, first)].texts)) for code in languages}
    lengths = {c: sum(map(len, t.input_ids)) / sampling.num_samples for c, t in texts.items()}
    others = {"two languages": tables.overlap, "nonmath-specific": tables.nonmath_overlap}
    overlaps = [table.assign(control=name, nonmath=nonmath) for name, table in others.items()]
    ask = asking.ask(tokenizer)
    answers = ask(model, languages=asking.languages, parts=asking.parts)
    few = {"keep_ratios": [edit_ratio], "seeds": [first], "weights": ["whole"]}
    wanted = edits(languages=languages, **few)
    wanted = wanted[wanted.edited.isin(edited)].assign(part=asking.parts[0])
    columns = ["weights", "drawn", "edited", "lang", "n", "n_correct", "accuracy"]
    columns += ["n_weights", "jaccard"]
    travel = pd.DataFrame(columns=columns)
    if len(wanted):
        sets, everywhere = Sets(scores, math, nonmath), pd.DataFrame({"lang": list(languages)})
        travel = transfer(model, sets, wanted.merge(everywhere, how="cross"), ask)
        grades = travel.correct.str
        travel = travel.assign(n=grades.len(), n_correct=grades.count("1"))
        pairs = predictors(sets.whole(edit_ratio, first))[["edited", "lang", "jaccard"]]
        travel = travel.assign(accuracy=travel.n_correct / travel.n)
        travel = travel.merge(pairs, on=["edited", "lang"], how="left")
    return {
        "sizes": tables.sizes.assign(text_tokens=tables.sizes.lang.map(lengths)),
        "overlap": pd.concat([*overlaps, tables.ceiling], ignore_index=True),
        "accuracy": summarize(answers, by=["part", "lang"]),
        "travel": travel[columns],
    }


def beyond_random(travel: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Losses by edits beyond those by as many random weights, as shares of what was right then.

    From "travel" of `profile`, perhaps of several models, told apart by the columns `by`: one row
    per model, edited language and language asked: control (accuracy with random weights),
    difference = control - accuracy, loss = difference / control (missing where nothing was right),
    jaccard.
    """
    name = [*by, "edited", "lang"]
    drawn = travel.drawn == "matrices"
    random = travel[drawn].groupby(name).accuracy.mean().rename("control")
    own = travel[~drawn].join(random, on=name)
    own["difference"] = own.control - own.accuracy
    own["loss"] = own.difference / own.control.where(own.control > 0)
    return own[[*name, "control", "difference", "loss", "jaccard"]].reset_index(drop=True)
