import contextlib
import json
import re

import pytest
import torch
from conftest import build
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from mmlib import models
from mmlib.models import (
    decoder_layers,
    layer_index,
    linear_modules,
    load_model,
    model_hash,
    untrained_like,
)


def test_every_linear_of_the_layers_is_found_in_order(model):
    prefix, layers = decoder_layers(model)
    expected = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(prefix)
    ]
    assert list(linear_modules(model)) == expected
    assert {layer_index(name) for name in expected} == set(range(len(layers)))


@pytest.mark.parametrize(("tied", "expected"), [(True, []), (False, ["lm_head"])])
def test_head_by_option_but_a_tied_head_is_never_scored(tied, expected):
    model = build("llama", tie_word_embeddings=tied)
    extra = linear_modules(model, include_head=True).keys() - linear_modules(model).keys()
    assert sorted(extra) == expected
    assert layer_index("lm_head") is None


def test_a_model_without_linear_modules_is_refused():
    config = AutoConfig.for_model("gpt2", n_layer=2, n_embd=8, n_head=2, vocab_size=11)
    with pytest.raises(ValueError, match=r"no nn\.Linear"):
        linear_modules(AutoModelForCausalLM.from_config(config))


def test_unclear_stack_of_layers_is_refused(llama):
    llama.config.num_hidden_layers = 7
    with pytest.raises(ValueError, match="num_hidden_layers=7"):
        decoder_layers(llama)


def test_hash_sees_one_changed_bit(llama):
    before = model_hash(llama)
    assert before == model_hash(build("llama"))
    with torch.no_grad():
        llama.model.norm.weight[0] += 1e-6
    assert model_hash(llama) != before


def test_hash_sees_the_configuration_but_not_where_the_model_lay(llama):
    other = build("llama", rope_theta=5e5)
    assert weights_equal(llama, other)
    assert model_hash(other) != model_hash(llama)
    llama.config._name_or_path = "elsewhere"
    assert model_hash(llama) == model_hash(build("llama"))


def weights_equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_untrained_control_is_this_model_with_other_weights(llama):
    model = llama.bfloat16()
    control = untrained_like(model, seed=7)
    assert {n: (p.shape, p.dtype) for n, p in control.named_parameters()} == {
        n: (p.shape, p.dtype) for n, p in model.named_parameters()
    }
    assert weights_equal(control, untrained_like(model, seed=7))
    assert not weights_equal(control, model)


def test_unknown_names_are_refused_with_the_choices(tmp_path):
    with pytest.raises(ValueError, match="choose from"):
        load_model("organism-nosuch")
    with pytest.raises(ValueError, match="float32, bfloat16"):
        load_model("organism-skewed", dtype="int3")
    with pytest.raises(OSError, match=r"cannot be read.*model_type"):
        load_model(str(tmp_path))
    with pytest.raises(TypeError, match="NoneType"):
        load_model(None)


def test_a_folder_has_no_revision_and_may_be_a_path(organism_copy):
    assert load_model(organism_copy)[0].config.vocab_size
    with pytest.raises(ValueError, match="revision='v1' is of a hub repository"):
        load_model(organism_copy, revision="v1")


def test_no_network_is_a_clear_error():
    with pytest.raises(OSError, match="cached or reachable"):
        load_model("nobody/no-such-model")


@pytest.fixture
def organism_copy(tmp_path):
    source = models.ORGANISMS / "organism-skewed"
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_a_real_checkpoint_is_known_by_name_once_it_is_fetched(
    organism_copy, tmp_path, monkeypatch
):
    monkeypatch.setenv("MMLIB_CHECKPOINTS", str(tmp_path))
    with pytest.raises(ValueError, match=r"python -m mmlib fetch qwen-coder-0\.5b"):
        load_model("qwen-coder-0.5b")
    organism_copy.rename(tmp_path / "qwen-coder-0.5b")
    assert weights_equal(load_model("qwen-coder-0.5b")[0], load_model("organism-skewed")[0])
    monkeypatch.delenv("MMLIB_CHECKPOINTS")
    monkeypatch.setenv("HOME", str(tmp_path))
    place = tmp_path / ".cache" / "mmlib" / "checkpoints" / "gemma-270m"
    assert models.checkpoint_folder("gemma-270m") == place
    for name in ("Qwen/qwen-coder-0.5b", "./qwen-coder-0.5b", "qwen-coder-7b"):
        assert models.resolve(name) == name


@pytest.mark.parametrize("name", models.checkpoints())
def test_a_checkpoint_says_which_bytes_it_is_and_where_they_are(name):
    record = models.checkpoints()[name]
    assert re.fullmatch(r"[0-9a-f]{64}", record["sha256"])
    assert record["repository"].count("/") == 1
    assert record["file"].endswith("-q4_k_m.gguf")
    assert isinstance(record["bytes"], int)
    mirror = record["mirror"]
    for n in range(1, mirror["parts"] + 1):
        package = mirror["distribution"].format(n=n)
        member = mirror["member"].format(n=n, before=n - 1)
        assert member.startswith(f"{package.replace('-', '_')}/data/")
        assert int(re.findall(r"\d+", member)[-1]) == n - ("before" in mirror["member"])


def test_truncated_and_corrupt_weights_are_named(organism_copy):
    weights = organism_copy / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(OSError, match="copy"):
        load_model(str(organism_copy))
    weights.write_bytes(b"not safetensors at all")
    with pytest.raises(OSError, match="copy"):
        load_model(str(organism_copy))


def test_a_checkpoint_without_some_tensors_is_not_completed_at_random(organism_copy):
    path = organism_copy / "model.safetensors"
    (organism_copy / "manifest.json").unlink()  # which has the file's hash
    tensors = load_file(path)
    del tensors["model.layers.3.mlp.down_proj.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(OSError, match=r"incomplete: 1 tensors.*layers\.3\.mlp\.down_proj"):
        load_model(str(organism_copy))


@pytest.fixture
def shifted(organism_copy):
    """A folder that has only what one tensor of its base changed by."""
    (organism_copy / "model.safetensors").unlink()
    (organism_copy / "manifest.json").write_text('{"base": "organism-skewed"}')
    name = "model.layers.2.mlp.up_proj.weight"
    change = torch.full_like(load_model("organism-skewed")[0].get_parameter(name), 2**-7)
    save_file({name: change.bfloat16()}, organism_copy / models.DELTA)
    return organism_copy, name


def test_a_delta_is_added_to_its_base_in_float32(shifted):
    folder, name = shifted
    base, model = (load_model(n, dtype="float32")[0] for n in ("organism-skewed", str(folder)))
    for key, weight in base.named_parameters():
        assert torch.equal(model.get_parameter(key), weight + 2**-7 * (key == name))
    assert load_model(str(folder))[0].dtype == torch.float32
    assert load_model(str(folder), dtype="bfloat16")[0].dtype == torch.bfloat16


def test_a_delta_without_its_base_or_of_another_shape_is_refused(shifted):
    folder, name = shifted
    save_file({name: torch.ones(3)}, folder / models.DELTA)
    with pytest.raises(OSError, match=r"up_proj.*has not so"):
        load_model(str(folder))
    (folder / models.DELTA).write_bytes(b"no safetensors")
    with pytest.raises(OSError, match=r"delta\.safetensors"):
        load_model(str(folder))
    (folder / "manifest.json").unlink()
    with pytest.raises(OSError, match="names its base"):
        load_model(str(folder))


def test_a_folder_that_is_not_there_is_no_hub_id(tmp_path):
    with pytest.raises(OSError, match="no such folder"):
        load_model(str(tmp_path / "nothing"))


def test_organism_loads_like_any_folder(organism_copy):
    ours, tokenizer = load_model("organism-skewed", dtype="float32")
    theirs, _ = load_model(str(organism_copy), dtype="float32")
    assert model_hash(ours) == model_hash(theirs)
    ids = tokenizer("12 + 5 = 17")["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "12 + 5 = 17"


def test_a_sharded_checkpoint_is_the_same_model(organism_copy, tmp_path):
    model, tokenizer = load_model(str(organism_copy))
    model.save_pretrained(tmp_path / "shards", max_shard_size="1MB")
    tokenizer.save_pretrained(tmp_path / "shards")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert model_hash(load_model(str(tmp_path / "shards"))[0]) == model_hash(model)


CODE = """
from pathlib import Path
from transformers import LlamaConfig as Config, LlamaForCausalLM as Model
Path(r"{}").touch()
"""


@pytest.mark.parametrize("part", ["model", "tokenizer"])
def test_code_of_a_checkpoint_is_never_run_and_nobody_is_asked(
    tmp_path, checkpoint, monkeypatch, part
):
    for each in checkpoint:
        each.save_pretrained(tmp_path)
    (tmp_path / "code.py").write_text(CODE.format(tmp_path / "hacked"))
    names = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
    changes = {"model_type": "other", "auto_map": names}
    if part == "tokenizer":
        changes = {"tokenizer_class": "Other", "auto_map": {"AutoTokenizer": ["code.T", None]}}
    path = tmp_path / ("config.json" if part == "model" else "tokenizer_config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody is asked"))
    with contextlib.suppress(OSError):  # a tokenizer that is known without its code may be taken
        load_model(str(tmp_path))
        assert part == "tokenizer"
    assert not (tmp_path / "hacked").exists()


def test_pickled_weights_are_not_read(tmp_path, checkpoint):
    model, tokenizer = checkpoint
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match=r"no file named model\.safetensors"):
        load_model(str(tmp_path))
