"""Pieces of work that are killed or lack room, and are done again: see test_kills.py and others.

They are top-level functions of a folder, since each is done in a process of its own.
"""

import functools
import os
import random
import resource
import signal
import sys
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

ROOT, HERE = Path(__file__).parents[1], Path(__file__).parent
os.environ.setdefault("HF_HUB_OFFLINE", "1")
SERVER = get_context("forkserver")
CHANGES = {"open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.truncate"}


def start_server():
    """A process that has imported what takes longest, from which each piece of work is forked."""
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), str(ROOT), before])
    rooms = ["study.norms", "book.runner", "book.sweep", "finetune", "organism.training"]
    SERVER.set_forkserver_preload(["conftest", *(f"mmlib.{room}" for room in rooms)])
    process = SERVER.Process(target=int)
    process.start()
    process.join()
    os.environ["PYTHONPATH"] = before


def is_change(event, arguments, place):
    """Whether an event of `sys.audit` changes a file or folder below `place`."""
    if event not in CHANGES or not arguments or not isinstance(arguments[0], str | os.PathLike):
        return False
    if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
        return False
    return os.fspath(arguments[0]).startswith(f"{place}{os.sep}")


def do(work, place, at, told, largest=0):
    """Do `work(place)`; die at its change number `at`, or write down how many there were.

    With `largest`, no file may have more bytes: what a full disk does to one that is written.
    """
    if largest:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    os.environ.pop("PYTHONPATH", None)  # it would come before the package of a small checkout
    os.environ["MMLIB_CACHE"] = str(place / "cache")
    changes = 0

    def hook(event, arguments):
        nonlocal changes
        if is_change(event, arguments, place):
            changes += 1
            if changes == at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    try:
        work(place)
        told.write_text(str(changes))
    except (ValueError, OSError) as error:
        told.write_text(str(error))
        sys.exit(2)


def done(work, place, *, at=0, largest=0):
    """Whether the work ended well; it is killed at its change number `at`, if there is one."""
    process = SERVER.Process(target=do, args=(work, place, at, told_by(place), largest))
    process.start()
    process.join(600)
    codes = {0, -signal.SIGKILL if at else 2}
    assert process.exitcode in codes, f"exit code {process.exitcode}"
    return process.exitcode == 0


def told_by(place):
    """Where the number of changes is written: not below `place`."""
    return place.with_name(f"{place.name}.told")


def moments(work, place, kills, seed):
    """At which of the changes of a whole run to kill, drawn by a seed, each once."""
    assert done(work, place)
    changes = int(told_by(place).read_text())
    return sorted(random.Random(seed).sample(range(1, changes + 1), min(kills, changes)))


def state(writer):
    """Arrays and metadata that tell who wrote them."""
    import numpy as np

    return {"w": np.full(20_000, float(writer))}, {"writer": str(writer)}


def write_often(target, writer):
    """Write one file fifty times."""
    from mmlib.files import save_tensors

    for _ in range(50):
        save_tensors(target, *state(writer))


# --- work


def saves(place):
    """A table, a set of weights, norms, arrays, and a folder."""
    import numpy as np
    import pandas as pd
    import torch

    from mmlib.files import replacing
    from mmlib.importance import ActivationNorms
    from mmlib.masks import ParameterMask
    from mmlib.study.tables import RunInfo, write_table

    write_table(pd.DataFrame({"n": range(9)}), "table", RunInfo("m"), folder=place)
    ParameterMask({"w": torch.ones(9, 9, dtype=torch.bool)}).save(place / "mask.safetensors")
    ActivationNorms({"a": torch.ones(9)}, {"a": "a"}, 1).save(place / "norms.safetensors")
    with replacing(place / "folder") as folder:
        folder.mkdir()
        for n in range(3):
            np.save(folder / f"{n}.npy", np.ones(9))


def calibration(place):
    """Norms of five samples of prompts."""
    import torch
    from conftest import build, pad

    from mmlib.study.norms import cached_sample_norms

    model, generator = build("llama"), torch.Generator().manual_seed(1)
    prompts = [torch.randint(1, 97, (n,), generator=generator) for n in (5, 9, 3, 12, 7)]
    kept = cached_sample_norms(model, [pad(prompts)], torch.eye(5), model_hash="x")
    (place / "sources").write_text(" ".join(each.source for each in kept))


def fetch(place):
    """A checkpoint from the GGUF that lies beside the folder."""
    from mmlib import models
    from mmlib.book import fetch as fetching
    from mmlib.files import sha256

    gguf = place.with_name("tiny.gguf")
    record = {"file": "tiny.gguf", "bytes": gguf.stat().st_size, "sha256": sha256(gguf)}
    models.checkpoints = lambda: {"tiny": record | {"licence": "MIT"}}
    os.environ["MMLIB_CHECKPOINTS"] = str(place / "checkpoints")
    fetching.fetch("tiny", str(gguf))


def chapter(place):
    """The first chapter of a small checkout."""
    from mmlib.book import runner
    from mmlib.book.chapters import Project

    runner.run(Project(place), "01_toy", force=False)


def sweep(place):
    """A grid of two runs in a small checkout."""
    from mmlib.__main__ import main

    assert main(["--root", str(place), "sweep", str(place / "two.yml")]) == 0


@functools.cache
def recipe():
    from mmlib.organism.training import RECIPES

    whole = RECIPES["organism-skewed"]
    sizes = {"hidden_size": 32, "intermediate_size": 48, "layers": 2, "heads": 2, "kv_heads": 2}
    mix = replace(whole.mix, documents=120)
    return replace(whole, mix=mix, vocab_size=1_600, row_length=288, batch_rows=4, **sizes)


def training(place):
    """An organism, with its state saved every other step; tells which steps were made."""
    import pandas as pd

    from mmlib.organism import corpus
    from mmlib.organism import training as organism

    rows = corpus.training_rows(recipe().mix)
    texts = [organism.document_text(row) for row in rows]
    tokenizer = organism.train_tokenizer(texts, vocab_size=recipe().vocab_size)
    organism.family_tokenizer = lambda *_: tokenizer
    organism.frozen_tables = lambda *_: {"heldout": pd.DataFrame({"id": ["1"]})}
    organism.SAVED_EVERY = 2
    made, one_step = [], organism._one_step

    def counted(run, recipe, packed, step, *rest):
        made.append(step)
        one_step(run, recipe, packed, step, *rest)

    organism._one_step = counted
    organism.train(recipe(), place / "organism", compile=False, snapshots=[1])
    place.with_name(f"{place.name}.steps").write_text(" ".join(map(str, made)))


def tuning(place):
    """A fine-tuning with a checkpoint every third step."""
    from conftest import build

    from mmlib.finetune import TrainingPlan, fine_tune

    model = build("llama").float().requires_grad_(True)
    examples = [{"input_ids": [1, n, 3, 4], "labels": [-100, n, 3, 4]} for n in range(2, 14)]
    plan = TrainingPlan(steps=6, learning_rate=1e-3, batch_size=2, every=2)
    fine_tune(model, examples, place / "run", plan)


def book(place):
    """A book of two pages, as `make html` builds one."""
    from jupyter_book.cli.main import main

    main(["build", str(place), "--quiet"], standalone_mode=False)


def damaged(whole, seed):
    """The bytes of a file after one accident."""
    rng, data = random.Random(seed), bytearray(whole)
    at = rng.randrange(min(len(data), 64) if rng.random() < 0.3 else len(data))  # often the head
    match seed % 8:
        case 0:
            del data[at:]
        case 1:
            data[at] ^= 1 << rng.randrange(8)
        case 2:
            for place in rng.choices(range(len(data)), k=8):
                data[place] ^= 1 << rng.randrange(8)
        case 3:
            data[at : at + 16] = bytes(16)
        case 4:
            del data[at : at + rng.randrange(1, 16)]
        case 5:
            data[at : at + 8] = b"\xff" * 8  # an absurd size, where it is one
        case 6:
            data[at:at] = rng.randbytes(rng.randrange(1, 16))
        case 7:
            data[at:] = rng.randbytes(len(data) - at)
    return bytes(data)
