"""What a healing run was asked to do, checked at construction."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

from kept.distillation.train.lr_schedule import Schedule
from kept.errors import RecipeError
from kept.toml_file import check_type, is_date, one_of, texts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kept.distillation.loss.objective import Objective

SELF = "self"
"""Data that the teacher samples itself."""

LISTED = 64
"""Tokens that a teacher's cache keeps of each distribution unless another number is named."""

SAMPLED = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3})?( *, *[0-9]{1,3}(\.[0-9]{1,3})?)*")
"""Temperatures as they are written."""

MOST, MOST_TOKENS = 10**9, 10**15
"""Larger than any setting that means something: what is beyond is a slip, and no float or tensor holds it."""

Precision = Literal["float32", "bfloat16"]
HiddenError = Literal["mse", "cosine"]

WORDS = {"lr_schedule": get_args(Schedule), "precision": get_args(Precision), "hidden_error": get_args(HiddenError)}
"""Settings that are one of a few words."""

LOSSES = ("kl", "reverse_kl", "jsd", "ce")
"""Weights that `loss` names in a recipe and on the command line."""

Count = int
"""A number that may be large: recipes and the command line take 2M for it."""

CADENCE = ("save_every", "save_minutes")
"""Settings that decide only when checkpoints are written; they may change when a run is continued."""

HELP: Mapping[str, str] = {
    "student": "The converted model that learns.",
    "out": "Directory for the result.",
    "teacher": "The model that it learns from: the one that it was converted from.",
    "teacher_cache": "What kept cache-teacher wrote: read instead of running the teacher.",
    "data": "Texts (text, JSON lines, parquet, directories of them), with a name: english=corpus/en; may be "
    "given several times. self: the teacher samples them.",
    "text_field": "The field of JSON lines, or the column of parquet, that holds the text. [default: text, with --chat "
    "messages]",
    "chat": "JSON lines and parquet hold conversations, lists of messages with role and content: the student's chat "
    "template makes texts of them, and what the assistant says is learned.",
    "chat_template": "A chat template for a student that has none; it goes along with the result.",
    "chat_date": "Date that the chat template reads, as 2026-01-31. [default: the day the run began]",
    "watch": "Texts that are measured beside those that are held out, and never learned from, as old=old.txt; may be "
    "given several times. They do not decide what is best.",
    "mixture": "How much of each, as english=0.7,python=0.3; without it as much as there is.",
    "hold_out": "Documents that are measured on and never learned from: a fraction, or their number.",
    "train": "What learns: norms, head, new (what the conversion created), lora (thin matrices, merged at the "
    "end), all, a pattern as layers.3.*; + joins them.",
    "lora_rank": "Rows of LoRA's thin matrices, where train has lora.",
    "lora_alpha": "Their product counts alpha / rank times.",
    "tokens": "How many tokens to learn from, in all, as 2M or 500K; never less than a step of them.",
    "batch_size": "Rows of a batch, over all processes together.",
    "sequence_length": "Tokens of a row.",
    "gradient_accumulation": "Batches of a step: as many tokens at once in a part of the memory.",
    "learning_rate": "The learning rate at its highest.",
    "lr_schedule": "How the rate goes: it falls along a cosine, at the very end (wsd), or not.",
    "warmup": "The part of all steps in which the rate rises.",
    "weight_decay": "AdamW's weight decay.",
    "max_grad_norm": "The greatest length of a step's gradient.",
    "kl": "Weight of the forward KL from the teacher.",
    "reverse_kl": "Weight of the reverse KL.",
    "jsd": "Weight of the generalised Jensen-Shannon divergence.",
    "jsd_beta": "The beta of that divergence.",
    "ce": "Weight of the cross-entropy with the text.",
    "temperature": "The temperature of teacher and student in the divergences.",
    "sample_temperatures": "The temperatures at which self samples, in turn, as 0.7,1.",
    "hidden": "Weight of the hidden-state error of each layer, measured after the next norm.",
    "hidden_error": "What it is: mse, the squared error over the teacher's square, or cosine, 1 minus the cosine.",
    "precision": "The dtype of the arithmetic; what learns is float32.",
    "gradient_checkpointing": "Compute layers again in the backward, which takes time and saves memory.",
    "compile": "Let torch compile the layers.",
    "eval_every": "Steps between held-out measurements.",
    "save_every": "Steps between checkpoints.",
    "save_minutes": "Also write a checkpoint after this many minutes; 0: by steps only.",
    "patience": "Measurements without a better one after which the run ends; 0: never. The best, whose weights are "
    "written, has the least held-out sum of all losses, each times its weight.",
    "seed": "Decides the order of the documents, and what self samples.",
}
"""What each setting is, in a line."""


@dataclass(frozen=True)
class HealSettings:
    """One run. A step has `gradient_accumulation` batches of `batch_size` rows of `sequence_length` tokens.

    `train` is a choice of weights (trainable.py), `data` are files and directories of texts, each with a name before it
    if you like (`english=corpus/en`; "self": sampled from the teacher), `mixture` their weights. `watch` are texts that
    are measured and nothing else. With `chat` their lines are conversations.
    `teacher_cache` is a directory that `kept.cache_teacher` wrote, read instead of running the teacher.
    `hidden` weighs the error of each layer's stream. `precision` is that of the arithmetic; what learns is float32.
    """

    student: str
    out: str
    teacher: str | None = None
    teacher_cache: str | None = None
    data: tuple[str, ...] = (SELF,)
    text_field: str | None = None
    chat: bool = False
    chat_template: str | None = None
    chat_date: str | None = None
    watch: tuple[str, ...] = ()
    mixture: str | None = None
    hold_out: float = 0.01
    train: str = "norms"
    lora_rank: int = 16
    lora_alpha: float = 32.0
    tokens: Count = 1_000_000
    batch_size: int = 8
    sequence_length: int = 256
    gradient_accumulation: int = 1
    learning_rate: float = 1e-3
    lr_schedule: Schedule = "cosine"
    warmup: float = 0.02
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    kl: float = 1.0
    reverse_kl: float = 0.0
    jsd: float = 0.0
    jsd_beta: float = 0.5
    ce: float = 0.0
    temperature: float = 1.0
    sample_temperatures: str = "1"
    hidden: float = 0.0
    hidden_error: HiddenError = "mse"
    precision: Precision = "float32"
    gradient_checkpointing: bool = False
    compile: bool = False
    eval_every: int = 50
    save_every: int = 200
    save_minutes: float = 10.0
    patience: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every value."""
        for field in fields(self):
            self._check_kind(field.name, str(field.type))
        for key in (
            "tokens",
            "batch_size",
            "sequence_length",
            "gradient_accumulation",
            "eval_every",
            "save_every",
            "lora_rank",
        ):
            self._require(key, getattr(self, key) >= 1, "at least 1")
        for key in ("learning_rate", "temperature", "max_grad_norm", "hold_out", "lora_alpha"):
            self._require(key, getattr(self, key) > 0, "above 0")
        for key in ("weight_decay", "kl", "reverse_kl", "jsd", "ce", "hidden", "patience", "seed", "save_minutes"):
            self._require(key, getattr(self, key) >= 0, "at least 0")
        self._require("warmup", 0 <= self.warmup <= 1, "from 0 to 1")
        self._require("jsd_beta", 0 < self.jsd_beta < 1, "between 0 and 1")
        self._require(
            "sample_temperatures",
            SAMPLED.fullmatch(self.sample_temperatures),
            "one or more numbers of up to three decimals, as 0.7,1",
        )
        self._require("sample_temperatures", min(self.sampled_at) > 0, "above 0")
        for key, words in WORDS.items():
            one_of(key, getattr(self, key), words)
        weights = (self.kl, self.reverse_kl, self.jsd, self.ce, self.hidden)
        self._require("kl", any(weights), "above 0 where no other loss is")
        running = self.reverse_kl or self.jsd or self.hidden
        self._require("batch_size", self.tokens_a_step <= MOST, f"smaller: a step has {MOST} tokens at most")
        self._require(
            "teacher_cache", not (self.teacher_cache and running), "left out where reverse_kl, jsd or hidden is above 0"
        )
        if self.teacher_cache is not None and self.teacher is None and self.data == (SELF,):
            raise RecipeError(
                "data: is self, which the teacher samples; "
                f"give the --data that the cache {self.teacher_cache} was made of, or --teacher too"
            )
        self._require("chat_template", self.chat or self.chat_template is None, "left out without chat")
        self._require("chat_date", self.chat or self.chat_date is None, "left out without chat")
        self._require("chat_date", self.chat_date is None or is_date(self.chat_date), "a date as 2026-01-31")
        self._require("chat", not self.chat or self.data != (SELF,), "left out where data is self, which are texts")
        needed = running or (self.kl and self.teacher_cache is None)
        if self.data == (SELF,) and self.teacher is None and not needed:
            raise RecipeError("data: is self, which the teacher samples; give --data, or --teacher too")
        self._require(
            "teacher",
            self.teacher is not None or not needed,
            "a checkpoint, with which all losses but ce compare; --loss ce learns from texts alone",
        )

    def _check_kind(self, key: str, hint: str) -> None:
        value = getattr(self, key)
        if hint.startswith("tuple"):
            self._require(key, texts(key, value) or key == "watch", "one or more")
        elif not (value is None and "None" in hint):
            check_type(key, value, "int" if hint == "Count" else hint)
            self._check_size(key, value)

    def _check_size(self, key: str, value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return
        most = MOST_TOKENS if key in {"tokens", "seed"} else MOST
        self._require(key, isinstance(value, int) or math.isfinite(value), "a finite number")
        if abs(value) > most:
            raise RecipeError(f"{key}: is too large, it must be at most {most}")

    def _require(self, key: str, holds: object, wanted: str) -> None:
        if not holds:
            raise RecipeError(f"{key}: is {getattr(self, key)!r}, it must be {wanted}")

    @property
    def document(self) -> str:
        """The field or column that holds a document."""
        return self.text_field or ("messages" if self.chat else "text")

    @property
    def objective(self) -> Objective:
        """The losses on logits."""
        from kept.distillation.loss.objective import Objective  # noqa: PLC0415 - imports torch, which help does not need

        return Objective(self.kl, self.reverse_kl, self.jsd, self.jsd_beta, self.ce, self.temperature)

    @property
    def sampled_at(self) -> tuple[float, ...]:
        """The temperatures at which `self` samples."""
        return tuple(map(float, self.sample_temperatures.split(",")))

    @property
    def tokens_a_step(self) -> int:
        """Tokens between two updates."""
        return self.batch_size * self.sequence_length * self.gradient_accumulation

    @property
    def steps(self) -> int:
        """Updates in all."""
        return max(1, self.tokens // self.tokens_a_step)

    def to_dict(self) -> Mapping[str, Any]:
        """Every value, as a record keeps them."""
        return asdict(self)
