"""Run inside llama.cpp's environment: logits of one GGUF file, with keys and values cached in float32.

python logits_llama_cpp.py IDS.npy FILE.gguf OUT.npy
"""

from __future__ import annotations

import sys

import numpy as np
from llama_cpp import GGML_TYPE_F32, Llama


def main(ids_file: str, model_file: str, out: str) -> None:
    """One file; a crash of the runtime takes no other with it."""
    ids = np.load(ids_file).tolist()
    model = Llama(
        model_file,
        n_ctx=len(ids),
        n_batch=len(ids),
        n_threads=1,
        logits_all=True,
        verbose=False,
        type_k=GGML_TYPE_F32,
        type_v=GGML_TYPE_F32,
    )
    model.eval(ids)
    np.save(out, np.array(model.scores[: len(ids)]))


main(*sys.argv[1:])
