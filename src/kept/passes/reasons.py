"""The text of a refusal: why no pass removes a violation, and what to do instead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kept.errors import Refusal
from kept.passes.violation_kind import KEY_VALUE_HEADS, ViolationKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from kept.ir.facts import Violation


class TargetRefusal(Refusal):
    """A target cannot express the model, and no pass removes the `violations`."""

    def __init__(self, violations: Sequence[Violation], way_out: str | None = None) -> None:
        super().__init__(*_reasons(violations), way_out=way_out or WAY_OUT)
        self.violations = tuple(violations)

    @property
    def phrases(self) -> list[str]:
        """The reasons without places and explanations, each once."""
        reasons = (_why(one) or one.in_words for one in self.violations)
        return [*dict.fromkeys(reason.partition(", which ")[0] for reason in reasons)]

    def with_way_out(self, way_out: str) -> TargetRefusal:
        """Return the same refusal with another way out."""
        return TargetRefusal(self.violations, way_out)


def _reasons(violations: Sequence[Violation]) -> Iterator[str]:
    """Yield one phrase for all violations with the same reason, and one for each of the others."""
    places: dict[str, list[str]] = {}
    for violation in violations:
        why = _why(violation)
        if why is None:
            yield str(violation)
        else:
            places.setdefault(why, []).append(violation.where)
    for why, (first, *rest) in places.items():
        others = [place.removeprefix("every layer's ") for place in rest]
        yield f"{', '.join((first, *others))}: {why}"


def _why(violation: Violation) -> str | None:
    return next((text for kind, text in REASONS if kind.fits(violation)), None)


REASONS: tuple[tuple[ViolationKind, str], ...] = (
    (ViolationKind("positions", needs=None), "positions are learned, and the target has no table of them"),
    (ViolationKind("positions"), "the target has a table of learned positions"),
    (
        ViolationKind("layers.*.mixer.attention.rope", found=None),
        "queries and keys are not rotated, and the target always rotates",
    ),
    (ViolationKind("layers.*.mixer.attention.rope"), "queries and keys are rotated, and the target never rotates"),
    (ViolationKind("layers.*.mixer.attention.rope.scaling*"), "the target cannot scale its rotation like this"),
    (
        ViolationKind("layers.*.mixer", "latent", "attention"),
        "keys and values are projections of a latent, and the target's heads have their own",
    ),
    (
        ViolationKind("layers.*.mixer.latent.*_rank"),
        "layers have latents of different ranks, and the target has one rank (--to kept has one for each layer)",
    ),
    (ViolationKind("layers.*.mixer", found=None), "the layer has no mixer, and every layer of the target has one"),
    (ViolationKind("layers.*.mlp", found=None), "the layer has no MLP, and every layer of the target has one"),
    (
        ViolationKind("layers.*.mixer.attention.qk_norm", needs=None),
        "queries and keys are normalised, which no weights of the target can do",
    ),
    (
        ViolationKind("layers.*.mixer.attention.qk_norm*"),
        "the target normalises queries and keys, which no weights of it can undo",
    ),
    (ViolationKind("layers.*.mixer.attention.softcap"), "scores are capped by a tanh in one of the two models only"),
    (
        ViolationKind("layers.*.mixer.attention.position_scale"),
        "the target multiplies queries by a factor that grows with their position",
    ),
    (ViolationKind("head.softcap"), "logits are capped by a tanh in one of the two models only"),
    (ViolationKind("layers.*.mixer.attention.head_dim"), "the target's heads have the size width / heads"),
    (ViolationKind(KEY_VALUE_HEADS), "query heads share keys and values in groups that the target cannot form"),
    (ViolationKind("layers.*.mlp.dense.gated", found=True), "the MLP is gated, the target's is plain"),
    (
        ViolationKind("layers.*.parallel", found=True),
        "attention and MLP read the same stream, the target has no parallel residual",
    ),
    (ViolationKind("layers.*.parallel"), "attention and MLP are sequential, the target has a parallel residual"),
    (ViolationKind("layers.*.mlp_norm"), "attention and MLP have norms of their own, the target has one for both"),
    (
        ViolationKind("layers.*_post_norm", needs=None),
        "a norm stands behind attention and MLP, which no weights of the target can do",
    ),
    (
        ViolationKind("layers.*_post_norm"),
        "the target has norms behind attention and MLP, which no weights of it can undo",
    ),
    (
        ViolationKind("*norm.kind", found="none"),
        "attention and MLP read the stream as it is, the target normalises it first",
    ),
    (ViolationKind("*norm.kind"), "norms are of another kind than the target's, which no weights of it can undo"),
    (ViolationKind("*.eps"), "norms have different epsilons, the target has one"),
    (ViolationKind("*norm.bias"), "the target's norms have biases, and the model's have none"),
    (ViolationKind("*_bias", found=True), "there are biases, and the target has no such bias"),
)
"""Why nothing removes a violation."""

DISTIL = "distil it into a fresh model of the target: kept heal FRESH --teacher MODEL"

WAY_OUT = f"no exact map exists; {DISTIL}"

OTHER_WAYS: tuple[tuple[Mapping[str, Any], str], ...] = (
    ({"final_bias": "drop"}, "no exact map exists; --final-bias drop makes an approximate one, which is measured"),
    (
        {"norm": "carried"},
        "no exact map exists; --norm carried makes a lossy one, which is measured and may be healed (kept heal)",
    ),
    (
        {"norm": "opm"},
        "no exact map exists; --norm opm makes a lossy one, which is measured, and a start for distillation",
    ),
)
"""Options that may make a plan where the usual ones do not, the better first."""
