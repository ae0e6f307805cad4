"""The forms that outputs have: for each a source and the options that make it.

The first are the demo's trained Orion; the others random tiny models of stock classes with the demo's tokenizer.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kept.demo import model_path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from support.models import write_checkpoint  # noqa: E402 - the tests' tiny models

if TYPE_CHECKING:
    from collections.abc import Mapping

TOKENS = 48

SLIDING = 16
"""A window that is shorter than the text that is run."""


@dataclass(frozen=True)
class Form:
    """A form's name, the family of its source (empty: the demo), its config, and the options of the conversion."""

    name: str
    family: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def source(self, folder: Path) -> Path:
        """The checkpoint to convert."""
        if not self.family:
            return model_path()
        made = folder / f"{self.name.replace(' ', '-')}.source"
        if not made.exists():
            write_checkpoint(made, self.family, **{"vocab_size": 2048, **self.config})
            for name in ("tokenizer.model", "tokenizer_config.json"):
                shutil.copy(model_path() / name, made)
        return made


def rope(kind: str, **values: Any) -> dict[str, Any]:  # noqa: ANN401 - a config's values
    """Return the keys of a config for a kind of RoPE."""
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 1000.0, **values}}


PARTIAL = rope("default", partial_rotary_factor=0.5, rope_theta=20.0)
"""A config with a small theta: unrotated pairs would visibly rotate within the text if they were rotated."""

LONG = {"short_factor": [1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5], "long_factor": [8.0] * 8}

FORMS = (
    Form("bias-free Llama", options={"norm": "opm", "final_bias": "drop"}),
    Form("biased Llama", options={"final_bias": "drop"}),
    Form("tail-block Llama", options={"final_bias": "block"}),
    Form("tail-block Llama in bfloat16", options={"final_bias": "block", "dtype": "bfloat16"}),
    Form("Llama from Qwen2", "qwen2"),
    Form("partial rotation as llama3", "stablelm", PARTIAL, {"rope": "llama3"}),
    Form("partial rotation as proportional", "stablelm", PARTIAL, {"rope": "proportional"}),
    Form("partial rotation with linear scaling", "stablelm", rope("linear", factor=2.0, partial_rotary_factor=0.5)),
    Form("gated MLPs with GELU", "starcoder2", {"sliding_window": None}),
    Form("linear scaling", "llama", rope("linear", factor=2.0)),
    Form(
        "llama3 scaling",
        "llama",
        rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64),
    ),
    Form("YaRN", "llama", rope("yarn", factor=4.0, original_max_position_embeddings=32)),
    Form("LongRoPE", "llama", rope("longrope", original_max_position_embeddings=64, **LONG)),
    Form("dynamic scaling", "llama", rope("dynamic", factor=2.0)),
    Form("window in a Mistral", "mistral", {"sliding_window": SLIDING}, {"to": "mistral"}),
    Form(
        "window in a Qwen2's later layers",
        "qwen2",
        {"sliding_window": SLIDING, "use_sliding_window": True, "max_window_layers": 1},
        {"to": "qwen2"},
    ),
    Form("GPT-NeoX", "gpt_neox", {}, {"to": "gpt_neox"}),
)
