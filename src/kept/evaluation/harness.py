"""`lm-eval`'s model interface for `kept.nn.Model`: loglikelihood, rolling loglikelihood, and generation.

Requests run in batches of similar length, padded on the right, which causal attention ignores. Logits are computed only
for the scored tokens.
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from kept.errors import InputError
from kept.evaluation.answering import answers, batches
from kept.evaluation.scoring import score_hidden, score_sliding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kept.evaluation.subject import Subject

    Answer = tuple[float, bool]
    Pair = tuple[Any, list[int], list[int]]

NEW_TOKENS = 256
"""Default maximum number of tokens in an answer."""


class Harness(TemplateLM):  # type: ignore[misc] # lm-eval ships no types
    """`lm-eval`'s view of a subject. Decoding is greedy; contexts that are too long are truncated at the left."""

    def __init__(self, subject: Subject, task: str = "requests") -> None:
        super().__init__()
        self.subject, self.stage = subject, f"{task}, {subject.loaded.name}"

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

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Return the token ids of a text."""
        return self.subject.encode(string, special=add_special_tokens is not False)

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[Answer]:
        """Return the log-probability in nats of each continuation, and whether it is the greedy one."""
        found: list[Answer] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any], **_: Any) -> list[float]:
        """Return the log-probability in nats of each text, in windows of the model's context."""
        return [self._rolling(*request.args) for request in requests]

    def generate_until(self, requests: Sequence[Any], **_: Any) -> list[str]:
        """Return the greedy answer to each prompt, up to the first stop text."""
        by_options: dict[tuple[tuple[str, ...], int], list[int]] = defaultdict(list)
        for n, request in enumerate(requests):
            by_options[_generation_options(**request.args[1])].append(n)
        out = [""] * len(requests)
        for (until, new), some in by_options.items():
            prompts = [self.tok_encode(requests[n].args[0]) for n in some]
            for n, text in zip(some, answers(self.subject, prompts, new, until, stage=self.stage), strict=True):
                out[n] = text
        return out

    def _rolling(self, text: str) -> float:
        ids, most = self.tok_encode(text), self.subject.context
        parts = get_rolling_token_windows(ids, self.prefix_token_id, most, 1)
        return sum(found[0] for found in self._loglikelihood_tokens([("", *make_disjoint_window(p)) for p in parts]))

    def _loglikelihood_tokens(self, requests: Sequence[Pair], **_options: Any) -> list[Answer]:
        """Score (texts, context, continuation) requests. Requests with the same input share one row of a batch."""
        out: list[Answer] = [(0.0, True)] * len(requests)
        by_input: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for n, (_, context, continuation) in enumerate(requests):
            if len(continuation) > self.subject.context:
                out[n] = self._long(context, continuation)
            elif continuation:
                by_input[tuple((context + continuation)[-self.subject.context - 1 : -1])].append(n)
        rows = [*by_input]
        with self.subject.reporter.stage(self.stage, len(rows), "sequences") as advance:
            for some in batches(self.subject.spec, [len(row) for row in rows]):
                asked = [(place, n) for place, at in enumerate(some) for n in by_input[rows[at]]]
                targets = [(place, requests[n][2]) for place, n in asked]
                found = self.subject.journal.take(partial(self._batch, [rows[at] for at in some], targets))
                for (_, n), (nats, greedy) in zip(asked, found, strict=True):
                    out[n] = nats, greedy
                advance(len(some))
        return out

    @torch.inference_mode()
    def _batch(self, rows: Sequence[tuple[int, ...]], asked: Sequence[tuple[int, list[int]]]) -> list[Answer]:
        """Return the score of each (row number, target ids); the targets end one token after the end of their row."""
        model, longest = self.subject.model, max(map(len, rows))
        tokens_BT = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=self.subject.device)
        hidden_BTD = model.hidden(tokens_BT)
        x_ND = torch.cat([hidden_BTD[at, len(rows[at]) - len(ids) : len(rows[at])] for at, ids in asked])
        targets_N = torch.tensor([token for _, ids in asked for token in ids])
        nats_N, best_N = score_hidden(model, x_ND, targets_N.to(x_ND.device))
        sizes = [len(ids) for _, ids in asked]
        pieces = zip(*(torch.split(values, sizes) for values in (nats_N, best_N, targets_N)), strict=True)
        return [(-float(nats.sum()), bool((best == targets).all())) for nats, best, targets in pieces]

    def _long(self, context: list[int], continuation: list[int]) -> Answer:
        """Score a continuation that is longer than the model's context, in sliding windows."""
        most, count = self.subject.context, len(continuation)
        ids, step = context[-most:] + continuation, max(1, most // 2)
        nats, best = score_sliding(self.subject.model, ids, most, step, journal=self.subject.journal)
        return -float(nats[-count:].sum()), best[-count:].tolist() == continuation


def _generation_options(
    until: str | Sequence[str] = (), max_gen_toks: int = NEW_TOKENS, **rest: Any
) -> tuple[tuple[str, ...], int]:
    """Return the stop texts and the maximum length of an answer. Sampling is not supported."""
    assert not rest.get("do_sample"), rest
    return (until,) if isinstance(until, str) else tuple(text for text in until if text), max_gen_toks
