"""EleutherAI's lm-evaluation-harness, with a model that refuses what it would cut."""

import functools
import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import torch
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer

from mmlib.forward import check_tokens


def run(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[Mapping[str, Any]],
    *,
    batch_size: int,
) -> dict[str, Any]:
    """Ask everything at once.

    Args:
        model: Any causal LM.
        tokenizer: Its tokenizer.
        tasks: Configurations of the harness, named "TASK in LANGUAGE", with `documents` in place of
            a dataset.
        batch_size: Prompts per batch.

    Returns:
        The harness' results and logged samples.

    Raises:
        ValueError: An item is longer than the model's context, empty, or of another vocabulary.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice of the harness about defaults we set on purpose
        for part in ("lm_eval", "lm_eval.models"):
            logging.getLogger(part).setLevel(logging.ERROR)
        harness = _Harness(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
        logging.getLogger("lm_eval.models").setLevel(logging.WARNING)  # it tells of cut prompts
        loaded = _task_manager().load([_task(**task) for task in tasks])
        # Not its `simple_evaluate`, which asks pip and git about the machine at every call.
        return evaluate(harness, loaded, bootstrap_iters=0)


def _task(documents: Sequence[dict], **config: Any) -> dict[str, Any]:
    data = {"test": datasets.Dataset.from_list(list(documents))}
    return {**config, "custom_dataset": lambda **_: data, "test_split": "test"}


class _Harness(HFLM):
    """The harness' model; it refuses what it would cut, and its cache has room to grow.

    The library's own cache is copied as a whole at every token, which takes much of the time of a
    small model. The numbers are the same.
    """

    def generate_until(self, requests, disable_tqdm=False):
        for request in requests:
            prompt, options = request.args
            self._fit(request, self.tok_encode(prompt), options["max_gen_toks"])
        return super().generate_until(requests, disable_tqdm)

    def loglikelihood(self, requests, disable_tqdm=False):
        for request in requests:
            prompt, text = request.args
            if not text.strip():
                raise ValueError(
                    f"{request.task_name}: item {request.doc['id']!r} has an empty choice; "
                    "correct its row, or leave it out (`only`)"
                )
            self._fit(request, self.tok_encode(prompt + text)[:-1], 0)  # the last is predicted
        return super().loglikelihood(requests, disable_tqdm)

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

    def _model_generate(self, context, max_length, stop, **options):
        cache = DynamicCache(config=self.model.config)
        cache.layers = [_Roomy() if type(old) is DynamicLayer else old for old in cache.layers]
        if cache.layers:
            options["past_key_values"] = cache
        return super()._model_generate(context, max_length, stop, **options)


class _Roomy(DynamicLayer):
    """Keys and values of one layer, copied once in 64 tokens."""

    def update(self, key_states, value_states, *args, **kwargs):
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before = self.get_seq_length()
        after = before + key_states.shape[-2]
        if not before or after > self.room[0].shape[-2]:
            old, self.room = (self.keys, self.values), []
            for part, new in zip(old, (key_states, value_states), strict=True):
                self.room.append(new.new_empty(*new.shape[:-2], after + 64, new.shape[-1]))
                if before:
                    self.room[-1][..., :before, :] = part
        for room, new in zip(self.room, (key_states, value_states), strict=True):
            room[..., before:after, :] = new
        self.keys, self.values = (room[..., :after, :] for room in self.room)
        return self.keys, self.values


@functools.cache
def _task_manager() -> TaskManager:
    return TaskManager(include_defaults=False)
