"""Is it enough to align a few layers? SLAM beside other systems, from one model and its seeds."""

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mmlib.neurons import overlap_with_english, ranges, select_layers
from mmlib.study.evidence import audit, audit_values, read_evidence, shipped
from mmlib.study.firing import question_firing
from mmlib.study.settings import Ask, Asking, Loading
from mmlib.study.states import views
from mmlib.study.stats import Interval, paired_changes, seed_interval
from mmlib.study.systems import (
    Schedule,
    Texts,
    begin,
    choose,
    compared,
    equal_rank,
    heard,
    replan,
    systems,
    translation_examples,
)
from mmlib.study.tables import NEW_MATH_PARTS, RunInfo, pack_answers, published, unpack_answers
from mmlib.tasks.evaluation import legacy_correct
from mmlib.tasks.problems import load_problems

RECIPE = ("model", "start", "pair_source", "steps")
"""Columns of the shipped tables that name what systems were trained from, and for how long; start,
the system that the model was trained as first, is "none" in all of ours."""
MADE_WITH = ("dtype", "data_dir", "train_batch", "accumulation", "bf16", "num_questions")
MADE_WITH += ("rate_part", "rate_full", "rate_lora", "shares")
KEYS = ("system", "seed", "stage", "step", "part", "lang", "layer", "map_seed", "question")
"""Columns that name a row of these tables, as far as a table has them."""
KNOWN, NEW = "known templates", "new templates"


def _in_words(value: Any) -> str:
    """Some layers or modules, or without a choice all of them."""
    chosen = isinstance(value, tuple) and value
    return ", ".join(map(str, value)) if chosen else "all" if value in (None, ()) else str(value)


class Bench:
    """A model, what systems that are trained from it learn from, and how they are trained."""

    def __init__(self, given: Mapping[str, Any]):
        """Load the model, and choose the layers that SLAM trains."""
        self.given, loading = given, Loading.of(given)
        self.model, self.tokenizer = loading.load()
        self.run = loading.run(self.model, given)
        self.texts, self.schedule = Texts.of(given), Schedule.of(given)
        self.systems = list(dict.fromkeys(["SLAM", *given["systems"]]))
        self.ablations = list(given.get("ablations", ()))
        self.pairs = self.texts.pairs()
        self.learned, aside = self.texts.parted(self.pairs)
        self.heldout = translation_examples(self.tokenizer, aside)
        self.recipe = {"model": self.run.model, "start": "none"}
        self.recipe |= {"pair_source": given["pair_source"], "steps": given["steps"]}
        folder = f"{self.run.model}_{given['pair_source']}_{given['steps']}"
        self.out = Path(given["runs_dir"]) / folder.replace("/", "-")
        depth = self.model.config.get_text_config().num_hidden_layers
        named = partial(systems, depth=depth)
        known = choose(named([0], rank=1), [*self.systems, *self.ablations])
        self.kinds = {stage.data for stages in known.values() for stage in stages}
        self.layers = given["layers"] or selected_layers(
            self.model, self.tokenizer, self.texts, given
        )
        rank = equal_rank(self.model, named(self.layers, rank=1)["SLAM"][0])
        self.recipes = named(self.layers, rank=rank)

    @cached_property
    def examples(self) -> dict[int, dict[str, Sequence]]:
        """What is learned, by seed: of all trainings, or of the one that is begun again."""
        seeds = self.given["seeds"] if self.given["sweep"] else self.given["seeds"][:1]
        how = {"number": self.schedule.examples, "kinds": self.kinds}
        return {
            seed: self.texts.examples(self.tokenizer, self.learned, seed=seed, **how)
            for seed in seeds
        }

    @property
    def once_steps(self) -> int:
        """Steps of the ablations; a sweep makes all of the same length."""
        given = self.given
        return given["steps"] if given["sweep"] else given.get("short_steps", given["steps"])

    def wanted(self) -> pd.DataFrame:
        """Every training, and the model itself: system, seed, steps."""
        steps, seeds = self.given["steps"], self.given["seeds"]
        rows = [("base", 0, steps), *((*pair, steps) for pair in product(self.systems, seeds))]
        once = ["SLAM", *self.ablations] if self.ablations else []
        rows += [(name, seeds[0], self.once_steps) for name in once]
        return pd.DataFrame(rows, columns=["system", "seed", "steps"]).drop_duplicates()

    def described(self) -> pd.DataFrame:
        """What each stage of each system learns from and trains."""
        plans = choose(self.recipes, [*self.systems, *self.ablations])
        rows = [(name, *vars(stage).values()) for name, plan in plans.items() for stage in plan]
        table = pd.DataFrame(rows, columns=["system", "data", "layers", "modules", "LoRA rank"])
        return table.set_index("system").map(_in_words)

    def asking(self, again: bool = False) -> Asking:
        """What systems are asked; `again`: the part that this run asks."""
        given, sweep = self.given, self.given["sweep"]
        languages, parts = given["languages"], given["parts"] or None
        if not again or sweep:
            return Asking.of(given, parts=parts)
        both = [languages[0], languages[-1]]
        return Asking.of(given, parts=parts, languages=both, items=given["audit_items"])

    def problems(self, again: bool = False) -> pd.DataFrame:
        """What systems are asked: part, problem_id."""
        return self.asking(again).problems(self.given["languages"][0])

    @property
    def ask(self) -> Ask:
        """Asks what this run asks."""
        asking = self.asking(again=True)
        return asking.ask(self.tokenizer, languages=asking.languages, parts=asking.parts)

    def made(self, *, ask: Ask | None, look: bool = True) -> dict[str, pd.DataFrame]:
        """Train, ask and look at everything in a sweep, else at the model itself only.

        `ask` is called with every model, that itself first; `look`: see `mmlib.study.states.views`.

        Returns:
            Kind -> table, see `mmlib.study.systems.compared` and `heard`, with columns `RECIPE`.
        """
        given, wanted = self.given, self.wanted()
        now = wanted if given["sweep"] else wanted[wanted.system == "base"]
        data = {"recipes": self.recipes, "examples": self.examples if given["sweep"] else {}}
        how = {"plans": self.schedule.plans, "heldout": self.heldout, "out": self.out}
        compare = partial(compared, self.model, **data, **how)
        questions = self.texts.questions(given["shown"], seed=2) if look else {}
        seen = {"questions": questions, "batch_size": given["batch_size"]}
        seeing = partial(views, tokenizer=self.tokenizer, **seen)

        def measure(model: PreTrainedModel) -> dict[str, pd.DataFrame]:
            return (seeing(model) if look else {}) | (heard(ask(model)) if ask else {})

        tables = compare(now, measure=measure)
        if look and given["sweep"] and given["maps"]:
            mapped = now[now.system.isin(["base", "SLAM"]) & now.seed.isin([0, given["seeds"][0]])]
            drawn = partial(seeing, maps=given["maps"])
            tables["maps"] = compare(mapped, measure=drawn)["maps"]
        return {kind: table.assign(**self.recipe) for kind, table in tables.items()}

    def taken(self, kind: str, made: Mapping[str, pd.DataFrame], **others: Any) -> pd.DataFrame:
        """Rows of these trainings in a table, made or shipped; `others`: in place of `RECIPE`."""
        table = made[kind] if self.given["sweep"] else read_evidence(f"system_{kind}")[0]
        for column, value in (self.recipe | others).items():
            table = table[table[column] == value]
        return table.drop_duplicates([key for key in KEYS if key in table], ignore_index=True)

    def tried(self, kind: str, made: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
        """A table of the trials of learning rates with this model; a sweep is its own trial."""
        table = made[kind] if self.given["sweep"] else read_evidence(f"rate_{kind}")[0]
        return table[table.model == self.run.model].drop_duplicates()

    def laboratory(self, made: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
        """Losses of all trainings and answers of the trials, under the names that claims need."""
        log = made["log"] if self.given["sweep"] else read_evidence("system_log")[0]
        return {"evidence/system_log": log, "evidence/rate_answers": self.tried("answers", made)}

    def answers(self, made: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
        """Graded answers of every training, made or shipped, one row per problem."""
        asked = self.problems()
        packed = made.get("answers")
        if not self.given["sweep"]:
            parts = asked[["part"]].drop_duplicates()
            recipe = {name: value for name, value in self.recipe.items() if name != "steps"}
            every = self.wanted().merge(parts, how="cross").assign(**recipe)
            every = every.merge(pd.DataFrame({"lang": self.given["languages"]}), how="cross")
            told = read_evidence("system_answers")
            packed = shipped(every, *told, self.run, made_with=MADE_WITH)
        return with_problems(unpack_answers(packed, asked))


def selected_layers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Texts,
    given: Mapping[str, Any],
    **selecting: Any,
) -> list[int]:
    """Layers that the rule of SLAM selects; `selecting` as in `mmlib.neurons.select_layers`."""
    questions = texts.questions(given["num_questions"], seed=1)
    fired = question_firing(model, tokenizer, questions, batch_size=given["batch_size"])
    rates = {code: firing.rates() for code, firing in fired.items()}
    if not selecting and given["peak"] >= 0:
        selecting = {"peak": given["peak"]}
    overlap = overlap_with_english(rates, english=texts.languages[0])
    return select_layers(ranges(rates), overlap, **selecting).layers


def with_problems(answers: pd.DataFrame) -> pd.DataFrame:
    """Answers with a column `problems`: known or new templates."""
    kinds = answers.part.isin(NEW_MATH_PARTS).map({True: NEW, False: KNOWN})
    return answers.assign(problems=kinds)


class Alignment(NamedTuple):
    """What `rows` finds."""

    pairs: pd.DataFrame
    """See `mmlib.study.systems.Texts.pairs`."""
    asked_too: int
    """English texts of the pairs that stand in a problem that is asked."""
    described: pd.DataFrame
    """See `Bench.described`."""
    layers: Sequence[int]
    """Those that SLAM trains."""
    answers: pd.DataFrame
    """One row per system, seed, language and problem: correct, problems (known or new)."""
    graded_twice: pd.DataFrame
    """Answers of the model itself: lang, part, correct, legacy (by the published script)."""
    audited: pd.DataFrame
    """See `mmlib.study.evidence.audit`."""
    begun: pd.DataFrame
    """The first steps of SLAM against the shipped ones, see `audit_values`."""
    log: pd.DataFrame
    """See `mmlib.study.systems.align`, as the costs."""
    costs: pd.DataFrame
    spent: pd.DataFrame
    """Costs of a few steps of SLAM and QAlign, timed in turns; `seed` is the turn."""
    made: Mapping[str, pd.DataFrame]
    """Tables that a sweep makes, by name."""
    laboratory: Mapping[str, pd.DataFrame]
    """See `Bench.laboratory`."""
    run: RunInfo


def rows(given: Mapping[str, Any]) -> Alignment:
    """Train the systems and ask them, or take what is shipped and repeat a part of it.

    That part: the model itself is asked `audit_items` problems in two languages, and SLAM's
    training is begun.
    """
    bench, sweep = Bench(given), given["sweep"]
    asked: list[pd.DataFrame] = []

    def ask(model: PreTrainedModel) -> pd.DataFrame:
        asked.append(bench.ask(model))
        return asked[-1]

    made = bench.made(ask=ask, look=sweep)
    answers, plain = bench.answers(made), asked[0]
    again = with_problems(unpack_answers(made["answers"], bench.problems(again=True)))
    log = bench.taken("log", made)
    where = {"language": given["languages"][0], "data_dir": given["data_dir"] or None}
    held = [problem.prompt for name in given["tasks"] for problem in load_problems(name, **where)]
    pairs = bench.pairs.english.unique()
    begun = made["log"].dropna(subset="loss") if sweep else _begin(bench, "SLAM")[0]
    on = ["system", "seed", "stage", "step"]
    return Alignment(
        pairs=bench.pairs,
        asked_too=sum(any(text in prompt for prompt in held) for text in pairs),
        described=bench.described(),
        layers=bench.layers,
        answers=answers,
        graded_twice=plain.assign(legacy=legacy_correct(plain)),
        audited=audit(answers, again[list(answers)], by=["lang", "system"]),
        begun=audit_values(log, begun, on=on, values=["loss"], tolerance=0.05),
        log=log,
        costs=bench.taken("costs", made),
        spent=_spent(bench),
        made={f"system_{kind}": table for kind, table in made.items()} if sweep else {},
        laboratory=bench.laboratory(made),
        run=bench.run,
    )


def _begin(bench: Bench, system: str, **options: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Log and costs of the first `audit_steps` steps of a system, without held-out losses."""
    seed = bench.given["seeds"][0]
    plans = replan(bench.schedule.plans, seed=seed, stop=bench.given["audit_steps"], **options)
    log, costs = begin(bench.model, bench.recipes[system], bench.examples[seed], plans)
    return log.assign(system=system, seed=seed), costs.assign(system=system)


def _spent(bench: Bench) -> pd.DataFrame:
    """SLAM and QAlign in turns; the first turn is cold and does not count."""
    batches = {"batch_size": bench.given["timed_batch"], "accumulation": 1}
    tables = []
    for turn in range(bench.given["repeats"] + 1):
        for system in ("SLAM", "QAlign") if turn % 2 else ("QAlign", "SLAM"):
            if system in bench.systems:
                costs = _begin(bench, system, **batches)[1].assign(seed=turn)
                tables += [costs] if turn else []
    return pd.concat(tables, ignore_index=True)


def times(spent: pd.DataFrame) -> pd.DataFrame:
    """Seconds of QAlign over those of SLAM, with a 95 % interval over the turns."""
    by_stage = spent.pivot_table(index="seed", columns=["system", "stage"], values="seconds")
    of_slam, ratios = by_stage["SLAM"].sum(axis=1), {}
    if "QAlign" in by_stage:
        ratios["one stage, all weights"] = seed_interval(by_stage["QAlign"][1] / of_slam)
        ratios["QAlign, both stages"] = seed_interval(by_stage["QAlign"].sum(axis=1) / of_slam)
    return pd.DataFrame(ratios, index=list(Interval._fields)).T


def heldout_losses(log: pd.DataFrame) -> pd.DataFrame:
    """Loss of held-out translations in the first stage: a row per system, a column per step."""
    rows = log.dropna(subset="heldout_loss").query("stage == 1")
    return rows.pivot_table(index="system", columns="step", values="heldout_loss", sort=False)


def accuracies(answers: pd.DataFrame, *by: str) -> pd.DataFrame:
    """Share of right answers by system, seed, `by` and language, in a column `accuracy`."""
    groups = answers.groupby(["system", "seed", *by, "lang"], sort=False)
    return groups.correct.mean().rename("accuracy").reset_index()


def by_part(answers: pd.DataFrame) -> pd.DataFrame:
    """Table of systems as claims read it: packed answers of each part, and their accuracy."""
    by = [*RECIPE, "system", "seed", "learning_rate", "part", "lang"]
    table = pack_answers(answers, by)
    return table.assign(accuracy=[grades.count("1") / len(grades) for grades in table.correct])


def gains(answers: pd.DataFrame) -> pd.DataFrame:
    """What each system changes by problems and language, see `paired_changes`."""
    base = answers.system == "base"
    by, on = ["problems", "system", "lang"], ["lang", "part", "problem_id"]
    return paired_changes(answers[~base], answers[base], by=by, on=on)


def leads(means: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of SLAM (mean of the languages) minus that of others, with an interval over seeds.

    `means` are `accuracies` by problems.
    """
    trained = means[means.seed > 0].groupby(["problems", "system", "seed"], sort=False)
    wide = trained.accuracy.mean().unstack(["problems", "system"])
    gaps = {
        (kind, name): seed_interval((wide[kind]["SLAM"] - wide[kind][name]).dropna())
        for kind, name in wide
        if name != "SLAM"
    }
    return pd.DataFrame(gaps, index=list(Interval._fields)).T


def beside_published(across: pd.DataFrame) -> pd.DataFrame:
    """Published averages over languages, in percent, and ours of the systems that we have.

    `across` are accuracies by problems and system, a column per language.
    """
    theirs = published("slam_accuracy")
    theirs = theirs[theirs.table.isin([2, 3, 4]) & (theirs.lang == "avg")]
    theirs = theirs.assign(what=theirs.benchmark + " " + theirs["size"])
    table = theirs.pivot_table(
        index="system", columns="what", values="accuracy", aggfunc="first", sort=False
    )
    table["ours"] = ["base" if name == "MetaMath" else name for name in table.index]
    averages = 100 * across.mean(axis=1).unstack("problems")
    table = table.join(averages, on="ours").round(1)
    return table.assign(ours=table.ours.where(table.ours.isin(averages.index), "not run here"))


def by_language(across: pd.DataFrame) -> pd.DataFrame:
    """Published accuracies and ours, in percent, of the languages that both have (7 billion)."""
    theirs = published("slam_accuracy").query("table in [2, 4] and size == '7B'")
    theirs = theirs[theirs.system.isin(["MetaMath", "SLAM"]) & theirs.lang.isin(across.columns)]
    table = theirs.pivot_table(
        index=["benchmark", "system"], columns="lang", values="accuracy", sort=False
    )
    both = [code for code in across if code in table]
    mine = 100 * across[across.index.get_level_values("system").isin(["base", "SLAM"])][both]
    return pd.concat([table[both], mine.rename_axis(table.index.names)]).round(1)


def published_costs() -> dict[str, float]:
    """Size -> published cost of training QAlign, that of SLAM being 1."""
    factors = published("slam_accuracy").query("system == 'QAlign' and lang == 'avg'")
    return factors[factors.table == 2].set_index("size").training_cost.to_dict()
