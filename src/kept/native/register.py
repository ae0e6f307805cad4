"""Make our own model class known to transformers, without importing transformers before the user does.

`AutoConfig` learns of the config when its module is imported: at once if it already is, else by a finder that steps
aside for the import and runs after it. The model class needs torch and most of transformers, so it is imported when the
first config is made, which is before any Auto class looks for the model.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

REGISTRY = "transformers.models.auto.configuration_auto"
"""The module that has `AutoConfig`."""


def register() -> None:
    """Register config and model with transformers, now or when it is imported."""
    if REGISTRY in sys.modules:
        _register_config()
    elif not any(isinstance(finder, AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, AfterImport())


class AfterImport(MetaPathFinder):
    """Finds `REGISTRY` as the other finders do, and registers the config once it has run."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002 - the protocol's
        target: ModuleType | None = None,  # noqa: ARG002 - the protocol's
    ) -> ModuleSpec | None:
        """Return the module's spec with an extended loader; None for all other modules."""
        if fullname != REGISTRY:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def run_and_register(module: ModuleType) -> None:
            run(module)
            _register_config()

        spec.loader.exec_module = run_and_register  # type: ignore[method-assign] # each spec has a loader of its own
        return spec


def _register_config() -> None:
    from transformers import AutoConfig  # noqa: PLC0415 - after transformers itself

    from kept.native.configuration_kept import KeptConfig  # noqa: PLC0415 - imports transformers

    KeptConfig.on_init = (_register_model,)
    AutoConfig.register(KeptConfig.model_type, KeptConfig, exist_ok=True)


def _register_model() -> None:
    from transformers import AutoModelForCausalLM  # noqa: PLC0415 - imports torch

    from kept.native.carried_code import carried_files  # noqa: PLC0415 - needed to save only
    from kept.native.configuration_kept import KeptConfig  # noqa: PLC0415 - imports transformers
    from kept.native.modeling_kept import KeptForCausalLM  # noqa: PLC0415 - imports torch

    KeptConfig.on_init = ()
    KeptForCausalLM.carried = (carried_files,)
    AutoModelForCausalLM.register(KeptConfig, KeptForCausalLM, exist_ok=True)
