"""Run inside an environment: logits of checkpoints by its transformers, in float32.

python logits_transformers.py IDS.npy DIR...    writes DIR.npy beside each; a line `DIR<tab>reason` for what fails
"""

from __future__ import annotations

import sys

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM

transformers.logging.set_verbosity_error()
torch.set_num_threads(1)


def main(ids_file: str, *directories: str) -> None:
    """Every directory, one after the other."""
    ids_BT = torch.from_numpy(np.load(ids_file))[None]  # noqa: N806 - batch, tokens
    for directory in directories:
        try:
            model = AutoModelForCausalLM.from_pretrained(directory, torch_dtype=torch.float32, trust_remote_code=False)
            with torch.inference_mode():
                np.save(f"{directory}.npy", model.eval()(ids_BT).logits[0].float().numpy())
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the result
            print(f"{directory}\t{type(error).__name__}: {' '.join(str(error).split())}")


main(*sys.argv[1:])
