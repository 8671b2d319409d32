"""EleutherAI's lm-evaluation-harness, with a model that refuses what it would cut."""

import functools
import logging
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import datasets
import torch
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    DynamicCache,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.cache_utils import DynamicLayer

from mmlib.forward import check_tokens
from mmlib.tasks.languages import get_language

WORTH = 64
"""Tokens that all prompts of a task must begin with to be asked in batches of their own."""
TURN = 48
"""Tokens in which what opens another turn is written, were every byte of it one."""


def run(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[Mapping[str, Any]],
    *,
    batch_size: int,
    **options: Any,
) -> dict[str, Any]:
    """Ask everything at once.

    Args:
        model: Any causal LM.
        tokenizer: Its tokenizer.
        tasks: Configurations of the harness, named "TASK in LANGUAGE", with `documents` in place of
            a dataset.
        batch_size: Prompts per batch.
        **options: Further ones of the harness' class of models (`HFLM`).

    Returns:
        The harness' results and logged samples.

    Raises:
        ValueError: An item is longer than the model's context, empty, or of another vocabulary.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice of the harness about defaults we set on purpose
        for part in ("lm_eval", "lm_eval.models"):
            logging.getLogger(part).setLevel(logging.ERROR)
        options |= {"tokenizer": tokenizer, "batch_size": batch_size}
        harness = _Harness(pretrained=model, **options)
        logging.getLogger("lm_eval.models").setLevel(logging.WARNING)  # it tells of cut prompts
        loaded = _task_manager().load([_task(**task) for task in tasks])
        # Not its `simple_evaluate`, which asks pip and git about the machine at every call.
        return evaluate(harness, loaded, bootstrap_iters=0)


def _task(documents: Sequence[dict], **config: Any) -> dict[str, Any]:
    data = {"test": datasets.Dataset.from_list(list(documents))}
    return {**config, "custom_dataset": lambda **_: data, "test_split": "test"}


class _Harness(HFLM):
    """The harness' model; it refuses what it would cut, and computes nothing twice or in vain.

    The tokens with which all prompts of a task in a language begin (its worked examples) are read
    once, and their keys and values begin the cache of every batch. A cache has room to grow: the
    library's own is copied as a whole at every token. A row ends with its own answer, not when all
    rows have met one and the same stop. Only the logits that are asked for are computed. Answers
    and numbers are those of the harness.
    """

    _prefix: tuple[list[int], DynamicCache] | None = None
    """What all prompts that are asked now begin with; its keys and values are a batch of one."""
    _language: str | None = None
    """The language of all that is asked now, where it is one."""

    def __init__(self, *, batch_size: int, **options):
        super().__init__(batch_size=sys.maxsize, **options)  # it hands over all at once
        self.rows = batch_size

    def generate_until(self, requests, disable_tqdm=False):
        prompts = self._prompts(requests)
        for request, prompt in zip(requests, prompts, strict=True):
            self._fit(request, prompt, request.args[1]["max_gen_toks"])
        ask = functools.partial(super().generate_until, disable_tqdm=disable_tqdm)
        return self._by_task(ask, requests, prompts)

    def loglikelihood(self, requests, disable_tqdm=False):
        for request in requests:
            prompt, text = request.args
            if not text.strip():
                raise ValueError(
                    f"{request.task_name}: item {request.doc['id']!r} has an empty choice; "
                    "correct its row, or leave it out (`only`)"
                )
            self._fit(request, self.tok_encode(prompt + text)[:-1], 0)  # the last is predicted
        ask = functools.partial(super().loglikelihood, disable_tqdm=disable_tqdm)
        return self._by_task(ask, requests, self._prompts(requests))

    def _prompts(self, requests: list) -> list[list[int]]:
        """The tokens of every prompt; the choices of a question have one."""
        texts = dict.fromkeys(request.args[0] for request in requests)
        tokens = {text: self.tok_encode(text) for text in texts}
        return [tokens[request.args[0]] for request in requests]

    def _fit(self, request, prompt: list[int], answer: int) -> None:
        """Refuse an item that the model cannot read, or of which it would read only the end."""
        if not prompt:
            raise ValueError(f"{request.task_name}: item {request.doc['id']!r} is an empty text")
        check_tokens(torch.tensor(prompt), self.model)
        if len(prompt) + answer > self.max_length:
            task, _, language = request.task_name.rpartition(" in ")
            raise ValueError(
                f"{task} in {language!r}: item {request.doc['id']!r} has {len(prompt)} tokens"
                f"{f' and up to {answer} of an answer' if answer else ''}, the model's context "
                f"{self.max_length}; nothing is cut silently: leave the item (`only`), the "
                "language or the task out, or take a model with a longer context"
            )

    def _by_task(
        self, ask: Callable[[list], list], requests: list, prompts: Sequence[list[int]]
    ) -> list:
        """Ask tasks whose prompts share their first tokens one by one, and all others together."""
        tasks: dict[str | None, list[int]] = {}
        for index, request in enumerate(requests):
            tasks.setdefault(request.task_name, []).append(index)
        answers: dict[int, Any] = {}
        others = []
        for task, indices in tasks.items():
            # Every prompt keeps its last token, after which the answer is predicted.
            shared = _common([prompts[index][:-1] for index in indices])
            if len(indices) < 2 or len(shared) < WORTH or not _can_share(self.model):
                others += indices
                continue
            read = _cache(self.model)
            self._logits([shared], len(shared) - 1, past_key_values=read, use_cache=True)
            self._prefix, self._language = (shared, read), (task or "").rpartition(" in ")[2]
            answers |= zip(indices, ask([requests[index] for index in indices]), strict=True)
            self._prefix = self._language = None
        if others:
            others.sort()
            answers |= zip(others, ask([requests[index] for index in others]), strict=True)
        return [answers[index] for index in range(len(requests))]

    @torch.no_grad()
    def _logits(self, rows: Sequence[Sequence[int]], first: int, **options) -> torch.Tensor:
        """Logits after the tokens from `first` on, (batch, seq - first, vocabulary)."""
        ids = pad_sequence([torch.tensor(row, device=self.device) for row in rows], True)
        keep = ids.shape[1] - first
        if self.model._supports_logits_to_keep():
            options["logits_to_keep"] = keep
        if begun := self._begun(rows, first):
            options |= {"past_key_values": _cache(self.model, begun), "use_cache": True}
            ids = ids[:, begun.get_seq_length() :]
        return self.model(ids, **options).logits[:, -keep:]

    def _begun(self, rows: Sequence[Sequence[int]], room: int) -> DynamicCache | None:
        """Keys and values of the shared tokens, where all rows begin with them."""
        if self._prefix is None:
            return None
        shared, read = self._prefix
        same = all(list(row[: len(shared)]) == shared for row in rows)
        return read if same and len(shared) <= room else None

    def _loglikelihood_tokens(self, requests, disable_tqdm=False, override_bs=None):
        """Log-likelihood of every text after its context, and whether it is the greedy one."""
        rows: dict[tuple[int, ...], list] = {}  # texts that differ in their last token share one
        for index, (_, context, text) in enumerate(requests):
            rows.setdefault((*context, *text[:-1]), []).append((index, text))
        answers: dict[int, tuple[float, bool]] = {}
        ordered = sorted(rows, key=lambda row: (-len(row), row))
        for start in range(0, len(ordered), self.rows):
            batch = ordered[start : start + self.rows]
            first = min(len(row) - len(text) for row in batch for _, text in rows[row])
            for row, logits in zip(batch, self._logits(batch, first), strict=True):
                scores = logits.log_softmax(-1, dtype=self.softmax_dtype)
                for index, text in rows[row]:
                    at = len(row) - len(text) - first
                    after, tokens = scores[at:][: len(text)], torch.tensor(text, device=self.device)
                    greedy = bool((after.argmax(-1) == tokens).all())
                    answers[index] = (float(after.gather(1, tokens[:, None]).sum()), greedy)
        return [answers[index] for index in range(len(requests))]

    def _model_generate(self, context, max_length, stop, attention_mask, **options):
        """Greedy answers, `rows` at a time: where some end, the next prompts take their places."""
        prompts = zip(context, attention_mask.bool(), strict=True)
        waiting = rows = [_Row(row[mask].tolist(), []) for row, mask in prompts]
        begun = self._begun([row.prompt for row in rows], min(len(row.prompt) for row in rows) - 1)
        end, room = begun.get_seq_length() if begun else 0, max_length - context.shape[1]
        write = functools.partial(self._write, end=end, room=room, stop=stop, **options)
        asked, cache, joins = [], None, _can_share(self.model)
        while waiting or asked:
            free, parts = self.rows - len(asked), [(asked, cache)]
            if waiting and free and (joins or not asked):
                new, waiting = waiting[:free], waiting[free:]
                parts.append((new, _cache(self.model, begun)))
                write(*parts[-1], most=1 if joins else room, enough=len(new))
            else:
                enough = max(len(asked) // 8, 1) if waiting else (len(asked) + 1) // 2
                write(asked, cache, most=room, enough=enough)
            asked, cache = _left(parts, end)
        pad = [self.tokenizer.pad_token_id] * room
        answers = [(row.answer + pad)[:room] for row in rows]
        return torch.cat((context, torch.tensor(answers, device=self.device)), 1)

    def _write(self, rows: "list[_Row]", cache, *, most, enough, end, room, stop, **options):
        """Write `most` tokens after all rows, or until `enough` of them are at their end.

        Padding is where the first `end` tokens end.
        """
        texts = [row.prompt + row.answer for row in rows]
        width, pad = max(map(len, texts)), self.tokenizer.pad_token_id
        gaps = [width - len(text) for text in texts]
        pairs = zip(texts, gaps, strict=True)
        context = [[*text[:end], *[pad] * gap, *text[end:]] for text, gap in pairs]
        mask = [[1] * end + [0] * gap + [1] * (width - end - gap) for gap in gaps]
        starts = [width - len(row.answer) for row in rows]
        eos = self.model.generation_config.eos_token_id
        ended = _Ended(self.tokenizer, stop, starts, self._language, eos=eos, enough=enough)
        options |= {"past_key_values": cache} if cache.layers else {}
        options |= {"do_sample": False, "temperature": None, "pad_token_id": pad}
        whole = self.model.generate(
            torch.tensor(context, device=self.device),
            attention_mask=torch.tensor(mask, device=self.device),
            max_length=min(width + most, min(starts) + room),
            stopping_criteria=StoppingCriteriaList([ended]),
            use_cache=True,
            **options,
        )
        written = zip(rows, whole[:, width:].tolist(), ended.done.tolist(), strict=True)
        for row, tokens, done in written:
            row.answer += tokens
            row.done = done or len(row.answer) == room


@dataclass
class _Row:
    """A prompt and what is written after it."""

    prompt: list[int]
    answer: list[int]
    done: bool = False


def _left(parts: Sequence[tuple[list[_Row], Any]], end: int) -> tuple[list[_Row], Any]:
    """The rows of all parts that are not done, and one cache of them."""
    parts = [part for part in parts if not all(row.done for row in part[0])]
    if not parts:
        return [], None
    places = [[place for place, row in enumerate(rows) if not row.done] for rows, _ in parts]
    left = [row for rows, _ in parts for row in rows if not row.done]
    width = max(len(row.prompt) + len(row.answer) for row in left) - 1  # the last is not read yet
    for layers in zip(*(cache.layers for _, cache in parts), strict=True):
        layers[0].take(layers, places, width, end)
    return left, parts[0][1]


class _Ended(StoppingCriteria):
    """Ends every row by itself: at a stop, or where another turn follows its answer.

    All stop where `enough` of them have ended.
    """

    done: torch.Tensor | bool = False
    """Which rows are at their end."""

    def __init__(self, tokenizer, stops, starts, language: str | None, *, eos, enough: int):
        self.tokenizer, self.stops, self.starts = tokenizer, stops, starts
        self.language, self.enough = language and get_language(language), enough
        self.eos = torch.tensor(eos or [], dtype=torch.long)
        # A stop may be written in more tokens than it is encoded in; so may what opens a turn.
        sizes = (len(tokenizer.encode(stop, add_special_tokens=False)) for stop in stops)
        self.back = max([*sizes, TURN if self.language else 0]) + 2

    def __call__(self, input_ids, scores, **options):
        last = input_ids[:, -self.back :].tolist()
        before = input_ids.shape[1] - len(last[0])
        pairs = zip(last, self.starts, strict=True)
        ends = self.tokenizer.batch_decode([row[max(at - before, 0) :] for row, at in pairs])
        rows = zip(ends, input_ids, self.starts, strict=True)
        ended = [self._ends(end, row[start:]) for end, row, start in rows]
        self.done = self.done | torch.tensor(ended) | torch.isin(input_ids[:, -1].cpu(), self.eos)
        enough = int(self.done.sum()) >= self.enough
        return (self.done | enough).to(input_ids.device)

    def _ends(self, end: str, written: torch.Tensor) -> bool:
        """Whether a row that ends so is at its end; its whole text is read only where it may be."""
        if any(stop in end for stop in self.stops):
            return True
        turn = self.language is not None and self.language.has_turn(end)
        return turn and self.language.ended(self.tokenizer.decode(written))


def _common(rows: Sequence[list[int]]) -> list[int]:
    """The longest beginning that all rows have: that of the first and the last of them, sorted."""
    first, last = min(rows), max(rows)
    pairs = enumerate(zip(first, last, strict=False))
    return first[: next((place for place, (a, b) in pairs if a != b), len(first))]


def _can_share(model: PreTrainedModel) -> bool:
    """Whether keys and values of the first tokens are kept whole, whatever follows them."""
    layers = _cache(model).layers
    rope = getattr(model.config, "rope_parameters", None) or {}
    scaled = rope.get("rope_type") in ("dynamic", "longrope")  # by the length of the text
    return bool(layers) and all(type(layer) is _Roomy for layer in layers) and not scaled


def _cache(model: PreTrainedModel, begun: DynamicCache | None = None) -> DynamicCache:
    """A cache with room to grow where the model has no layers of another kind."""
    cache = DynamicCache(config=model.config)
    for index, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer:
            cache.layers[index] = _Roomy(begun and begun.layers[index])
    return cache


class _Roomy(DynamicLayer):
    """Keys and values of one layer, copied once in 64 tokens.

    It may begin with those of a batch of one, which are not changed.
    """

    def __init__(self, begun: DynamicLayer | None = None):
        super().__init__()
        if begun and begun.is_initialized:
            self.lazy_initialization(begun.keys, begun.values)
            self.room = [begun.keys, begun.values]
            self.keys, self.values = self.room

    def take(self, layers: Sequence[Self], places, width: int, end: int, new: int = 0) -> None:
        """Take these rows of some layers, with room for `new` tokens; padding follows `end`."""
        rows, length = sum(map(len, places)), width + new + 64
        old, self.room = [(layer.keys, layer.values) for layer in layers], []
        for parts in zip(*old, strict=True):
            _, heads, _, size = parts[0].shape
            self.room.append(parts[0].new_zeros(rows, heads, length, size))
            blocks = self.room[-1].split([len(kept) for kept in places])
            for block, part, kept in zip(blocks, parts, places, strict=True):
                rest = min(part.shape[2], width) - end
                block[:, :, :end] = part[kept, :, :end]
                block[:, :, width - rest : width] = part[kept, :, part.shape[2] - rest :]
        self.keys, self.values = (part[:, :, :width] for part in self.room)

    def update(self, key_states, value_states, *args, **kwargs):
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = self.room = key_states[:, :, :0], value_states[:, :, :0]
        before, (rows, _, new, _) = self.get_seq_length(), key_states.shape
        if before + new > self.room[0].shape[2]:
            kept = [0] * rows if len(self.keys) == 1 else list(range(rows))
            self.take([self], [kept], before, before, new)
        for room, states in zip(self.room, (key_states, value_states), strict=True):
            room[:, :, before : before + new] = states
        self.keys, self.values = (room[:, :, : before + new] for room in self.room)
        return self.keys, self.values


@functools.cache
def _task_manager() -> TaskManager:
    return TaskManager(include_defaults=False)
