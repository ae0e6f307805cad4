"""Commands in README and documentation print what the pages show."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
import transcripts
from transcripts import TRANSCRIPT, Transcript

if TYPE_CHECKING:
    from pathlib import Path

    from _pytest.mark import ParameterSet

PAGE = """<!-- transcript: {} -->
```sh
kept heal out/plain
```

```text
{}```
"""

SHOWN = """out/plain: written in 4.5 s

 held-out     before    after 49152 tokens
 ─────────────────────────────────────────
 ce, nats     3.16      3.151 ± 0.012
promise exact: kept
"""


def transcript(shown: str = SHOWN, rules: str = "within 2 %") -> Transcript:
    found = TRANSCRIPT.search(PAGE.format(rules, shown))
    assert found is not None
    return Transcript.of(found)


def test_equal_outputs_agree() -> None:
    assert transcript().agrees(SHOWN)


@pytest.mark.parametrize(
    ("shown", "printed"),
    [("4.5 s", "17 s"), ("─────", "──"), ("before    after", "before  after"), ("3.151", "3.152"), ("3.151", "3.20")],
)
def test_durations_widths_and_decimals_within_the_tolerance_may_differ(shown: str, printed: str) -> None:
    assert transcript().agrees(SHOWN.replace(shown, printed))


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("3.151", "3.08"),
        ("± 0.012", "± 0.013"),
        ("3.151", "3"),
        ("49152", "49153"),
        ("exact", "lossy"),
        ("promise exact: kept\n", ""),
        ("promise", "one more line\npromise"),
    ],
)
def test_negative_control(shown: str, printed: str) -> None:
    assert not transcript().agrees(SHOWN.replace(shown, printed))


def test_without_a_tolerance_decimals_are_equal() -> None:
    assert not transcript(rules="long").agrees(SHOWN.replace("3.151", "3.152"))


@pytest.mark.parametrize(("shown", "agrees"), [("5.9e-12", True), ("5.9e-9", False), ("0", False)])
def test_rounding_errors_in_float64_may_differ(shown: str, agrees: bool) -> None:  # noqa: FBT001
    assert transcript(f"error {shown}\n", "long").agrees("error 1.2e-11\n") == agrees


@pytest.mark.parametrize(
    ("shown", "agrees"), [("a\n...\nd\n", True), ("...\n", True), ("a\n...\n", True), ("a\n...\nc\n", False)]
)
def test_an_ellipsis_stands_for_any_lines(shown: str, agrees: bool) -> None:  # noqa: FBT001
    assert transcript(shown).agrees("a\nb\nc\nd\n") == agrees


def test_unknown_rules_are_refused() -> None:
    with pytest.raises(ValueError, match="within much"):
        transcript(rules="within much")


def test_every_comment_stands_before_a_transcript() -> None:
    for page in transcripts.pages():
        text = (transcripts.ROOT / page).read_text(encoding="utf-8")
        found = [Transcript.of(one) for one in TRANSCRIPT.finditer(text)]
        assert len(re.findall("<!-- transcript:", text)) == sum(one.long or one.within > 0 for one in found)


def test_outputs_are_written_in_their_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a page whose second output is stale."""
    monkeypatch.setattr(transcripts, "ROOT", tmp_path)
    block = "```sh\necho {} 2.5 | tee -a out/file\n```\n\n```text\n{} 2.5\n```\n"
    page = tmp_path / "page.md"
    page.write_text(block.format("a", "a") + "words\n" + block.format("b", "c") + "more words\n")
    different = transcripts.run("page.md")
    assert [one.output for one in different] == ["b 2.5\n"]
    transcripts.write("page.md", different)
    assert page.read_text() == block.format("a", "a") + "words\n" + block.format("b", "b") + "more words\n"
    assert transcripts.run("page.md") == []


def test_a_failing_command_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcripts, "ROOT", tmp_path)
    (tmp_path / "page.md").write_text("```sh\nls /nowhere | cat\n```\n\n```text\n```\n")
    with pytest.raises(SystemExit, match="exit code 2 of"):
        transcripts.run("page.md")


def params() -> list[ParameterSet]:
    """The pages; those that need files are marked `real`."""
    return [pytest.param(page, marks=[pytest.mark.real] * (page in transcripts.NEEDS)) for page in transcripts.pages()]


@pytest.mark.slow
@pytest.mark.parametrize("page", params())
def test_pages_show_what_their_commands_print(page: str) -> None:
    if absent := transcripts.missing(page):
        pytest.skip(f"needs {', '.join(absent)}: make smollm2 fetches the model")
    assert transcripts.run(page) == [], "python docs/transcripts.py --write, and read the difference"
