"""Every pass, by its name."""

from __future__ import annotations

from kept.passes.affine_tail import AffineTail, DropHeadBias
from kept.passes.base import Obstacle, Pass
from kept.passes.carry_norm_bias import CarryNormBias
from kept.passes.cast_to import CastTo
from kept.passes.centre import Centre
from kept.passes.drop_layers import DropLayers
from kept.passes.drop_pad_token import DropPadToken
from kept.passes.drop_position_scale import DropPositionScale
from kept.passes.drop_window import DropWindow, LimitContext
from kept.passes.expand_blocks import ExpandBlocks
from kept.passes.expand_vocabulary import ExpandVocabulary
from kept.passes.fill_biases import FillBiases
from kept.passes.fold_head_norm import FoldHeadNorm
from kept.passes.fold_multipliers import FoldMultipliers
from kept.passes.fold_norm_bias import FoldNormBias
from kept.passes.full_rotary import FullRotary
from kept.passes.fuse_projections import FuseProjections
from kept.passes.layer_norm_to_rms import LayerNormToRms
from kept.passes.order_latent_pairs import OrderLatentPairs
from kept.passes.plain_gains import PlainGains
from kept.passes.plain_to_gated import PlainToGated
from kept.passes.repeat_kv_heads import RepeatKeyValueHeads
from kept.passes.replace_branches import ReplaceBranches
from kept.passes.separate_norms import SeparateNorms
from kept.passes.split_projections import SplitProjections
from kept.passes.to_latent import ToLatent
from kept.passes.truncate_latent import TruncateLatent
from kept.passes.untie_head import UntieHead

PASSES: dict[str, type[Pass]] = {
    rewrite.name: rewrite
    for rewrite in (
        AffineTail,
        CastTo,
        Centre,
        DropHeadBias,
        DropLayers,
        DropPadToken,
        DropPositionScale,
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
        OrderLatentPairs,
        PlainGains,
        PlainToGated,
        RepeatKeyValueHeads,
        ReplaceBranches,
        SeparateNorms,
        SplitProjections,
        ToLatent,
        UntieHead,
    )
}
"""The passes that a recipe can name."""

SUMMARIES: dict[str, str] = {
    **{name: rewrite.summary for name, rewrite in PASSES.items()},
    CarryNormBias.name: CarryNormBias.summary,
    TruncateLatent.name: TruncateLatent.summary,
}
"""A summary of every pass, also of those that need measurements and that no recipe can name."""

__all__ = ["PASSES", "SUMMARIES", "Obstacle", "Pass"]
