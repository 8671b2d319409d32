"""Time asking against the harness' own class of models: `python tests/asking_speed.py`.

Both ask the same items of the same model in one process, in turn and with one thread. Seconds are
those of the processor, which other work disturbs least. GSM8K has its eight worked examples; MMLU
is asked after five other questions, and without any, where there is nothing to share.
"""

import argparse
import time
from contextlib import ExitStack
from unittest.mock import patch

import torch

from mmlib.models import load_model
from mmlib.tasks import asking, skills
from mmlib.tasks.evaluation import evaluate
from mmlib.tasks.languages import Language

WORKS = {"gsm8k": 0, "mmlu, 5 examples": 5, "mmlu": 0}
"""Examples that a task is given here."""
CLASSES = {
    "harness": {"harness": asking.HFLM},
    "ours, to a stop": {"turns": lambda *_: False},
    "ours": {},
}
"""What asks; *to a stop*: what follows the close of an answer is written, too."""


def asked(model, tokenizer, work, kind, options):
    """Answers of one work, seconds of the processor, and tokens and steps of the model."""
    task, shots = work.split(",")[0], WORKS[work]
    documents = skills.documents(task, "en", options.data)
    config, read = skills.config(task, "en", options.data), []
    if shots:
        examples = {"sampler": "first_n", "samples": documents[:shots]}
        config |= {"num_fewshot": shots, "fewshot_config": examples}
    count = options.items if task == "gsm8k" else options.questions
    only = {task: [document["id"] for document in documents[shots:][:count]]}
    rows = options.batch_size if task == "gsm8k" else 2  # logits of whole prompts are large
    given = {"languages": ["en"], "only": only, "batch_size": rows, "data_dir": options.data}
    with ExitStack() as changes:
        changes.enter_context(patch.object(skills, "config", lambda *_: config))
        if "harness" in kind:
            changes.enter_context(patch.object(asking, "_Harness", kind["harness"]))
        if "turns" in kind:
            changes.enter_context(patch.object(Language, "has_turn", kind["turns"]))
        hook = model.get_input_embeddings().register_forward_hook(
            lambda _, ids, __: read.append(ids[0].shape)
        )
        changes.callback(hook.remove)
        start = time.process_time()
        answers = evaluate(model, tokenizer, task, **given)
        spent = time.process_time() - start
    steps = sum(shape[1] == 1 for shape in read)
    return answers, spent, sum(shape.numel() for shape in read), steps


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="qwen-coder-0.5b")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--data", default="../shared/data", help="folder of the benchmarks")
    parser.add_argument("--items", type=int, default=32, help="problems of GSM8K")
    parser.add_argument("--questions", type=int, default=32, help="questions of MMLU")
    parser.add_argument("--batch-size", type=int, default=8, help="of GSM8K")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = load_model(options.model, dtype=options.dtype)
    for work in WORKS:
        known, first = None, 0.0
        for name, kind in CLASSES.items():
            if "turns" in kind and work != "gsm8k":
                continue
            answers, spent, tokens, steps = asked(model, tokenizer, work, kind, options)
            known, first = (answers, spent) if known is None else (known, first)
            same = (answers.response == known.response).mean()
            right = answers.correct[answers.extraction != "flexible"].mean()
            speed = f"{spent:.1f} s, {first / spent:.2f} times as fast"
            read = f"{tokens} tokens read, {steps} steps of one token"
            given = f"same answers {same:.2f}, correct {right:.3f}"
            print(f"{work}: {name}: {speed}; {read}; {given}", flush=True)


if __name__ == "__main__":
    main()
