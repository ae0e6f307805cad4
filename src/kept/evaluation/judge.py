"""A judge model that grades answers, behind an OpenAI-compatible chat completions endpoint."""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import dataclass
from http.client import HTTPException
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from kept.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

KEY = "KEPT_JUDGE_KEY"
"""Environment variable with the API key of the endpoint."""

TRIES, TIMEOUT = 4, 120.0
"""Maximum number of requests to a busy endpoint, and timeout of one request in seconds."""

LONGEST = 16 << 20
"""Maximum size of an answer in bytes."""


class _NoRedirects(HTTPRedirectHandler):
    """Refuses redirects, which would send the API key to another address."""

    def redirect_request(self, *_: object) -> None:
        """Return no request, so that the redirect is an HTTPError."""


OPENER = build_opener(_NoRedirects)

BUSY = {408, 409, 429, 500, 502, 503, 504}

TASK = (
    "You grade the answer of an assistant to a question. Consider whether it is correct, helpful, to the point and "
    "deep enough. Give your reason in two sentences, then, on a line of its own, the grade from 1 (useless) to 10 "
    "(could not be better), written as: Grade: [[5]]"
)


@dataclass(frozen=True)
class Judge:
    """An endpoint as `https://host/v1`, and its model. `pause`: seconds before the first retry, doubled each time."""

    url: str
    model: str
    pause: float = 2.0

    def __post_init__(self) -> None:
        """Raise InputError if the URL is not an HTTP address."""
        if not re.match(r"https?://[^/\s]+", self.url):
            raise InputError(f"judge: is {self.url!r}, it must be a URL such as https://host/v1")

    def score(self, question: dict[str, Any], answers: Sequence[str], turn: int) -> float:
        """Return the grade, from 1 to 10, of the answer to one turn; the judge sees all turns up to it.

        Raises InputError if the endpoint returns no answer or no grade.
        """
        reply = self._ask(
            [{"role": "system", "content": TASK}, {"role": "user", "content": judge_prompt(question, answers, turn)}]
        )
        found = re.findall(r"\[\[\s*(\d+(?:\.\d+)?)\s*\]\]", reply)
        if not found or not 1 <= float(found[-1]) <= 10:
            raise InputError(f"{self.url}: returned no grade from 1 to 10 but {reply[:200]!r}; use another judge model")
        return float(found[-1])

    def _ask(self, messages: list[dict[str, str]]) -> str:
        body = json.dumps({"model": self.model, "messages": messages, "temperature": 0}).encode()
        headers = {"Content-Type": "application/json"}
        if os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {os.environ[KEY]}"
        address = f"{self.url.rstrip('/')}/chat/completions"
        answer = self._send(Request(address, body, headers))  # noqa: S310 - __post_init__ checks the scheme
        try:
            content: str = answer["choices"][0]["message"]["content"]
        except (LookupError, TypeError):
            raise InputError(f"{self.url}: is not a chat completions endpoint ({str(answer)[:200]})") from None
        return content or ""

    def _send(self, request: Request) -> Any:  # noqa: ANN401 - any JSON
        for tried in range(1, TRIES + 1):
            try:
                with OPENER.open(request, timeout=TIMEOUT) as answer:
                    return json.loads(answer.read(LONGEST))  # a truncated answer is not valid JSON
            except HTTPError as error:
                if error.code not in BUSY or tried == TRIES:
                    hint = f"; is {KEY} set?" if error.code in {401, 403} else ""
                    raise InputError(f"{self.url}: answers {error.code} {error.reason}{hint}") from None
            except (OSError, HTTPException, ValueError, RecursionError) as error:
                if tried == TRIES:
                    raise InputError(
                        f"{self.url}: request failed ({error}); finished grades are stored, run again to continue"
                    ) from None
            time.sleep(self.pause * 2 ** (tried - 1))
        raise AssertionError


def judge_prompt(question: dict[str, Any], answers: Sequence[str], turn: int) -> str:
    """Return the conversation up to a turn as text for the judge, with reference answers if there are any."""
    parts = []
    for n in range(turn + 1):
        parts.append(f"[Question {n + 1}]\n{question['turns'][n]}")
        if question["references"]:
            parts.append(f"[Reference answer {n + 1}]\n{question['references'][n]}")
        parts.append(f"[The assistant's answer {n + 1}]\n{answers[n]}")
    return "\n\n".join([*parts, f"Grade the assistant's answer {turn + 1}."])
