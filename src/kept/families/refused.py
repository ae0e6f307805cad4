"""Model types that are recognised and refused: the reason, and what to do instead."""

from __future__ import annotations

ALIBI = (
    "knows positions by ALiBi, a bias on the scores that no rotation can express; transformers runs it, and distilling "
    "it into another model is the way to change it"
)

EXPERTS = "is a mixture of experts, and only dense models are read; take the family's dense sibling"

GLM = "GLM-4-9B of 2024 (model_type glm)"

DISTIL = "transformers runs it, and a model of a family that is read can be trained on text that it writes"

REFUSED: dict[str, str] = {
    "apertus": f"normalises queries and keys and has xIELU, an activation with trained parameters; {DISTIL}",
    "bitnet": f"has ternary weights and norms inside attention and MLP; {DISTIL}",
    "cohere2": (
        "has parallel residuals, windows in most layers and no rotation in the others, a combination that is not read; "
        "take Command R (model_type cohere)"
    ),
    "exaone4": (
        "normalises queries and keys and what attention and MLP write, and rotates only in layers with a window, a "
        "combination that is not read; take EXAONE 3 (model_type exaone)"
    ),
    "glm4": f"has norms before and behind attention and MLP, a combination that is not read; take {GLM}",
    "gptj": f"has parallel residuals and a bias on its logits, a combination that is not read; {DISTIL}",
    "hunyuan_v1_dense": f"normalises queries and keys after their rotation, which is not read; {DISTIL}",
    "nanochat": f"normalises queries and keys after their rotation and caps its logits, which is not read; {DISTIL}",
    "olmo3": (
        "normalises queries and keys, has norms behind attention and MLP, and scales the rotation of some layers only, "
        "a combination that is not read; take OLMo 2 (model_type olmo2)"
    ),
    **dict.fromkeys(("bloom", "jais", "mpt"), ALIBI),
    **dict.fromkeys(
        (
            "dbrx",
            "ernie4_5_moe",
            "glm4_moe",
            "gpt_oss",
            "granitemoe",
            "jetmoe",
            "minimax",
            "mixtral",
            "olmoe",
            "phimoe",
            "qwen2_moe",
            "qwen3_moe",
        ),
        EXPERTS,
    ),
    "chatglm": (
        "is one of several models: the first attends its prompt in both directions, numbers positions twice and scales "
        "what it adds to, which no causal decoder does; of those since ChatGLM2 take a release with a class of its own "
        "in transformers (model_type glm)"
    ),
    "nemotron-nas": "leaves attention or MLP out of some layers, which is not read; take a model before its search",
}
"""The reason for each `model_type`, as a phrase whose subject is the model type."""
