"""Which matrix is the head, where a config ties it to the embedding and a checkpoint stores one or both.

transformers 5 ties the two where only one is stored or both are equal, and otherwise keeps the stored head;
transformers 4 always takes the embedding. So where the two differ the user chooses.
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
class Head:
    """The names under which a family stores embedding and head, and what decides where both are stored and differ.

    `tie`: the user's choice; True takes the embedding for the head, False the stored head. `assumed`: the config is
    silent, its family ties them, and only the family's own code runs it, under transformers 4: the embedding counts.
    """

    embedding: str
    head: str
    tie: bool | None = None
    assumed: bool = False

    def settle(self, spec: Spec, tensors: Mapping[str, Lazy]) -> tuple[Spec, Mapping[str, Lazy]]:
        """The spec and the tensors with one head. Raises CheckpointError where it is not clear which one it is."""
        return self._tied(spec, tensors) if spec.head.tied else self._own(spec, tensors)

    def note(self, spec: Spec, tensors: Mapping[str, Lazy]) -> str | None:
        """That a stored head does not count because the family's own code ties it; None where none is stored."""
        if not (self.assumed and spec.head.tied and self.embedding in tensors and self.head in tensors):
            return None
        return f"{self.head}: not used: the config is silent, and the family's own code takes {self.embedding} for it"

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
                f"{self.head}: differs from {self.embedding}, to which the config ties it (transformers 5 uses "
                f"it, transformers 4 does not); kept convert --untie takes {self.head}, --tie {self.embedding}"
            )
        return spec, rest

    def _own(self, spec: Spec, tensors: Mapping[str, Lazy]) -> tuple[Spec, Mapping[str, Lazy]]:
        if self.head in tensors:
            if self.tie:
                raise CheckpointError(f"{self.head}: is stored, and the config does not tie it; leave --tie out")
            return spec, tensors
        if self.tie:
            return _with(spec, tied=True), tensors
        raise CheckpointError(
            f"{self.head}: missing from the checkpoint, and tie_word_embeddings is false; "
            f"if {self.embedding} is the head, kept convert --tie says so"
        )


def _with(spec: Spec, *, tied: bool) -> Spec:
    return replace(spec, head=replace(spec.head, tied=tied))
