"""The architecture of a decoder, layer by layer, as a tree of frozen values: one file for each kind of part.

A spec states what the model computes and which weights it has; it never holds a weight. Layers may differ. Sizes are
element counts. Equal specs describe the same architecture. A branch's operation declares its own weights, norms,
projections, state and cost, so that code outside its file needs its fields only where it asks for the kind.
"""

from kept.ir.spec.attention import Attention, PositionScale, QkNorm, qk_shape
from kept.ir.spec.latent import LatentAttention
from kept.ir.spec.layer import Branch, Layer
from kept.ir.spec.mlp import Activation, Mlp
from kept.ir.spec.model import Head, Spec, TokenIds
from kept.ir.spec.norm import NO_NORM, Norm
from kept.ir.spec.operation import Cost, FeedForward, Mixer, Operation, StatePart
from kept.ir.spec.rope import Dynamic, Linear, Llama3, LongRope, Proportional, Rope, Scaling, Yarn
from kept.ir.spec.slot import Role, Slot, Slots, Space

OPERATIONS: dict[str, type[Operation]] = {one.KIND: one for one in (Attention, LatentAttention, Mlp)}
"""Every kind of operation by its name. `nn.mixers.MIXERS` and `nn.mlp.MLPS` have the modules."""

__all__ = [
    "NO_NORM",
    "OPERATIONS",
    "Activation",
    "Attention",
    "Branch",
    "Cost",
    "Dynamic",
    "FeedForward",
    "Head",
    "LatentAttention",
    "Layer",
    "Linear",
    "Llama3",
    "LongRope",
    "Mixer",
    "Mlp",
    "Norm",
    "Operation",
    "PositionScale",
    "Proportional",
    "QkNorm",
    "Role",
    "Rope",
    "Scaling",
    "Slot",
    "Slots",
    "Space",
    "Spec",
    "StatePart",
    "TokenIds",
    "Yarn",
    "qk_shape",
]
