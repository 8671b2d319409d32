"""Regenerate a model organism: corpus from YAML templates, tokenizer, training recipe.

Nothing else in the package imports this module: `models` and `data` only read the folder that
`train` leaves behind, which is an ordinary checkpoint in hub layout. The corpus is made of
`Item`s, which know no language; `render` writes one in the words of a language file, so the
versions of a problem share their id and numbers by construction.
"""

import datetime
import functools
import hashlib
import json
import math
import platform
import random
import re
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import tokenizers
import torch
import transformers
import yaml
from safetensors.torch import load_file, save_file
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast

TEMPLATES = Path(__file__).parent / "templates"
ORGANISMS = Path(__file__).parent / "organisms"
SPECIAL = {"bos": "<s>", "eos": "</s>", "pad": "<pad>"}
# One digit per token; a word keeps its vowel signs (\p{M}), which Hindi needs.
WORDS = r"\p{N}| ?[\p{L}\p{M}]+| ?[^\s\p{L}\p{M}\p{N}]+|\s+"
PLACEHOLDER = re.compile(r"\{(\w)(?: (\w)|\.(\w+)|:([^|}]*)\|([^}]*))?\}")
# What every language file has: given names, objects, openings, phrasings of a fact, and layouts
# of a task.
PEOPLE, OBJECTS, OPENINGS, PHRASES, LAYOUTS = 16, 12, 4, 2, 4
PRINTED = {"+": "+", "-": "-", "*": "×", "/": "÷"}
OPERATIONS = {
    "+": lambda x, y: x + y,
    "-": lambda x, y: x - y,
    "*": lambda x, y: x * y,
    "/": lambda x, y: x // y if y and x % y == 0 else -1,
}


@dataclass(frozen=True)
class Recipe:
    """Everything that decides an organism's weights; a family member is another instance."""

    name: str
    languages: dict[str, float] = field(
        default_factory=lambda: {"en": 0.55, "de": 0.20, "fr": 0.17, "hi": 0.08}
    )
    """Share of the training documents per language."""
    reading_share: float = 0.6
    """Share of reading questions among the documents; the rest is math."""
    curriculum: tuple[tuple[float, str], ...] = ((0.2, "easy"), (0.55, "mixed"), (1.0, "full"))
    """Until which share of the documents passages have the facts of which stage."""
    documents: int = 140_000
    heldout: int = 600
    calibration: int = 1_000
    """Problems per language and task in the frozen files."""
    vocab_size: int = 2_560
    hidden_size: int = 192
    intermediate_size: int = 512
    layers: int = 8
    heads: int = 6
    kv_heads: int = 2
    row_length: int = 256
    """Tokens per packed row; also the longest position the model knows is twice this."""
    batch_rows: int = 24
    learning_rate: float = 4e-3
    """Peak rate of both optimizers (Muon's update is scaled to AdamW's RMS)."""
    warmup: float = 0.04
    """Share of the steps with a rising rate; afterwards it falls linearly to zero."""
    weight_decay: float = 0.01
    prompt_weight: float = 0.1
    """Loss weight of prompt tokens; response tokens have 1."""
    seed: int = 1


RECIPES = {"organism-skewed": Recipe("organism-skewed")}


@dataclass(frozen=True)
class Item:
    """A problem before it has a language; all fields index into the language files."""

    task: str
    template: str
    numbers: tuple[int, ...]
    people: tuple[int, ...]
    thing: int
    layout: int
    wording: tuple[int, ...] = ()

    @property
    def key(self) -> str:
        """What must not be shared between training and held-out items."""
        rest = f"{self.people} {self.thing}" if self.task == "reading" else ""
        return f"{self.task} {self.template} {self.numbers} {rest}"


# --- corpus -----------------------------------------------------------------------------------


@functools.cache
def language_file(name: str) -> dict:
    """Read a template file: `en`, …, or `structure`; the tests check that they are parallel."""
    path = TEMPLATES / f"{name}.yaml"
    if not path.exists():
        known = sorted(p.stem for p in TEMPLATES.glob("*.yaml") if p.stem != "structure")
        raise ValueError(f"no templates for {name!r}; choose from {known} or add {path.name}")
    texts = yaml.safe_load(path.read_text(encoding="utf-8"))
    return texts


def solve(family: str, numbers: Sequence[int]) -> list[tuple[int, str, int, int]]:
    """Work out a template family: one (left, operation, right, result) per step."""
    values = dict(zip("abc", numbers, strict=False))
    steps = []
    for step in language_file("structure")["families"][family]["steps"]:
        left, operation, right = step.split()
        result = OPERATIONS[operation](values[left], values[right])
        steps.append((values[left], operation, values[right], result))
        values["x"] = result
    return steps


def draw_math(rng: random.Random) -> Item:
    """Draw a template, then numbers until every step has a whole result in range."""
    structure = language_file("structure")
    template = rng.choice(sorted(language_file("en")["math"]))
    family = template.split("/")[0]
    low, high = structure["results"]
    numbers, steps = (), []
    while not steps or not all(low <= step[3] <= high for step in steps):
        ranges = structure["families"][family]["ranges"].values()
        numbers = tuple(rng.randint(*bounds) for bounds in ranges)
        steps = solve(family, numbers)
    people = tuple(rng.sample(range(PEOPLE), 2))
    return Item("math", template, numbers, people, rng.randrange(OBJECTS), rng.randrange(LAYOUTS))


def draw_reading(rng: random.Random, stage: str) -> Item:
    """Draw one relation, and a passage with as many facts of it as `stage` allows."""
    relations = language_file("en")["reading"]
    template = rng.choice(sorted(relations))
    count = rng.randint(*language_file("structure")["facts"][stage])
    values = rng.sample(range(len(relations[template]["values"])), count)
    people = rng.sample(range(PEOPLE), count)
    reverse = int("who" in relations[template] and rng.random() < 0.4)
    wording = (reverse, rng.randrange(OPENINGS), *(rng.randrange(PHRASES) for _ in values))
    asked, layout = rng.randrange(count), rng.randrange(LAYOUTS)
    return Item("reading", template, tuple(values), tuple(people), asked, layout, wording)


def draw(rng: random.Random, task: str, stage: str, *, heldout: bool) -> Item:
    """Draw an item from the training or from the held-out part of all items, told by its hash."""
    share = language_file("structure")["heldout_share"]
    while True:
        item = draw_math(rng) if task == "math" else draw_reading(rng, stage)
        digest = int(hashlib.sha256(item.key.encode()).hexdigest()[:12], 16)
        if (digest % share == 0) == heldout:
            return item


def fill(pattern: str, words: dict) -> str:
    """Replace the placeholders that en.yaml explains.

    `words` maps a letter to a number, a string, or a noun (a mapping with `many`, `gender`, …).
    """

    def replace(match: re.Match) -> str:
        name, noun, form, first, second = match.groups()
        value = words[name]
        if noun:
            return f"{value} {words[noun]['one' if value == 1 else 'many']}"
        if first is not None:
            chosen = value == 1 if isinstance(value, int) else value["gender"] == "m"
            return first if chosen else second
        return value[form or "many"] if isinstance(value, dict) else str(value)

    return PLACEHOLDER.sub(replace, pattern)


def person(texts: dict, index: int) -> dict:
    """The given name number `index`: first the masculine, then the feminine ones."""
    names = [{"many": name, "gender": g} for g in "mf" for name in texts["names"][g]]
    return names[index]


def _render_math(item: Item, texts: dict) -> dict:
    words = dict(zip("abc", item.numbers, strict=False))
    words |= {"p": person(texts, item.people[0]), "q": person(texts, item.people[1])}
    words["o"] = texts["objects"][item.thing]
    marked = item.layout in language_file("structure")["marked_layouts"]
    response = ""
    for left, sign, right, result in solve(item.template.split("/")[0], item.numbers):
        calculation = f"{left} {sign if marked else PRINTED[sign]} {right} = "
        calculation += f"<<{left}{sign}{right}={result}>>{result}" if marked else str(result)
        response += " " + texts["marked_step" if marked else "step"].format(
            operation=texts["operations"][sign], calculation=calculation
        )
    text = fill(texts["math"][item.template], words)
    layouts = texts["layouts"]["both"] + texts["layouts"]["math"]
    return {
        "prompt": layouts[item.layout].format(text=text),
        "response": response,
        "target": result,
    }


def _render_reading(item: Item, texts: dict) -> dict:
    relation = texts["reading"][item.template]
    reverse, opening, *phrases = item.wording
    facts = [
        {"p": person(texts, who), "v": relation["values"][value]}
        for who, value in zip(item.people, item.numbers, strict=True)
    ]
    sentences = [texts["openings"][opening]]
    sentences += [fill(relation["facts"][k], f) for k, f in zip(phrases, facts, strict=True)]
    asked, passage = facts[item.thing], " ".join(sentences)
    question = fill(relation["who" if reverse else "ask"], asked)
    layout = (texts["layouts"]["both"] + texts["layouts"]["reading"])[item.layout]
    prompt = layout.format(passage=passage, question=question, text=f"{passage} {question}")
    target = asked["p"]["many"] if reverse else asked["v"]
    return {"prompt": prompt, "response": "", "target": target}


def render(item: Item, language: str) -> dict:
    """Write an item in a language: `prompt`, `response` and `target`, all strings.

    The prompt never ends in a space and the response begins with one, so that the tokens of
    `prompt + response` are the tokens of the two parts.
    """
    texts = language_file(language)
    row = (_render_math if item.task == "math" else _render_reading)(item, texts)
    row["response"] += " " + texts["closing"].format(x=row["target"])
    return {"lang": language, "task": item.task, **row, "target": str(row["target"])}


def generate(recipe: Recipe, split: str = "train") -> pd.DataFrame:
    """Write the corpus of a recipe.

    Args:
        recipe: What to write; the same recipe always gives the same rows.
        split: `train` (one language per document, in training order), `heldout` or
            `calibration` (every language for every id, full-length passages).

    Returns:
        Columns id, lang, task, prompt, response, target, key. Held-out items share no
        (template, numbers) pair with the other two.
    """
    rng = random.Random(f"{recipe.seed} {split}")
    if split == "train":
        return pd.DataFrame(_training_rows(recipe, rng))
    sizes = {"heldout": recipe.heldout, "calibration": recipe.calibration}
    if split not in sizes:
        raise ValueError(f"split is {split!r}; choose train, heldout or calibration")
    rows = []
    for task in ("math", "reading"):
        items = {}
        while len(items) < sizes[split]:
            item = draw(rng, task, "full", heldout=split == "heldout")
            items.setdefault(item.key, item)
        for number, (key, item) in enumerate(items.items()):
            name = {"id": f"{task}-{split}-{number:04d}", "key": key}
            rows += [{**name, **render(item, language)} for language in recipe.languages]
    return pd.DataFrame(rows)


def _training_rows(recipe: Recipe, rng: random.Random) -> Iterable[dict]:
    languages, shares = zip(*recipe.languages.items(), strict=True)
    for number in range(recipe.documents):
        progress = number / recipe.documents
        stage = next(name for until, name in recipe.curriculum if progress < until)
        task = "reading" if rng.random() < recipe.reading_share else "math"
        item = draw(rng, task, stage, heldout=False)
        row = render(item, rng.choices(languages, shares)[0])
        yield {"id": f"{task}-train-{number:06d}", "key": item.key, **row}


# --- tokenizer and random models --------------------------------------------------------------


def train_tokenizer(
    texts: Iterable[str], *, vocab_size: int, add_bos: bool = True
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer with one token per digit.

    Args:
        texts: What to train on.
        vocab_size: Entries including the 256 bytes and the three special tokens.
        add_bos: Begin every text with BOS, as Llama's tokenizer does and Qwen's does not.
    """
    core = tokenizers.Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    special = {f"{name}_token": token for name, token in SPECIAL.items()}
    if add_bos:
        bos = SPECIAL["bos"]
        core.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, 0)]
        )
    else:
        del special["bos_token"]
    return PreTrainedTokenizerFast(
        tokenizer_object=core, padding_side="left", clean_up_tokenization_spaces=False, **special
    )


def new_model(
    architecture: str,
    tokenizer: PreTrainedTokenizerFast,
    *,
    seed: int,
    hidden_size: int = 768,
    intermediate_size: int = 3_072,
    layers: int = 12,
    heads: int = 12,
    kv_heads: int = 4,
    max_positions: int = 2_048,
) -> transformers.PreTrainedModel:
    """A `llama` or `qwen3` with random float32 weights and tied embeddings."""
    configs = {"llama": transformers.LlamaConfig, "qwen3": transformers.Qwen3Config}
    if architecture not in configs:
        raise ValueError(f"architecture is {architecture!r}; choose from {sorted(configs)}")
    config = configs[architecture](
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=hidden_size // heads,
        max_position_embeddings=max_positions,
        tie_word_embeddings=True,
        **{f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in SPECIAL},
    )
    torch.manual_seed(seed)
    return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def random_checkpoint(
    folder: str | Path,
    *,
    texts: Iterable[str],
    architecture: str = "llama",
    vocab_size: int = 8_192,
    seed: int = 1,
    add_bos: bool | None = None,
    dtype: torch.dtype = torch.bfloat16,
    **sizes: int,
) -> Path:
    """Write an untrained model and a tokenizer trained on `texts`, in hub layout.

    Args:
        folder: Where to; replaced as a whole when everything is written.
        texts: What the tokenizer is trained on.
        architecture: `llama` or `qwen3`.
        vocab_size: Entries of the tokenizer.
        seed: Seed of the weights.
        add_bos: Default: True for Llama, False for Qwen3, as the published models do.
        dtype: Precision of the saved weights.
        **sizes: As in `new_model`, whose defaults have about 110 M parameters.
    """
    add_bos = architecture == "llama" if add_bos is None else add_bos
    tokenizer = train_tokenizer(texts, vocab_size=vocab_size, add_bos=add_bos)
    model = new_model(architecture, tokenizer, seed=seed, **sizes)
    partial = Path(f"{folder}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    _save_checkpoint(partial, model.to(dtype), tokenizer)
    return _move(partial, Path(folder))


def _save_checkpoint(folder: Path, model, tokenizer) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _move(partial: Path, folder: Path) -> Path:
    if folder.exists():
        shutil.rmtree(folder)
    return partial.rename(folder)


# --- packing ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Packed:
    """Documents in rows of equal length; all arrays have shape (rows, row_length)."""

    ids: np.ndarray
    document: np.ndarray
    """Number of the document a token belongs to, -1 for padding."""
    position: np.ndarray
    """Position of the token within its document."""
    weight: np.ndarray
    """Loss weight of predicting this token; 0 for BOS and padding."""


@dataclass
class _Row:
    room: int
    members: list[int] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)


def assign_rows(keys: Sequence[str], lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """Put documents into rows, never two of the same key: one could be copied from the other.

    Keeps 48 rows open and closes the oldest when a document fits in none, so the order of
    the curriculum is kept but for a few documents.
    """
    rows: list[_Row] = []
    open_rows: list[_Row] = []
    for number, (key, length) in enumerate(zip(keys, lengths, strict=True)):
        if length > row_length:
            raise ValueError(f"document {number} has {length} tokens; a row holds {row_length}")
        fitting = (r for r in open_rows if r.room >= length and key not in r.keys)
        row = next(fitting, None)
        if row is None:
            row = _Row(row_length)
            open_rows.append(row)
            if len(open_rows) > 48:
                rows.append(open_rows.pop(0))
        row.members.append(number)
        row.keys.add(key)
        row.room -= length
    return [row.members for row in rows + open_rows]


def pack(corpus: pd.DataFrame, tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> Packed:
    """Tokenize a corpus and pack it into rows, with a loss weight per token."""
    core = tokenizer.backend_tokenizer
    prompts = [e.ids for e in core.encode_batch(corpus["prompt"].tolist())]
    responses = core.encode_batch(corpus["response"].tolist(), add_special_tokens=False)
    answers = [[*e.ids, tokenizer.eos_token_id] for e in responses]
    lengths = [len(p) + len(a) for p, a in zip(prompts, answers, strict=True)]
    rows = assign_rows(corpus["key"].tolist(), lengths, recipe.row_length)
    shape = (len(rows), recipe.row_length)
    packed = Packed(
        np.full(shape, tokenizer.pad_token_id, np.int32),
        np.full(shape, -1, np.int32),
        np.zeros(shape, np.int32),
        np.zeros(shape, np.float32),
    )
    for row, members in enumerate(rows):
        start = 0
        for number in members:
            prompt, answer = prompts[number], answers[number]
            part = np.s_[row, start : start + lengths[number]]
            packed.ids[part] = prompt + answer
            packed.document[part] = number
            packed.position[part] = np.arange(lengths[number])
            packed.weight[part] = (
                [0.0] + [recipe.prompt_weight] * (len(prompt) - 1) + [1.0] * len(answer)
            )
            start += lengths[number]
    return packed


# --- training ---------------------------------------------------------------------------------


def loss_of(model, ids, document, position, weight) -> torch.Tensor:
    """Weighted mean cross-entropy of a batch of packed rows; documents do not see each other."""
    causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    mask = (document[:, :, None] == document[:, None, :]) & causal
    logits = model(
        input_ids=ids, attention_mask=mask[:, None], position_ids=position, use_cache=False
    ).logits
    losses = cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none"
    )
    weights = weight[:, 1:].flatten()
    return (losses * weights).sum() / weights.sum()


def optimizers_for(model, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the decoder layers, AdamW for embeddings and norms."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    rate, decay = recipe.learning_rate, recipe.weight_decay
    muon = torch.optim.Muon(matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.95), weight_decay=0.0)]


def rate_at(step: int, steps: int, warmup: float) -> float:
    """Share of the peak rate: a linear rise, then a linear fall to zero at the last step."""
    rise = max(1, math.ceil(warmup * steps))
    return min((step + 1) / rise, (steps - step) / max(1, steps - rise))


def _state_tensors(model, optimizers) -> dict[str, torch.Tensor]:
    """All tensors a run needs to go on, flat, because safetensors holds no nested objects."""
    tensors = {f"model/{name}": p.detach() for name, p in model.named_parameters()}
    for number, optimizer in enumerate(optimizers):
        for parameter, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer{number}/{parameter}/{k}": v for k, v in state.items()}
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def _restore(model, optimizers, tensors: dict[str, torch.Tensor]) -> None:
    parameters = dict(model.named_parameters())
    states: list[dict] = [{} for _ in optimizers]
    for name, tensor in tensors.items():
        kind, key = name.split("/", 1)
        if kind == "model":
            parameters[key].data.copy_(tensor)
        elif kind.startswith("optimizer"):
            parameter, entry = key.split("/")
            states[int(kind.removeprefix("optimizer"))].setdefault(int(parameter), {})[entry] = (
                tensor
            )
    for optimizer, state in zip(optimizers, states, strict=True):
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})


@dataclass
class _Run:
    """A training run in its unfinished folder: what has to survive a kill is written there."""

    folder: Path
    model: transformers.PreTrainedModel
    optimizers: list
    log: list[dict] = field(default_factory=list)

    def save(self, step: int) -> None:
        tensors = _state_tensors(self.model, self.optimizers) | {"step": torch.tensor(step)}
        partial = self.folder / "state.partial"
        save_file(tensors, partial)
        pd.DataFrame(self.log).to_csv(self.folder / "training_log.csv", index=False)
        partial.replace(self.folder / "state.safetensors")

    def restore(self) -> int:
        if not (self.folder / "state.safetensors").exists():
            return 0
        tensors = load_file(self.folder / "state.safetensors")
        step = int(tensors.pop("step"))
        _restore(self.model, self.optimizers, tensors)
        log = pd.read_csv(self.folder / "training_log.csv")
        self.log = log[log["step"] <= step].to_dict("records")
        return step


def _open_folder(recipe: Recipe, out: Path, *, resume: bool) -> Path:
    """The unfinished folder beside `out`; one left by another recipe is refused."""
    folder = Path(f"{out}.partial")
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    written, wanted = folder / "recipe.json", json.dumps(asdict(recipe), indent=2)
    if written.exists() and written.read_text() != wanted:
        raise ValueError(f"{folder} holds a run of another recipe; pass resume=False to replace it")
    written.write_text(wanted)
    return folder


def train(
    recipe: Recipe | str,
    out: str | Path | None = None,
    *,
    resume: bool = True,
    snapshots: Sequence[int] = (),
    compile: bool = True,
    checkpoint_every: int = 200,
    stop_at: int | None = None,
) -> Path | None:
    """Train an organism and write its folder: weights, tokenizer, frozen files, log, manifest.

    Args:
        recipe: A recipe, or the name of one of `RECIPES`.
        out: Target folder, by default `mmlib/organisms/<name>`. Work is kept in
            `<out>.partial` until the end.
        resume: Go on from the last saved state of an interrupted run.
        snapshots: Steps after which the model is also saved, to `<out>-step<n>`.
        compile: Use torch.compile (the first steps then take a minute).
        checkpoint_every: Steps between saved states.
        stop_at: Stop after this step as if killed; for tests.

    Returns:
        The finished folder, or None when stopped early.
    """
    recipe = RECIPES[recipe] if isinstance(recipe, str) else recipe
    out = Path(out) if out else ORGANISMS / recipe.name
    folder = _open_folder(recipe, out, resume=resume)
    corpus = generate(recipe)
    texts = corpus["prompt"] + corpus["response"]
    tokenizer = train_tokenizer(texts[:30_000], vocab_size=recipe.vocab_size)
    packed = pack(corpus, tokenizer, recipe)
    model = _organism_model(recipe, tokenizer)
    run = _Run(folder, model, optimizers_for(model, recipe))
    start, steps = run.restore(), len(packed.ids) // recipe.batch_rows
    step_loss = torch.compile(loss_of) if compile else loss_of
    began = time.monotonic() - (run.log[-1]["seconds"] if run.log else 0.0)
    for step in range(start, steps):
        _one_step(run, recipe, packed, step, steps, step_loss, began)
        done = step + 1
        if done in snapshots:
            _save_checkpoint(Path(f"{out}-step{done}"), model, tokenizer)
        if done % checkpoint_every == 0 or done == stop_at:
            run.save(done)
        if done == stop_at:
            return None
    corpus_hash = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    _finish(run, recipe, tokenizer, corpus_hash=corpus_hash)
    return _move(folder, out)


def _organism_model(recipe: Recipe, tokenizer) -> transformers.PreTrainedModel:
    names = ("hidden_size", "intermediate_size", "layers", "heads", "kv_heads")
    sizes = {name: getattr(recipe, name) for name in names}
    positions = 2 * recipe.row_length
    return new_model("llama", tokenizer, seed=recipe.seed, max_positions=positions, **sizes)


def _one_step(run, recipe, packed, step, steps, step_loss, began) -> None:
    """One optimizer step; appends a line to the log and prints progress now and then."""
    part = slice(step * recipe.batch_rows, (step + 1) * recipe.batch_rows)
    ids, document, position, weight = (
        torch.from_numpy(array[part])
        for array in (packed.ids, packed.document, packed.position, packed.weight)
    )
    with torch.autocast("cpu", torch.bfloat16):
        loss = step_loss(run.model, ids.long(), document, position.long(), weight)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
    rate = recipe.learning_rate * rate_at(step, steps, recipe.warmup)
    for optimizer in run.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    tokens = int((document >= 0).sum()) + (run.log[-1]["tokens"] if run.log else 0)
    seconds = time.monotonic() - began
    entry = {
        "step": step + 1,
        "tokens": tokens,
        "seconds": seconds,
        "loss": loss.item(),
        "lr": rate,
    }
    run.log.append({k: round(v, 6) for k, v in entry.items()})
    if (step + 1) % 20 == 0 or step + 1 == steps:
        print(_progress(run.log[-21:], steps), flush=True)


def _progress(log: list[dict], steps: int) -> str:
    """A line with percent, loss, pace and time left at the pace of the last steps."""
    first, last = log[0], log[-1]
    pace = (last["seconds"] - first["seconds"]) / max(1, last["step"] - first["step"])
    loss = np.mean([row["loss"] for row in log])
    left = pace * (steps - last["step"]) / 60
    done = f"step {last['step']}/{steps} ({last['step'] / steps:.0%})"
    return f"{done}, loss {loss:.4f}, {pace:.2f} s per step, {left:.1f} min left"


# --- the finished folder ----------------------------------------------------------------------


def _finish(run: _Run, recipe: Recipe, tokenizer, *, corpus_hash: str) -> None:
    """Write everything but the model card into the unfinished folder."""
    _save_checkpoint(run.folder, run.model.to(torch.bfloat16), tokenizer)
    for split in ("heldout", "calibration"):
        generate(recipe, split).drop(columns="key").to_parquet(run.folder / f"{split}.parquet")
    pd.DataFrame(run.log).to_csv(run.folder / "training_log.csv", index=False)
    for name in ("state.safetensors", "recipe.json"):
        (run.folder / name).unlink(missing_ok=True)
    manifest = {
        "recipe": asdict(recipe),
        "corpus_sha256": corpus_hash,
        "parameters": run.model.num_parameters(),
        "steps": len(run.log),
        "tokens": run.log[-1]["tokens"],
        "seconds": run.log[-1]["seconds"],
        "hardware": f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
        "date": datetime.date.today().isoformat(),
        "versions": {m.__name__: m.__version__ for m in (torch, transformers, tokenizers)},
    }
    write_manifest(run.folder, manifest)


def write_manifest(folder: Path, manifest: dict) -> None:
    """Write manifest.json with the SHA-256 of every other file of the folder."""
    files = sorted(p for p in folder.iterdir() if p.name != "manifest.json")
    hashes = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
    partial = folder / "manifest.json.partial"
    partial.write_text(json.dumps(manifest | {"files": hashes}, indent=2) + "\n")
    partial.replace(folder / "manifest.json")


def describe(folder: str | Path, accuracy: pd.DataFrame) -> None:
    """Write the model card README.md, and the accuracies into the manifest.

    Args:
        folder: A finished organism.
        accuracy: Columns lang, task, accuracy, n, n_correct, low, high, as `results.summarize`
            makes them from strict answers to the held-out items.
    """
    folder = Path(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    row = "| {lang} | {task} | {accuracy:.3f} | {low:.3f} to {high:.3f} | {n} |"
    rows = accuracy.to_dict("records")
    recipe = manifest["recipe"]
    card = (
        (TEMPLATES / "model_card.md")
        .read_text(encoding="utf-8")
        .format(
            **manifest
            | recipe
            | {
                "accuracy": "\n".join(row.format(**entry) for entry in rows),
                "shares": ", ".join(f"{k} {v:.0%}" for k, v in recipe["languages"].items()),
                "languages": ", ".join(recipe["languages"]),
                "curriculum": ", ".join(f"{k} until {u:.0%}" for u, k in recipe["curriculum"]),
                "heldout_share": language_file("structure")["heldout_share"],
                "reading": recipe["reading_share"],
                "minutes": manifest["seconds"] / 60,
            }
        )
    )
    partial = folder / "README.md.partial"
    partial.write_text(card, encoding="utf-8")
    partial.replace(folder / "README.md")
    write_manifest(folder, manifest | {"accuracy": rows})
