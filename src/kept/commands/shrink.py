"""Shrink an expanded model: remove added layers that contribute almost nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self, Unpack

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass as settings_dataclass

from kept.checkpoint.backup import replacing
from kept.checkpoint.staging import check_target
from kept.commands.convert import Conversion, rehearse, run
from kept.commands.plan import short_sample
from kept.errors import InputError, RecipeError
from kept.loaded import open_model
from kept.output.record import RECORD
from kept.output.record_queries import expansions
from kept.passes.drop_layers import DropLayers, has_zero_output
from kept.passes.expand_blocks import listed
from kept.recipe import MOST_TOKENS, SAME, Recipe
from kept.reporting import Progress, Reporter, Silent, reporter_of
from kept.setting_types import Directory, File, WholeNumbers
from kept.settings_model import CONFIG, Settings
from kept.summary import Summarised

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kept.loaded import LoadedModel
    from kept.option_types import ShrinkOptions
    from kept.verification.text import Sample

MAX_KL = 1e-4
"""Default of `max_kl`, in nats per token."""


@settings_dataclass(frozen=True, config=CONFIG)
class ShrinkSettings(Settings):
    """Settings of `kept shrink-expanded`: the layers to drop, and the text on which they are measured.

    By default, layers are dropped as long as the KL divergence that this causes is less than `max_kl` nats per token.
    `untrained` drops the layers whose output is exactly zero, `layers` the given ones. Raises RecipeError with the key
    of a wrong value.
    """

    FORMER: ClassVar[Mapping[str, str]] = {"below": "max_kl", "untouched": "untrained"}

    source: Directory = Field(description="The expanded model.")
    out: Directory = Field(description="Output directory.")
    max_kl: float = Field(
        default=MAX_KL,
        gt=0,
        description="Maximum KL divergence, in nats per token, that all dropped layers may cause together.",
    )
    untrained: bool = Field(
        default=False, description="Drop exactly the layers whose output is still zero, without a measurement."
    )
    layers: WholeNumbers = Field(default=(), description="Drop exactly these layers, such as 4,9.")
    text: File | None = Field(default=None, description="UTF-8 text to measure on. [default: a built-in sample]")
    tokens: int | None = Field(
        default=None,
        ge=2,
        le=MOST_TOKENS,
        description="Number of tokens to measure on. [default: 512, for large models 64]",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.layers and self.untrained:
            raise RecipeError("is given together with untrained; leave out one of them", "layers")
        return self


@dataclass(frozen=True)
class ExpandedLayer:
    """A layer that an expansion added, and whether it is dropped.

    `copy_of`: index of the layer that it was copied from; None if that layer was removed. `untrained`: its output is
    exactly zero. `contribution`: KL divergence between the model with and without it, in nats per token; None if it was
    not measured.
    """

    layer: int
    copy_of: int | None
    untrained: bool
    contribution: float | None
    dropped: bool


@dataclass(frozen=True, repr=False)
class ShrinkResult(Summarised):
    """The result of `kept shrink-expanded`.

    `together` is the KL divergence that dropping all of them causes, in nats per token. `text` names the text that was
    measured on; None if nothing was measured. `conversion` is None in a dry run and if no layer is dropped.
    `passed_on`: no layer is dropped, and the source's files are the input of the next step of a recipe.
    """

    layers: tuple[ExpandedLayer, ...]
    together: float | None
    text: str | None
    conversion: Conversion | None = None
    passed_on: bool = False

    @property
    def dropped(self) -> tuple[int, ...]:
        """Indices of the dropped layers."""
        return tuple(one.layer for one in self.layers if one.dropped)

    def summary(self) -> dict[str, str]:
        """Return the layers that were dropped, and what that costs."""
        found = {"added layers": str(len(self.layers)), "dropped": ", ".join(map(str, self.dropped)) or "none"}
        kl = {} if self.together is None else {"KL": f"{self.together:.3g} nats per token"}
        return {**found, **kl, **({} if self.conversion is None else {"path": str(self.conversion.path)})}


def shrink_expanded(
    source: str | Path,
    out: str | Path,
    *,
    progress: Progress = False,
    force: bool = False,
    **options: Unpack[ShrinkOptions],
) -> ShrinkResult:
    """Drop expanded layers that contribute almost nothing, and write the result to `out`.

    The contribution of a layer is the KL between the model with it and without it. Layers that were not trained are
    dropped exactly; with others the result is lossy, and measured. If no layer can be dropped, nothing is written.

    Args:
        source: an expanded checkpoint with a `kept.json`.
        out: the directory to write.
        progress: True shows bars on stderr; or a `kept.Reporter`.
        force: replace `out` if it exists; the old one is renamed to `out.backup-1`, or the next free number.
        options: `max_kl` (in nats per token), `untrained` (drop the layers whose output is zero), `layers` (indices of
            the layers to drop), `text` and `tokens` (what to measure on).

    Returns:
        The contribution of each expanded layer, and the conversion (None if nothing was written).

    Raises:
        InputError: the record lists no expanded layers.
        KeptError: as `kept.convert`.

    Example:
        ```python
        kept.shrink_expanded("out/pro-trained", "out/small", max_kl=1e-4)
        ```
    """
    asked = ShrinkSettings.from_table({"source": str(source), "out": str(out)}, **options)
    with replacing(out, force=force, asked=asked):
        return shrink(asked, reporter_of(progress))


def shrink(asked: ShrinkSettings, reporter: Reporter | None = None, *, dry: bool = False) -> ShrinkResult:
    """Run the command; a `dry` run measures, checks the target and writes nothing."""
    reporter = reporter or Silent()
    check_target(Path(asked.out))
    opened = open_model(asked.source)
    found = measure_contributions(opened, asked, reporter)
    if not found.dropped:
        return found
    recipe = Recipe(
        asked.source,
        asked.out,
        to=SAME,
        text=asked.text,
        verify_tokens=asked.tokens,
        passes=(DropLayers(found.dropped),),
    )
    if dry:
        rehearse(recipe, reporter)
        return found
    return replace(found, conversion=run(recipe, progress=reporter))


def measure_contributions(opened: LoadedModel, asked: ShrinkSettings, reporter: Reporter) -> ShrinkResult:
    """Return the contribution of each expanded layer, and the layers to drop. Raises InputError without any."""
    made = expanded(opened)
    wrong = [layer for layer in asked.layers if layer not in made]
    if wrong:
        raise InputError(
            f"layers: {wrong[0]} is not an expanded layer of {opened.path}; there are {listed((*sorted(made),))}"
        )
    untrained = frozenset(layer for layer in made if has_zero_output(opened.program, layer))
    selector = _LayerSelector(opened, asked, untrained, tuple(sorted({*made} - untrained)))
    choice = selector.choice(reporter)
    layers = (
        ExpandedLayer(layer, made[layer], layer in untrained, choice.contributions.get(layer), layer in choice.dropped)
        for layer in sorted(made)
    )
    return ShrinkResult(tuple(layers), choice.together, choice.text)


def expanded(opened: LoadedModel) -> dict[int, int | None]:
    """Return the source layer of each expanded layer. Raises InputError if the record lists none."""
    made = {layer: model for one in expansions(opened) for layer, model in one.items()}
    if not made:
        raise InputError(f"{opened.path}: its {RECORD} lists no expanded layers; kept expand makes them")
    return made


@dataclass(frozen=True)
class _LayerChoice:
    """Contribution of each layer, dropped layers, their joint contribution, and the text of the measurement."""

    contributions: Mapping[int, float]
    dropped: frozenset[int]
    together: float
    text: str | None = None


@dataclass(frozen=True)
class _LayerSelector:
    """Selects the layers to drop. The output of `untrained` layers is zero; `others` are measured."""

    opened: LoadedModel
    asked: ShrinkSettings
    untrained: frozenset[int]
    others: tuple[int, ...]

    def choice(self, reporter: Reporter) -> _LayerChoice:
        """Return the layers to drop, measured if the choice depends on it."""
        contributions = dict.fromkeys(self.untrained, 0.0)
        if self.asked.untrained or not self.others:
            return _LayerChoice(contributions, frozenset(self.asked.layers) or self.untrained, 0.0)
        text = None if self.asked.text is None else Path(self.asked.text)
        sample = short_sample(self.opened, self.opened.program.spec, self.asked.tokens, text)
        named = frozenset(self.asked.layers) - self.untrained
        *alone, together = self._losses([*(frozenset({one}) for one in self.others), named], sample, reporter)
        contributions |= dict(zip(self.others, alone, strict=True))
        if self.asked.layers:
            return _LayerChoice(contributions, frozenset(self.asked.layers), together, sample.origin)
        small, together = self._smallest(contributions, sample, reporter)
        return _LayerChoice(contributions, self.untrained | small, together, sample.origin)

    def _smallest(
        self, contributions: Mapping[int, float], sample: Sample, reporter: Reporter
    ) -> tuple[frozenset[int], float]:
        """Return the layers with the smallest contributions whose joint KL is below `max_kl`, and this KL."""
        small = sorted(
            (one for one in self.others if contributions[one] < self.asked.max_kl), key=lambda one: contributions[one]
        )
        best: tuple[frozenset[int], float] = frozenset(), 0.0
        sets = [frozenset(small[: count + 1]) for count in range(len(small))]
        sums = self._losses(sets, sample, reporter) if len(small) > 1 else [contributions[one] for one in small]
        for layers, together in zip(sets, sums, strict=True):
            if not together < self.asked.max_kl:
                break
            best = layers, together
        return best

    def _losses(self, without: Sequence[frozenset[int]], sample: Sample, reporter: Reporter) -> list[float]:
        from kept.verification.contribution import losses

        with reporter.stage("measure", self.opened.program.spec.depth, "layers") as advance:
            return losses(self.opened.program, without, sample.tokens_BT, advance)
