"""Small tokenizers of both kinds, as models have them, and texts of two languages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kept.checkpoint.tokenizer_reader import TokenizerReader
from kept.checkpoint.tokenizer_worker import load
from kept.tokenizer.train import train_tokenizer
from support.stored import change_json, read_json, write_json

if TYPE_CHECKING:
    from pathlib import Path

    from tokenizers import Tokenizer


def inside(directory: Path) -> Tokenizer:
    """Load a directory's tokenizer in this process."""
    file = TokenizerReader(directory).file
    assert file is not None
    return load(file)


ENGLISH = """The keeper of the light counted seven ships, and one of them was late. They were there in the weather.
The reader reacted to the react component; another order was later ordered by the leader of the leaders.
"""
KOREAN = """등대지기는 배 일곱 척을 세었고 그 중 한 척이 늦었다. 그들은 다른 날씨에 거기에 있었다.
안녕하세요, 반갑습니다. 서버 컴포넌트를 소개합니다.
컴포넌트는 서버에서 렌더링합니다. 감사합니다! 읽는 사람은 다시 읽습니다.
"""
GERMAN = """Der Leuchtturm zählte die Schiffe, und eines der Schiffe war später dran. Die Leser lasen weiter.
Die anderen ordneten die Wetterberichte: wieder und wieder, der eine wie der andere, unter dem Wetterleuchten.
Über den Klippen rauschte das Meer, während der Wärter die Lampe putzte und seine Bücher weglegte.
"""


def corpus(directory: Path, text: str, name: str = "corpus.txt") -> Path:
    file = directory / name
    file.write_text(text * 6, encoding="utf-8")
    return file


def of_a_model(directory: Path, kind: str, text: str = ENGLISH, size: int = 340) -> Path:
    """A model's own tokenizer: trained on English, with a template that begins each text."""
    directory.mkdir(parents=True, exist_ok=True)
    made = train_tokenizer([corpus(directory, text)], directory / "made", vocab_size=size, kind=kind)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (made.path / name).rename(directory / name)
    made.path.rmdir()
    (directory / "corpus.txt").unlink()
    begin = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    template = {
        "type": "TemplateProcessing",
        "single": [begin, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [begin, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    }
    change_json(directory / "tokenizer.json", post_processor=template)
    return directory


def change_model(directory: Path, **changes: object) -> Path:
    """Change the `model` part of a tokenizer's file."""
    document = read_json(directory / "tokenizer.json")
    write_json(directory / "tokenizer.json", {**document, "model": {**document["model"], **changes}})
    return directory
