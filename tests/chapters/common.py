"""What the tests of the chapters share: sizes from checkpoint files, answers, small models."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open

from mmlib.__main__ import main
from mmlib.models import load_model

ROOT = Path(__file__).parents[2]
TEXT = {"correct": str}
"""Types of a table of answers: 0110 is no number."""


def frozen(folder, name):
    return pd.read_json(folder / f"{name}.jsonl.gz", lines=True, dtype=False)


def organism(given):
    return ROOT / "mmlib" / "organisms" / given["model"]


def shapes(folder):
    """Shapes of the tensors, read from the checkpoint file itself."""
    with safe_open(folder / "model.safetensors", "pt") as file:
        return {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118


def matrices(folder):
    """Sizes of the decoder's matrices."""
    found = shapes(folder).items()
    return [math.prod(s) for key, s in found if ".layers." in key and len(s) == 2]


def counted_answers(table, given):
    """Share of right answers of each cell, counted in its characters."""
    cell = ["dtype", "lang", "condition", "factor", "keep_ratio", "seed", "fraction", "sample_seed"]
    table = table[table.lang.isin(given["languages"])].drop_duplicates([*cell, "part"])
    numbers = dict.fromkeys(["factor", "keep_ratio", "fraction"], float)
    table = table.astype(numbers | {"seed": int, "sample_seed": int})
    correct = table.correct.astype(str)
    return table.assign(correct=correct, right=correct.str.count("1"), n=correct.str.len()), cell


def whole_numbers(table):
    """Intersections that the sizes and the Jaccard of two sets imply, which have to be whole."""
    shared = table.jaccard / (1 + table.jaccard) * (table.size_a + table.size_b)
    assert np.allclose(shared, shared.round(), atol=1e-4)
    return shared.round().astype(int)


def random_folder(parent, kind, real_data, *, layers):
    """A small checkpoint of random weights, with a tokenizer for the real text."""
    folder = parent / f"random-{kind}"
    shape = f"--layers {layers} --hidden-size 64 --heads 4 --kv-heads 2 --intermediate-size 128"
    options = ["--data-dir", str(real_data), "--architecture", kind, "--vocab-size", "2000"]
    assert main(["random-model", str(folder), *options, *shape.split()]) == 0
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = 4096  # eight worked examples are long in so few tokens
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def asking_mgsm(folder, real_data):
    """Parameters of chapters 15 and 16: a checkpoint that reads the questions of MGSM."""
    asked = {"model": str(folder), "data_dir": str(real_data), "task": "mgsm", "split": "heldout"}
    return asked | {"languages": ["en", "de", "sw"]}


def aligning_on_mgsm(folder, real_data):
    """Parameters of both pages of chapter 16: a few steps on MGSM's translations, graded on it."""
    pairs = {"pair_source": "mgsm", "pair_kinds": ["question"], "pair_split": "heldout"}
    trained = {"shares": [3.0, 1.0], "seeds": [1], "steps": 5, "train_batch": 2, "peak": 3}
    asked = {"num_questions": 20, "tasks": ["mgsm"], "parts": ["mgsm"], "items": 2, "shown": 12}
    return asking_mgsm(folder, real_data) | pairs | trained | asked | {"sweep": True}


def write_hub_files(folder):
    """Files of Orca-Math, Aya and MGSM8KInstruct in the layout of the hub's, with sums."""
    rows = {
        "orca-math": {
            "question": [f"{n} and {n}?" for n in range(12)],
            "answer": [f"{n} + {n} = {2 * n}" for n in range(12)],
        },
        "aya": {
            "inputs": [f"{text} {n}." for text in ("Andika", "Schreibe") for n in range(12)],
            "targets": [str(n) for n in range(12)] * 2,
            "language_code": ["swh"] * 12 + ["deu"] * 12,
        },
    }
    lines = [
        {
            "prompt": f"Answer in {name}.\n\n### Instruction:\n{n} + {n}?\n\n### Response:",
            "chosen": f"{2 * n} #### {2 * n}",
        }
        for n in range(20)
        for name in ("English", "German")
    ]
    (folder / "mgsm8kinstruct").mkdir()
    path = folder / "mgsm8kinstruct" / "MGSM8KInstruct_Parallel.json"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    for task, columns in rows.items():
        (folder / task).mkdir()
        pd.DataFrame(columns).to_parquet(folder / task / "train-00000-of-00001.parquet")


def noisy_experts(base):
    """Two copies of a checkpoint beside it, all of whose weights have moved; as parameters."""
    paths = {}
    for seed, name in enumerate(("math_expert", "language_expert")):
        model, tokenizer = load_model(str(base), dtype="float32")
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.01 * torch.randn_like(parameter)
        paths[name] = str(base.with_name(name))
        model.save_pretrained(paths[name])
        tokenizer.save_pretrained(paths[name])
    return paths
