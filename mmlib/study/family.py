"""The organisms: how each was made, what it answers, and what its controls answer."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from mmlib.models import model_hash, resolve, untrained_like
from mmlib.organism.corpus import CHANCE, language_file, person
from mmlib.study.evidence import audit, read_evidence
from mmlib.study.settings import Loading
from mmlib.study.stats import summarize
from mmlib.study.tables import (
    MATH_PARTS,
    RunInfo,
    pack_answers,
    published,
    read_table,
    unpack_answers,
)
from mmlib.tasks.evaluation import part_answers


class Family(NamedTuple):
    """What `rows` finds; the first organism is the one of the page."""

    folders: dict[str, Path]
    """Folder of every organism, by its name."""
    manifests: pd.DataFrame
    """What the manifest of each (column) says, with its recipe and its mix."""
    training: pd.DataFrame
    """Every 25th step of each log, the loss averaged over the last 50, with `model`."""
    problems: pd.DataFrame
    """Every held-out item: problem_id, part, lang, target, …"""
    asked: pd.DataFrame
    """Answers of this run, with `model`; see `part_answers`."""
    audited: pd.DataFrame
    """See `mmlib.study.evidence.audit`; empty if no answers of these models are shipped."""
    answers: pd.DataFrame
    """All answers, the shipped ones where there are any: model, part, lang, problem_id, correct."""
    controls: pd.DataFrame
    """Accuracy of the most frequent gold answer (constant), of a guess, and of the first organism
    before training (untrained), by part and lang."""
    run: RunInfo

    @property
    def first(self) -> str:
        """Name of the organism of the page."""
        return next(iter(self.folders))

    @property
    def card(self) -> str:
        """Its model card, in Markdown."""
        return (self.folders[self.first] / "README.md").read_text(encoding="utf-8")

    @property
    def made(self) -> pd.DataFrame:
        """Packed answers of this run."""
        return pack_answers(self.asked, by=["model", "part", "lang"])

    def accuracy(self) -> pd.DataFrame:
        """Accuracy by model, part (in their order) and lang, see `summarize`.

        Each row has `foreign_math` and `training_seed` of its model.
        """
        table = summarize(self.answers, by=["model", "part", "lang"])
        order = list(self.problems.part.unique())
        table = table.sort_values("part", key=lambda part: part.map(order.index), kind="stable")
        made = self.manifests.loc[["foreign_math", "seed"]].T
        made = made.astype({"foreign_math": float, "seed": int})
        return table.join(made.rename(columns={"seed": "training_seed"}), on="model")

    def solved(self) -> pd.DataFrame:
        """Accuracy of the first organism in the math of the known templates, by lang and task."""
        mine = self.answers.model == self.first
        solved = self.answers[mine & self.answers.part.isin(MATH_PARTS)]
        return summarize(solved.assign(task="organism-math"))


def rows(given: Mapping[str, Any]) -> Family:
    """Ask every organism a part of the held-out items, and compare with the shipped answers.

    Without `audit_items` everything is asked, and nothing that is shipped is taken. Two organisms
    of one name are a ValueError.
    """
    names = [given["model"], *given["family"]]
    folders = {Path(name).name: Path(resolve(name)) for name in names}
    if len(folders) < len(names):
        raise ValueError(
            f"two of {names} have one name, by which the tables tell organisms apart: rename a "
            "folder, or leave one out of `family`"
        )
    loaded = {n: Loading(str(f), dtype=given["dtype"]).load() for n, f in folders.items()}
    first = next(iter(folders))
    path = folders[first] / "heldout.jsonl.gz"
    problems = pd.read_json(path, lines=True, dtype=False).rename(columns={"id": "problem_id"})
    languages, items = given["languages"], given["audit_items"]
    drawn = {"languages": languages, "items": items, "seed": given["audit_seed"]}
    asked = pd.concat(
        part_answers(*pair, **drawn, data_dir=folders[name]).assign(model=name)
        for name, pair in loaded.items()
    )
    packed, _ = read_evidence("family_answers")
    packed = packed if items else packed.head(0)  # a run that asks all makes the evidence
    shipped = unpack_answers(packed, problems[["problem_id", "part"]].drop_duplicates())
    shipped = shipped.drop(columns="grade")
    known = asked.model.isin(shipped.model)
    again = asked[known][[*shipped]]
    wanted = shipped.model.isin(list(loaded)) & shipped.lang.isin(languages)
    hashes = {name: model_hash(model) for name, (model, _) in loaded.items()}
    model, tokenizer = loaded[first]
    told = {name: json.loads((f / "manifest.json").read_text()) for name, f in folders.items()}
    logs = {name: pd.read_csv(folder / "training_log.csv") for name, folder in folders.items()}
    logs = [
        log.assign(loss=log.loss.rolling(50, min_periods=1).mean()).iloc[49::25].assign(model=name)
        for name, log in logs.items()
    ]
    blank = {"languages": languages, "items": given["control_items"], "data_dir": folders[first]}
    untrained = part_answers(untrained_like(model, seed=1), tokenizer, **blank)
    gold = problems[problems.lang.isin(untrained.lang)].groupby(["part", "lang"], sort=False).target
    constant = gold.agg(lambda targets: targets.value_counts(normalize=True).iloc[0])
    controls = {
        "constant": constant,
        "guess": constant.index.to_frame()["part"].map(CHANCE).fillna(0.0),
        "untrained": untrained.groupby(["part", "lang"], sort=False).correct.mean(),
    }
    return Family(
        folders=folders,
        manifests=pd.DataFrame({n: m | m["recipe"]["mix"] | m["recipe"] for n, m in told.items()}),
        training=pd.concat(logs),
        problems=problems,
        asked=asked,
        audited=audit(shipped, again, by=["model", "lang"]) if len(again) else pd.DataFrame(),
        answers=pd.concat([shipped[wanted], asked[~known]]),
        controls=pd.DataFrame(controls),
        run=Loading.of(given).run(model, {**given, "hashes": hashes}),
    )


def files(folders: Mapping[str, Path]) -> pd.DataFrame:
    """Size of every file in megabytes, and of all, by organism."""
    sizes = {n: {p.name: p.stat().st_size / 1e6 for p in f.iterdir()} for n, f in folders.items()}
    table = pd.DataFrame(sizes).sort_index()
    return pd.concat([table, table.sum().to_frame("all (MB)").T])


def templates(languages: Sequence[str]) -> pd.DataFrame:
    """What the file of sentences of each language (column) holds."""
    counted = {
        "math sentences": "math",
        "objects": "objects",
        "openings": "openings",
        "layouts": "layouts",
        "sentences to translate": "story",
    }
    table, towns = {}, language_file("structure")["towns"]
    for code in languages:
        texts = language_file(code)
        table[code] = {label: len(texts[key]) for label, key in counted.items()}
        table[code] |= {
            "names": sum(map(len, texts["names"].values())),
            "words of facts": sum(len(fact["values"]) for fact in texts["reading"].values()),
            "invented facts": towns * len(texts["knowledge"]),
        }
    return pd.DataFrame(table)


def reading(answers: pd.DataFrame, problems: pd.DataFrame) -> pd.DataFrame:
    """Accuracy in questions about a passage by what they ask for: a person, or another word.

    From `Family.answers` and `Family.problems`: the columns of `summarize`, by model, part, lang
    and `asks for`.
    """
    people = set()
    for code in answers.lang.unique():
        texts = language_file(code)
        count = sum(map(len, texts["names"].values()))
        people |= {(code, person(texts, k)["many"]) for k in range(count)}
    table = answers[["model", "part", "lang", "problem_id", "correct"]]
    asked = problems.loc[problems.task == "reading", ["problem_id", "lang", "target"]]
    table = table.merge(asked)
    of_person = [pair in people for pair in zip(table.lang, table.target, strict=True)]
    table["asks for"] = pd.Series(of_person).map({True: "a person", False: "a word"})
    return summarize(table, by=["model", "part", "asks for", "lang"])


def spelt(table: pd.DataFrame) -> pd.Series:
    """Accuracy and interval as text, such as `.98 (.96–.99)`."""
    bounds = table[["accuracy", "low", "high"]].map(lambda share: f"{share:.2f}".removeprefix("0"))
    return bounds.accuracy + " (" + bounds.low + "–" + bounds.high + ")"


def apart(table: pd.DataFrame) -> pd.Series:
    """Whether the best language's interval lies above that of the worst, by model and part."""
    groups = table.groupby(["model", "part"], sort=False)
    return groups.low.max() > groups.high.min()


def rungs() -> pd.DataFrame:
    """Shipped math accuracies of trainings with other shares of math that is not English."""
    table = read_evidence("base_rungs")[0]
    return table[table.part.isin(MATH_PARTS)]


def published_accuracy() -> pd.DataFrame:
    """Accuracy of the papers' unedited models, by language."""
    return published("mathlang_interventions").query(
        "variant == 'page_table' and metric == 'strict'"
    )


def sets() -> dict[str, pd.DataFrame]:
    """Tables of the chapters on sets of weights that the claims need."""
    return {name: read_table(name) for name in ("overlap", "set_sizes")}


def desk() -> dict[str, pd.DataFrame]:
    """The same of a real LLM, and what it solves."""
    names = {"overlap": "evidence/desk_overlap"}
    names |= {name: f"desk_{name}" for name in ("set_sizes", "accuracy")}
    return {name: read_table(table) for name, table in names.items()}
