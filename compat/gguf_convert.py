"""Convert checkpoints without their tokenizers by llama.cpp's own converter; runs inside llama.cpp's environment.

    python gguf_convert.py path/to/convert_hf_to_gguf.py CHECKPOINT ...

Writes CHECKPOINT.gguf beside each checkpoint, in float32. Each failure prints a line "CHECKPOINT<tab>reason".
Tokenizers are compared by gguf_tokens.py: the converter recognises a pre-tokenizer by the ids of a test text, which a
tiny vocabulary cannot produce.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any


def main(converter: str, *checkpoints: str) -> None:
    """Convert the checkpoints one after another."""
    sys.path.insert(0, str(Path(converter).parent))
    import conversion  # noqa: PLC0415 - llama.cpp's module, importable only now

    find = conversion.get_model_class

    def without_tokenizer(*words: Any, **options: Any) -> Any:  # noqa: ANN401 - llama.cpp's signature
        found = find(*words, **options)
        return type(found.__name__, (found,), {"model_arch": found.model_arch, "set_vocab": lambda _: None})

    conversion.get_model_class = without_tokenizer
    for checkpoint in checkpoints:
        sys.argv = [converter, checkpoint, "--outfile", f"{checkpoint}.gguf", "--outtype", "f32"]
        try:
            runpy.run_path(converter, run_name="__main__")
        except SystemExit as error:
            if error.code:
                print(f"{checkpoint}\t{error.code}")
        except Exception as error:  # noqa: BLE001 - any error of the converter is reported
            print(f"{checkpoint}\t{type(error).__name__}: {error}")


main(*sys.argv[1:])
