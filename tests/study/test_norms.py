"""Norms are computed once per content; shipped ones are found by it, and checked."""

from functools import partial
from shutil import copyfile

import pytest
import torch
from conftest import pad

from mmlib.__main__ import main
from mmlib.importance import ActivationNorms
from mmlib.models import load_model, model_hash
from mmlib.study import localisation, norms
from mmlib.study.evidence import AuditError
from mmlib.study.localisation import score_samples, set_tables
from mmlib.study.norms import audit_norms, cached_sample_norms, ship_norms, shipped_norms
from mmlib.study.settings import Sampling
from mmlib.study.tables import load_table

TASKS = ["organism-math", "organism-reading"]


def test_a_damaged_cache_file_is_computed_again(llama, prompts, tmp_path, monkeypatch):
    monkeypatch.setenv("MMLIB_CACHE", str(tmp_path))
    once = torch.ones(1, len(prompts))
    ((first, _),) = cached_sample_norms(llama, [pad(prompts)], once, model_hash="x")
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.warns(UserWarning, match="computed again"):
        ((again, _),) = cached_sample_norms(llama, [pad(prompts)], once, model_hash="x")
    assert all(torch.equal(first[name], again[name]) for name in first.shared)
    assert ActivationNorms.load(path).shared == first.shared


def test_the_cache_is_keyed_by_content(llama, prompts, tmp_path, monkeypatch):
    monkeypatch.setenv("MMLIB_CACHE", str(tmp_path))
    files = lambda: len(list(tmp_path.rglob("*.safetensors")))  # noqa: E731

    def cached(batch):
        once = torch.ones(1, len(batch["input_ids"]))
        return cached_sample_norms(llama, [batch], once, model_hash=model_hash(llama))[0].norms

    first = cached(pad(prompts))
    again = cached(pad(prompts, side="left"))
    assert files() == 1
    assert all(torch.equal(first[name], again[name]) for name in first.shared)
    cached(pad(prompts[1:]))
    assert files() == 2
    with torch.no_grad():
        llama.model.layers[0].mlp.up_proj.weight[0, 0] += 1
    cached(pad(prompts))
    llama.bfloat16()
    cached(pad(prompts))
    assert files() == 4


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Samples, how a model is scored on them, their scores, and the cache that has the norms."""
    model, tokenizer = load_model("organism-even", dtype="float32")
    samples = Sampling(*TASKS, ["en", "hi"], [1, 2], num_samples=4).draw()
    score = partial(score_samples, model, tokenizer)
    runs = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMLIB_CACHE", str(runs))
        return samples, score, score(samples), runs


@pytest.fixture
def shipping(made, tmp_path, monkeypatch):
    """As `made`, with the norms shipped in another folder and nothing in the cache."""
    monkeypatch.setenv("MMLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(norms, "SHIPPED", tmp_path / "norms")
    monkeypatch.setattr(localisation, "_AUDITED", set())
    ship_norms(made[-1], tmp_path / "norms")
    return made


def told(caplog):
    return [record.getMessage() for record in caplog.records if record.name == norms.__name__]


def test_tables_of_shipped_norms_are_those_of_computed_ones(shipping, caplog, tmp_path):
    samples, score, scores, _ = shipping
    caplog.set_level("INFO", logger="mmlib")
    again = score(samples, audit_seed=3)
    lines = told(caplog)
    assert lines[: len(samples)] == ["norms shipped"] * len(samples)
    assert len(lines) == len(samples) + 1  # one is computed again
    assert "computed again (largest difference" in lines[-1]
    assert not (tmp_path / "cache").exists()
    one, other = (
        set_tables({key: of[key] for key in samples if key.seed == 1}, *TASKS, [0.1])
        for of in (scores, again)
    )
    assert all(before.equals(after) for before, after in zip(one, other, strict=True))
    caplog.clear()
    score(samples)
    assert told(caplog) == ["norms shipped"] * len(samples)  # the session has audited them


def test_what_is_not_shipped_is_computed(shipping, caplog, tmp_path):
    _, score, _, _ = shipping
    other, _ = Sampling(*TASKS, ["en"], [3], num_samples=4).draw().items()
    caplog.set_level("INFO", logger="mmlib")
    score(dict([other]))
    score(dict([other]))
    assert told(caplog) == ["norms computed", "norms cached"]
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 1


def test_shipped_norms_of_another_text_stop(shipping, tmp_path):
    """All vectors are those of the next sample: right in every digest, and wrong."""
    samples, score, _, runs = shipping
    paths = sorted((runs / "norms").iterdir())
    (tmp_path / "wrong" / "norms").mkdir(parents=True)
    for path, other in zip(paths, paths[1:] + paths[:1], strict=True):
        copyfile(other, tmp_path / "wrong" / "norms" / path.name)
    ship_norms(tmp_path / "wrong", tmp_path / "norms")
    with pytest.raises(AuditError, match=r"(en|hi) organism-\w+, seed [12] are not those computed"):
        score(samples)


def test_a_damaged_shipped_file_is_told_by_name(shipping, tmp_path):
    samples, score, _, _ = shipping
    path = tmp_path / "norms" / "norms.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    shipped_norms.cache_clear()
    with pytest.raises(ValueError, match=r"norms\.safetensors is not the file its manifest"):
        score(samples)
    path.unlink()
    with pytest.raises(ValueError, match=r"norms\.safetensors is not the file its manifest"):
        score(samples)


@pytest.mark.parametrize("factor", [1 + 1e-5, 1 + 1e-2, float("nan")])
def test_rounding_passes_the_audit_and_nothing_else_does(factor):
    vector = torch.tensor([3.0, 0.0, 1.0])
    right, wrong = (ActivationNorms({"a": v}, {"a": "a"}, 1) for v in (vector, vector * factor))
    if factor == 1 + 1e-5:
        assert 0 < audit_norms(right, wrong, "en math, seed 1") < 2e-5
        return
    with pytest.raises(AuditError, match=r"norms of en math, seed 1 .* at a they differ"):
        audit_norms(right, wrong, "en math, seed 1")


def test_a_command_ships_what_runs_have_left(made, tmp_path, capsys):
    *_, runs = made
    assert main(["--root", str(tmp_path), "norms", str(runs)]) == 0
    folder = tmp_path / "mmlib" / "evidence" / "norms"
    assert capsys.readouterr().out == f"{folder / 'norms.csv'}\n"
    assert set(shipped_norms(folder)) == {path.stem for path in runs.rglob("*.safetensors")}
    run = load_table("norms", folder)[1]["run"]
    assert run["hardware"]
    assert run["date"]
    assert main(["--root", str(tmp_path), "norms", str(tmp_path)]) == 2
    assert "holds no norms: run chapters with MMLIB_CACHE=" in capsys.readouterr().err


def test_only_norms_of_one_shape_are_shipped_together(tmp_path):
    (tmp_path / "norms").mkdir()
    for width in (2, 3):
        one = ActivationNorms({"a": torch.ones(width)}, {"a": "a"}, 1)
        one.save(tmp_path / "norms" / f"{width}.safetensors")
    with pytest.raises(ValueError, match="several shapes"):
        ship_norms(tmp_path, tmp_path / "shipped")


def test_the_norms_of_the_book_are_whole():
    """Those of the organisms on samples of the default pages, each of 500 texts or fewer."""
    shipped = shipped_norms(norms.SHIPPED)
    model = load_model("organism-even")[0]
    modules = dict(model.named_modules())
    assert len(shipped) > 100
    for kept in shipped.values():
        assert 0 < kept.num_samples <= 500
        assert all(len(kept[name]) == modules[name].in_features for name in kept.shared)
        values = torch.cat(list(kept.vectors.values()))
        assert values.isfinite().all()
        assert (values >= 0).all()
