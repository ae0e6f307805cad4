"""The padding token of a config, for a class that sets its row of the embedding to zero."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import kept
from kept.ir.spec.model import TokenIds
from kept.passes.drop_pad_token import DropPadToken
from support.logits import some_tokens, stock_logits, worst
from support.models import write_checkpoint
from support.pass_contract import ExactPassContract
from support.pass_helpers import rewritten, rms_spec
from support.stored import change_json

if TYPE_CHECKING:
    from pathlib import Path

    from kept.ir.program import Program

PADDED = replace(rms_spec(), tokens=TokenIds(pad=2))


class TestDropPadToken(ExactPassContract):
    rewrite = DropPadToken()
    works_on: ClassVar = {"a padding token": PADDED}
    refused = ((rms_spec(), "tokens.pad: is not set; leave this pass out"),)

    def check(self, before: Program, after: Program) -> None:
        assert not rewritten(before, after)
        assert after.spec == replace(before.spec, tokens=TokenIds())


def test_the_stock_class_keeps_the_row_of_the_token(tmp_path: Path) -> None:
    """Negative control: with the token in its config, the class has other logits, on texts without that token too."""
    source = write_checkpoint(tmp_path / "llama", "llama", pad_token_id=2, tie_word_embeddings=True)
    done = kept.convert(source, tmp_path / "youtu", to="youtu", dtype="float32", verify_tokens=0)
    assert "drop-pad-token" in [step.rewrite.name for step in done.plan.steps]
    tokens = some_tokens()
    wanted = stock_logits(source, tokens)
    assert worst(stock_logits(done.path, tokens), wanted) < 1e-5
    change_json(done.path / "config.json", pad_token_id=2)
    assert worst(stock_logits(done.path, tokens), wanted) > 1e-2
    assert "pad_token_id is 2, it must be null" in complaint(done.path)


def complaint(path: Path) -> str:
    """What `kept` says of a checkpoint."""
    try:
        kept.inspect(path)
    except kept.KeptError as error:
        return str(error)
    return ""
