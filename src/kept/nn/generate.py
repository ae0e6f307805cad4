"""Batched generation, greedy or sampled, with left padding and a decoding state."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from kept.errors import InputError, Overflow
from kept.ir.spec import LongRope

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from torch import Tensor

    from kept.nn.model import Model


@torch.inference_mode()
def generate(  # noqa: PLR0913 - each is an option that callers name
    model: Model,
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    *,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
    stop: Callable[[Sequence[int]], bool] | None = None,
    ends: Collection[int] | None = None,
) -> list[list[int]]:
    """Continue each prompt by up to `new_tokens` ids; returns the new ids, without the end token.

    A row ends at one of `ends` (by default the end tokens of the spec), or when `stop(its new ids)` is true.
    Temperature 0 is greedy. Rows of unequal length are padded on the left and masked, so that a row's result does not
    depend on the other rows. `progress` is called with 1 after each step. Raises InputError for an empty prompt, a
    prompt that leaves no room in the context, a token id outside the vocabulary, or a top-p outside (0, 1], and
    Overflow if a token is sampled from NaN or Inf logits.
    """
    _check(model, prompts, new_tokens)
    if not 0 < top_p <= 1:
        raise InputError(f"top-p is {top_p}, it must be above 0 and at most 1")
    device = model.embedding.weight.device
    longest = max(len(prompt) for prompt in prompts)
    pads = [longest - len(prompt) for prompt in prompts]
    pads_B = torch.tensor(pads, device=device) if any(pads) else None
    tokens_BT = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    state, switch, seen_BT = model.empty_state(), _switch(model), tokens_BT
    random = torch.Generator().manual_seed(seed)
    ends = _ends(model) if ends is None else ends
    done, out = [False] * len(prompts), [[] for _ in prompts]  # type: tuple[list[bool], list[list[int]]]
    for _ in range(new_tokens):
        last_BV = model.logits(model.hidden(tokens_BT, state, pads_B)[:, -1])
        chosen_B = _choose(last_BV.cpu(), temperature, top_p, random)
        for row, token in enumerate(chosen_B.tolist()):
            done[row] = done[row] or token in ends
            if not done[row]:
                out[row].append(token)
                done[row] = stop is not None and stop(out[row])
        if progress is not None:
            progress(1)
        if all(done):
            break
        tokens_BT = chosen_B[:, None].to(device)
        seen_BT = torch.cat((seen_BT, tokens_BT), dim=1)
        if seen_BT.shape[1] - 1 in switch:
            # Cached keys have the short divisors, and from here on every key has the long ones.
            tokens_BT, state = seen_BT, model.empty_state()
    return out


def _check(model: Model, prompts: Sequence[Sequence[int]], new_tokens: int) -> None:
    largest = max((token for prompt in prompts for token in prompt), default=0)
    if largest >= model.spec.vocabulary:
        raise InputError(f"token {largest} is past the model's {model.spec.vocabulary}: is it another's tokenizer?")
    if not prompts or not all(prompts):
        raise InputError("the prompt is empty; give at least one token")
    longest = max(len(prompt) for prompt in prompts)
    if longest + new_tokens > model.spec.context:
        raise InputError(
            f"{longest} prompt tokens and {new_tokens} new ones pass the model's {model.spec.context} positions: "
            "shorten the prompt or ask for fewer tokens"
        )


def _switch(model: Model) -> frozenset[int]:
    """The lengths after which LongRoPE changes the rotation of every position."""
    scalings = [rope.scaling for rope in model.spec.ropes()]
    return frozenset(s.original_max_position_embeddings for s in scalings if isinstance(s, LongRope))


def _ends(model: Model) -> frozenset[int]:
    eos = model.spec.tokens.eos
    if eos is None:
        return frozenset()
    return frozenset((eos,) if isinstance(eos, int) else eos)


def _choose(logits_BV: Tensor, temperature: float, top_p: float, random: torch.Generator) -> Tensor:
    if temperature <= 0:
        return logits_BV.argmax(dim=-1)
    p_BV = torch.softmax(logits_BV.float() / temperature, dim=-1)
    if bool(p_BV.isnan().any()):
        raise Overflow(
            "the model's logits are not finite, so no token can be sampled; kept check names the weights at fault"
        )
    if top_p < 1:
        sorted_BV, order_BV = p_BV.sort(dim=-1, descending=True)
        outside_BV = sorted_BV.cumsum(dim=-1) - sorted_BV >= top_p
        p_BV = p_BV.scatter(-1, order_BV, sorted_BV.masked_fill(outside_BV, 0))
    return torch.multinomial(p_BV, 1, generator=random)[:, 0]
