"""`kept push` against a hub on this machine: what arrives, what is refused, and what a dry run leaves alone."""

from __future__ import annotations

import base64
import json
from http.server import ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
import yaml

import kept
from kept.commands.push import WAYS_OUT
from kept.errors import CheckpointError, InputError, OutputError, PromiseError
from support.command_line import complains, data
from support.models import write_checkpoint
from support.stored import change_json
from support.stub_server import QuietHandler, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Hub(ThreadingHTTPServer):
    """Answers the requests of an upload, and keeps them; `code` is the status of all answers."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str]] = []
        self.code = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def created(self) -> Any:
        return json.loads(next(body for path, body in self.asked if path == "/api/repos/create"))

    def files(self) -> dict[str, bytes]:
        """Return the files of the commit."""
        body = next(body for path, body in self.asked if "/commit/" in path)
        lines = [json.loads(line) for line in body.splitlines()]
        return {
            one["value"]["path"]: base64.b64decode(one["value"]["content"]) for one in lines if one["key"] == "file"
        }


class Handler(QuietHandler):
    server: Hub

    def do_POST(self) -> None:  # noqa: N802 - the name that http.server calls
        body = self.rfile.read(int(self.headers["Content-Length"] or 0)).decode()
        self.server.asked.append((self.path.partition("?")[0], body))
        self.send_response(self.server.code)
        self.end_headers()
        self.wfile.write(json.dumps(self.answer(body)).encode())

    def answer(self, body: str) -> dict[str, Any]:
        if "/preupload/" in self.path:
            files = [{**one, "uploadMode": "regular", "shouldIgnore": False} for one in json.loads(body)["files"]]
            return {"files": files}
        if "/commit/" in self.path:
            return {"success": True, "commitUrl": f"{self.server.url}/org/name/commit/abc", "commitOid": "abc"}
        return {"url": f"{self.server.url}/org/name", "errors": [], "warnings": []}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    with serving(Hub()) as found:
        yield found


@pytest.fixture
def out(tmp_path: Path) -> Path:
    source = write_checkpoint(tmp_path / "source", "orion")
    (source / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    found = kept.convert(source, tmp_path / "out", verify_tokens=0).path
    table = json.loads((found / "kept.json").read_text())
    change_json(found / "kept.json", source={**table["source"], "name": "org/orion@abc"})
    return found


def test_the_files_of_the_record_arrive(out: Path, hub: Hub) -> None:
    (out / "notes.txt").write_text("mine")
    done = kept.push(out, "org/name", endpoint=hub.url)
    sent = hub.files()
    assert done.url == f"{hub.url}/org/name/commit/abc"
    assert sent.keys() == done.files.keys() >= {"config.json", "model.safetensors", "kept.json", "README.md"}
    assert "notes.txt" not in sent
    assert sent["model.safetensors"] == (out / "model.safetensors").read_bytes()
    assert (hub.created()["name"], hub.created()["organization"]) == ("name", "org")
    assert hub.created().get("private", hub.created().get("visibility")) in {True, "private"}
    front = yaml.safe_load(sent["README.md"].decode().split("---\n")[1])
    assert (front["base_model"], front["license"], front["tags"]) == ("org/orion", "apache-2.0", ["kept", "llama"])
    assert sent["README.md"].decode().partition("\n# ")[2] == (out / "README.md").read_text().partition("\n# ")[2]


def test_a_dry_run_asks_nothing(out: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    found = data("push", out, "org/name", "--dry-run")
    assert found["metadata"]["base_model"] == "org/orion"
    assert "base_model_relation" not in found["metadata"], "nothing was trained"
    assert (found["url"], found["private"], hub.asked) == ("", True, [])


def test_what_changed_or_broke_is_refused(out: Path, hub: Hub) -> None:
    weights = out / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(PromiseError, match=r"model\.safetensors changed since it was written; --force uploads it"):
        kept.push(out, "org/name", endpoint=hub.url)
    assert hub.asked == []
    assert kept.push(out, "org/name", endpoint=hub.url, force=True).url
    weights.write_bytes(content)
    (out / "config.json").write_text((out / "config.json").read_text() + " ")
    (out / "generation_config.json").unlink(missing_ok=True)
    assert "config.json changed since it was written" in complains("push", out, "org/name", "--dry-run", code=1)
    (out / "kept.json").unlink()
    assert "has no kept.json" in complains("push", out, "org/name")


def test_a_broken_promise_is_refused(tmp_path: Path, hub: Hub) -> None:
    out = kept.convert(
        write_checkpoint(tmp_path / "source", "llama"), tmp_path / "out", to="same", verify_tokens=8
    ).path
    table = json.loads((out / "kept.json").read_text())
    change_json(out / "kept.json", verification={**table["verification"], "failure": "the logits differ"})
    with pytest.raises(PromiseError, match=r"its promise is broken \(the logits differ\)"):
        kept.push(out, "org/name", endpoint=hub.url)


def test_names_and_refusals_are_one_line(out: Path, hub: Hub) -> None:
    for name in ("name", "org/name@main", "a/b/c"):
        with pytest.raises(InputError, match="it must be org/name"):
            kept.push(out, name, endpoint=hub.url)


@pytest.mark.parametrize("code", [401, 403, 404, 413, 429, 500])
def test_a_refusal_has_its_status_and_a_way_out(out: Path, hub: Hub, code: int) -> None:
    hub.code = code
    way_out = WAYS_OUT.get(code, "the same command tries again")
    with pytest.raises(OutputError, match=rf"org/name: cannot be uploaded \(status {code}: .*\); {way_out}"):
        kept.push(out, "org/name", endpoint=hub.url)


def test_nothing_is_read_without_a_token(out: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(InputError, match="no token of the hub is stored; log in with hf auth login"):
        kept.push(out, "org/name", endpoint=hub.url)
    assert hub.asked == []


@pytest.mark.parametrize("name", ["../secret", "{place}/secret", "link/secret"])
def test_no_file_from_outside_is_uploaded(out: Path, tmp_path: Path, name: str) -> None:
    """Anyone may have edited the record."""
    (tmp_path / "secret").write_text("precious")
    (out / "link").symlink_to(tmp_path)
    table = json.loads((out / "kept.json").read_text())
    change_json(out / "kept.json", files={**table["files"], name.format(place=tmp_path): "0"})
    with pytest.raises(CheckpointError, match="outside of"):
        kept.push(out, "org/name", force=True, dry_run=True)


@pytest.mark.parametrize(
    ("front", "words"),
    [
        ("tags: 3", "its tags are not a list of words"),
        ("tags: [{a: b}]", "its tags are not a list of words"),
        ("when: 2020-99-99", "its metadata is not YAML"),
        ("- a", "its metadata is not a table"),
        ("[" * 1200, "its metadata is not YAML"),
    ],
)
def test_a_card_that_cannot_be_read(out: Path, front: str, words: str) -> None:
    (out / "README.md").write_text(f"---\n{front}\n---\n")
    with pytest.raises(InputError, match=words):
        kept.push(out, "org/name", dry_run=True)
