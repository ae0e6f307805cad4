"""Change the architecture of a pretrained decoder language model and keep what it knows.

The functions say what the command line says: `inspect`, `plan`, `convert`, `expand`, `heal`, `shrink_expanded`,
`run_steps`, `cache_teacher`, `verify`, `check`, `evaluate`, `generate`, `export_gguf`, `report`; `train_tokenizer` and
`merge_tokenizers` are `kept tokenizer`. Each is imported at its first use from the module that `__init__.pyi` names, so
that `import kept` imports neither torch nor transformers.
"""

from importlib import import_module

import lazy_loader

_attribute, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

import_module("kept.native.register").register()


def __getattr__(name: str) -> object:
    if name == "__version__":
        return import_module("importlib.metadata").version("kept")
    return _attribute(name)
