"""What a hub model needs is told, or refused, before any work; the hub is a stand-in here."""

from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils._http import httpx2  # whatever the hub's client is

from mmlib.__main__ import main
from mmlib.book import preflight, sweep
from mmlib.book.chapters import ChapterError, Project
from mmlib.book.sweep import read, runs

ROOT = Path(__file__).parents[2]
LLAMA = "meta-llama/Llama-3.2-1B-Instruct"
RUN = {"model": LLAMA, "dtype": "bfloat16", "num_samples": 50, "languages": ["en"], "seeds": [1]}


@pytest.fixture
def hub(monkeypatch):
    """A function that sets what the hub says: sizes of files, or an error for this account."""

    def answers(parameters=10**6, size=2 * 10**6, error=None, kind="BF16"):
        files = [SimpleNamespace(rfilename="model.safetensors", size=size)]
        files.append(SimpleNamespace(rfilename="README.md", size=10**15))
        weights = SimpleNamespace(total=parameters, parameters={kind: parameters})
        info = SimpleNamespace(siblings=files, safetensors=weights)

        class Api:
            def model_info(self, model, **options):
                if isinstance(error, httpx2.HTTPError):
                    raise error
                return info

            def auth_check(self, model):
                if error:
                    raise error

        monkeypatch.setattr(huggingface_hub, "HfApi", Api)
        monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)

    return answers


def refusal(kind):
    response = httpx2.Response(403, request=httpx2.Request("GET", "https://hub"))
    return kind("not for you", response=response)


def test_names_of_ours_and_folders_are_no_hub_ids(tmp_path):
    (tmp_path / "models" / "mine").mkdir(parents=True)
    ours = ["organism-even", "qwen-coder-0.5b", "./runs/small", "~/model", "", str(tmp_path)]
    assert not any(preflight.on_hub(name) for name in ours if name)
    assert preflight.check({"model": "organism-even"}) == preflight.check({}) == []
    assert preflight.on_hub(LLAMA)


def test_needs_are_told(hub):
    hub()
    sizes, time = preflight.check(RUN)
    assert "0.00 billion parameters, 0.0 GB to download" in sizes
    assert "scoring takes about" in time
    wanted = preflight.need(LLAMA, dtype="float32")
    assert wanted == (10**6, 2 * 10**6, int(1.15 * 4 * 10**6))
    assert preflight.need(LLAMA)[2] == int(1.15 * 2 * 10**6)
    hub(kind="F32")
    assert preflight.need(LLAMA)[2] == int(1.15 * 4 * 10**6)
    assert preflight.need(LLAMA, dtype="bfloat16")[2] == int(1.15 * 2 * 10**6)


def test_time_follows_texts_and_weights(monkeypatch):
    assert preflight._speed(False) > 10**8
    monkeypatch.setattr(preflight, "_speed", lambda _: 10**12)
    # 100 texts of 250 tokens, two operations a weight.
    assert preflight._minutes(RUN, 10**9) == pytest.approx(100 * 250 * 2 * 10**9 / 10**12 / 60)
    more = RUN | {"languages": ["en", "de"], "seeds": [1, 2]}
    assert preflight._minutes(more, 10**9) == 4 * preflight._minutes(RUN, 10**9)


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ({"parameters": 10**13}, "it does not fit. Give device_map=auto"),
        ({"size": 10**15}, "make room, or set HF_HOME"),
        ({"error": refusal(GatedRepoError)}, f"accept its terms at https://huggingface.co/{LLAMA}"),
        ({"error": refusal(RepositoryNotFoundError)}, "no model meta-llama/.* set HF_TOKEN"),
        ({"error": refusal(RevisionNotFoundError)}, "no revision ''"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(hub, what, told):
    hub(**what)
    with pytest.raises(ChapterError, match=told):
        preflight.check(RUN)


def test_an_unknown_dtype_is_refused(hub):
    hub()
    with pytest.raises(ChapterError, match="unknown dtype 'fp16': choose from float32, bfloat16"):
        preflight.check(RUN | {"dtype": "fp16"})


def test_without_a_hub_nothing_is_looked_at(hub):
    hub(error=httpx2.ConnectError("no route"))
    (line,) = preflight.check(RUN)
    assert "the hub does not answer (ConnectError)" in line


def test_a_sweep_tells_every_model_once_and_refuses_before_the_first_run(hub, capsys, monkeypatch):
    """One that fits, one that is gated and one that does not fit."""
    path = "notebooks/grids/paper/what_breaks.yml"
    big, gated = "Qwen/Qwen3-4B-Instruct-2507", "meta-llama/Llama-3.1-8B-Instruct"
    hub()
    look = preflight.need

    def need(model, **about):
        if model == gated:
            hub(error=refusal(GatedRepoError))
        sizes = look(model, **about)
        return (10**13, 1, 10**14) if model == big else sizes

    monkeypatch.setattr(preflight, "need", need)
    monkeypatch.setattr(sweep, "execute", lambda *_, **__: pytest.fail("a run has begun"))
    for more in ([], ["--dry-run"]):
        hub()
        assert main(["--root", str(ROOT), "sweep", path, *more]) == 2
        told, refused = capsys.readouterr()
        assert told.count(f"{LLAMA}: 0.00 billion parameters") == 1
        assert told.count("never run") == (24 if more else 0)
        assert f"{gated} is gated: accept its terms" in refused
        assert f"{big}: 10000.00 billion parameters" in refused


@pytest.mark.parametrize("name", ["overlap", "what_breaks", "all_or_few"])
def test_every_setting_of_the_papers_can_be_planned(name):
    grid = read(ROOT / "notebooks" / "grids" / "paper" / f"{name}.yml")
    planned = runs(Project(ROOT), grid)
    assert {run.given["model"] for run in planned} == set(grid.vary["model"])
    assert len(planned) == {"overlap": 3, "what_breaks": 24, "all_or_few": 9}[name]
