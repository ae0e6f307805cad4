"""Text, JSON lines, parquet and directories of them, as documents; and what is said of files that are none."""

from __future__ import annotations

import json
import os
import resource
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kept.distillation.data.documents import Document, TextSource, named_paths
from kept.distillation.data.parquet import rows
from kept.errors import InputError
from kept.fence import Limits
from support.heal_data import write_lines


def read(*paths: Path, **options: object) -> list[Document]:
    return list(TextSource(paths, **options).documents())  # type: ignore[arg-type]


def texts(*paths: Path, **options: object) -> list[str]:
    return [document.text for document in read(*paths, **options)]


def write_table(file: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), file, row_group_size=2)
    return file


# --------------------------------------------------------------------------------------------------------------- text


def test_a_short_text_is_one_document(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("One\n\ntwo 한국어 🙂\x85\u2028three", encoding="utf-8")
    (found,) = read(file)
    assert found.text == "One\n\ntwo 한국어 🙂\x85\u2028three"
    assert (found.file, found.place, found.nbytes) == (0, 1, file.stat().st_size)


def test_a_long_text_is_cut_at_blank_lines(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    parts = ["one one\nstill one\n\n", "two two two\n\n", "end"]
    file.write_text("".join(parts), encoding="utf-8")
    found = read(file, piece=10)
    assert [document.text for document in found] == parts
    assert [document.place for document in found] == [1, 4, 6]
    assert sum(document.nbytes for document in found) == file.stat().st_size


def test_a_text_without_blank_lines_is_cut_at_twice_the_size(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("1234567\n" * 10, encoding="utf-8")
    assert texts(file, piece=16) == ["1234567\n" * 4, "1234567\n" * 4, "1234567\n" * 2]


def test_what_is_appended_leaves_the_documents_before(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("line\n\n" * 20, encoding="utf-8")
    before = texts(file, piece=30)
    file.write_text("line\n\n" * 31, encoding="utf-8")
    assert texts(file, piece=30)[: len(before) - 1] == before[:-1]


# --------------------------------------------------------------------------------------------------------------- JSON


def test_json_lines(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "a.jsonl", {"text": "one\n\u2028", "n": 1}, {"n": "x", "text": "two"}, {"text": ""})
    assert [(d.text, d.place) for d in read(file)] == [("one\n\u2028", 1), ("two", 2)]


def test_another_field(tmp_path: Path) -> None:
    assert texts(write_lines(tmp_path / "a.jsonl", {"body": "one"}), field="body") == ["one"]


@pytest.mark.parametrize(("written", "place"), [('{"text": "one"}\n', 1), ('\n{"text": "one"}', 2)])
def test_json_after_a_byte_order_mark(tmp_path: Path, written: str, place: int) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(written, encoding="utf-8-sig")
    assert [(d.text, d.place) for d in read(file)] == [("one", place)]


def test_blank_lines_are_passed_over_and_counted(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "one"}\n\n{"text": "two"}', encoding="utf-8")
    assert [(d.text, d.place) for d in read(file)] == [("one", 1), ("two", 3)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"text": ', r"line 2 is not JSON \("),
        ('"text"', r'line 2 is not a JSON object; each line must be one, as \{"text"'),
        ("[1]", "line 2 is not a JSON object"),
        ('{"body": "x", "id": 7}', "line 2 has no field 'text', only body, id"),
        ("{}", "line 2 has no field 'text', only none"),
        ('{"text": null}', "line 2 has no text in 'text' but null"),
        ('{"text": ["x"]}', "line 2 has no text in 'text' but \\["),
        ('{"text": "\\ud83d"}', "line 2 has half of a surrogate pair"),
        ("[" * 100_000, "line 2 is not JSON"),
        ('{"text": "x", "n": ' + "9" * 5000 + "}", "line 2 is not JSON"),
    ],
)
def test_a_line_that_is_no_document(tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(f'{{"text": "one"}}\n{line}\n', encoding="utf-8")
    with pytest.raises(InputError, match=rf"a\.jsonl: {said}"):
        read(file)


# ------------------------------------------------------------------------------------------------------------ parquet


def test_parquet(tmp_path: Path) -> None:
    file = write_table(tmp_path / "a.parquet", n=[1, 2, 3], text=["one", "", "three\n"])
    assert [(d.text, d.place) for d in read(file)] == [("one", 1), ("three\n", 3)]


def test_a_parquet_column_that_does_not_exist(tmp_path: Path) -> None:
    file = write_table(tmp_path / "a.parquet", n=[1], body=["one"])
    assert texts(file, field="body") == ["one"]
    with pytest.raises(InputError, match=r"a\.parquet: has no column 'text', only n, body"):
        read(file)


def test_a_parquet_row_without_text(tmp_path: Path) -> None:
    for values in (["one", None], [1, 2]):
        file = write_table(tmp_path / "a.parquet", text=values)
        with pytest.raises(InputError, match=r"a\.parquet: row [12] has no text in 'text'"):
            read(file)


def test_a_parquet_file_that_is_damaged(tmp_path: Path) -> None:
    file = write_table(tmp_path / "a.parquet", text=["one"] * 1000)
    whole = file.read_bytes()
    for content in (b"", b"PAR1", whole[:-20], whole[:4] + bytes(60) + whole[64:]):
        file.write_bytes(content)
        with pytest.raises(InputError, match=r"a\.parquet: "):
            read(file)


def test_parquet_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are read in parts of a few megabytes; several files are read at once without mixing."""
    text = "seven ships " * 20_000
    files = [write_table(tmp_path / f"{name}.parquet", text=[name + text] * 60) for name in "ab"]
    first, other = (TextSource((file,)).documents() for file in files)
    for at in range(60):
        assert [next(first).text, next(other).text] == [name + text for name in "ab"], at
    assert next(first, None) is next(other, None) is None


def test_conversations_in_parquet(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "hi"}]
    file = write_table(tmp_path / "a.parquet", messages=[talk], n=[1], when=[date(2026, 1, 1)])
    count, row = rows(file, lambda names: [*names], 100)
    assert (count, row) == (1, {"messages": talk, "n": 1, "when": None})


MB = 1_000_000


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lower the limits so that small files exceed them."""
    monkeypatch.setattr("kept.distillation.data.parquet.LIMITS", Limits(seconds=20, memory=160 << 20))
    monkeypatch.setattr("kept.distillation.data.parquet._idle", [])
    monkeypatch.setattr("kept.distillation.data.documents.LONGEST", 1 << 20)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("values", "how", "said"),
    [
        (pa.array(["a" * 100 * MB]), {}, r"cannot be read as a parquet file \("),
        (pa.array(["a" * 3 * MB] * 2), {"use_dictionary": False}, "row 1 has more than 1 MB; split it"),
        (
            pa.DictionaryArray.from_arrays(pa.array([0] * 2000, pa.int32()), ["a" * (MB // 4)]),
            {"store_schema": False},
            "needs more than 160 MB of memory|malloc",
        ),
        (pa.array([[{"role": "user", "content": "x" * 100}] * (MB // 50)]), {}, "row 1 has more than 1 MB"),
    ],
    ids=["long", "plain", "shared", "listed"],
)
def test_a_parquet_file_that_unpacks_to_gigabytes(tmp_path: Path, values: Any, how: dict[str, Any], said: str) -> None:
    file = tmp_path / "bomb.parquet"
    pq.write_table(pa.table({"text": values}), file, compression="zstd", **how)
    assert file.stat().st_size < 20_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=rf"bomb\.parquet: .*{said}"):
        read(file)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000, "kilobytes: it is read elsewhere"


def test_a_parquet_file_of_deep_lists(tmp_path: Path) -> None:
    kind = pa.string()
    for _ in range(150):
        kind = pa.list_(kind)
    pq.write_table(pa.table({"text": pa.array([None], kind)}), tmp_path / "deep.parquet")
    with pytest.raises(InputError, match=r"deep\.parquet: .*too deeply nested"):
        read(tmp_path / "deep.parquet")


# --------------------------------------------------------------------------------------------------------- long lines


def test_a_line_of_json_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kept.distillation.data.text_files.LONGEST", 100)
    file = write_lines(tmp_path / "a.jsonl", {"text": "one"}, {"text": "x" * 200})
    with pytest.raises(InputError, match=r"a\.jsonl: line 2 has more than 0 MB; split it"):
        read(file)


def test_a_text_without_lines_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kept.distillation.data.documents.PART", 100)
    file = tmp_path / "a.txt"
    file.write_text("é" * 1000 + "\n\nend")
    found = read(file, piece=150)
    assert [len(one.text) for one in found] == [300, 300, 300, 105]
    assert [one.place for one in found] == [1, 1, 1, 1]
    assert "".join(one.text for one in found) == file.read_text()


# -------------------------------------------------------------------------------------------------------- directories


def test_a_directory_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x.bin").touch()
    (tmp_path / "c.md").write_text("three", encoding="utf-8")
    (tmp_path / "b" / "x[1]*?.txt").write_text("two", encoding="utf-8")
    write_lines(tmp_path / "a.jsonl", {"text": "one"})
    source = TextSource((tmp_path,))
    assert [file.name for file in source.files()] == ["a.jsonl", "b/x[1]*?.txt", "c.md"]
    assert [(d.text, d.file) for d in source.documents()] == [("one", 0), ("two", 1), ("three", 2)]


def test_links_within_a_directory_are_followed_and_end(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for folder in (data / "b", data / "z"):
        folder.mkdir(parents=True)
    (data / "z" / "one.txt").write_text("one")
    (data / "b" / "two.txt").write_text("two")
    (data / "a").symlink_to("z")
    (data / "b" / "back").symlink_to(data)
    (data / "c.txt").symlink_to(data / "z" / "one.txt")
    names = [file.name for file in TextSource((data,)).files()]
    assert names == ["a/one.txt", "b/two.txt", "c.txt", "z/one.txt"]


def test_a_link_that_was_named_is_followed(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "one.txt").write_text("one")
    (tmp_path / "link").symlink_to("data")
    (tmp_path / "link.txt").symlink_to("data/one.txt")
    assert texts(tmp_path / "link") == texts(tmp_path / "link.txt") == ["one"]


@pytest.mark.parametrize("target", ["../secret.txt", "/proc/self/environ", "/proc", "/", ".."])
def test_a_link_out_of_a_directory_is_named(tmp_path: Path, target: str) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "data" / "deep").mkdir(parents=True)
    (tmp_path / "data" / "deep" / "x.txt").symlink_to(target if target[0] == "/" else f"../{target}")
    with pytest.raises(InputError, match=r"deep/x\.txt: is a link that leads out of .*data, to /"):
        read(tmp_path / "data")


def test_a_snapshot_of_the_hub_s_cache(tmp_path: Path) -> None:
    repository = tmp_path / "datasets--org--name"
    snapshot = repository / "snapshots" / "abc"
    for folder in (repository / "blobs", snapshot):
        folder.mkdir(parents=True)
    (repository / "blobs" / "123").write_text("one")
    (snapshot / "a.txt").symlink_to("../../blobs/123")
    assert texts(snapshot) == ["one"]
    (snapshot / "b.txt").symlink_to("../../../other")
    with pytest.raises(InputError, match="leads out"):
        read(snapshot)


def test_what_is_no_regular_file_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.txt")
    for path in (tmp_path, tmp_path / "x.txt"):
        with pytest.raises(InputError, match=r"x\.txt: is not a regular file"):
            read(path)
    with pytest.raises(InputError, match="/dev/zero: is not a regular file"):
        read(Path("/dev/zero"))


def test_directories_without_end(tmp_path: Path) -> None:
    place = tmp_path
    for _ in range(80):
        place /= "d"
    place.mkdir(parents=True)
    with pytest.raises(InputError, match="is more than 64 directories deep"):
        read(tmp_path)


def test_more_files_than_can_be_sorted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kept.distillation.data.files.MOST_FILES", 3)
    for number in range(4):
        (tmp_path / f"{number}.txt").touch()
    with pytest.raises(InputError, match="holds more than 3 files; join them into fewer"):
        read(tmp_path)


def test_several_paths_come_in_their_order(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(name, encoding="utf-8")
    assert texts(tmp_path / "b.txt", tmp_path / "a.txt") == ["b", "a"]


def test_a_suffix_that_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    (tmp_path / "table.xls").touch()
    with pytest.raises(InputError, match=r"table\.xls: is none of \.txt, .*\.zst; convert it, or leave it out"):
        read(tmp_path)


def test_a_path_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone: does not exist"):
        read(tmp_path / "gone")


def test_a_directory_without_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no file; name one of"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_what_is_not_utf8(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes('{"text": "größer"}'.encode("latin-1"))
    with pytest.raises(InputError, match=rf"{name}: is not UTF-8 text \(.*\); convert it"):
        read(tmp_path / name)


# ------------------------------------------------------------------------------------------------------------- stream


def test_documents_come_before_the_file_is_read(tmp_path: Path) -> None:
    """The damage at the end of a large file is met where it stands, not before."""
    file = tmp_path / "a.jsonl"
    line = json.dumps({"text": "seven ships " * 400}).encode() + b"\n"
    file.write_bytes(line * 5000 + b"\xff")
    documents = TextSource((file,)).documents()
    for _ in range(1000):
        assert next(documents).text.startswith("seven")
    with pytest.raises(InputError, match="is not UTF-8"):
        list(documents)


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kept.distillation.data.parquet.find_spec", lambda _: None)
    write_table(tmp_path / "a.parquet", text=["one"])
    with pytest.raises(InputError, match=r"a\.parquet: pyarrow is needed to read it: pip install 'kept\[heal\]'"):
        read(tmp_path)


def test_equal_texts_have_equal_digests(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one", encoding="utf-8")
    write_lines(tmp_path / "b.jsonl", {"text": "two"}, {"text": "one"})
    first, second, third = read(tmp_path)
    assert first.digest == third.digest != second.digest
    assert 0 <= second.digest < 2**64


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HOME", "TMPDIR"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setattr("tempfile.tempdir", None)
    write_lines(tmp_path / "a.jsonl", {"text": "one"})
    assert texts(tmp_path / "a.jsonl") == ["one"]
    assert [entry for name in ("HF_HOME", "TMPDIR") for entry in (tmp_path / name).rglob("*")] == []


# ----------------------------------------------------------------------------------------------------- names of paths


def test_paths_have_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An existing path is a path; otherwise a name ends at the first `=`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p=q").mkdir()
    found = named_paths(["a/one.jsonl", "x=a/two.jsonl", "p=q", "y=p=q"])
    assert {name: str(path) for name, path in found.items()} == {
        "one": "a/one.jsonl",
        "x": "a/two.jsonl",
        "p=q": "p=q",
        "y": "p=q",
    }


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([""], "data: '' names no file or directory"),
        (["x="], "data: 'x=' names no file or directory"),
        (["q1/train.jsonl", "q2/train.jsonl"], "q1/train.jsonl and q2/train.jsonl are both named 'train'; name them"),
        (["x=a", "x=b"], "a and b are both named 'x'"),
    ],
)
def test_paths_without_a_name_of_their_own(data: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        named_paths(data)


@pytest.mark.parametrize("written", ["n" * 5000, "a=" + "n" * 5000])
def test_a_name_that_is_too_long(written: str) -> None:
    (path,) = named_paths([written]).values()
    with pytest.raises(InputError, match=r"n: cannot be read \(File name too long\)"):
        read(path)
