"""Model types that are recognised and refused: the reason, and what to do instead."""

from __future__ import annotations

ALIBI = (
    "knows positions by ALiBi, a bias on the scores that no rotation can express; transformers runs it, and distilling "
    "it into another model is the way to change it"
)

EXPERTS = "is a mixture of experts, and only dense models are read; take the family's dense sibling"

REFUSED: dict[str, str] = {
    **dict.fromkeys(("bloom", "jais", "mpt"), ALIBI),
    **dict.fromkeys(
        (
            "dbrx",
            "deepseek_v2",
            "deepseek_v3",
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
        "in transformers (model_type glm or glm4)"
    ),
    "minicpm3": "compresses keys and values (MLA), which is not read; transformers has a class for it",
    "nemotron-nas": "leaves attention or MLP out of some layers, which is not read; take a model before its search",
}
"""The reason for each `model_type`, as a phrase whose subject is the model type."""
