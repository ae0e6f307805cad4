"""The config of `KeptForCausalLM`: a spec as JSON, and the keys that other libraries look up in any config."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from transformers import PretrainedConfig

if TYPE_CHECKING:
    from collections.abc import Callable


class KeptConfig(PretrainedConfig):
    """`spec` is the architecture as JSON (`kept.ir.serialise`). The other keys are those of any config.

    `vocab_size`, `hidden_size`, `num_hidden_layers`, `max_position_embeddings` and `tie_word_embeddings` repeat the
    spec. Token ids are read from `bos_token_id`, `eos_token_id` and `pad_token_id`, because training libraries set them
    there.
    """

    model_type = "kept"

    on_init: ClassVar[tuple[Callable[[], None], ...]] = ()
    """Called whenever a config is made. An installed `kept` registers the model class there."""

    def __init__(
        self,
        spec: dict[str, Any] | None = None,
        *,
        bos_token_id: int | None = None,
        eos_token_id: int | list[int] | None = None,
        pad_token_id: int | None = None,
        use_cache: bool = True,
        **kwargs: Any,  # noqa: ANN401 - any key
    ) -> None:
        self.spec = spec
        self.bos_token_id, self.eos_token_id, self.pad_token_id = bos_token_id, eos_token_id, pad_token_id
        self.use_cache = use_cache
        tokens: dict[str, Any] = {
            "bos_token_id": bos_token_id,
            "eos_token_id": eos_token_id,
            "pad_token_id": pad_token_id,
        }
        super().__init__(**tokens, **kwargs)
        for call in self.on_init:
            call()

    @property
    def final_logit_softcapping(self) -> float | None:
        """The bound on logits of the spec's head, as trainers look it up."""
        return None if self.spec is None else self.spec["head"]["softcap"]

    @property
    def logit_scale(self) -> float | None:
        """The factor on logits of the spec's head, as trainers look it up."""
        return None if self.spec is None else self.spec["head"]["multiplier"]
