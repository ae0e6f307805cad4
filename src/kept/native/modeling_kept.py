"""The model class of transformers for any spec: `kept.nn.Decoder` with the arguments that transformers passes.

Shapes: B batch, T new tokens, S tokens of the past and new ones, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping  # noqa: TC003 - transformers evaluates the annotations of the class
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from kept.ir.serialise import from_json
from kept.ir.spec import Spec, TokenIds
from kept.native.cache_kept import KeptCache
from kept.native.configuration_kept import KeptConfig
from kept.nn.decoder import Decoder
from kept.nn.norm import NormModule
from kept.nn.sequence import SequenceContext

if TYPE_CHECKING:
    from os import PathLike

    from transformers import GenerationConfig


@dataclass
class KeptOutput(CausalLMOutputWithPast):
    """The output of `forward`.

    `last_hidden_state`, (B, T, D), is the input of the head, for trainers that compute the logits in parts. It is None
    for a head whose matrix is normalised when it runs.
    """

    last_hidden_state: Tensor | None = None


class KeptForCausalLM(Decoder, PreTrainedModel, GenerationMixin):
    """A causal language model of any spec. Parameters have the names of the spec's slots."""

    config_class = KeptConfig
    config: KeptConfig
    supports_gradient_checkpointing = True
    _no_split_modules = ["Block"]  # noqa: RUF012 - transformers' own form
    _supports_sdpa = True

    carried: ClassVar[tuple[Callable[[], Mapping[str, bytes]], ...]] = ()
    """Functions that return files of this code, of an installed `kept`. transformers copies that of a checkpoint."""

    def __init__(self, config: KeptConfig) -> None:
        super().__init__(architecture(config), config)
        self.embedding.bias = None  # type: ignore[assignment] # trainers ask the module with the head's matrix for it
        self.gradient_checkpointing = False
        self.post_init()

    def forward(  # noqa: PLR0913, PLR0917 - the arguments of every causal language model of transformers
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: KeptCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,  # noqa: FBT001 - transformers' own
        output_hidden_states: bool | None = None,  # noqa: FBT001 - the same
        return_dict: bool | None = None,  # noqa: FBT001 - the same
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,  # noqa: ANN401 - the loss reads some, others are of models with other inputs
    ) -> KeptOutput | tuple[Any, ...]:
        """Return logits, (B, T, V) or those of the last `logits_to_keep` positions, and the loss if `labels` are given.

        `attention_mask`, (B, S), is 1 for tokens, with padding on one side only. `position_ids`, (B, T), may start anew
        in a row without padding: each start begins another document, and tokens see their own document only. Raises
        ValueError for arguments that the model does not support.
        """
        if kwargs.get("output_attentions"):
            raise ValueError("output_attentions: attention weights are not computed; leave it out")
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        embedded = self.embedding(input_ids) if inputs_embeds is None else inputs_embeds
        cache = self._cache(past_key_values, use_cache=use_cache)
        streams = self._streams(embedded, attention_mask, position_ids, cache)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        last = self.final_norm(streams[-1])
        logits = self.head(last[:, kept], self.embedding.weight)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.spec.vocabulary, **kwargs)
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        hidden = (*streams[:-1], last) if wanted else None
        read = None if self.spec.head.normalised else last
        out = KeptOutput(loss, logits, cache, hidden, last_hidden_state=read)
        as_dict = self.config.return_dict if return_dict is None else return_dict
        return out if as_dict else out.to_tuple()

    def _cache(self, given: KeptCache | None, *, use_cache: bool | None) -> KeptCache | None:
        """Return the cache to read and to update: a new one if none is given, None if none is wanted."""
        if given is not None and not isinstance(given, KeptCache):
            raise ValueError(
                f"past_key_values: is a {type(given).__name__}, this model needs the cache that it returns"
            )
        if self.training and self.gradient_checkpointing:
            return None
        wanted = not self.training and self.config.use_cache if use_cache is None else use_cache
        return KeptCache(self.empty_state()) if given is None and wanted else given

    def _streams(
        self, embedded_BTD: Tensor, mask_BS: Tensor | None, position_ids_BT: Tensor | None, cache: KeptCache | None
    ) -> list[Tensor]:
        """Return the residual stream before the first layer and after each, (B, T, D)."""
        new = embedded_BTD.shape[1]
        past = 0 if cache is None else cache.state.advance(new)
        context = context_of(embedded_BTD[..., 0], past, mask_BS, position_ids_BT)
        x_BTD, context = self.begin(embedded_BTD, context)
        streams = [x_BTD]
        for i, block in enumerate(self.layers):
            state = None if cache is None else cache.state.layers[i]
            run = self._checkpointed(block) if self.training and self.gradient_checkpointing else block
            streams.append(run(streams[-1], context, state))
        return streams

    def _checkpointed(self, block: nn.Module) -> Callable[..., Tensor]:
        return lambda *inputs: cast("Tensor", self._gradient_checkpointing_func(block.__call__, *inputs))

    # ------------------------------------------------------------------------------------------------------- generation

    def _prepare_cache_for_generation(  # type: ignore[override] # as in several versions of transformers
        self,
        generation_config: GenerationConfig,
        model_kwargs: dict[str, Any],
        *rest: Any,  # noqa: ANN401 - they differ between versions of transformers
        **options: Any,  # noqa: ANN401 - the same
    ) -> None:
        """Give `generate` a cache of this model. Raises ValueError for a cache of another kind."""
        kind = generation_config.cache_implementation
        if kind is not None and not kind.startswith("dynamic"):
            raise ValueError(f"cache_implementation: is {kind!r}, this model has one kind of cache; leave it out")
        if model_kwargs.get("past_key_values") is not None:
            if kind is None:
                super()._prepare_cache_for_generation(generation_config, model_kwargs, *rest, **options)  # type: ignore[misc] # it says that self is a protocol
        elif generation_config.use_cache is not False:
            model_kwargs["past_key_values"] = KeptCache(self.empty_state())

    # ------------------------------------------------------------------------------------------------ weights and files

    def _init_weights(self, module: nn.Module) -> None:
        """Draw the weights that no checkpoint has given: norms are the identity, biases 0, matrices normal."""
        std = getattr(self.config, "initializer_range", 0.02)
        for name, weight in module.named_parameters(recurse=False):
            if getattr(weight, "_is_hf_initialized", False):
                continue
            if name == "gain" and isinstance(module, NormModule):
                nn.init.constant_(weight, 1 - module.spec.offset)
            elif name == "bias":
                nn.init.zeros_(weight)
            else:
                nn.init.normal_(weight, std=std)

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the embedding."""
        return self.embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embedding by one of the same size."""
        self.embedding = cast("nn.Embedding", value)

    def get_output_embeddings(self) -> nn.Module:
        """Return the module with the head's matrix; that of a tied head is the embedding."""
        return self.embedding if self.spec.head.tied else self.head

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *_: Any, **__: Any) -> nn.Embedding:  # noqa: ANN401
        """Return the embedding. Raises ValueError for another number of tokens."""
        if new_num_tokens not in (None, self.spec.vocabulary):
            raise ValueError(
                f"the vocabulary has {self.spec.vocabulary} tokens and cannot be resized here; kept expand --tokenizer "
                "adds tokens"
            )
        return self.embedding

    def save_pretrained(self, save_directory: str | PathLike[str], *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Write config and weights, and this code unless transformers has copied it."""
        super().save_pretrained(save_directory, *args, **kwargs)
        for files in () if self._auto_class else self.carried:
            for name, content in files().items():
                (Path(save_directory) / name).write_bytes(content)


def architecture(config: KeptConfig) -> Spec:
    """Return the spec of a config, with the config's own token ids. Raises CheckpointError naming a wrong field."""
    eos = config.eos_token_id
    tokens = TokenIds(config.bos_token_id, tuple(eos) if isinstance(eos, list) else eos, config.pad_token_id)
    return replace(from_json(config.spec), tokens=tokens)


def context_of(ids_BT: Tensor, past: int, mask_BS: Tensor | None, position_ids_BT: Tensor | None) -> SequenceContext:
    """Return padding, documents and positions of a forward pass. `ids_BT` has the shape of the new tokens.

    Raises ValueError for a mask with padding between tokens, or of another shape.
    """
    pads_B = None if mask_BS is None else left_padding(mask_BS, past + ids_BT.shape[1])
    if position_ids_BT is None:
        return SequenceContext.of(ids_BT, past, pads_B)
    packed = past == 0 and mask_BS is None
    documents_BT = documents(position_ids_BT) if packed else None
    return replace(SequenceContext.of(ids_BT, past, pads_B, documents_BT), positions_BT=position_ids_BT)


def left_padding(mask_BS: Tensor, length: int) -> Tensor | None:
    """Return the number of padding tokens at the left of each row, (B,), or None if there are none.

    Padding at the right needs no mask: no token sees what follows it. Raises ValueError for padding between tokens.
    """
    if mask_BS.dim() != 2 or mask_BS.shape[1] != length:
        raise ValueError(f"attention_mask: has shape {list(mask_BS.shape)}, it must be [batch, {length}], 1 for tokens")
    real_BS = mask_BS.bool()
    if bool(real_BS.all()):
        return None
    seen_BS = real_BS.cumsum(dim=-1)
    if bool((~real_BS & (seen_BS > 0) & (seen_BS < seen_BS[:, -1:])).any()):
        raise ValueError("attention_mask: has padding between tokens; pad prompts on the left to generate")
    pads_B = (seen_BS == 0).sum(dim=-1)
    return pads_B if bool(pads_B.any()) else None


def documents(position_ids_BT: Tensor) -> Tensor | None:
    """Return the number of the document of each token, (B, T), or None if each row is one document.

    A document begins where a position is not the one after the position before it.
    """
    starts_BT = torch.zeros_like(position_ids_BT, dtype=torch.bool)
    starts_BT[:, 1:] = position_ids_BT.diff(dim=-1) != 1
    return starts_BT.cumsum(dim=-1) if bool(starts_BT.any()) else None
