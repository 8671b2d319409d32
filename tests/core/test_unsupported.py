"""What cannot be scored, merged or read as firing is refused, with what to do instead."""

import copy

import peft
import pytest
import torch
from conftest import SMALL, build
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.integrations.gguf.utils import GgufLinear

from mmlib.edits import holding
from mmlib.importance import collect_norms
from mmlib.merging import LayerPlan, check_comparable, dense, merged
from mmlib.models import linear_modules, load_model, model_hash
from mmlib.neurons import gates

IDS = torch.tensor([[1, 5, 9, 2]])
HALF = LayerPlan((0.5,) * 3)
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


def test_experts_kept_as_three_dimensional_parameters_are_refused_with_their_share():
    sizes = {"num_local_experts": 4, "num_key_value_heads": 2}
    config = AutoConfig.for_model("mixtral", **(SMALL | sizes))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    layers = model.model.layers
    total = sum(p.numel() for p in layers.parameters())
    inside = sum(m.weight.numel() for m in layers.modules() if isinstance(m, nn.Linear))
    norms = sum(p.numel() for p in layers.parameters() if p.dim() == 1)
    share = f"{(total - inside - norms) / total:.0%}"
    with pytest.raises(ValueError, match=f"{share} of its.*gate_up_proj"):
        linear_modules(model)


def test_convolutions_and_state_space_constants_are_no_reason_to_refuse(llama):
    layer = llama.model.layers[0]
    expected = list(linear_modules(llama))
    layer.conv = nn.Conv1d(4, 4, 3)
    layer.A_log = nn.Parameter(torch.ones(4, 4))
    assert list(linear_modules(llama)) == expected
    layer.other = nn.Parameter(torch.ones(4, 4))
    with pytest.raises(ValueError, match=r"layers\.0\.other"):
        linear_modules(llama)


class Codes(nn.Linear):
    """Stands for a linear module whose weight is codes."""

    def __init__(self, like):
        super().__init__(like.in_features, like.out_features, bias=False)
        self.weight = nn.Parameter(like.weight.detach().to(torch.int8), requires_grad=False)


def test_quantised_weights_are_neither_scored_nor_merged_nor_held(llama):
    codes = copy.deepcopy(llama)
    attention = codes.model.layers[1].self_attn
    attention.q_proj = Codes(attention.q_proj)
    for act in (
        lambda: linear_modules(codes),
        lambda: merged(codes, codes, HALF),
        lambda: holding(codes, dense(llama)).__enter__(),
    ):
        with pytest.raises(ValueError, match=r"layers\.1\.self_attn\.q_proj.*int8.*dequantize"):
            act()
    llama.is_quantized = True
    with pytest.raises(ValueError, match=r"quantised.*dequantize"):
        linear_modules(llama)
    llama.is_quantized = False  # what dequantize leaves behind
    assert linear_modules(llama)


def test_a_gguf_that_keeps_its_blocks_is_refused(llama):
    layer = llama.model.layers[1].mlp
    layer.up_proj = GgufLinear(32, 48, 8)  # Q8_0
    with pytest.raises(ValueError, match=r"layers\.1\.mlp\.up_proj is quantised.*uint8"):
        linear_modules(llama)


ADAPTERS = {
    "lora": peft.LoraConfig(r=2, target_modules=["q_proj"]),
    "tied head": peft.LoraConfig(r=2, target_modules=["lm_head"]),
    "tokens": peft.LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices=[1]),
    "prefix": peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2),
    "prompt": peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2),
    "oft": peft.OFTConfig(oft_block_size=4, r=0, target_modules=["q_proj"]),
    "ia3": peft.IA3Config(target_modules=["q_proj"], feedforward_modules=[]),
}


@pytest.mark.parametrize("kind", ADAPTERS)
def test_adapters_are_neither_scored_nor_merged(kind, llama):
    model = peft.get_peft_model(copy.deepcopy(llama), ADAPTERS[kind])
    for act in (
        lambda: linear_modules(model),
        lambda: dense(model),
        lambda: merged(model, model, HALF),
        lambda: holding(model, dense(llama)).__enter__(),
    ):
        with pytest.raises(ValueError, match=r"has an adapter.*merge_and_unload"):
            act()


@pytest.mark.parametrize("module", ["q_proj", "embed_tokens", "lm_head"])
def test_no_adapter_is_scored_wherever_it_is(module):
    model = build("llama", tie_word_embeddings=False)
    model = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=[module]))
    for scored in (model, model.get_base_model()):
        with pytest.raises(ValueError, match=rf"{module} has an adapter"):
            linear_modules(scored)
    assert linear_modules(model.merge_and_unload())


def test_an_adapter_is_no_model(llama, tmp_path):
    peft.get_peft_model(llama, ADAPTERS["lora"]).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="merge_and_unload"):
        load_model(str(tmp_path))
    with pytest.raises(ValueError, match=r"q_proj has an adapter.*merge_and_unload"):
        linear_modules(llama)


def test_buffers_go_with_their_layer_and_come_back():
    """A buffer that scales the layer's output, as some models have."""
    experts = [build("llama"), build("llama")]
    for scale, expert in zip((1.0, 3.0), experts, strict=True):
        for layer in expert.model.layers:
            layer.register_buffer("scale", torch.tensor([scale]))
            layer.register_forward_hook(lambda module, _, out: out * module.scale)
    math, language = experts
    with torch.no_grad():
        before = math(IDS).logits
        plan = LayerPlan((1,) * 3)
        with holding(math, merged(math, language, plan, others="language")):
            assert torch.equal(math(IDS).logits, language(IDS).logits)
        assert torch.equal(math(IDS).logits, before)
    made = merged(math, language, LayerPlan((0, 0.5, 1)))
    assert [made[f"model.layers.{i}.scale"].item() for i in range(3)] == [1, 2, 3]


def test_gates_that_are_cut_are_refused():
    build_gates = build("llama")
    assert gates(build_gates)
    build_gates.model.layers[1].mlp.activation_sparsity = 0.95
    with pytest.raises(ValueError, match=r"layer 1.*cuts its gates.*0\.95"):
        gates(build_gates)
    build_gates.model.layers[1].mlp.activation_sparsity = 0.0
    assert gates(build_gates)


def test_a_head_of_its_own_is_scored_whatever_the_configuration_says(tmp_path):
    model = build("llama", tie_word_embeddings=False)
    model.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    config.tie_word_embeddings = True
    config.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)
    assert linear_modules(loaded, include_head=True)["lm_head"] is loaded.lm_head
    with torch.device("meta"):
        assert "lm_head" not in linear_modules(
            AutoModelForCausalLM.from_config(config), include_head=True
        )


def test_offloaded_weights_are_named_by_whatever_needs_them(llama):
    with torch.device("meta"):
        elsewhere = AutoModelForCausalLM.from_config(llama.config)
    batch = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    for act, purpose in (
        (lambda: collect_norms(elsewhere, [batch]), "scored"),
        (lambda: model_hash(elsewhere), "scored"),
        (lambda: merged(llama, elsewhere, HALF), "merged"),
        (lambda: holding(elsewhere, dense(llama)).__enter__(), "changed"),
    ):
        with pytest.raises(ValueError, match=rf"offloaded \(on meta\) and cannot be {purpose}"):
            act()


def test_settings_of_training_do_not_stop_a_merge(llama):
    other = copy.deepcopy(llama)
    for key, value in {
        "unsloth_fixed": True,
        "attention_dropout": 0.1,
        "resid_pdrop": 0.1,
        "hidden_dropout": 0.1,
        "pretraining_tp": 2,
    }.items():
        setattr(other.config, key, value)
    check_comparable(llama, other)
    other.config.rms_norm_eps = 0.1
    with pytest.raises(ValueError, match="rms_norm_eps"):
        check_comparable(llama, other)
