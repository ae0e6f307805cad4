"""Keywords of Python's functions: the options of the commands, and the keys of recipes.

Generated from the settings by `docs/generate.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypedDict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from kept.passes import Pass


class PlanOptions(TypedDict, total=False):
    """Keywords of `kept.plan`."""

    norm: Literal["exact", "opm", "opm-centred", "calibrated", "carried"]
    final_bias: Literal["block", "drop"]
    rope: Literal["llama3", "proportional"]
    context: int | None
    dtype: str | None
    max_shard_size: str | None
    text: str | Path | None
    verify_tokens: int | None
    base: str | Path | None
    adapter: str | Path | None
    tie: bool | None
    kv: float | None
    kv_ranks: Sequence[int] | None
    kv_energy: float | None
    kv_method: Literal["whitened", "transmla", "paper"]
    ranks: Literal["uniform", "per-layer"]
    kv_refit: bool
    data: str | Sequence[str]
    calibration_tokens: int
    passes: Sequence[Pass | Mapping[str, Any]]


class ConvertOptions(TypedDict, total=False):
    """Keywords of `kept.convert`."""

    norm: Literal["exact", "opm", "opm-centred", "calibrated", "carried"]
    final_bias: Literal["block", "drop"]
    rope: Literal["llama3", "proportional"]
    context: int | None
    dtype: str | None
    max_shard_size: str | None
    text: str | Path | None
    verify_tokens: int | None
    base: str | Path | None
    adapter: str | Path | None
    tie: bool | None
    kv: float | None
    kv_ranks: Sequence[int] | None
    kv_energy: float | None
    kv_method: Literal["whitened", "transmla", "paper"]
    ranks: Literal["uniform", "per-layer"]
    kv_refit: bool
    data: str | Sequence[str]
    calibration_tokens: int
    passes: Sequence[Pass | Mapping[str, Any]]


class RecipeOptions(TypedDict, total=False):
    """Keywords of `kept.load_recipe`."""

    source: str | Path
    out: str | Path
    norm: Literal["exact", "opm", "opm-centred", "calibrated", "carried"]
    final_bias: Literal["block", "drop"]
    rope: Literal["llama3", "proportional"]
    context: int | None
    dtype: str | None
    max_shard_size: str | None
    text: str | Path | None
    verify_tokens: int | None
    base: str | Path | None
    adapter: str | Path | None
    tie: bool | None
    kv: float | None
    kv_ranks: Sequence[int] | None
    kv_energy: float | None
    kv_method: Literal["whitened", "transmla", "paper"]
    ranks: Literal["uniform", "per-layer"]
    kv_refit: bool
    data: str | Sequence[str]
    calibration_tokens: int
    to: str
    passes: Sequence[Pass | Mapping[str, Any]]


class ExpandOptions(TypedDict, total=False):
    """Keywords of `kept.expand`."""

    norm: Literal["exact", "opm", "opm-centred", "calibrated", "carried"]
    final_bias: Literal["block", "drop"]
    rope: Literal["llama3", "proportional"]
    context: int | None
    dtype: str | None
    max_shard_size: str | None
    text: str | Path | None
    verify_tokens: int | None
    base: str | Path | None
    adapter: str | Path | None
    tie: bool | None
    groups: int | None
    blocks: int
    at: Sequence[int]
    placement: Literal["interleaved", "prefix", "suffix"]
    tokenizer: str | Path | None
    embedding_init: str
    pad_to_multiple_of: int


class ShrinkOptions(TypedDict, total=False):
    """Keywords of `kept.shrink_expanded`."""

    max_kl: float
    untrained: bool
    layers: Sequence[int]
    text: str | Path | None
    tokens: int | None


class HealOptions(TypedDict, total=False):
    """Keywords of `kept.heal`."""

    teacher: str | Path | None
    teacher_cache: str | Path | None
    data: str | Sequence[str]
    text_field: str | None
    chat: bool
    chat_template: str | Path | None
    chat_date: str | None
    eval_data: str | Sequence[str]
    mixture: str | None
    hold_out: float
    train: str
    lora_rank: int
    lora_alpha: float
    layerwise: bool
    calibration_tokens: int | str
    refit: bool
    whiten: bool
    tokens: int | str
    batch_size: int
    sequence_length: int
    gradient_accumulation: int
    learning_rate: float
    new_learning_rate: float | None
    lr_schedule: Literal["cosine", "wsd", "constant"]
    warmup: float
    weight_decay: float
    max_grad_norm: float
    kl: float
    reverse_kl: float
    jsd: float
    jsd_beta: float
    ce: float
    temperature: float
    sample_temperatures: str
    hidden: float
    hidden_error: Literal["mse", "cosine"]
    dtype: str
    device: str
    gradient_checkpointing: bool
    compile: bool
    eval_every: int
    save_every: int
    save_minutes: float
    patience: int
    seed: int
    report_to: Literal["wandb", "trackio"] | None
    loss: Literal["kl", "reverse_kl", "jsd", "ce"]


class CacheOptions(TypedDict, total=False):
    """Keywords of `kept.cache_teacher`."""

    data: str | Sequence[str]
    text_field: str | None
    chat: bool
    chat_template: str | Path | None
    chat_date: str | None
    mixture: str | None
    hold_out: float
    tokens: int | str
    batch_size: int
    sequence_length: int
    temperature: float
    sample_temperatures: str
    dtype: str
    device: str
    seed: int


class EvaluateOptions(TypedDict, total=False):
    """Keywords of `kept.evaluate`."""

    tasks: str | Sequence[str]
    data: str | Path | None
    num_fewshot: int | None
    apply_chat_template: bool
    batch_size: int | None
    limit: int | None
    dtype: str | None
    device: str
    text_field: str
    window: int | None
    stride: int | None
    max_characters: int
    max_length: int | None
    execute: bool
    unsafe: bool
    log_samples: bool
    include_path: str | Path | None
    run_task_code: bool
    chat_date: str | None
    judge: str | None
    judge_model: str
    seed: int
