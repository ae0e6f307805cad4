"""A conversation with a model, turn by turn."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kept.commands.sampling import check_texts, checked_sampling, opening_messages, user_message
from kept.commands.text_model import TextModel
from kept.device import AUTO, dtype_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kept.commands.sampling import Sampling


@dataclass
class Chat:
    """A conversation. `messages` are the turns so far, the system's message first if there is one."""

    model: TextModel
    sampling: Sampling
    messages: list[dict[str, str]] = field(default_factory=list)

    @classmethod
    def open(  # noqa: PLR0913 - the options of `kept.generate`
        cls,
        path: str | Path,
        *,
        system: str | None = None,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        device: str = AUTO,
        dtype: str | None = None,
    ) -> Chat:
        """Begin a conversation with a model; the options are those of `kept.generate`.

        Raises InputError for a wrong option, and for a model without a chat template.
        """
        sampling = checked_sampling(max_new_tokens, temperature, top_p, seed, chat=True)
        check_texts([system or ""])
        model = TextModel.open(path, device, dtype_name(dtype))
        assert model.template is not None  # raises InputError before anything is said
        return cls(model, sampling, opening_messages(system))

    def say(self, text: str, write: Callable[[str], None] | None = None) -> str:
        """Return the answer to the user's next turn; `write` receives it piece by piece, as it is generated."""
        check_texts([text])
        turns = [*self.messages, user_message(text)]
        answer = self.model.answer(turns, self.sampling, write)
        self.messages = [*turns, {"role": "assistant", "content": answer.strip()}]
        return answer
