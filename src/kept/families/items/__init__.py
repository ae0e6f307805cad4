"""The items that the tables of families are made of: each reads some config keys into facts and writes them back."""

from kept.families.items.fixed import Always, DerivedFact, Fixed
from kept.families.items.numbers import Cap, Number, Power, Scale
from kept.families.items.rotary import PUBLISHED_SCALINGS, SCALINGS, FixedRotary, Rotary
from kept.families.items.sizes import (
    HEAD_DIM,
    HEADS_OF_128,
    MULTI_HEAD,
    WIDTH_OVER_HEADS,
    KeyValueHeads,
    Size,
    four_widths,
    width_over_heads,
)
from kept.families.items.switches import ACTIVATIONS, ACTIVATIONS_WITHOUT_SILU, Choice, Flag, HeadNorms
from kept.families.items.token_ids import SpecialTokens
from kept.families.items.windows import LAYER_TYPES, LayeredWindow, LayerWindows, Window

__all__ = [
    "ACTIVATIONS",
    "ACTIVATIONS_WITHOUT_SILU",
    "HEADS_OF_128",
    "HEAD_DIM",
    "LAYER_TYPES",
    "MULTI_HEAD",
    "PUBLISHED_SCALINGS",
    "SCALINGS",
    "WIDTH_OVER_HEADS",
    "Always",
    "Cap",
    "Choice",
    "DerivedFact",
    "Fixed",
    "FixedRotary",
    "Flag",
    "HeadNorms",
    "KeyValueHeads",
    "LayerWindows",
    "LayeredWindow",
    "Number",
    "Power",
    "Rotary",
    "Scale",
    "Size",
    "SpecialTokens",
    "Window",
    "four_widths",
    "width_over_heads",
]
