"""One model for any spec: it verifies conversions, and it is the student and the teacher of a distillation.

The package imports torch, `kept.ir` and `kept.errors`, and nothing else of `kept`.
"""

from kept.nn.generate import generate
from kept.nn.model import Model

__all__ = ["Model", "generate"]
