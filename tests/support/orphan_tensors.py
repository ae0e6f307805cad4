"""Names and shapes of the tensors of families that transformers has no class for, as their public code has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Config = Mapping[str, Any]
    Tensors = Iterator[tuple[str, tuple[int, ...]]]


def like_llama(config: Config) -> Tensors:
    """Aquila, XVERSE, InternLM, DeciLM, MiniCPM."""
    width, size, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    biased = config.get("attention_bias", False) or (config["model_type"] == "internlm" and config.get("bias", True))
    yield "model.embed_tokens.weight", (config["vocab_size"], width)
    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}."
        keys = width // heads * key_value_heads(config, i)
        yield f"{at}input_layernorm.weight", (width,)
        for projection, out in (("q", width), ("k", keys), ("v", keys), ("o", width)):
            yield f"{at}self_attn.{projection}_proj.weight", (out, width)
            if biased:
                yield f"{at}self_attn.{projection}_proj.bias", (out,)
        yield from _llama_mlp(at, width, size)
    yield from _llama_end(config)


def key_value_heads(config: Config, layer: int) -> int:
    """Yield the tensors of one layer."""
    if "num_key_value_heads_per_layer" in config:
        return int(config["num_key_value_heads_per_layer"][layer])
    return int(config.get("num_key_value_heads") or config["num_attention_heads"])


def _llama_mlp(at: str, width: int, size: int) -> Tensors:
    yield f"{at}post_attention_layernorm.weight", (width,)
    yield f"{at}mlp.gate_proj.weight", (size, width)
    yield f"{at}mlp.up_proj.weight", (size, width)
    yield f"{at}mlp.down_proj.weight", (width, size)


def _llama_end(config: Config) -> Tensors:
    yield "model.norm.weight", (config["hidden_size"],)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (config["vocab_size"], config["hidden_size"])


def baichuan(config: Config) -> Tensors:
    """Llama's, with all queries, all keys, all values in one matrix."""
    width = config["hidden_size"]
    yield "model.embed_tokens.weight", (config["vocab_size"], width)
    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}."
        yield f"{at}input_layernorm.weight", (width,)
        yield f"{at}self_attn.W_pack.weight", (3 * width, width)
        yield f"{at}self_attn.o_proj.weight", (width, width)
        yield from _llama_mlp(at, width, config["intermediate_size"])
    yield from _llama_end(config)


def internlm2(config: Config) -> Tensors:
    """Fused rows stand group by group: a key-value head's queries, its key, its value."""
    width, size, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    fused = width // heads * (heads + 2 * config["num_key_value_heads"])
    yield "model.tok_embeddings.weight", (config["vocab_size"], width)
    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}."
        yield f"{at}attention_norm.weight", (width,)
        yield f"{at}ffn_norm.weight", (width,)
        for name, out in (("wqkv", fused), ("wo", width)):
            yield f"{at}attention.{name}.weight", (out, width)
            if config.get("bias", True):
                yield f"{at}attention.{name}.bias", (out,)
        for name, shape in (("w1", (size, width)), ("w3", (size, width)), ("w2", (width, size))):
            yield f"{at}feed_forward.{name}.weight", shape
    yield "model.norm.weight", (width,)
    yield "output.weight", (config["vocab_size"], width)


def exaone(config: Config) -> Tensors:
    """Llama's matrices under other names."""
    width, size, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    keys = width // heads * config["num_key_value_heads"]
    yield "transformer.wte.weight", (config["vocab_size"], width)
    for i in range(config["num_layers"]):
        at = f"transformer.h.{i}."
        for norm in ("ln_1", "ln_2"):
            yield f"{at}{norm}.weight", (width,)
        for name, out in (("q_proj", width), ("k_proj", keys), ("v_proj", keys), ("out_proj", width)):
            yield f"{at}attn.attention.{name}.weight", (out, width)
        for name, shape in (("c_fc_0", (size, width)), ("c_fc_1", (size, width)), ("c_proj", (width, size))):
            yield f"{at}mlp.{name}.weight", shape
    yield "transformer.ln_f.weight", (width,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (config["vocab_size"], width)


def qwen(config: Config) -> Tensors:
    """Half of `intermediate_size` goes to each of w1 and w2; all but the fused projection may lack biases."""
    width, size, biased = config["hidden_size"], config["intermediate_size"] // 2, not config.get("no_bias", True)
    shapes = (("attn.c_proj", width, width), ("mlp.w1", size, width), ("mlp.w2", size, width))
    yield "transformer.wte.weight", (config["vocab_size"], width)
    for i in range(config["num_hidden_layers"]):
        at = f"transformer.h.{i}."
        for norm in ("ln_1", "ln_2"):
            yield f"{at}{norm}.weight", (width,)
        yield f"{at}attn.c_attn.weight", (3 * width, width)
        yield f"{at}attn.c_attn.bias", (3 * width,)
        for name, out, into in (*shapes, ("mlp.c_proj", width, size)):
            yield f"{at}{name}.weight", (out, into)
            if biased:
                yield f"{at}{name}.bias", (out,)
    yield "transformer.ln_f.weight", (width,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (config["vocab_size"], width)


TENSORS: Mapping[str, Callable[[Config], Tensors]] = {
    "aquila": like_llama,
    "baichuan": baichuan,
    "deci": like_llama,
    "exaone": exaone,
    "internlm": like_llama,
    "internlm2": internlm2,
    "minicpm": like_llama,
    "qwen": qwen,
    "xverse": like_llama,
}
"""By `model_type`: what a checkpoint of that config holds."""
