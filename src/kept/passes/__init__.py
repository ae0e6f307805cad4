"""Every pass, by its name."""

from __future__ import annotations

from kept.passes.base import Obstacle, Pass, Promise
from kept.passes.carry import CarryNormBias
from kept.passes.cast import CastTo
from kept.passes.centre import Centre
from kept.passes.drop import DropLayers
from kept.passes.expand import ExpandBlocks
from kept.passes.fill import FillBiases
from kept.passes.fold_bias import FoldNormBias
from kept.passes.fold_head_norm import FoldHeadNorm
from kept.passes.fold_multipliers import FoldMultipliers
from kept.passes.fuse import FuseProjections
from kept.passes.gate import PlainToGated
from kept.passes.plain_gains import PlainGains
from kept.passes.repeat_heads import RepeatKeyValueHeads
from kept.passes.rms import LayerNormToRms
from kept.passes.rotary import FullRotary
from kept.passes.separate_norms import SeparateNorms
from kept.passes.split import SplitProjections
from kept.passes.tail import AffineTail, DropHeadBias
from kept.passes.untie import UntieHead
from kept.passes.vocabulary import ExpandVocabulary
from kept.passes.window import DropWindow, LimitContext

PASSES: dict[str, type[Pass]] = {
    rewrite.name: rewrite
    for rewrite in (
        AffineTail,
        CastTo,
        Centre,
        DropHeadBias,
        DropLayers,
        DropWindow,
        ExpandBlocks,
        ExpandVocabulary,
        FillBiases,
        FoldHeadNorm,
        FoldMultipliers,
        FoldNormBias,
        FullRotary,
        FuseProjections,
        LayerNormToRms,
        LimitContext,
        PlainGains,
        PlainToGated,
        RepeatKeyValueHeads,
        SeparateNorms,
        SplitProjections,
        UntieHead,
    )
}
"""The passes that a recipe can name."""

SUMMARIES: dict[str, str] = {
    **{name: rewrite.summary for name, rewrite in PASSES.items()},
    CarryNormBias.name: CarryNormBias.summary,
}
"""What every pass does, in a line: also the one that only a plan makes, from what it measured."""

__all__ = ["PASSES", "SUMMARIES", "Obstacle", "Pass", "Promise"]
