"""Every pass, by its name."""

from __future__ import annotations

from kept.passes.base import Obstacle, Pass, Promise
from kept.passes.cast import CastTo
from kept.passes.centre import Centre
from kept.passes.fill import FillBiases
from kept.passes.fold_bias import FoldNormBias
from kept.passes.gate import PlainToGated
from kept.passes.rms import LayerNormToRms
from kept.passes.rotary import FullRotary
from kept.passes.split import SplitProjections
from kept.passes.tail import AffineTail, DropHeadBias
from kept.passes.untie import UntieHead
from kept.passes.window import DropWindow, LimitContext

PASSES: dict[str, type[Pass]] = {
    rewrite.name: rewrite
    for rewrite in (
        AffineTail,
        CastTo,
        Centre,
        DropHeadBias,
        DropWindow,
        FillBiases,
        FoldNormBias,
        FullRotary,
        LayerNormToRms,
        LimitContext,
        PlainToGated,
        SplitProjections,
        UntieHead,
    )
}
"""The passes that a recipe can name."""

__all__ = ["PASSES", "Obstacle", "Pass", "Promise"]
