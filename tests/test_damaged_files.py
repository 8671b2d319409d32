"""Damaged files of every kind that is read: an error that names the file, and no wrong value.

What has a checksum never gives another value. What people write themselves (benchmark files, grids,
notebooks) has none: there, damage that leaves a file of the right form may pass.
"""

import shutil
import signal
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from checkouts import make_checkout, write_grids
from faults import damaged

from mmlib.book import chapters, sweep
from mmlib.book.chapters import Project
from mmlib.files import load_tensors, save_tensors
from mmlib.importance import ActivationNorms
from mmlib.masks import ParameterMask
from mmlib.models import load_model
from mmlib.organism.training import write_manifest
from mmlib.study.tables import RunInfo, load_table, write_table
from mmlib.tasks.sources import read_table

FEW, MANY = 60, 2000
"""Damages of each kind of file, in every test run and in `make test-all`."""
LIMIT_S = 20


@contextmanager
def limited():
    """What hangs in Python ends in an error that names no file."""

    def stop(*_):
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def place(tmp_path_factory, checkpoint):
    """A file of each kind."""
    root, rng = tmp_path_factory.mktemp("files"), np.random.default_rng(1)
    ActivationNorms({"a": torch.rand(40), "b": torch.rand(8)}, {"a": "a", "c": "b"}, 7).save(
        root / "norms.safetensors"
    )
    ParameterMask({"w": torch.rand(12, 11) < 0.3}).save(root / "mask.safetensors")
    save_tensors(root / "state.safetensors", {"w": rng.random((9, 4))}, {"step": "5"})
    table = pd.DataFrame({"lang": ["en", "de"], "n": [1, 2], "x": [0.5, np.nan], "t": ["a,b", ""]})
    write_table(table, "table", RunInfo("m"), folder=root)
    items = pd.DataFrame({"question": [f"How many {i}?" for i in range(60)], "answer": range(60)})
    items.to_parquet(root / "items.parquet")
    items.to_csv(root / "items.csv", index=False)
    items.to_csv(root / "items.tsv", sep="\t", index=False, header=False)
    for name, lines in {"items.json": False, "items.jsonl": True, "items.jsonl.gz": True}.items():
        items.to_json(root / name, orient="records", lines=lines)
    make_checkout(root / "checkout")
    write_grids(root / "checkout")
    for part in checkpoint:
        part.save_pretrained(root / "model")
    write_manifest(root / "model", {})
    return root


def same(one, other):
    """Whether two values read are equal."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    return one.equals(other) if isinstance(one, pd.DataFrame) else one == other


def weights(folder):
    model, tokenizer = load_model(str(folder))
    return model.state_dict(), tokenizer.get_vocab(), model.config.to_dict()


def planned(root):
    return sweep.runs(Project(root), sweep.find(Project(root), "toy"))


def of_notebook(root):
    chapters._parameters.cache_clear()
    values, _ = chapters.resolve(Project(root), "01_toy", {})
    return chapters.hashes(Project(root), "01_toy", values)


def kind(path, read, *, checked=False, named=""):
    return SimpleNamespace(path=path, read=read, checked=checked, named=named or path)


def benchmark(name):
    return kind(name, lambda root: read_table(root / name, ["question", "answer"]))


KINDS = [
    kind("norms.safetensors", lambda r: vars(ActivationNorms.load(r / "norms.safetensors")),
         checked=True),
    kind("mask.safetensors", lambda r: ParameterMask.load(r / "mask.safetensors").tensors,
         checked=True),
    kind("state.safetensors", lambda r: load_tensors(r / "state.safetensors"), checked=True),
    kind("table.csv", lambda r: load_table("table", r)[0], checked=True),
    kind("table.json", lambda r: load_table("table", r)[0]),
    *(kind(f"model/{name}", lambda r: weights(r / "model"), checked=True) for name in
      ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json")),
    *map(benchmark, ("items.parquet", "items.csv", "items.tsv", "items.json", "items.jsonl",
                     "items.jsonl.gz")),
    kind("checkout/notebooks/grids/toy.yml", lambda r: planned(r / "checkout"), named="toy.yml"),
    kind("checkout/notebooks/chapters.yml", lambda r: Project(r / "checkout").chapters,
         named="chapters.yml"),
    kind("checkout/notebooks/chapters/01_toy.ipynb", lambda r: of_notebook(r / "checkout"),
         named="01_toy.ipynb"),
]  # fmt: skip
NAMES = [kind.path for kind in KINDS]


def tried(kind, root):
    """What is read, and what an error says."""
    try:
        with limited():
            return kind.read(root), ""
    except (ValueError, OSError) as error:
        return None, str(error) or "an error without words"


def try_all(kind, place, root, seeds):
    """Read the file after each accident; returns how many were refused."""
    shutil.copytree(place, root)
    path, refused = root / kind.path, 0
    whole, right = path.read_bytes(), kind.read(root)
    for seed in seeds:
        data = damaged(whole, seed)
        path.write_bytes(data)
        value, error = tried(kind, root)
        refused += bool(error)
        if error:
            assert kind.named in error, f"seed {seed} is not told by name"
        elif kind.checked:
            assert data == whole or same(value, right), f"seed {seed} gives another value"
    return refused


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_a_damaged_file_is_told_by_name(kind, place, tmp_path):
    refused = try_all(kind, place, tmp_path / "copy", range(FEW))
    assert refused > (0.9 * FEW if kind.checked else FEW / 2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_many_damaged_files_are_told_by_name(kind, place, tmp_path):
    try_all(kind, place, tmp_path / "copy", range(FEW, FEW + MANY))


WRONG = {
    "mask.safetensors": [
        {"shapes": text}
        for text in ('{"w": [1099511627776, 1099511627776]}', '{"w": "ab"}', '{"w": [-1, 8]}',
                     "[1]", '{"v": [17]}', "{")
    ],
    "norms.safetensors": [
        {"shared": text, "num_samples": samples}
        for text, samples in (('{"a": "nowhere"}', "1"), ("[]", "1"), ("{}", "many"), ("", "1"))
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "metadata"), [(name, told) for name, all_ in WRONG.items() for told in all_]
)
def test_whole_files_that_say_impossible_things_are_refused(name, metadata, tmp_path):
    save_tensors(tmp_path / name, {"w": np.zeros(2, np.uint8)}, metadata)
    load = ParameterMask.load if "mask" in name else ActivationNorms.load
    with pytest.raises(ValueError, match=name):
        load(tmp_path / name)


DEEP = "[" * 100_000
TURNS = list(zip("abcdefgh", "bcdefghi", strict=True))
BOMB = ["&a [1]"] + [f"&{name} [{', '.join([f'*{old}'] * 9)}]" for old, name in TURNS]
"""Values in YAML, the last of which has 9⁸ ones."""
KEYS = "".join(f"key{n}: {value}\n" for n, value in enumerate(BOMB))


@pytest.mark.parametrize("name", ["items.json", "items.jsonl", "table.json"])
def test_json_that_is_nested_without_end_is_refused(name, place, tmp_path):
    shutil.copytree(place, tmp_path / "copy")
    (tmp_path / "copy" / name).write_text(DEEP)
    with limited(), pytest.raises(ValueError, match=name):
        next(kind for kind in KINDS if kind.path == name).read(tmp_path / "copy")


@pytest.mark.parametrize(
    "text",
    [
        DEEP,
        f"chapter: 01_toy\nvary: {{seed: {DEEP}",
        f"chapter: 01_toy\n{KEYS}",
        f"chapter: 01_toy\nvary: {{keep_ratios: [{', '.join(BOMB)}]}}",
    ],
)
def test_yaml_without_end_is_refused(text, place, tmp_path):
    shutil.copytree(place / "checkout", tmp_path / "copy")
    (tmp_path / "copy/notebooks/grids/toy.yml").write_text(text)
    with limited(), pytest.raises(ValueError, match=r"toy\.yml"):
        planned(tmp_path / "copy")


@pytest.mark.parametrize("text", [DEEP, f"[{', '.join(BOMB)}]", "[!!python/name:os.system x]"])
def test_a_parameter_without_end_or_of_another_kind_is_refused(text, place):
    with limited(), pytest.raises(ValueError, match="parameter keep_ratios of 01_toy"):
        chapters.resolve(Project(place / "checkout"), "01_toy", {"keep_ratios": text})


def test_a_folder_in_the_place_of_a_file_is_told_by_name(place, tmp_path):
    for number, kind in enumerate(KINDS):
        root = tmp_path / str(number)
        shutil.copytree(place, root)
        (root / kind.path).unlink()
        (root / kind.path).mkdir()
        with pytest.raises((ValueError, OSError), match=kind.named.replace(".", r"\.")):
            kind.read(root)
