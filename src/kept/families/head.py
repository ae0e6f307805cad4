"""Resolve tied embeddings: choose the LM head's matrix when a checkpoint stores the embedding, the head, or both.

For a tied config, transformers 5 ties the two if only one is stored or both are equal and otherwise keeps the stored
head; transformers 4 always uses the embedding. If the two differ, the user must choose.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kept.errors import CheckpointError
from kept.ir.tensors import equal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kept.ir.spec import Spec
    from kept.ir.tensors import Lazy


@dataclass(frozen=True)
class HeadItem:
    """Tensor names of a family's embedding and head, and the rule for a tied config that stores both.

    `tie`: the user's choice; True uses the embedding as the head, False the stored head, None decides nothing.
    `assumed`: the config does not set `tie_word_embeddings`, and transformers has no class for the family. Its remote
    code runs on transformers 4, so a family that ties by default uses the embedding.
    """

    embedding: str
    head: str
    tie: bool | None = None
    assumed: bool = False

    def settle(self, spec: Spec, tensors: Mapping[str, Lazy]) -> tuple[Spec, Mapping[str, Lazy]]:
        """Return the spec and tensors with one head. Raises CheckpointError if the choice is ambiguous."""
        return self._tied(spec, tensors) if spec.head.tied else self._untied(spec, tensors)

    def note(self, spec: Spec, tensors: Mapping[str, Lazy]) -> str | None:
        """Return a note if a stored head is ignored because the family ties it by default; None otherwise."""
        if not (self.assumed and spec.head.tied and self.embedding in tensors and self.head in tensors):
            return None
        return (
            f"{self.head}: ignored: the config does not set tie_word_embeddings, and the family's own code ties the "
            f"head to {self.embedding}"
        )

    def _tied(self, spec: Spec, tensors: Mapping[str, Lazy]) -> tuple[Spec, Mapping[str, Lazy]]:
        head, embedding = tensors.get(self.head), tensors.get(self.embedding)
        if head is None:
            return spec, tensors
        rest = {name: tensor for name, tensor in tensors.items() if name != self.head}
        if embedding is None:
            return spec, {**rest, self.embedding: head}
        if self.tie is False:
            return _with(spec, tied=False), tensors
        if self.tie is None and not self.assumed and not equal(head, embedding):
            raise CheckpointError(
                f"{self.head}: differs from {self.embedding}, to which the config ties it (transformers 5 would use "
                f"{self.head}, transformers 4 {self.embedding}); choose with kept convert: --untie uses {self.head}, "
                f"--tie {self.embedding}"
            )
        return spec, rest

    def _untied(self, spec: Spec, tensors: Mapping[str, Lazy]) -> tuple[Spec, Mapping[str, Lazy]]:
        if self.head in tensors:
            if self.tie:
                raise CheckpointError(f"{self.head}: is stored, and the config does not tie it; remove --tie")
            return spec, tensors
        if self.tie:
            return _with(spec, tied=True), tensors
        raise CheckpointError(
            f"{self.head}: missing from the checkpoint, and tie_word_embeddings is false; "
            f"if {self.embedding} is also the head, use kept convert --tie"
        )


def _with(spec: Spec, *, tied: bool) -> Spec:
    return replace(spec, head=replace(spec.head, tied=tied))
