"""One model that runs any spec: the reference that verifies, and the thing that heals."""

from kept.nn.generate import generate
from kept.nn.model import Model

__all__ = ["Model", "generate"]
