"""A tiny checkpoint as a GGUF file, as `fetch` gets one."""

import gguf
import numpy as np
import torch
from tokenizers.pre_tokenizers import ByteLevel

NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
KV, WIDE, HIDDEN, LAYERS = 16, 256, 32, 2


def random_blocks(rows, columns, rng):
    """Rows of Q4_K blocks (which `gguf` can read and not write) with small scales."""
    blocks = rng.integers(0, 256, (rows * columns // 256, 144), dtype=np.uint8)
    blocks[:, :4] = np.array([2e-4, 1e-4], np.float16).view(np.uint8)
    return blocks.reshape(rows, -1)


def write_gguf(path):
    """A tiny Qwen2 in blocks; returns its weights as `gguf` itself unpacks them, by our names."""
    rng, writer = np.random.default_rng(1), gguf.GGUFWriter(path, "qwen2")
    tokens = [*sorted(ByteLevel.alphabet()), "ab", "<|end|>"]
    writer.add_block_count(LAYERS)
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(WIDE)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * (len(tokens) - 1) + [3])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(len(tokens) - 1)
    writer.add_chat_template("{% for m in messages %}<{{ m['content'] }}>{% endfor %}")
    square, wide = (HIDDEN, HIDDEN), (WIDE, HIDDEN)
    shapes = {"token_embd.weight": (len(tokens), HIDDEN), "output.weight": (len(tokens), HIDDEN)}
    shapes["output_norm.weight"] = (HIDDEN,)
    for layer in range(LAYERS):
        inside = {"attn_q.weight": square, "attn_k.weight": (KV, HIDDEN), "attn_q.bias": (HIDDEN,)}
        inside |= {"attn_v.weight": (KV, HIDDEN), "attn_k.bias": (KV,), "attn_v.bias": (KV,)}
        inside |= {"attn_output.weight": square, "ffn_gate.weight": wide, "ffn_up.weight": wide}
        inside |= {"ffn_down.weight": (HIDDEN, WIDE), "attn_norm.weight": (HIDDEN,)}
        inside |= {"ffn_norm.weight": (HIDDEN,)}
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in inside.items()}
    kinds = gguf.GGMLQuantizationType
    weights = {}
    for name, shape in shapes.items():
        values = rng.standard_normal(shape).astype(np.float32) / 8
        kind = kinds.F32 if len(shape) == 1 else kinds.Q8_0
        if "ffn_down" in name:
            kind, values = kinds.Q4_K, random_blocks(*shape, rng)
        elif kind == kinds.Q8_0:
            values = gguf.quants.quantize(values, kind)
        writer.add_tensor(name, values, raw_dtype=kind)
        *place, part, last = name.split(".")
        prefix = f"model.layers.{place[1]}." if place else ""
        weights[f"{prefix}{NAMES[part]}.{last}"] = gguf.quants.dequantize(values, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {name: torch.from_numpy(np.array(w)).bfloat16() for name, w in weights.items()}
