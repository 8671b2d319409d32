"""Regenerate a model organism: tokenizer, packed rows, training recipe, finished folder.

The rest of the package only reads the folder that `train` leaves behind, which is an ordinary
checkpoint in hub layout. What `train` reads is written by `corpus`. The loop is not that of
transformers' Trainer, as in `mmlib.finetune`: two optimizers (Muon beside AdamW) take packed rows,
whose documents do not see each other, in the order of the curriculum and weigh every token, so that
each part of the Trainer would be replaced to give the logs that are shipped.
"""

import dataclasses
import datetime
import hashlib
import json
import math
import platform
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tokenizers
import torch
import transformers
from filelock import FileLock, Timeout
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from mmlib.files import (
    ORGANISMS,
    load_tensors,
    replacing,
    save_tensors,
    sha256,
    tidy,
)
from mmlib.organism import corpus

STATE = "state.safetensors"
"""What an interrupted run goes on from."""
SAVED_EVERY = 200
"""Steps between saved states."""
SPECIAL = {"bos": "<s>", "eos": "</s>", "pad": "<pad>"}
# One digit per token; a word keeps its vowel signs (\p{M}), which Hindi and Bengali need.
WORDS = r"\p{N}| ?[\p{L}\p{M}]+| ?[^\s\p{L}\p{M}\p{N}]+|\s+"


@dataclass(frozen=True)
class Recipe:
    """Everything that decides an organism's weights; a family member is another instance."""

    name: str
    mix: corpus.Mix = field(default_factory=corpus.Mix)
    """What it reads."""
    vocab_size: int = 4_096
    hidden_size: int = 192
    intermediate_size: int = 512
    layers: int = 8
    heads: int = 3
    kv_heads: int = 3
    row_length: int = 224
    """Tokens per packed row; also the longest position the model knows is twice this."""
    batch_rows: int = 12
    learning_rate: float = 2e-3
    """Peak rate of both optimizers (Muon's update is scaled to AdamW's RMS)."""
    warmup: float = 0.02
    """Share of the steps with a rising rate."""
    decay: float = 0.5
    """Share of the steps, at the end, with a rate that falls linearly to zero."""
    weight_decay: float = 0.01
    prompt_weight: float = 0.1
    """Loss weight of prompt tokens; response tokens have 1."""
    copying_start: float = 0.5
    """Strength with which attention copies at the start; 0 for the library's initialization."""
    seed: int = 1


SKEWED = {"en": 0.44, "de": 0.22, "fr": 0.14, "hi": 0.10, "sw": 0.06, "bn": 0.04}
GENERAL = {"en": 0.25} | dict.fromkeys(corpus.LANGUAGES[1:], 0.15)
RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("organism-skewed", corpus.Mix(languages=SKEWED)),
        Recipe("organism-even"),
        Recipe("organism-base", corpus.Mix(languages=GENERAL, foreign_math=0.015)),
    )
}


def vary(recipe: Recipe, given: Mapping[str, Any]) -> Recipe:
    """The recipe with other values.

    Args:
        recipe: What to start from.
        given: Values by the name of a field; `mix.NAME` is a field of the corpus mix.

    Raises:
        ValueError: There is no such field, or its values are of another type; the message names
            the fields or the type.
    """
    for name, value in given.items():
        target, key = (recipe.mix, name[4:]) if name.startswith("mix.") else (recipe, name)
        if key not in {f.name for f in fields(target)} - {"mix"}:
            names = [f.name for f in fields(Recipe)] + [f"mix.{f.name}" for f in fields(corpus.Mix)]
            raise ValueError(f"a recipe has no {name!r}; choose from {', '.join(names)}")
        changed = dataclasses.replace(target, **{key: _typed(name, value, getattr(target, key))})
        recipe = changed if target is recipe else dataclasses.replace(recipe, mix=changed)
    return recipe


def _typed(name: str, value: Any, current: Any) -> Any:
    """A value of the type that the recipe has there; YAML reads `1e-3` as text."""
    if name == "mix.foreign_math" and value is None:
        return None
    wanted = float if name == "mix.foreign_math" else type(current)
    try:
        if wanted is tuple:
            return tuple((float(until), str(stage)) for until, stage in value)
        if wanted is dict:
            return {key: float(share) for key, share in value.items()}
        if wanted is str:
            return str.strip(value)
        if isinstance(value, bool) or not math.isfinite(float(value)):
            raise ValueError(value)
        if wanted is int and int(value) != float(value):
            raise ValueError(value)
        return wanted(value)
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError(f"{name} is {value!r}; it has to be of type {wanted.__name__}") from error


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


def family_tokenizer(
    vocab_size: int, languages: Iterable[str] = corpus.LANGUAGES
) -> PreTrainedTokenizerFast:
    """The tokenizer of all organisms of some languages, trained on equal shares of them.

    One vocabulary for the family keeps fertility apart from the training mix, and lets the
    layers of two organisms be exchanged. With the smallest possible `vocab_size`, 259, every byte
    is a token.
    """
    names = tuple(languages)
    shares = dict.fromkeys(names, 1 / len(names))
    sample = corpus.training_rows(corpus.Mix(languages=shares, documents=30_000, seed=0))
    return train_tokenizer(map(document_text, sample), vocab_size=vocab_size)


def document_text(document: dict) -> str:
    """The whole text of a training document."""
    return "".join(part for turn in document["turns"] for part in turn)


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
    **sizes: int,
) -> Path:
    """Write an untrained model in bfloat16 and a tokenizer trained on `texts`, in hub layout.

    Texts begin with BOS for Llama and without for Qwen3, as in the published models.

    Args:
        folder: Where to; replaced as a whole when everything is written.
        texts: What the tokenizer is trained on.
        architecture: `llama` or `qwen3`.
        vocab_size: Entries of the tokenizer.
        seed: Seed of the weights.
        **sizes: As in `new_model`, whose defaults have about 110 M parameters.
    """
    tokenizer = train_tokenizer(texts, vocab_size=vocab_size, add_bos=architecture == "llama")
    model = new_model(architecture, tokenizer, seed=seed, **sizes)
    return _save_checkpoint(Path(folder), model.to(torch.bfloat16), tokenizer)


def _save_checkpoint(out: Path, model, tokenizer) -> Path:
    with replacing(out) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return out


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


def pack(documents: pd.DataFrame, tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> Packed:
    """Tokenize documents and pack them into rows, with a loss weight per token."""
    encoded = [_encode(turns, tokenizer, recipe.prompt_weight) for turns in documents["turns"]]
    lengths = [len(ids) for ids, _ in encoded]
    rows = assign_rows(documents["key"].tolist(), lengths, recipe.row_length)
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
            part = np.s_[row, start : start + lengths[number]]
            packed.ids[part], packed.weight[part] = encoded[number]
            packed.document[part] = number
            packed.position[part] = np.arange(lengths[number])
            start += lengths[number]
    return packed


def _encode(
    turns: Sequence[tuple[str, str]], tokenizer: PreTrainedTokenizerFast, prompt_weight: float
) -> tuple[list[int], list[float]]:
    """Tokens of a document between BOS and EOS, and the loss weight of predicting each."""
    core = tokenizer.backend_tokenizer
    ids, weights = [tokenizer.bos_token_id], [0.0]
    for turn in turns:
        for text, weight in zip(turn, (prompt_weight, 1.0), strict=True):
            tokens = core.encode(text, add_special_tokens=False).ids
            ids += tokens
            weights += [weight] * len(tokens)
    return [*ids, tokenizer.eos_token_id], [*weights, 1.0]


# --- training ---------------------------------------------------------------------------------


def loss_of(model, ids, document, position, weight) -> torch.Tensor:
    """Weighted mean cross-entropy of a batch of packed rows; documents do not see each other."""
    causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    seen = (document[:, :, None] == document[:, None, :]) & causal
    # Added to the scores: "eager" attention, the fastest on a CPU at this size, takes no booleans.
    mask = torch.zeros(seen.shape, dtype=torch.bfloat16).masked_fill(~seen, -1e9)
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


def rate_at(step: int, steps: int, warmup: float, decay: float) -> float:
    """Share of the peak rate: a linear rise, a plateau, and a linear fall to zero at the end."""
    rise, fall = max(1, math.ceil(warmup * steps)), max(1, math.ceil(decay * steps))
    return min(1.0, (step + 1) / rise, (steps - step) / fall)


def _state_tensors(model, optimizers) -> dict[str, np.ndarray]:
    """All a run needs to go on, flat, because safetensors holds no nested objects."""
    tensors = {f"model/{name}": p.detach() for name, p in model.named_parameters()}
    for number, optimizer in enumerate(optimizers):
        for parameter, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer{number}/{parameter}/{k}": v for k, v in state.items()}
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def _restore(model, optimizers, arrays: dict[str, np.ndarray]) -> None:
    parameters = dict(model.named_parameters())
    states: list[dict] = [{} for _ in optimizers]
    for name, array in arrays.items():
        tensor = torch.from_numpy(array)
        kind, key = name.split("/", 1)
        if kind == "model":
            parameters[key].data.copy_(tensor)
        else:
            parameter, entry = key.split("/")
            state = states[int(kind.removeprefix("optimizer"))]
            state.setdefault(int(parameter), {})[entry] = tensor
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
        state = _state_tensors(self.model, self.optimizers)
        with replacing(self.folder / "training_log.csv") as file:  # first: no state without its log
            pd.DataFrame(self.log).to_csv(file, index=False)
        save_tensors(self.folder / STATE, state, {"step": str(step)})

    def restore(self) -> int:
        if not (self.folder / STATE).exists():
            return 0
        state, told = load_tensors(self.folder / STATE)
        step = int(told["step"])
        _restore(self.model, self.optimizers, state)
        log = pd.read_csv(self.folder / "training_log.csv")
        self.log = log[log["step"] <= step].to_dict("records")
        return step


def _open_folder(recipe: Recipe, out: Path) -> Path:
    """The unfinished folder beside `out`; one left by another recipe is refused."""
    folder = Path(f"{out}.partial")
    folder.mkdir(parents=True, exist_ok=True)
    written, wanted = folder / "recipe.json", json.dumps(asdict(recipe), indent=2)
    if written.exists() and written.read_text() != wanted:
        raise ValueError(f"{folder} holds a run of another recipe: remove it")
    with replacing(written) as file:
        file.write_text(wanted)
    return folder


def train(
    recipe: Recipe,
    out: str | Path | None = None,
    *,
    snapshots: Sequence[int] = (),
    compile: bool = True,
    stop_at: int | None = None,
) -> Path | None:
    """Train an organism and write its folder: weights, tokenizer, frozen files, log, manifest.

    An interrupted run goes on from its last saved state; one that has ended, and has no model card
    yet, is not trained again.

    Args:
        recipe: One of `RECIPES`, or another one.
        out: Target folder, by default `mmlib/organisms/<name>`. Work is kept in
            `<out>.partial` until the end.
        snapshots: Steps after which the model is also saved, to `<out>-step<n>`; 0 is its start.
            Their manifest has the recipe, the steps and tokens so far, and `training`, the name of
            the finished folder.
        compile: Use torch.compile (the first steps then take a minute).
        stop_at: Stop after this step as if killed; for tests.

    Returns:
        The finished folder, or None when stopped early.

    Raises:
        ValueError: Another process trains it; or the unfinished folder is of another recipe, or
            damaged.
    """
    out = Path(out) if out else ORGANISMS / recipe.name
    if _lacks_its_card(out, recipe):
        shutil.rmtree(f"{out}.partial", ignore_errors=True)
        tidy(out.parent)
        return out
    with _held(out):
        return _train(recipe, out, snapshots=snapshots, compile=compile, stop=stop_at)


def _held(out: Path) -> Any:
    """The lock of a training, which the system releases even if this process is killed."""
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        return FileLock(out.with_name(f".{out.name}.lock")).acquire(timeout=0)
    except Timeout:
        raise ValueError(f"another process trains {out}: wait for it, or end it") from None


def _train(
    recipe: Recipe,
    out: Path,
    *,
    snapshots: Sequence[int],
    compile: bool,
    stop: int | None,
) -> Path | None:
    folder = _open_folder(recipe, out)
    documents = pd.DataFrame(corpus.training_rows(recipe.mix))
    tokenizer = family_tokenizer(recipe.vocab_size, recipe.mix.languages)
    packed = pack(documents, tokenizer, recipe)
    model = _organism_model(recipe, tokenizer)
    run = _Run(folder, model, optimizers_for(model, recipe))
    start, steps = run.restore(), len(packed.ids) // recipe.batch_rows
    if 0 in snapshots and not start:
        _snapshot(run, recipe, tokenizer, out, 0)
    step_loss = torch.compile(loss_of) if compile else loss_of
    began = time.monotonic() - (run.log[-1]["seconds"] if run.log else 0.0)
    bar = tqdm(range(start, steps), initial=start, total=steps, desc=recipe.name, mininterval=5)
    for step in bar:
        _one_step(run, recipe, packed, step, steps, step_loss, began)
        bar.set_postfix(loss=f"{run.log[-1]['loss']:.3f}", refresh=False)
        done = step + 1
        if done in snapshots:
            _snapshot(run, recipe, tokenizer, out, done)
        if done % SAVED_EVERY == 0 or done == stop:
            run.save(done)
        if done == stop:
            return None
    texts = map(document_text, documents.to_dict("records"))
    corpus_hash = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    with replacing(out) as whole:
        _finish(run, recipe, tokenizer, whole, corpus_hash=corpus_hash)
    shutil.rmtree(folder)  # only now: what is killed before this goes on from the last step
    return out


def _lacks_its_card(out: Path, recipe: Recipe) -> bool:
    """Whether this training has ended, and was killed before `describe`."""
    path = out / "manifest.json"
    told = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    wanted = json.loads(json.dumps(asdict(recipe)))
    return told.get("recipe") == wanted and not {"accuracy", "training"} & set(told)


def _snapshot(run: _Run, recipe: Recipe, tokenizer, out: Path, steps: int) -> None:
    """Save the model as it is beside the finished folder."""
    folder, tokens = Path(f"{out}-step{steps}"), run.log[-1]["tokens"] if steps else 0
    _save_checkpoint(folder, run.model, tokenizer)
    told = {"recipe": asdict(recipe), "training": out.name, "steps": steps, "tokens": tokens}
    write_manifest(folder, told)


def _organism_model(recipe: Recipe, tokenizer) -> transformers.PreTrainedModel:
    names = ("hidden_size", "intermediate_size", "layers", "heads", "kv_heads")
    sizes = {name: getattr(recipe, name) for name in names}
    positions = 2 * recipe.row_length
    model = new_model("llama", tokenizer, seed=recipe.seed, max_positions=positions, **sizes)
    model.set_attn_implementation("eager")  # for the mask of `loss_of`
    if recipe.copying_start:
        _start_by_copying(model, recipe.copying_start)
    return model


def _start_by_copying(model: transformers.PreTrainedModel, strength: float) -> None:
    """Let every attention layer begin as a copy of what it attends to.

    With orthogonal values V and O = strength · Vᵀ the heads of a layer together pass on the
    attended vector itself, so that an attended word becomes a likely output from the first step
    on (embeddings are tied). From an ordinary start the organisms learn this word by word, and
    answer reading questions by guessing for most of a run. After the mimetic initialization of
    Trockman and Kolter (arXiv 2305.09828), of which it is the simplest case. Embeddings are
    larger and the final norm smaller, so that words stay apart and logits begin small.
    """
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(25.0)
        model.model.norm.weight.fill_(0.08)
        for layer in model.model.layers:
            attention = layer.self_attn
            torch.nn.init.orthogonal_(attention.v_proj.weight)
            attention.o_proj.weight.copy_(strength * attention.v_proj.weight.T)


def _one_step(run, recipe, packed, step, steps, step_loss, began) -> None:
    """One optimizer step; appends a line to the log."""
    part = slice(step * recipe.batch_rows, (step + 1) * recipe.batch_rows)
    ids, document, position, weight = (
        torch.from_numpy(array[part])
        for array in (packed.ids, packed.document, packed.position, packed.weight)
    )
    with torch.autocast("cpu", torch.bfloat16):
        loss = step_loss(run.model, ids.long(), document, position.long(), weight)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
    rate = recipe.learning_rate * rate_at(step, steps, recipe.warmup, recipe.decay)
    for optimizer in run.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    tokens = int((document >= 0).sum()) + (run.log[-1]["tokens"] if run.log else 0)
    entry = {"step": step + 1, "tokens": tokens, "seconds": time.monotonic() - began}
    entry |= {"loss": loss.item(), "lr": rate}
    run.log.append({k: round(v, 6) for k, v in entry.items()})


# --- the finished folder ----------------------------------------------------------------------


def _finish(run: _Run, recipe: Recipe, tokenizer, folder: Path, *, corpus_hash: str) -> None:
    """Write everything but the model card."""
    run.model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for name, table in frozen_tables(tuple(recipe.mix.languages)).items():
        corpus.write_table(table, folder / f"{name}.jsonl.gz")
    pd.DataFrame(run.log).to_csv(folder / "training_log.csv", index=False)
    manifest = {
        "recipe": asdict(recipe),
        "corpus_sha256": corpus_hash,
        "parameters": run.model.num_parameters(),
        "steps": len(run.log),
        "tokens": run.log[-1]["tokens"],
        "seconds": run.log[-1]["seconds"],
        "hardware": f"{platform.machine()} CPU, threads: {torch.get_num_threads()}",
        "date": datetime.date.today().isoformat(),
        "versions": {m.__name__: m.__version__ for m in (torch, transformers, tokenizers)},
    }
    write_manifest(folder, manifest)


def frozen_tables(languages: Sequence[str] = corpus.LANGUAGES) -> dict[str, pd.DataFrame]:
    """The data files of a finished folder, the same for every organism of these languages."""
    tables = {
        split: corpus.frozen(split, languages=languages).drop(columns="key")
        for split in ("heldout", "calibration")
    }
    return tables | {"translations": corpus.translations()}


def write_manifest(folder: Path, told: Mapping[str, Any]) -> None:
    """Write manifest.json: what is told, and as `files` the SHA-256 of every other file."""
    others = sorted(p for p in folder.iterdir() if p.is_file() and p.name != "manifest.json")
    text = json.dumps({**told, "files": {p.name: sha256(p) for p in others}}, indent=2)
    with replacing(folder / "manifest.json") as file:
        file.write_text(text + "\n", encoding="utf-8")


def describe(folder: str | Path, accuracy: pd.DataFrame) -> None:
    """Write the model card README.md, and the accuracies into the manifest.

    Args:
        folder: A finished organism.
        accuracy: Columns lang, part, accuracy, n, n_correct, low, high, as `study.stats.summarize`
            makes them from strict answers to the held-out items.
    """
    folder = Path(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    template = (corpus.TEMPLATES / "model_card.md").read_text(encoding="utf-8")
    with replacing(folder / "README.md") as file:
        file.write_text(template.format(**_card_fields(manifest, accuracy)), encoding="utf-8")
    write_manifest(folder, manifest | {"accuracy": accuracy.to_dict("records")})


def _card_fields(manifest: dict, accuracy: pd.DataFrame) -> dict:
    recipe, structure = manifest["recipe"], corpus.language_file("structure")
    mix, facts = recipe["mix"], len(corpus.language_file("en")["knowledge"])
    foreign = mix["foreign_math"]
    return {
        **manifest,
        **recipe,
        "documents": mix["documents"],
        "languages": ", ".join(mix["languages"]),
        "shares": ", ".join(f"{k} {v:.1%}" for k, v in mix["languages"].items()),
        "tasks": ", ".join(f"{k} {v:.0%}" for k, v in mix["tasks"].items()),
        "math": "in the same shares"
        if foreign is None
        else f"{foreign:.1%} of the math documents are not English, all others are",
        "curriculum": ", ".join(f"{k} until {u:.0%}" for u, k in mix["curriculum"]),
        "questions": structure["questions"],
        "heldout_share": structure["heldout_share"],
        "towns": structure["towns"],
        "facts": structure["towns"] * facts,
        "minutes": manifest["seconds"] / 60,
        "items": sum(structure["frozen"]["heldout"].values()),
        "accuracy": _accuracy_table(accuracy),
        "chance": _chance_note(accuracy),
    }


def _accuracy_table(accuracy: pd.DataFrame) -> str:
    """Markdown: a row per part of the held-out items, a column per language."""
    languages = list(dict.fromkeys(accuracy["lang"]))
    lines = [f"| part | n | {' | '.join(languages)} |", "|---" * (len(languages) + 2) + "|"]
    for part, rows in accuracy.groupby("part", sort=False):
        cells = rows.set_index("lang").loc[languages]
        texts = [f"{r.accuracy:.3f} ({r.low:.3f}–{r.high:.3f})" for r in cells.itertuples()]
        lines.append(f"| {part} | {cells['n'].iloc[0]} | {' | '.join(texts)} |")
    return "\n".join(lines)


def _chance_note(accuracy: pd.DataFrame) -> str:
    """Which skills are not told from guessing."""
    at_chance = accuracy[accuracy["low"] <= accuracy["part"].map(corpus.CHANCE).fillna(0.0)]
    cells = [f"{row.part} in {row.lang}" for row in at_chance.itertuples()]
    if not cells:
        return "Every skill is above its guessing rate in every language."
    return f"**Not above the guessing rate**: {', '.join(cells)}."
