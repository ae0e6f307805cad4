"""Fields of the settings of a healing run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema
from pydantic.dataclasses import dataclass

from kept.device import AUTO, DEVICE_HELP, Device, TrainingDtype
from kept.distillation.train.lr_schedule import Schedule
from kept.setting_types import MOST, Date, Directory, File, Texts, count, count_schema, texts_schema, wrong
from kept.settings_model import CONFIG, Settings

if TYPE_CHECKING:
    from kept.distillation.loss.objective import Objective

SELF = "self"
"""Data that the teacher samples itself."""

CHANGED = "changed"
"""The trainable parameters of a layerwise run unless others are named: branches that differ from the teacher's."""

CALIBRATION_TOKENS = 1 << 15
"""Tokens on which a layerwise run measures the inputs of matrices and fits output projections."""

LISTED = 64
"""Tokens that a teacher's cache keeps of each distribution unless another number is named."""

SAMPLED = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3})?( *, *[0-9]{1,3}(\.[0-9]{1,3})?)*")
"""Temperatures as they are written."""

MOST_TOKENS = 10**15
"""Upper limit of `tokens` and `seed`."""

HiddenError = Literal["mse", "cosine"]
Tracker = Literal["wandb", "trackio"]

CADENCE = ("save_every", "save_minutes", "device", "report_to")
"""Settings that do not change the weights: when checkpoints are written, the device, and where metrics are sent.

They may change when a run is continued."""

Count = Annotated[int, BeforeValidator(count), Field(ge=1, le=MOST_TOKENS), count_schema(1, MOST_TOKENS)]
Size = Annotated[int, Field(ge=1, le=MOST)]
Weight = Annotated[float, Field(ge=0, le=MOST)]
Positive = Annotated[float, Field(gt=0, le=MOST)]


def _temperatures(value: object) -> object:
    if not isinstance(value, str):
        return value
    if not SAMPLED.fullmatch(value):
        raise wrong(f"is {value!r}, it must be one or more numbers of up to three decimals, as 0.7,1")
    if min(map(float, value.split(","))) <= 0:
        raise wrong(f"is {value!r}, it must be above 0")
    return value


def _not_empty(value: object) -> object:
    if value == ():
        raise wrong("is (), it must be one or more")
    return value


@dataclass(frozen=True, config=CONFIG)
class HealFields(Settings):
    """The fields of `HealSettings`, and values that follow from them."""

    FORMER: ClassVar[Mapping[str, str]] = {
        "batch": "batch_size",
        "length": "sequence_length",
        "accumulate": "gradient_accumulation",
        "rate": "learning_rate",
        "schedule": "lr_schedule",
        "decay": "weight_decay",
        "clip": "max_grad_norm",
        "reverse": "reverse_kl",
        "checkpointing": "gradient_checkpointing",
        "measure_every": "eval_every",
        "beta": "jsd_beta",
        "field": "text_field",
        "watch": "eval_data",
        "precision": "dtype",
    }

    student: Directory = Field(description="The converted model to train.")
    out: Directory = Field(description="Output directory.")
    teacher: Directory | None = Field(
        default=None, description="Teacher model: the one that the student was converted from."
    )
    teacher_cache: Directory | None = Field(
        default=None, description="Output of kept cache-teacher, read instead of running the teacher."
    )
    data: Annotated[Texts, AfterValidator(_not_empty), texts_schema(minItems=1)] = Field(
        default=(SELF,),
        description="Training texts: text files, JSON, CSV, parquet, or directories of them, optionally with a name, "
        "such as english=corpus/en. May be given several times. self: texts that the teacher generates.",
    )
    text_field: str | None = Field(
        default=None,
        description="Field of JSON lines, or column of parquet, that holds the text. [default: text; with --chat: "
        "messages]",
    )
    chat: bool = Field(
        default=False,
        description="JSON lines and parquet hold conversations: lists of messages with role and content. They are "
        "rendered with the student's chat template; only the assistant's tokens are trained on.",
    )
    chat_template: File | None = Field(
        default=None, description="Jinja chat template, for a student without one. It is written to the output."
    )
    chat_date: Date | None = Field(
        default=None,
        description="Date for chat templates that use the current date, such as 2026-01-31. [default: the start of "
        "the run]",
    )
    eval_data: Texts = Field(
        default=(),
        description="Additional evaluation texts, such as old=old.txt. They are not trained on and do not influence "
        "which checkpoint is best. May be given several times.",
    )
    mixture: str | None = Field(
        default=None,
        description="Sampling weight of each source of --data, such as english=0.7,python=0.3. [default: proportional "
        "to size]",
    )
    hold_out: Positive = Field(
        default=0.01,
        description="Documents held out for evaluation: a fraction of each source, or a number of documents.",
    )
    train: str = Field(
        default="norms",
        description="Trainable parameters: norms, head, new (created by the conversion), lora (LoRA matrices, merged "
        "at the end), all, changed (with --layerwise: branches that differ from the teacher's), or a pattern such as "
        "layers.3.*; joined with +. [default: norms; with --layerwise: changed]",
    )
    lora_rank: Size = Field(default=16, description="Rank of the LoRA matrices, if --train has lora.")
    lora_alpha: Positive = Field(default=32.0, description="LoRA update is scaled by alpha / rank.")
    layerwise: bool = Field(
        default=False,
        description="Train each branch alone to match the teacher's, with the teacher's hidden states as input. No "
        "logits are computed.",
    )
    calibration_tokens: Count = Field(
        default=CALIBRATION_TOKENS,
        description="Training tokens that are read before the first step, with --layerwise.",
    )
    refit: bool = Field(
        default=True,
        description="With --layerwise: first fit each branch's output projection by least squares.",
    )
    whiten: bool = Field(
        default=True,
        description="With --layerwise: train matrices in coordinates in which their inputs are white, and relative to "
        "the size of each row.",
    )
    tokens: Count = Field(
        default=1_000_000, description="Number of training tokens, such as 2M or 500K; at least one step."
    )
    batch_size: Size = Field(default=8, description="Sequences per batch, over all processes.")
    sequence_length: Size = Field(default=256, description="Tokens per sequence.")
    gradient_accumulation: Size = Field(
        default=1, description="Gradient-accumulation steps (batches) per optimizer update."
    )
    learning_rate: Positive = Field(default=1e-3, description="Peak learning rate.")
    new_learning_rate: Positive | None = Field(
        default=None,
        description="Peak learning rate of weights that the conversion created anew. [default: the learning rate]",
    )
    lr_schedule: Schedule = Field(
        default="cosine", description="Learning-rate schedule: cosine, warmup-stable-decay (wsd) or constant."
    )
    warmup: float = Field(default=0.02, ge=0, le=1, description="Fraction of all steps for linear warmup.")
    weight_decay: Weight = Field(default=0.0, description="Weight decay of AdamW.")
    max_grad_norm: Positive = Field(default=1.0, description="Gradients are clipped to this norm.")
    kl: Weight = Field(default=1.0, description="Weight of the forward KL divergence from the teacher.")
    reverse_kl: Weight = Field(default=0.0, description="Weight of the reverse KL divergence.")
    jsd: Weight = Field(default=0.0, description="Weight of the generalised Jensen-Shannon divergence.")
    jsd_beta: float = Field(default=0.5, gt=0, lt=1, description="Beta of the Jensen-Shannon divergence.")
    ce: Weight = Field(default=0.0, description="Weight of the cross-entropy with the text.")
    temperature: Positive = Field(
        default=1.0, description="Softmax temperature of teacher and student in the divergences."
    )
    sample_temperatures: Annotated[
        str, BeforeValidator(_temperatures), WithJsonSchema({"type": "string", "pattern": f"^{SAMPLED.pattern}$"})
    ] = Field(default="1", description="Sampling temperatures for --data self, used in turn, such as 0.7,1.")
    hidden: Weight = Field(
        default=0.0,
        description="Weight of the hidden-state loss. The output of each layer is compared after the norm that reads "
        "it.",
    )
    hidden_error: HiddenError = Field(
        default="mse",
        description="Hidden-state loss: mse (squared error divided by the teacher's mean square) or cosine (1 - cosine "
        "similarity).",
    )
    dtype: TrainingDtype = Field(
        default="float32",
        description="Dtype of forward and backward pass: float32 (fp32) or bfloat16 (bf16). Trainable parameters and "
        "optimizer states are float32.",
    )
    device: Device = Field(default=AUTO, description=f"{DEVICE_HELP} With torchrun, cuda is a GPU for each process.")
    gradient_checkpointing: bool = Field(
        default=False, description="Recompute activations in the backward pass: less memory, more time."
    )
    compile: bool = Field(default=False, description="Compile the layers with torch.compile.")
    eval_every: Size = Field(default=50, description="Steps between evaluations on the held-out documents.")
    save_every: Size = Field(default=200, description="Steps between checkpoints.")
    save_minutes: Weight = Field(
        default=10.0, description="Also write a checkpoint if the last one is older than this many minutes; 0: never."
    )
    patience: int = Field(
        default=0,
        ge=0,
        le=MOST,
        description="Early stopping: number of evaluations without improvement after which the run ends; 0: never. The "
        "output has the weights with the lowest held-out loss, with or without early stopping.",
    )
    seed: int = Field(default=0, ge=0, le=MOST_TOKENS, description="Seed for the document order and for sampling.")
    report_to: Tracker | None = Field(
        default=None,
        description="Also send the metrics to Weights & Biases (pip install wandb) or Trackio (pip install trackio).",
    )

    @property
    def runs_teacher(self) -> bool:
        """Whether a loss needs the teacher's own forward pass, which a cache does not replace."""
        return any((self.reverse_kl, self.jsd, self.hidden))

    @property
    def new_lr_factor(self) -> float:
        """The learning rate of new weights, relative to that of the others."""
        return 1.0 if self.new_learning_rate is None else self.new_learning_rate / self.learning_rate

    @property
    def document(self) -> str:
        """Field of JSON lines, or column of parquet, that holds a document."""
        return self.text_field or ("messages" if self.chat else "text")

    @property
    def objective(self) -> Objective:
        """The losses on logits."""
        from kept.distillation.loss.objective import Objective  # noqa: PLC0415 - imports torch, which help does not need

        return Objective(self.kl, self.reverse_kl, self.jsd, self.jsd_beta, self.ce, self.temperature)

    @property
    def sampled_at(self) -> tuple[float, ...]:
        """Temperatures of --data self."""
        return tuple(map(float, self.sample_temperatures.split(",")))

    @property
    def tokens_a_step(self) -> int:
        """Tokens per optimizer update."""
        return self.batch_size * self.sequence_length * self.gradient_accumulation

    @property
    def steps(self) -> int:
        """Optimizer updates of the run."""
        return max(1, self.tokens // self.tokens_a_step)

    def to_dict(self) -> Mapping[str, Any]:
        """Return every value, for the record."""
        return asdict(self)
