"""Small models built from configs, never downloaded, and the real files when they are there."""

import contextlib
import os
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import mmlib.book  # noqa: F401 (it keeps jsonschema from a slow import)

# isort: split

import pandas as pd
import pytest
import torch
from browsers import browser, built  # noqa: F401 (fixtures of the pages)
from checkouts import executed, fresh, grids, project  # noqa: F401 (fixtures of the runner)
from hypothesis import HealthCheck, settings
from jupyter_client.provisioning import local_provisioner
from kernels import WarmKernels
from transformers import AutoConfig, AutoModelForCausalLM

from mmlib.book import runner
from mmlib.book.chapters import Project, run_record
from mmlib.models import decoder_layers
from mmlib.organism import corpus
from mmlib.organism import training as organism

SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
ARCHITECTURES = {
    "llama": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": False},
    "gpt_neox": {"tie_word_embeddings": False},
}
REAL_DATA = Path(
    os.environ.get("MMLIB_REAL_DATA", Path(__file__).parents[1] / ".." / "shared" / "data")
)
MINIATURE_S = 60
"""Longest time a chapter may take in miniature, on one of two cores while the other tests too."""

settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")  # how long an example takes says nothing beside other work


def build(architecture: str, **changes):
    """A random-weight model of `architecture`, in evaluation mode."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, **(SMALL | ARCHITECTURES[architecture] | changes))
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture(params=sorted(ARCHITECTURES))
def model(request):
    return build(request.param)


@pytest.fixture
def llama():
    return build("llama")


@pytest.fixture
def prompts():
    """Token ids of seven prompts of different lengths."""
    generator = torch.Generator().manual_seed(1)
    lengths = [5, 9, 3, 12, 7, 1, 9]
    return [torch.randint(1, 97, (n,), generator=generator) for n in lengths]


@pytest.fixture(scope="session")
def real_data():
    if not (REAL_DATA / "gsm8k" / "test.jsonl").is_file():
        pytest.skip("the real GSM8K and MMLU files are not beside the checkout (MMLIB_REAL_DATA)")
    return REAL_DATA


def pad(rows, *, side="right"):
    """Pad token ids to one batch."""
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        where = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
        ids[index, where], mask[index, where] = row, 1
    return {"input_ids": ids, "attention_mask": mask}


def one_by_one(prompts):
    return [pad([prompt]) for prompt in prompts]


@pytest.fixture(scope="session")
def heldout(tmp_path_factory):
    """Held-out items of a small corpus, in the layout of an organism's folder."""
    folder = tmp_path_factory.mktemp("heldout")
    sizes = dict.fromkeys(corpus.language_file("structure")["frozen"]["heldout"], 6)
    sizes |= {"math-2": 0, "math-3": 0, "reading-same": 0}
    corpus.write_table(corpus.frozen("heldout", sizes), folder / "heldout.jsonl.gz")
    return folder


@pytest.fixture(scope="session")
def checkpoint(heldout):
    """A random model and its tokenizer."""
    texts = pd.read_json(heldout / "heldout.jsonl.gz", lines=True)["prompt"].tolist()
    tokenizer = organism.train_tokenizer(texts, vocab_size=600)
    model = organism.new_model(
        "llama",
        tokenizer,
        seed=1,
        hidden_size=16,
        intermediate_size=16,
        layers=1,
        heads=2,
        kv_heads=1,
    )
    return model.eval(), tokenizer


def spread(model, devices):
    """Spread the layers over `devices` by accelerate, as `device_map` does."""
    from accelerate import dispatch_model

    layers = decoder_layers(model)[0]
    parts = {"model.embed_tokens": 0, "model.norm": -1, "model.rotary_emb": 0, "lm_head": -1}
    device_map = {name: devices[index] for name, index in parts.items()}
    depth = model.config.num_hidden_layers
    device_map |= {f"{layers}.{i}": devices[i * len(devices) // depth] for i in range(depth)}
    return dispatch_model(model, device_map, force_hooks=True)


@pytest.fixture(scope="session")
def borrowed(tmp_path_factory):
    """A checkout of links to this one: what a run of a chapter writes does not land here."""
    root, here = tmp_path_factory.mktemp("borrowed"), Path(__file__).parents[1]
    for name in ("notebooks", "mmlib"):
        (root / name).symlink_to(here / name)
    (root / "book").mkdir()
    (root / "book" / "results").symlink_to(here / "book" / "results")
    return Project(root)


@pytest.fixture(scope="session")
def warm_kernels():
    with contextlib.closing(WarmKernels()) as kernels:
        yield kernels


@pytest.fixture
def miniature(borrowed, warm_kernels, monkeypatch):
    """A function from the name of a chapter to the tables and parameters of its miniature."""

    def execute(name):
        monkeypatch.setenv("MMLIB_CACHE", str(borrowed.root / f"cache-{name}"))
        monkeypatch.setattr(local_provisioner, "launch_kernel", warm_kernels.launch)
        given = borrowed.chapters[name].miniature
        assert given, f"give {name} a miniature in notebooks/chapters.yml"
        notebook = runner.run(borrowed, name, given)
        assert notebook.is_relative_to(borrowed.root / "runs")
        record = run_record(notebook)
        limit = MINIATURE_S * float(os.environ.get("MMLIB_SLOW", "1"))
        assert record["seconds"] <= limit
        paths = notebook.parent.glob("*.csv")
        tables = {path.stem: pd.read_csv(path, dtype={"correct": str}) for path in paths}
        return tables, record["parameters"]

    return execute
