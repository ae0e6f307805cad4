"""Run inside llama.cpp's environment: its own converter on checkpoints, without their tokenizers.

python gguf_convert.py path/to/convert_hf_to_gguf.py CHECKPOINT ...    writes CHECKPOINT.gguf beside each, in float32

Of each that fails a line says why. Tokenizers are compared on their own: the converter knows a pre-tokenizer by what
it makes of a text, and a tiny vocabulary makes nothing that it knows.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any


def main(converter: str, *checkpoints: str) -> None:
    """Every checkpoint in its turn."""
    sys.path.insert(0, str(Path(converter).parent))
    import conversion  # noqa: PLC0415 - llama.cpp's own, known only now

    find = conversion.get_model_class

    def without_tokenizer(*words: Any, **options: Any) -> Any:  # noqa: ANN401 - llama.cpp's
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
        except Exception as error:  # noqa: BLE001 - whatever it trips over is the answer
            print(f"{checkpoint}\t{type(error).__name__}: {error}")


main(*sys.argv[1:])
