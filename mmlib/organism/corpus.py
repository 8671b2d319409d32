"""The organisms' corpus: items drawn without a language, then written in each of six.

An `Item` holds only indices into the language files (`templates/*.yaml`), so the versions of one
problem share their id, their numbers and their people by construction.
"""

import dataclasses
import functools
import hashlib
import math
import operator
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from indic_transliteration import sanscript

TEMPLATES = Path(__file__).parent / "templates"
LANGUAGES = ("en", "de", "fr", "hi", "sw", "bn")
ROMANISED = {"hi-Latn": "hi"}
"""Languages that are another one of `LANGUAGES` in Latin letters (ISO 15919)."""
PLACEHOLDER = re.compile(r"\{(\w)(?: (\w)|\.(\w+)|:([^|}]*)\|([^}]*))?\}")
PRINTED = {"+": "+", "-": "-", "*": "×", "/": "÷"}
OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
OPERATIONS["/"] = lambda x, y: x // y if y and x % y == 0 else -1
TASKS = ("math", "choice", "reading", "knowledge", "generation")
"""The skills with held-out items; training has `telling` (a town's facts as a text) as well."""
CHANCE = {"choice": 1 / 4, "reading-same": 1 / 5, "reading-mixed": 1 / 5, "knowledge": 1 / 12}
"""Accuracy of a guess among the options, the passage's values or persons, or the values that a
fact can have; the largest one where it varies. Other parts cannot be guessed."""


@dataclass(frozen=True)
class Mix:
    """What a training corpus consists of."""

    languages: dict[str, float] = field(default_factory=lambda: dict.fromkeys(LANGUAGES, 1 / 6))
    """Share of the documents per language."""
    tasks: dict[str, float] = field(
        default_factory=lambda: {
            "math": 0.32,
            "choice": 0.08,
            "reading": 0.28,
            "knowledge": 0.08,
            "telling": 0.04,
            "generation": 0.20,
        }
    )
    """Share of the documents per task."""
    foreign_math: float | None = None
    """Share of the math documents that are not English, evenly over the other languages; None
    when math follows `languages` like everything else."""
    curriculum: tuple[tuple[float, str], ...] = ((0.1, "easy"), (0.3, "mixed"), (1.0, "full"))
    """Until which share of the documents passages have the facts of which stage."""
    documents: int = 220_000
    seed: int = 1

    def __post_init__(self) -> None:
        """Refuse what no corpus can be drawn from (ValueError)."""
        known_languages = (*LANGUAGES, *ROMANISED)
        for name, known in {"languages": known_languages, "tasks": (*TASKS, "telling")}.items():
            shares = getattr(self, name)
            fit = all(share >= 0 and math.isfinite(share) for share in shares.values())
            if set(shares) - set(known) or not fit or not sum(shares.values()):
                raise ValueError(f"{name} is {shares}: give shares of {', '.join(known)}")
        if self.foreign_math is not None and not 0 <= self.foreign_math <= 1:
            raise ValueError(f"foreign_math is {self.foreign_math}: give a share from 0 to 1")
        if self.foreign_math and set(self.languages) == {"en"}:
            raise ValueError(f"foreign_math is {self.foreign_math}, but there is only English")
        ends = [until for until, _ in self.curriculum]
        stages = {stage for _, stage in self.curriculum}
        if not ends or ends != sorted(ends) or ends[-1] < 1 or stages - {"easy", "mixed", "full"}:
            raise ValueError(
                f"curriculum is {self.curriculum}: give rising shares, the last 1, each with easy, "
                "mixed or full"
            )
        if self.documents < 1:
            raise ValueError(f"documents is {self.documents}: give 1 or more")


@dataclass(frozen=True)
class Item:
    """A problem before it has a language; all fields index into the language files."""

    task: str
    template: str
    numbers: tuple[int, ...] = ()
    people: tuple[int, ...] = ()
    things: tuple[int, ...] = ()
    layout: int = 0
    wording: tuple[int, ...] = ()
    """Which phrasing of each sentence; what else has no meaning but a form."""

    @property
    def key(self) -> str:
        """What must not be shared between training and held-out items."""
        if self.task in ("math", "choice"):
            return f"math {self.template} {self.numbers}"
        return f"{self.task} {self.template} {self.numbers} {self.people} {self.things}"


# --- the template files -----------------------------------------------------------------------


@functools.cache
def language_file(name: str) -> dict:
    """Read a template file: `en`, …, or `structure`; the tests check that they are parallel.

    The file of a `ROMANISED` language is made from the one in the other script.

    Raises:
        ValueError: There is no such file; the message lists those there are.
    """
    if name in ROMANISED:
        return romanised(language_file(ROMANISED[name]))
    path = TEMPLATES / f"{name}.yaml"
    if not path.exists():
        known = sorted(p.stem for p in TEMPLATES.glob("*.yaml") if p.stem != "structure")
        raise ValueError(f"no templates for {name!r}; choose from {known} or add {path.name}")
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def romanised(texts: Any) -> Any:
    """All Devanagari strings of nested lists and mappings in Latin letters (ISO 15919)."""
    if isinstance(texts, dict):
        return {key: romanised(value) for key, value in texts.items()}
    if isinstance(texts, list):
        return [romanised(value) for value in texts]
    if not isinstance(texts, str) or texts.isascii():
        return texts
    return sanscript.transliterate(texts, sanscript.DEVANAGARI, sanscript.ISO)


def fill(pattern: str, words: dict, counted: str = "{n} {noun}") -> str:
    """Replace the placeholders that en.yaml explains.

    Args:
        pattern: A sentence of a language file.
        words: Maps a letter to a number, a string, or a noun (a mapping with `many`, `gender`, …).
        counted: How the language puts a number and its noun together.
    """

    def replace(match: re.Match) -> str:
        name, noun, form, first, second = match.groups()
        value = words[name]
        if noun:
            return counted.format(n=value, noun=words[noun]["one" if value == 1 else "many"])
        if first is not None:
            chosen = value == 1 if isinstance(value, int) else value["gender"] == "m"
            return first if chosen else second
        return value[form or "many"] if isinstance(value, dict) else str(value)

    return PLACEHOLDER.sub(replace, pattern)


def person(texts: dict, index: int) -> dict:
    """The given name number `index`: first the masculine, then the feminine ones.

    A name is a string, or a mapping of its case forms with the plain one under `one`.
    """
    names = [(name, gender) for gender in "mf" for name in texts["names"][gender]]
    name, gender = names[index]
    forms = name if isinstance(name, dict) else {"one": name}
    return {"many": forms["one"], "gender": gender, **forms}


def town(texts: dict, index: int) -> str:
    """The invented name of town number `index`: three syllables, the same in every language."""
    return "".join(texts["syllables"][k] for k in _towns()[index]).capitalize()


@functools.cache
def _towns() -> list[tuple[int, ...]]:
    rng, found = random.Random("towns"), []
    while len(found) < language_file("structure")["towns"]:
        syllables = tuple(rng.sample(range(len(language_file("en")["syllables"])), 3))
        found += [syllables] if syllables not in found else []
    return found


def town_fact(index: int, relation: str) -> int:
    """The value that a town has in a relation, as an index into its values."""
    values = language_file("en")["reading"][relation]["values"]
    return random.Random(f"{relation} of town {index}").randrange(len(values))


# --- drawing ----------------------------------------------------------------------------------


def solve(family: str, numbers: Sequence[int]) -> list[tuple[int, str, int, int]]:
    """Work out a template family: one (left, operation, right, result) per step."""
    values = dict(zip("abcd", numbers, strict=False))
    steps = []
    for step in language_file("structure")["families"][family]["steps"]:
        left, operation, right = step.split()
        result = OPERATIONS[operation](values[left], values[right])
        steps.append((values[left], operation, values[right], result))
        values["x"] = result
    return steps


def tier(template: str) -> int:
    """Difficulty of a math template, 1 to 3: its number of steps; number size grows with it."""
    return len(language_file("structure")["families"][template.split("/")[0]]["steps"])


def is_heldout_template(template: str) -> bool:
    """Whether no training text is written with this math template."""
    return int(template.split("/")[1]) in language_file("structure")["heldout_templates"]


def _draw_math(rng: random.Random, stage: str, task: str = "math") -> Item:
    structure, level = language_file("structure"), rng.choice((1, 2, 3))
    template = rng.choice([name for name in language_file("en")["math"] if tier(name) == level])
    family = template.split("/")[0]
    low, high = structure["results"][level]
    numbers, steps = (), []
    while not steps or not all(low <= step[3] <= high for step in steps):
        ranges = structure["families"][family]["ranges"].values()
        numbers = tuple(rng.randint(*bounds) for bounds in ranges)
        steps = solve(family, numbers)
    wording = tuple(rng.sample(range(4), 4)) if task == "choice" else ()
    people, things = _people(rng, 2), (_pick(rng, "objects"),)
    return Item(task, template, numbers, people, things, _pick(rng, "layouts"), wording)


def _draw_reading(rng: random.Random, stage: str) -> Item:
    """A passage with as many facts as `stage` allows, all of one kind or each of another kind."""
    relations = sorted(language_file("en")["reading"])
    count = rng.randint(*language_file("structure")["facts"][stage])
    template = rng.choices(("same", "mixed"), (1, 9))[0]
    kinds = rng.sample(range(len(relations)), count)
    if template == "same":
        kinds = kinds[:1] * count
        values = rng.sample(range(_value_count(relations[kinds[0]])), count)
    else:
        values = [rng.randrange(_value_count(relations[kind])) for kind in kinds]
    asked = rng.randrange(count)
    opening = _pick(rng, "openings")
    phrases = [rng.randrange(2) for _ in kinds]
    wording = (asked, _reversed(rng, relations[kinds[asked]]), opening, *phrases)
    people, layout = _people(rng, count), _pick(rng, "layouts")
    return Item("reading", template, tuple(kinds), people, tuple(values), layout, wording)


def _value_count(relation: str) -> int:
    return len(language_file("en")["reading"][relation]["values"])


def _reversed(rng: random.Random, relation: str) -> int:
    """Whether to ask for the person instead of the value, where a question for that exists."""
    return int("who" in language_file("en")["reading"][relation] and rng.random() < 0.15)


def _draw_knowledge(rng: random.Random, stage: str) -> Item:
    relation = rng.choice(sorted(language_file("en")["knowledge"]))
    place = rng.randrange(language_file("structure")["towns"])
    return Item("knowledge", relation, (), (), (place,), _pick(rng, "layouts"), (rng.randrange(3),))


def _draw_telling(rng: random.Random, stage: str) -> Item:
    """All facts of a town in any order; `wording` has the order, then a phrasing for each."""
    count = len(language_file("en")["knowledge"])
    place = rng.randrange(language_file("structure")["towns"])
    wording = (*rng.sample(range(count), count), *(rng.randrange(2) for _ in range(count)))
    return Item("telling", "tell", (), (), (place,), _pick(rng, "layouts"), wording)


def _draw_generation(rng: random.Random, stage: str) -> Item:
    """A list to copy, or a sentence to translate."""
    if rng.random() < 0.5:
        kind = rng.choice(["objects", "names", *sorted(language_file("en")["reading"])])
        count = rng.randint(*language_file("structure")["copied"])
        words = tuple(rng.sample(range(len(_word_list(language_file("en"), kind))), count))
        return Item("generation", kind, (), (), words, _pick(rng, "layouts"), (rng.randrange(2),))
    template = str(_pick(rng, "story"))
    wording = (rng.randrange(1, len(LANGUAGES)),)
    numbers, things, people = (rng.randint(2, 99),), (_pick(rng, "objects"),), _people(rng, 2)
    return Item("generation", template, numbers, people, things, _pick(rng, "layouts"), wording)


DRAW: dict[str, Callable[[random.Random, str], Item]] = {
    "math": _draw_math,
    "choice": functools.partial(_draw_math, task="choice"),
    "reading": _draw_reading,
    "knowledge": _draw_knowledge,
    "telling": _draw_telling,
    "generation": _draw_generation,
}


def _people(rng: random.Random, count: int) -> tuple[int, ...]:
    names = language_file("en")["names"]
    return tuple(rng.sample(range(len(names["m"]) + len(names["f"])), count))


def _pick(rng: random.Random, entry: str) -> int:
    """One of what the language files list under `entry`."""
    return rng.randrange(len(language_file("en")[entry]))


def is_heldout(item: Item) -> bool:
    """Whether an item is kept from training, told by its hash (knowledge: by its phrasing)."""
    if item.task == "telling":
        return False
    if item.task == "knowledge":
        return item.wording == (2,)
    digest = int(hashlib.sha256(item.key.encode()).hexdigest()[:12], 16)
    return digest % language_file("structure")["heldout_share"] == 0


def draw(
    rng: random.Random,
    task: str,
    stage: str = "full",
    *,
    heldout: bool = False,
    heldout_template: bool = False,
) -> Item:
    """Draw an item of the training or of the held-out part of all items.

    Args:
        rng: Source of chance.
        task: One of `TASKS`, or `telling`.
        stage: Length of reading passages: easy, mixed or full.
        heldout: Draw what training never shows.
        heldout_template: Draw from the math templates that training never shows (any numbers).
    """
    while True:
        item = DRAW[task](rng, stage)
        if task in ("math", "choice") and is_heldout_template(item.template) != heldout_template:
            continue
        if heldout_template or is_heldout(item) == heldout:
            return item


# --- writing ----------------------------------------------------------------------------------


def _math_words(item: Item, texts: dict) -> dict:
    words = dict(zip("abcd", item.numbers, strict=False))
    words |= {k: person(texts, who) for k, who in zip("pq", item.people, strict=False)}
    return words | {"o": texts["objects"][item.things[0]]}


def _calculation(item: Item, texts: dict) -> str:
    """The written-out steps; one layout has GSM8K's `<<…>>` marks."""
    marked = item.layout in language_file("structure")["marked_layouts"]
    response = ""
    for left, sign, right, result in solve(item.template.split("/")[0], item.numbers):
        calculation = f"{left} {sign if marked else PRINTED[sign]} {right} = "
        calculation += f"<<{left}{sign}{right}={result}>>{result}" if marked else str(result)
        response += " " + texts["marked_step" if marked else "step"].format(
            operation=texts["operations"][sign], calculation=calculation
        )
    return response


def question(item: Item, language: str) -> str:
    """The bare question of a math item, or the bare sentence of a translation item."""
    texts = language_file(language)
    pattern = texts["math"].get(item.template) or texts["story"][int(item.template)]
    return fill(pattern, _math_words(item, texts), texts["counted"])


def _write_math(item: Item, language: str, texts: dict) -> tuple[str, str, str]:
    result = solve(item.template.split("/")[0], item.numbers)[-1][3]
    return question(item, language), _calculation(item, texts), str(result)


def _distractors(numbers: Sequence[int], result: int) -> list[int]:
    """Three wrong results near the right one, or made from the problem's own numbers."""
    near = [result + 10, result + 1, abs(result - 1), result + 2]
    wrong = [abs(numbers[0] - numbers[1]), numbers[0] + numbers[1], *near]
    return [n for n in dict.fromkeys(wrong) if n not in (result, 0)][:3]


def _write_choice(item: Item, language: str, texts: dict) -> tuple[str, str, str]:
    text, calculation, result = _write_math(item, language, texts)
    numbers = [int(result), *_distractors(item.numbers, int(result))]
    options = ", ".join(str(numbers[k]) for k in item.wording)
    return texts["choice"].format(text=text, options=options), calculation, result


def _facts(item: Item, texts: dict) -> list[tuple[dict, dict]]:
    """The facts of a passage: the sentences of each one's kind, and the words to fill in."""
    kinds = [texts["reading"][name] for name in sorted(texts["reading"])]
    return [
        (kinds[kind], {"p": person(texts, who), "v": kinds[kind]["values"][value]})
        for kind, who, value in zip(item.numbers, item.people, item.things, strict=True)
    ]


def _reading_question(item: Item, texts: dict) -> tuple[str, str]:
    """The question about a passage, and its answer."""
    asked, reverse = item.wording[:2]
    kind, words = _facts(item, texts)[asked]
    return fill(kind["who" if reverse else "ask"], words), (
        words["p"]["many"] if reverse else words["v"]
    )


def _write_reading(item: Item, language: str, texts: dict) -> tuple[str, str, str]:
    opening, *phrases = item.wording[2:]
    facts = zip(phrases, _facts(item, texts), strict=True)
    sentences = [fill(kind["facts"][phrase], words) for phrase, (kind, words) in facts]
    text, target = _reading_question(item, texts)
    return " ".join([texts["openings"][opening], *sentences, text]), "", target


def _town_words(place: int, relation: str, texts: dict) -> dict:
    value = texts["reading"][relation]["values"][town_fact(place, relation)]
    return {"t": town(texts, place), "v": value}


def _write_knowledge(item: Item, language: str, texts: dict) -> tuple[str, str, str]:
    words = _town_words(item.things[0], item.template, texts)
    return fill(texts["knowledge"][item.template]["ask"][item.wording[0]], words), "", words["v"]


def _write_telling(item: Item, language: str, texts: dict) -> tuple[str, str, str]:
    relations = list(texts["knowledge"])
    order, phrases = item.wording[: len(relations)], item.wording[len(relations) :]
    sentences = [
        fill(
            texts["knowledge"][relations[k]]["facts"][phrase],
            _town_words(item.things[0], relations[k], texts),
        )
        for k, phrase in zip(order, phrases, strict=True)
    ]
    request = fill(texts["tell"], {"t": town(texts, item.things[0])})
    return request, " " + " ".join(sentences), ""


def _word_list(texts: dict, kind: str) -> list[str]:
    if kind == "objects":
        return [noun["many"] for noun in texts["objects"]]
    if kind == "names":
        count = len(texts["names"]["m"]) + len(texts["names"]["f"])
        return [person(texts, index)["many"] for index in range(count)]
    return texts["reading"][kind]["values"]


def _write_generation(item: Item, language: str, texts: dict) -> tuple[str, str, str]:
    if not item.template.isdigit():
        words = _word_list(texts, item.template)
        target = ", ".join(words[k] for k in item.things)
        return texts["copy"][item.wording[0]].format(list=target), "", target
    other = LANGUAGES[item.wording[0]] if language == "en" else "en"
    request = texts["translate"][other].format(text=question(item, language))
    return request, "", question(item, other).rstrip(".।")


WRITE: dict[str, Callable[[Item, str, dict], tuple[str, str, str]]] = {
    "math": _write_math,
    "choice": _write_choice,
    "reading": _write_reading,
    "knowledge": _write_knowledge,
    "telling": _write_telling,
    "generation": _write_generation,
}


def render(item: Item, language: str) -> dict[str, str]:
    """Write an item in a language: `prompt`, `response` and `target`, all strings.

    The prompt never ends in a space and the response begins with one, so that the tokens of
    `prompt + response` are the tokens of the two parts. Math is answered by its calculation and
    a closing sentence, all else by the closing sentence alone; `telling` has no answer.
    """
    texts = language_file(language)
    text, response, target = WRITE[item.task](item, language, texts)
    response += " " + texts["closing"].format(x=target) if target else ""
    prompt = texts["layouts"][item.layout].format(text=text)
    return {
        "lang": language,
        "task": item.task,
        "template": item.template,
        "prompt": prompt,
        "response": response,
        "target": target,
    }


def translation_request(text: str, language: str) -> str:
    """All that stands before the translation into English where training asks for one."""
    texts = language_file(language)
    request = texts["translate"]["en"].format(text=text)
    lead = texts["closing"].partition("{x}")[0].rstrip()
    return f"{texts['layouts'][0].format(text=request)} {lead}"


# --- whole corpora ----------------------------------------------------------------------------


def training_rows(mix: Mix) -> Iterator[dict]:
    """The documents of a training run in their order, one language each.

    Yields:
        id, key, lang, task, template and `turns`: pairs of prompt and response, one after the
        other in the document. Only reading has more than one, to learn more from each passage.
    """
    rng = random.Random(f"{mix.seed} train")
    for number in range(mix.documents):
        progress = number / mix.documents
        stage = next(name for until, name in mix.curriculum if progress < until)
        task = rng.choices(list(mix.tasks), list(mix.tasks.values()))[0]
        item, language = draw(rng, task, stage), _draw_language(rng, mix, task)
        row = {"id": f"{task}-train-{number:06d}", "key": item.key, **render(item, language)}
        turns = [(row.pop("prompt"), row.pop("response"))]
        if task == "reading":
            turns += _more_questions(rng, item, language)
        yield {**row, "turns": turns}


def _more_questions(rng: random.Random, item: Item, language: str) -> list[tuple[str, str]]:
    """Further questions about a training passage, in the layout of the first."""
    texts, turns = language_file(language), []
    relations = sorted(texts["reading"])
    for _ in range(language_file("structure")["questions"] - 1):
        asked = rng.randrange(len(item.people))
        reverse = _reversed(rng, relations[item.numbers[asked]])
        wording = (asked, reverse, *item.wording[2:])
        text, target = _reading_question(dataclasses.replace(item, wording=wording), texts)
        prompt = "\n" + texts["layouts"][item.layout].format(text=text)
        turns.append((prompt, " " + texts["closing"].format(x=target)))
    return turns


def _draw_language(rng: random.Random, mix: Mix, task: str) -> str:
    if task in ("math", "choice") and mix.foreign_math is not None:
        others = [language for language in mix.languages if language != "en"]
        return rng.choice(others) if rng.random() < mix.foreign_math else "en"
    return rng.choices(list(mix.languages), list(mix.languages.values()))[0]


def frozen_items(split: str, sizes: dict[str, int] | None = None) -> dict[str, list[Item]]:
    """Draw the items of a frozen split, the same for every organism.

    Args:
        split: `heldout` or `calibration`.
        sizes: Items per part; default: those of structure.yaml. Held-out parts are the math tiers
            (`math-1` …), `math-new` (templates that training never shows), and the other tasks;
            knowledge has one item per fact.

    Returns:
        Part -> items without repetition.
    """
    structure = language_file("structure")
    if split not in structure["frozen"]:
        raise ValueError(f"split is {split!r}; choose from {', '.join(structure['frozen'])}")
    sizes = structure["frozen"][split] if sizes is None else sizes
    rng = random.Random(f"frozen {split}")
    return {part: _distinct(rng, part, split, size) for part, size in sizes.items()}


def _distinct(rng: random.Random, part: str, split: str, size: int) -> list[Item]:
    """Different items of a task, or of a part of it."""
    task, _, kind = part.partition("-")
    items: dict[str, Item] = {}
    while len(items) < size:
        item = draw(rng, task, heldout=split == "heldout", heldout_template=kind == "new")
        if _belongs(item, kind):
            items.setdefault(item.key, item)
    return list(items.values())


def _belongs(item: Item, kind: str) -> bool:
    """Whether an item is of a part: a math tier, a form of passage, or sentences to translate."""
    if kind.isdigit():
        return tier(item.template) == int(kind)
    if kind == "sentences":
        return item.template.isdigit()
    return item.task != "reading" or not kind or item.template == kind


def frozen(
    split: str, sizes: dict[str, int] | None = None, *, languages: Sequence[str] = LANGUAGES
) -> pd.DataFrame:
    """Write a frozen split in all languages.

    Args:
        split: `heldout` or `calibration`, whose items share no (template, numbers) pair.
        sizes: As in `frozen_items`.
        languages: Those to write it in; the items do not depend on them.

    Returns:
        One row per item and language: id (equal in all languages), part, lang, task, template,
        prompt, response, target, key. Parts take turns, so that the first items of a task are a
        fair sample of its parts; held-out math templates are a task of their own, `math-new`.
    """
    rows: list[dict] = []
    for part, items in frozen_items(split, sizes).items():
        for number, item in enumerate(items):
            name = {"id": f"{part}-{split}-{number:04d}", "part": part, "key": item.key}
            task = {"task": part} if part == "math-new" else {}
            rows += [
                {"turn": number, **name, **render(item, language), **task} for language in languages
            ]
    table = pd.DataFrame(rows).sort_values("turn", kind="stable", ignore_index=True)
    return table.drop(columns="turn")


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as gzipped JSON lines (`*.jsonl.gz`): read without pyarrow, equal each time."""
    gzip = {"method": "gzip", "mtime": 0}
    table.to_json(path, orient="records", lines=True, force_ascii=False, compression=gzip)


def translations(size: int | None = None) -> pd.DataFrame:
    """Pairs of a sentence and its English version, for alignment: questions and general text.

    The questions are of the training part (never held-out items), as bare text.

    `size`: pairs per language and kind; default: that of structure.yaml.

    Returns:
        Columns id, lang, kind (`math` or `general`), text, english.
    """
    size = language_file("structure")["translations"] if size is None else size
    rng, rows = random.Random("frozen translations"), []
    for kind, part in (("math", "math"), ("general", "generation-sentences")):
        for number, item in enumerate(_distinct(rng, part, "calibration", size)):
            rows += [
                {
                    "id": f"{kind}-{number:04d}",
                    "lang": language,
                    "kind": kind,
                    "text": question(item, language),
                    "english": question(item, "en"),
                }
                for language in LANGUAGES[1:]
            ]
    return pd.DataFrame(rows)
