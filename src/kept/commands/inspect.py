"""Inspect a checkpoint: architecture, cost of running it, and targets that it can be converted to."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from kept.errors import Refusal
from kept.families import TARGETS
from kept.families.lengths import domain
from kept.formatting import amount, parameters
from kept.ir.slots import NormReaders, readings
from kept.ir.tensors import TORCH_NAMES
from kept.ir.text import describe
from kept.loaded import LoadedModel, open_model
from kept.passes.legalize import legalise
from kept.passes.rules import Options
from kept.summary import Summarised

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kept.ir.program import Program
    from kept.ir.spec import Spec


@dataclass(frozen=True)
class TargetVerdict:
    """The plan for one target: passes, promise and its domain, or the refusal, whole and in a few words (`reason`)."""

    target: str
    promise: str | None
    passes: tuple[str, ...]
    refusal: str | None
    domain: tuple[str, ...] = ()
    reason: str | None = None


@dataclass(frozen=True)
class NormReport:
    """A norm of the residual stream: its kind, and the length of its bias over that of its gain.

    Where a text was read, of a LayerNorm also the mean of |mu| / sigma of its input, and the relative error of an
    RMSNorm in its place with the copied gain and with the calibrated one.
    """

    name: str
    kind: str
    bias_to_gain: float
    mean_to_std: float | None = None
    error_copied: float | None = None
    error_calibrated: float | None = None


@dataclass(frozen=True, repr=False)
class Inspection(Summarised):
    """The summary of a checkpoint.

    `nbytes`: bytes of the weights in `dtype`. `kv_cache`: bytes of the KV cache of a sequence, by its tokens; the last
    is the model's full context. `quantised`: stored types of quantised weights; empty without.
    """

    path: str
    family: str
    dtype: str
    parameters: int
    nbytes: int
    kv_cache: Mapping[int, int]
    spec: Spec
    description: tuple[str, ...]
    norms: tuple[NormReport, ...]
    targets: tuple[TargetVerdict, ...]
    quantised: str = ""

    def summary(self) -> dict[str, str]:
        """Return family, size and architecture, and the targets with their promises."""
        promises = ", ".join(f"{one.target} ({one.promise})" for one in self.targets if one.promise is not None)
        size = f"{parameters(self.parameters)} parameters in {self.dtype}, {amount(self.nbytes, 'bytes')}"
        found = {"path": self.path, "family": self.family, "size": size, "architecture": "; ".join(self.description)}
        return {**found, "converts to": promises or "no target"}


def inspect(
    path: str | Path,
    text: str | Path | None = None,
    base: str | Path | None = None,
    adapter: str | Path | None = None,
) -> Inspection:
    """Describe a checkpoint: its architecture, its cost, and the targets that it can become. Reads headers and norms.

    Args:
        path: a checkpoint directory, a GGUF file, a LoRA adapter or a hub id.
        text: a UTF-8 file; if given, all weights are read, and the effect of each LayerNorm is measured on it.
        base: the base model, if `path` is a LoRA adapter.
        adapter: a LoRA or DoRA adapter that is merged into the checkpoint first.

    Returns:
        The inspection: spec, parameters, bytes of the weights, bytes of the KV cache, targets.

    Raises:
        CheckpointError: a file is missing or damaged, or disagrees with the config.

    Example:
        ```python
        found = kept.inspect("path/to/orion-14b")
        print(found.family, found.parameters, found.kv_cache)
        ```
    """
    opened = open_model(path, base, adapter=adapter)
    program = opened.program
    return Inspection(
        path=str(opened.source),
        family=opened.family.name,
        dtype=TORCH_NAMES[program.dtype],
        parameters=program.parameters,
        nbytes=program.nbytes,
        kv_cache=program.kv_cache,
        spec=program.spec,
        description=tuple(describe(program.spec)),
        norms=tuple(_norms(program) if text is None else _measured(opened, Path(text))),
        targets=tuple(_reach(opened, name) for name in TARGETS),
        quantised=opened.quantised,
    )


def _norms(program: Program) -> list[NormReport]:
    return [NormReport(r.norm, r.value.kind, _bias_to_gain(program, r)) for r in readings(program.spec)]


def _bias_to_gain(program: Program, reading: NormReaders) -> float:
    if not reading.value.bias:
        return 0.0
    bias = math.hypot(*program.weights[f"{reading.norm}.bias"].numbers())
    if not reading.value.gain:
        return bias
    gain = math.hypot(*(program.weights[f"{reading.norm}.gain"].numbers() + reading.value.offset))
    return bias / max(gain, 1e-300)


def _measured(opened: LoadedModel, text: Path) -> list[NormReport]:
    """The norms with what they do to a text."""
    from kept.verification.calibration import calibrate  # noqa: PLC0415 - imports torch
    from kept.verification.text import sample  # noqa: PLC0415 - imports torch

    spec = opened.program.spec
    tokens_BT = sample(opened.path, spec.vocabulary, spec.context, 1024, text).tokens_BT  # noqa: N806 - shapes in names
    found = calibrate(opened.program, tokens_BT)
    out = []
    for norm in _norms(opened.program):
        one = found.get(norm.name)
        parts = {} if one is None else {key: getattr(one, key) for key in MEASURED}
        out.append(replace(norm, **parts))
    return out


MEASURED = ("mean_to_std", "error_copied", "error_calibrated")


def _reach(opened: LoadedModel, target: str) -> TargetVerdict:
    program, family = opened.program, TARGETS[target]
    try:
        found = legalise(program, family.violations, Options())
    except Refusal as refusal:
        return TargetVerdict(target, None, (), str(refusal), reason=refusal.brief)
    between = domain(opened.family, program.spec, family, found.program.spec)
    steps = tuple(step.rewrite.name for step in found.steps)
    return TargetVerdict(target, str(found.promise), steps, None, (*between, *found.domain))
