"""The decoding state of a model as a cache object of transformers.

Shapes: B batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers.cache_utils import Cache

if TYPE_CHECKING:
    import torch

    from kept.nn.state import DecodeState


class KeptCache(Cache):
    """What `generate` passes on as `past_key_values`: one state for the model, whatever the layers keep.

    It grows with the sequence. It can be selected, repeated and reordered along the batch, and cropped unless a sliding
    window has left positions behind.
    """

    def __init__(self, state: DecodeState) -> None:
        super().__init__(layers=[])
        self.state = state

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002 - all layers have read as much
        """Return the number of tokens that were read, padding included."""
        return self.state.position

    def get_max_length(self, layer_idx: int | None = None) -> int:  # noqa: ARG002 - the same for all layers
        """Return -1: there is no maximum."""
        return -1

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:  # noqa: ARG002 - the same for all layers
        """Return -1: there is no maximum. The name in transformers 4."""
        return -1

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Put the sequences `beam_idx`, (B,), in place of those that are there."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these sequences, in this order."""
        self.state.change_batch(lambda x: x.index_select(0, indices.to(x.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each sequence."""
        self.state.change_batch(lambda x: x.repeat_interleave(repeats, dim=0))

    def crop(self, tokens: int) -> None:
        """Remove the last -`tokens` tokens, or keep the first `tokens` as in transformers 4. 0 changes nothing.

        Raises InputError if a sliding window has left the state behind.
        """
        if tokens:
            self.state.crop(tokens if tokens > 0 else max(0, self.state.position + tokens))

    def reset(self) -> None:
        """Forget all tokens."""
        self.state.crop(0)

    def activate_past_recording(self) -> None:
        """Nothing needs to be recorded to be cropped."""

    @property
    def is_compileable(self) -> bool:
        """The cache grows, so `generate` must not compile the model for one shape."""
        return False

    @property
    def is_initialized(self) -> bool:
        """Whether tokens were read."""
        return self.state.position > 0

    @property
    def is_croppable(self) -> bool:
        """Whether `crop` always succeeds: no layer has a sliding window."""
        return self.state.can_crop
