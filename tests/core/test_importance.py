import warnings

import pytest
import torch
from conftest import ARCHITECTURES, SMALL, build, one_by_one, pad, spread
from torch import nn
from transformers import AutoModelForCausalLM

from mmlib.importance import (
    ActivationNorms,
    collect_norms,
    collect_sample_norms,
    prompt_norms,
)
from mmlib.models import linear_modules
from mmlib.study.localisation import collect_scores

RATIOS = [0.01, 0.1, 0.25]


def norms_by_hand(model, prompts, names):
    """Σ ‖X‖₂ with plain hooks, one prompt at a time, in float64: the independent route."""
    sums = dict.fromkeys(names, 0.0)
    modules = dict(model.named_modules())

    def add(name):
        def hook(_module, args):
            sums[name] = sums[name] + args[0][0].double().square().sum(0).sqrt()

        return hook

    handles = [modules[name].register_forward_pre_hook(add(name)) for name in names]
    with torch.no_grad():
        for prompt in prompts:
            model(prompt[None])
    for handle in handles:
        handle.remove()
    return sums


def test_streamed_norms_equal_plain_hooks(model, prompts):
    norms = collect_norms(model, one_by_one(prompts))
    expected = norms_by_hand(model, prompts, linear_modules(model))
    assert norms.num_samples == len(prompts)
    for name, vector in expected.items():
        assert norms[name].dtype == torch.float32
        torch.testing.assert_close(norms[name].double(), vector, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("size", [2, 3, 7])
def test_batching_and_padding_do_not_matter(prompts, side, size):
    for architecture in ARCHITECTURES:
        model = build(architecture)
        alone = collect_norms(model, one_by_one(prompts))
        chunks = [prompts[i : i + size] for i in range(0, len(prompts), size)]
        together = collect_norms(model, [pad(chunk, side=side) for chunk in chunks])
        for name in linear_modules(model):
            torch.testing.assert_close(together[name], alone[name], rtol=2e-5, atol=1e-5)


def test_one_vector_per_distinct_input(llama, prompts):
    norms = collect_norms(llama, one_by_one(prompts))
    depth = SMALL["num_hidden_layers"]
    assert len(norms.shared) == 7 * depth
    assert len(norms.vectors) == 4 * depth
    for layer in range(depth):
        prefix = f"model.layers.{layer}"
        assert norms.shared[f"{prefix}.self_attn.v_proj"] == f"{prefix}.self_attn.q_proj"
        assert norms.shared[f"{prefix}.mlp.up_proj"] == f"{prefix}.mlp.gate_proj"


def test_shards_add_up(llama, prompts):
    whole = collect_norms(llama, one_by_one(prompts))
    parts = collect_norms(llama, one_by_one(prompts[:3])) + collect_norms(
        llama, one_by_one(prompts[3:])
    )
    assert parts.num_samples == whole.num_samples
    for name in whole.shared:
        torch.testing.assert_close(parts[name], whole[name])


def test_scores_are_the_published_sum(llama, prompts):
    scores = collect_scores(llama, one_by_one(prompts))
    modules = linear_modules(llama)
    for name in modules:
        per_prompt = [norms_by_hand(llama, [p], [name])[name] for p in prompts]
        expected = sum(modules[name].weight.double().abs() * norm for norm in per_prompt)
        torch.testing.assert_close(
            scores.matrix(name).double(), expected.detach(), rtol=1e-5, atol=1e-7
        )


def test_as_published_accumulates_matrices_in_bfloat16(llama, prompts):
    model = llama.bfloat16()
    many = prompts * 6
    scores = collect_scores(model, [pad(many)], accumulation="as-published")
    name = "model.layers.1.mlp.down_proj"
    weight = dict(model.named_modules())[name].weight.detach().abs()
    total = torch.zeros_like(weight)
    for prompt in many:
        kept = []
        handle = dict(model.named_modules())[name].register_forward_pre_hook(
            lambda _m, args, kept=kept: kept.append(args[0][0].float())
        )
        with torch.no_grad():
            model(prompt[None])
        handle.remove()
        total = total + weight * kept[0].norm(dim=0).bfloat16()
    assert total.dtype == torch.bfloat16
    close = torch.isclose(scores.matrix(name), total.float(), rtol=0.02)
    assert close.float().mean() > 0.99
    exact = collect_scores(model, [pad(many)]).matrix(name)
    assert not torch.allclose(scores.matrix(name), exact, rtol=1e-3)


def test_as_published_and_float32_agree_on_one_prompt(llama, prompts):
    batch = [pad(prompts[:1])]
    published_way = collect_scores(llama.bfloat16(), batch, accumulation="as-published")
    ours = collect_scores(llama, batch)
    for name in linear_modules(llama):
        torch.testing.assert_close(
            published_way.matrix(name), ours.matrix(name), rtol=0.01, atol=1e-6
        )


def test_samples_that_share_prompts_are_summed_in_one_pass(llama, prompts, monkeypatch):
    """Each as if its prompts were read one by one, as often as it has them."""
    counts = torch.tensor([[1, 0, 2, 0, 0, 1, 0], [0, 0, 3, 0, 0, 0, 1]])
    read, forward = [], llama.model.forward

    def counted(input_ids, **options):
        read.append(len(input_ids))
        return forward(input_ids, **options)

    monkeypatch.setattr(llama.model, "forward", counted)
    chunks = [pad(prompts[:3]), pad(prompts[3:5]), pad(prompts[5:])]
    together = collect_sample_norms(llama, chunks, counts)
    assert read == [2, 2]  # nobody has the second prompt, or those of the second batch
    for row, norms in zip(counts.tolist(), together, strict=True):
        drawn = [p for p, n in zip(prompts, row, strict=True) for _ in range(n)]
        alone = collect_norms(llama, one_by_one(drawn))
        assert norms.num_samples == len(drawn)
        assert norms.shared == alone.shared
        for name in alone.vectors:
            torch.testing.assert_close(norms[name], alone[name], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="empty"):
        collect_sample_norms(llama, chunks, counts * torch.tensor([[1], [0]]))
    with pytest.raises(ValueError, match="counts of 6 prompts for 7"):
        collect_sample_norms(llama, chunks, counts[:, :6])


def test_a_prompt_beyond_the_context_is_refused(llama):
    with pytest.raises(ValueError, match="65 tokens, the model reads 64"):
        collect_norms(llama, [pad([torch.ones(65, dtype=torch.int64)])])


def test_nothing_to_calibrate_on_is_refused(llama):
    with pytest.raises(ValueError, match="empty"):
        collect_norms(llama, [])
    with pytest.raises(ValueError, match="empty"):
        collect_scores(llama, [], accumulation="as-published")
    with pytest.raises(ValueError, match="as-published"):
        collect_scores(llama, [], accumulation="bf16")


def test_nan_weights_are_named(llama, prompts):
    with torch.no_grad():
        llama.model.layers[1].mlp.gate_proj.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"layers\.1\.mlp\.down_proj.*NaN"):
        collect_norms(llama, one_by_one(prompts))


def test_nan_in_the_last_matrix_is_found_when_scoring(llama, prompts):
    norms = collect_norms(llama, one_by_one(prompts))
    with torch.no_grad():
        llama.model.layers[2].mlp.down_proj.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"layers\.2\.mlp\.down_proj"):
        norms.scores(llama).top(0.1)


def test_float16_overflow_is_named(llama, prompts):
    with torch.no_grad():
        llama.model.layers[0].mlp.down_proj.weight.mul_(3e4)
        llama.model.layers[0].mlp.up_proj.weight.mul_(1e4)
    collect_norms(llama, one_by_one(prompts))
    with pytest.raises(ValueError, match=r"65504.*bfloat16"):
        collect_norms(llama.half(), one_by_one(prompts))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_have_float32_sums(llama, prompts, dtype):
    exact = collect_norms(llama, one_by_one(prompts))
    rough = collect_norms(llama.to(dtype), one_by_one(prompts))
    for name in exact.shared:
        assert rough[name].dtype == torch.float32
        torch.testing.assert_close(rough[name], exact[name], rtol=0.05, atol=1e-3)


def test_large_activations_in_float16_have_a_finite_norm():
    """Their squares are beyond what float16 holds."""
    x = torch.full((1, 4, 2), 1000.0, dtype=torch.float16)
    norms = prompt_norms("w", x, torch.Size([1, 4]), None)
    assert torch.equal(norms, torch.full((1, 2), 2000.0))


def test_the_math_specific_set_is_top_math_less_top_nonmath(llama, prompts):
    math, other = collect_norms(llama, [pad(prompts[:3])]), collect_norms(llama, [pad(prompts[3:])])
    tops = [norms.scores(llama).top(0.1) for norms in (math, other)]
    found = math.math_specific(other, llama, keep_ratio=0.1)
    assert found == tops[0] - tops[1]
    assert found != tops[1] - tops[0]


def test_norms_of_another_model_are_refused(llama, prompts):
    norms = collect_norms(llama, one_by_one(prompts))
    with pytest.raises(ValueError, match="another model"):
        norms.scores(build("llama", hidden_size=16))
    with pytest.raises(ValueError, match="another model"):
        norms.scores(build("gpt_neox"))


def test_offloaded_weights_are_refused_with_the_reason(llama, prompts):
    norms = collect_norms(llama, one_by_one(prompts))
    with torch.device("meta"):
        elsewhere = AutoModelForCausalLM.from_config(llama.config)
    with pytest.raises(ValueError, match="offloaded"):
        norms.scores(elsewhere)


def test_modules_may_see_the_tokens_flattened_but_not_some_of_them_only():
    x = torch.rand(6, 4)
    whole = prompt_norms("w", x.view(2, 3, 4), torch.Size([2, 3]), None)
    torch.testing.assert_close(prompt_norms("w", x, torch.Size([2, 3]), None), whole)
    with pytest.raises(ValueError, match="mixtures of experts"):
        prompt_norms("w", x[:5], torch.Size([2, 3]), None)


def test_published_sums_ignore_padding_and_keep_the_order(llama, prompts):
    model, many = llama.bfloat16(), prompts * 20
    padded = collect_scores(model, [pad(many)], accumulation="as-published")
    single = collect_scores(model, one_by_one(many), accumulation="as-published")
    backward = collect_scores(model, one_by_one(many[::-1]), accumulation="as-published")
    names = list(linear_modules(model))
    assert all(torch.equal(padded.matrix(name), single.matrix(name)) for name in names)
    assert not all(torch.equal(single.matrix(name), backward.matrix(name)) for name in names)


def test_a_module_that_never_runs_is_named(llama, prompts):
    llama.model.layers[0].spare = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="never run"):
        collect_norms(llama, one_by_one(prompts))


def test_saved_norms_are_the_same_and_damage_is_named(llama, prompts, tmp_path):
    norms = collect_norms(llama, one_by_one(prompts))
    norms.save(tmp_path / "norms.safetensors")
    again = ActivationNorms.load(tmp_path / "norms.safetensors")
    assert again.shared == norms.shared
    assert again.num_samples == norms.num_samples
    assert all(torch.equal(again[name], norms[name]) for name in norms.shared)
    (tmp_path / "norms.safetensors").write_bytes(b"{}")
    with pytest.raises(ValueError, match=r"norms\.safetensors"):
        ActivationNorms.load(tmp_path / "norms.safetensors")


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf")])
def test_norms_that_cannot_be_are_refused(llama, prompts, wrong, tmp_path):
    norms = collect_norms(llama, one_by_one(prompts))
    name = norms.shared["model.layers.1.mlp.down_proj"]
    norms.vectors[name][0] = wrong
    norms.save(tmp_path / "norms.safetensors")
    with pytest.raises(ValueError, match=f"safetensors is no .*{name} has a norm"):
        ActivationNorms.load(tmp_path / "norms.safetensors")


def test_untied_head_is_scored_from_its_real_input(prompts):
    model = build("qwen3")
    norms = collect_norms(model, one_by_one(prompts), include_head=True)
    expected = norms_by_hand(model, prompts, ["lm_head"])["lm_head"]
    torch.testing.assert_close(norms["lm_head"].double(), expected, rtol=1e-5, atol=1e-6)


def test_scores_leave_the_model_alone(llama, prompts):
    before = {name: tensor.clone() for name, tensor in llama.state_dict().items()}
    collect_scores(llama, one_by_one(prompts)).top(0.1)
    assert all(torch.equal(before[name], tensor) for name, tensor in llama.state_dict().items())


def test_models_spread_by_device_map(prompts):
    model = build("qwen3")
    expected = collect_norms(model, one_by_one(prompts))
    spread(model, ["cpu", "cpu"])
    got = collect_norms(model, one_by_one(prompts))
    assert all(torch.equal(got[name], expected[name]) for name in expected.shared)


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@pytest.mark.cuda
@needs_cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_cuda_agrees_with_cpu_and_stays_on_its_device(prompts, dtype):
    model = build("llama").to(dtype)
    expected = collect_norms(model, [pad(prompts)])
    norms = collect_norms(model.cuda(), [pad(prompts)])
    tolerance = 1e-4 if dtype == torch.float32 else 0.05
    for name in expected.shared:
        assert norms[name].is_cuda
        torch.testing.assert_close(norms[name].cpu(), expected[name], rtol=tolerance, atol=1e-3)
    assert norms.scores(model).top(0.1)["model.layers.0.mlp.up_proj"].is_cuda


def waits(work):
    """How often `work` made the host wait for the device."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


@pytest.mark.cuda
@needs_cuda
def test_cuda_waits_for_the_host_do_not_grow_with_the_layers(prompts):
    counts = []
    for depth in (3, 12):
        model = build("llama", num_hidden_layers=depth).cuda()
        collect_norms(model, [pad(prompts)])
        counts.append(waits(lambda m=model: collect_norms(m, [pad(prompts)] * 3)))
    assert counts[0] == counts[1]


@pytest.mark.cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_cuda_models_spread_over_two_devices(prompts):
    model = build("qwen3")
    expected = collect_norms(model, [pad(prompts)])
    norms = collect_norms(spread(model, [0, 1]), [pad(prompts)])
    assert {vector.device.index for vector in norms.vectors.values()} == {0, 1}
    for name in expected.shared:
        torch.testing.assert_close(norms[name].cpu(), expected[name], rtol=1e-4, atol=1e-3)
