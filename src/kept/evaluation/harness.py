"""`lm-eval`'s model interface for `kept.nn.Model`: loglikelihood, rolling loglikelihood, and generation.

Sequences with a common prefix, such as the choices of a question, are packed into trees (`packing`), so that the prefix
is computed once. Rows of similar length run together, padded on the right. Logits are computed only for scored tokens.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property, partial
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from kept.checkpoint.chat_template import Conversation
from kept.errors import InputError
from kept.evaluation.answering import answers, batches, lengths_matter
from kept.evaluation.chat import special_texts, template_of
from kept.evaluation.packing import Tree, trees
from kept.evaluation.scoring import score_hidden, score_sliding
from kept.ir.spec import Attention, LatentAttention

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kept.checkpoint.chat_template import Template
    from kept.evaluation.subject import Subject

    Answer = tuple[float, bool]
    Pair = tuple[Any, list[int], list[int]]

NEW_TOKENS = 256
"""Default maximum number of tokens in an answer."""


class Harness(TemplateLM):  # type: ignore[misc] # lm-eval ships no types
    """`lm-eval`'s view of a subject. Decoding is greedy; contexts that are too long are truncated at the left.

    `batch` is the number of rows that run together; None chooses it by their length.
    """

    def __init__(self, subject: Subject, task: str = "requests", batch: int | None = None, date: str = "") -> None:
        super().__init__()
        self.subject, self.task, self.batch, self.date = subject, task, batch, date
        self._encoded: dict[tuple[str, bool], list[int]] = {}

    @property
    def eot_token_id(self) -> int:
        """The end-of-text token. Raises InputError if the config has none."""
        eos = self.subject.spec.tokens.eos
        if eos is None:
            raise InputError(f"{self.subject.loaded.path}: its config has no eos_token_id, which this task needs")
        return eos if isinstance(eos, int) else eos[0]

    @property
    def prefix_token_id(self) -> int:
        """The token before a text that is scored from its first token on: BOS, or EOS if there is no BOS."""
        bos = self.subject.spec.tokens.bos
        return self.eot_token_id if bos is None else bos

    @cached_property
    def template(self) -> Template:
        """The chat template. Raises InputError if the model has none."""
        return template_of(self.subject, self.date)

    @property
    def tokenizer_name(self) -> str:
        """The name under which lm-eval caches requests."""
        return self.subject.loaded.name

    def chat_template(self, chat_template: bool | str = False) -> str:  # noqa: ARG002 - lm-eval's name
        """Return the text of the chat template."""
        return "\n".join(self.template.texts.values())

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return the prompt of a conversation; without a generation prompt it continues the last message."""
        talk = Conversation(chat_history)
        if add_generation_prompt:
            return self.template.render(talk)
        return self.template.render(Conversation(chat_history[:-1])) + chat_history[-1]["content"]

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Return the token ids of a text; special tokens are not added to a text that begins with BOS."""
        key = (string, self._adds(string) if add_special_tokens is None else add_special_tokens)
        if key not in self._encoded:
            return self.subject.encode(string, special=key[1])
        return self._encoded[key]

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[Answer]:
        """Return the log-probability in nats of each continuation, and whether it is the greedy one."""
        pairs = [request.args for request in requests if request.args[0]]
        self._encode([text for context, more in pairs for text in (context.rstrip(), context + more)])
        found: list[Answer] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        self._encoded = {}
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any], **_: Any) -> list[float]:
        """Return the log-probability in nats of each text, in windows of the model's context."""
        windows = [self._windows(request.args[0]) for request in requests]
        found = self._loglikelihood_tokens([window for some in windows for window in some])
        ends = [*accumulate(map(len, windows), initial=0)]
        return [sum(nats for nats, _ in found[a:b]) for a, b in pairwise(ends)]

    def generate_until(self, requests: Sequence[Any], **_: Any) -> list[str]:
        """Return the greedy answer to each prompt, up to the first stop text."""
        by_options: dict[tuple[tuple[str, ...], int], list[int]] = defaultdict(list)
        for n, request in enumerate(requests):
            by_options[self._generation_options(**request.args[1])].append(n)
        self._encode([request.args[0] for request in requests])
        out = [""] * len(requests)
        for (until, new), some in by_options.items():
            prompts = [self.tok_encode(requests[n].args[0]) for n in some]
            for n, text in zip(some, answers(self.subject, prompts, new, until, self._stage, self.batch), strict=True):
                out[n] = text
        self._encoded = {}
        return out

    @property
    def _stage(self) -> str:
        return f"{self.task}, {self.subject.loaded.name}"

    @cached_property
    def _prefix(self) -> str:
        """The text of BOS; "" if the tokenizer has none."""
        return special_texts(self.subject).get("bos_token", "")

    def _adds(self, text: str) -> bool:
        return not (self._prefix and text.startswith(self._prefix))

    def _encode(self, texts: Sequence[str]) -> None:
        """Tokenise texts together, which takes one call of the tokenizer's process."""
        for special in (True, False):
            some = [*dict.fromkeys(text for text in texts if self._adds(text) is special)]
            found = self.subject.encode_all(some, special=special)
            self._encoded |= {(text, special): ids for text, ids in zip(some, found, strict=True)}

    def _windows(self, text: str) -> list[Pair]:
        ids, most = self.tok_encode(text), self.subject.context
        return [("", *make_disjoint_window(w)) for w in get_rolling_token_windows(ids, self.prefix_token_id, most, 1)]

    def _loglikelihood_tokens(self, requests: Sequence[Pair], **_options: Any) -> list[Answer]:
        """Score (texts, context, continuation) requests. Requests with the same input share a sequence."""
        out: list[Answer] = [(0.0, True)] * len(requests)
        by_input: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for n, (_, context, continuation) in enumerate(requests):
            if len(continuation) > self.subject.context:
                out[n] = self._long(context, continuation)
            elif continuation:
                by_input[tuple((context + continuation)[-self.subject.context - 1 : -1])].append(n)
        inputs = [*by_input.items()]
        rows = self._rows([ids for ids, _ in inputs], [max(len(requests[n][2]) for n in some) for _, some in inputs])
        with self.subject.reporter.stage(self._stage, len(inputs), "sequences") as advance:
            for some in batches(self.subject.spec, [len(row.tokens) for row in rows], self.batch):
                held = [(place, number) for place, at in enumerate(some) for number in rows[at].places]
                asked = [(place, number, n) for place, number in held for n in inputs[number][1]]
                targets = [(place, rows[some[place]].places[i], requests[n][2]) for place, i, n in asked]
                found = self.subject.journal.take(partial(self._batch, [rows[at] for at in some], targets))
                for (_, _, n), (nats, greedy) in zip(asked, found, strict=True):
                    out[n] = nats, greedy
                advance(len(held))
        return out

    def _rows(self, inputs: Sequence[Sequence[int]], tails: Sequence[int]) -> list[Tree]:
        """Return the inputs as trees; each is alone if a mixer cannot read trees, or if rotations depend on lengths."""
        spec = self.subject.spec
        mixers = [layer.mixer for layer in spec.layers if layer.mixer is not None]
        shares = all(isinstance(mixer, Attention | LatentAttention) for mixer in mixers) and not lengths_matter(spec)
        return [*trees(inputs, tails, spec.width if shares else 0)]

    @torch.inference_mode()
    def _batch(self, rows: Sequence[Tree], asked: Sequence[tuple[int, list[int], list[int]]]) -> list[Answer]:
        """Return the score of each (row, indices of its last tokens, target ids); targets follow their last tokens."""
        model, longest = self.subject.model, max(len(row.tokens) for row in rows)
        tokens_BT = torch.tensor([row.tokens + [0] * (longest - len(row.tokens)) for row in rows])
        ends_BT = torch.tensor([row.ends + [longest] * (longest - len(row.ends)) for row in rows])
        branched = any(row.branched for row in rows)
        hidden_BTD = model.hidden(
            tokens_BT.to(self.subject.device), ends_BT=ends_BT.to(self.subject.device) if branched else None
        )
        at_N = torch.tensor([longest * place + at for place, places, ids in asked for at in places[-len(ids) :]])
        targets_N = torch.tensor([token for _, _, ids in asked for token in ids])
        x_ND = hidden_BTD.flatten(0, 1)[at_N.to(self.subject.device)]
        nats_N, best_N = score_hidden(model, x_ND, targets_N.to(x_ND.device))
        sizes = [len(ids) for _, _, ids in asked]
        pieces = zip(*(torch.split(values, sizes) for values in (nats_N, best_N, targets_N)), strict=True)
        return [(-float(nats.sum()), bool((best == targets).all())) for nats, best, targets in pieces]

    def _long(self, context: list[int], continuation: list[int]) -> Answer:
        """Score a continuation that is longer than the model's context, in sliding windows."""
        most, count = self.subject.context, len(continuation)
        ids, step = context[-most:] + continuation, max(1, most // 2)
        nats, best = score_sliding(self.subject.model, ids, most, step, journal=self.subject.journal)
        return -float(nats[-count:].sum()), best[-count:].tolist() == continuation

    def _generation_options(
        self, until: str | Sequence[str] = (), max_gen_toks: int = NEW_TOKENS, **rest: Any
    ) -> tuple[tuple[str, ...], int]:
        """Return the stop texts and the maximum length of an answer. Raises InputError if the task samples."""
        if rest.get("do_sample") and rest.get("temperature", 1.0) > 0:
            raise InputError(f"{self.task}: asks for sampled answers (do_sample); kept answers greedily")
        return (until,) if isinstance(until, str) else tuple(text for text in until if text), max_gen_toks
