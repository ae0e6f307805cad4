"""A hub id where a path does, against a hub of a few lines here: what is fetched, cached, said and recorded."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import kept
from kept.errors import CheckpointError
from kept.hub import local, name_of
from support.models import write_checkpoint
from support.stored import read_json, write_readable

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMIT, OLD = "c" * 40, "0" * 40

REPOSITORIES = ("org/my-orion", "org/large", "org/pickled", "org/empty")

UNWANTED = ("pytorch_model.bin", "modeling_orion.py", "consolidated.safetensors", "original/model.safetensors")


@dataclass
class Hub:
    """The folder with its repositories, what was asked of it, and after how many bytes it hangs up (and goes)."""

    root: Path
    url: str = ""
    got: list[str] = field(default_factory=list)
    hang_up: int | None = None
    goes: bool = False
    gone: bool = False

    def client(self, *words: str, home: Path, offline: bool = False) -> subprocess.CompletedProcess[str]:
        """Run the command line as somebody with that cache: the client reads these once, when it is imported."""
        given = {"HF_HUB_CACHE": str(home), "HF_HOME": str(home), "HF_HUB_OFFLINE": str(int(offline))}
        settings = {"HF_ENDPOINT": self.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        command = [sys.executable, "-m", "kept", *words]
        return subprocess.run(
            command, env={**os.environ, **given, **settings}, capture_output=True, text=True, check=False, timeout=60
        )


class Answers(BaseHTTPRequestHandler):
    """The endpoints that the client asks: a repository's commit, its files, and each file."""

    hub: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        repository = next((name for name in REPOSITORIES if f"/{name}" in path), None)
        if repository is None or self.hub.gone:
            gated = "/org/gated" in path
            return self._refuse(403 if gated else 404, "GatedRepo" if gated else "RepoNotFound")
        folder = self.hub.root / repository
        if path.startswith(f"/api/models/{repository}/tree/"):
            return self._json([self._entry(folder, file) for file in sorted(folder.rglob("*")) if file.is_file()])
        if path.startswith("/api/models/"):
            revision = path.partition("/revision/")[2] or "main"
            if revision not in {"main", "old", COMMIT, OLD}:
                return self._refuse(404, "RevisionNotFound")
            return self._json({"id": repository, "sha": OLD if revision in {"old", OLD} else COMMIT, "siblings": []})
        commit, _, name = path.partition("/resolve/")[2].partition("/")
        return self._file(folder / name, commit)

    def _entry(self, folder: Path, file: Path) -> dict[str, Any]:
        size = file.stat().st_size
        return {"type": "file", "path": str(file.relative_to(folder)), "size": size, "oid": self._sum(file)}

    def _sum(self, file: Path) -> str:
        return hashlib.sha1(file.read_bytes(), usedforsecurity=False).hexdigest()

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": "no"})

    def _file(self, file: Path, commit: str) -> None:
        data, sum_ = file.read_bytes(), self._sum(file)
        start = int(re.findall(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))[0])
        head = {"ETag": f'"{sum_}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if start:
            head["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if self.command == "GET":
            self.hub.got.append(f"{file.name}{f' from {start}' if start else ''}")
        self._send(206 if start else 200, data[start:], head)

    def _send(self, status: int, body: bytes, head: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**head, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            cut = self.hub.hang_up if len(body) > 11_000_000 else None
            self.wfile.write(body[:cut])
            if cut is not None:
                self.close_connection, self.hub.gone = True, self.hub.goes

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    orion = write_readable(folder / "org/my-orion", "orion")
    (orion / "LICENSE.txt").write_text("terms", encoding="utf-8")
    index = {"weight_map": dict.fromkeys(kept.open_model(orion).checkpoint.tensors, "model.safetensors")}
    (orion / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    for name in UNWANTED:
        (orion / name).parent.mkdir(exist_ok=True)
        (orion / name).write_bytes(b"code or a pickle or a copy")
    write_checkpoint(folder / "org/large", "llama", vocab_size=30_000)
    (folder / "org/pickled").mkdir()
    (folder / "org/pickled/config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "modeling.py"):
        (folder / "org/pickled" / name).write_bytes(b"a pickle or code")
    (folder / "org/empty").mkdir()
    (folder / "org/empty/config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    return folder


@pytest.fixture
def hub(root: Path) -> Iterator[Hub]:
    hub = Hub(root)
    handler = type("Handler", (Answers,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        yield hub
        server.shutdown()


def fetched(home: Path) -> set[str]:
    """The names in the cache's snapshots, which are links to blobs."""
    files = [file for file in home.glob("models--*/snapshots/*/**/*") if not file.is_dir()]
    assert all(file.is_symlink() for file in files)
    return {str(file.relative_to(next(p for p in file.parents if p.parent.name == "snapshots"))) for file in files}


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("kept: ")]
    return line.removeprefix("kept: ")


def test_a_conversion_from_the_hub_and_again_offline(hub: Hub, root: Path, tmp_path: Path) -> None:
    """Only what is needed comes, once; the output is the one that the directory gives, but for the source's name."""
    home, files = tmp_path / "home", {"config.json", "model.safetensors", "LICENSE.txt"}
    words = ("--verify-tokens", "16", "--json")
    done = hub.client("convert", "org/my-orion", str(tmp_path / "out"), *words, home=home)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["source"]["name"] == f"org/my-orion@{COMMIT}"
    assert files < fetched(home)
    assert not {*UNWANTED} & fetched(home)
    assert len(hub.got) == len(set(hub.got))
    hub.got.clear()
    again = hub.client("convert", "org/my-orion", str(tmp_path / "again"), *words, home=home, offline=True)
    assert again.returncode == 0, again.stderr
    assert hub.got == []
    kept.convert(root / "org/my-orion", tmp_path / "local", verify_tokens=16)
    for name in ("model.safetensors", "config.json", "tokenizer_config.json", "LICENSE.txt"):
        wanted = (tmp_path / "local" / name).read_bytes()
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes() == wanted
    assert (
        read_json(tmp_path / "local/kept.json")["files"].keys() == read_json(tmp_path / "out/kept.json")["files"].keys()
    )


def test_a_revision(hub: Hub, tmp_path: Path) -> None:
    done = hub.client("plan", "org/my-orion@old", "--json", home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.glob("models--*/snapshots/*")] == [OLD]


def test_a_connection_that_breaks_is_resumed(hub: Hub, tmp_path: Path) -> None:
    hub.hang_up = 11_000_000  # the client stores 10 MiB at a time
    assert hub.client("plan", "org/large", home=tmp_path).returncode == 0
    weights = [name for name in hub.got if name.startswith("model.safetensors")]
    assert weights == ["model.safetensors", f"model.safetensors from {10 << 20}"]


def test_a_run_that_was_cut_off_continues_with_the_files_that_it_lacks(hub: Hub, tmp_path: Path) -> None:
    hub.hang_up, hub.goes = 11_000_000, True
    said = complaint(hub.client("plan", "org/large", home=tmp_path))
    assert said.startswith("org/large: is not a directory here; as a hub id, the hub ")
    hub.hang_up, hub.gone = None, False
    hub.got.clear()
    assert hub.client("plan", "org/large", home=tmp_path).returncode == 0
    assert hub.got == ["model.safetensors"]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("org/nowhere", "the hub has no such repository, or hides it: check the name, or set HF_TOKEN"),
        ("org/gated", "the hub gives it only to those who accepted its terms: accept them there and set HF_TOKEN"),
        ("org/my-orion@newer", "the hub has no such revision of it"),
    ],
)
def test_what_the_hub_does_not_give(hub: Hub, tmp_path: Path, source: str, reason: str) -> None:
    assert (
        complaint(hub.client("plan", source, home=tmp_path))
        == f"{source}: is not a directory here; as a hub id, {reason}"
    )


def test_pickled_weights_are_fetched_where_there_are_no_others_and_no_other_pickle(hub: Hub, tmp_path: Path) -> None:
    assert "pytorch_model.bin: is not a zip archive" in complaint(hub.client("plan", "org/pickled", home=tmp_path))
    assert fetched(tmp_path) == {"config.json", "pytorch_model.bin"}


def test_a_repository_without_weights(hub: Hub, tmp_path: Path) -> None:
    said = complaint(hub.client("plan", "org/empty", home=tmp_path))
    assert said.startswith("org/empty: has no model.safetensors, pytorch_model.bin or an index of either on the hub, ")
    assert fetched(tmp_path) == {"config.json"}


@pytest.mark.parametrize("offline", [True, False])
def test_no_network_and_no_cache(tmp_path: Path, offline: bool) -> None:  # noqa: FBT001 - a case of two
    nobody = Hub(tmp_path, url="http://127.0.0.1:9")
    said = complaint(nobody.client("plan", "org/my-orion", home=tmp_path, offline=offline))
    wanted = "it is not in the cache, and the hub cannot be reached: check the path, or go online"
    assert said == f"org/my-orion: is not a directory here; as a hub id, {wanted}"


def test_a_path_that_exists_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "org/name", "llama")
    assert kept.open_model("org/name").path == Path("org/name")


@pytest.mark.parametrize("source", ["name", "/org/name", "a/b/c", "../name", "org/", "org/name@", "org/na me", "-o/x"])
def test_what_is_no_id_is_a_path(source: str) -> None:
    assert local(source) == Path(source)
    with pytest.raises(CheckpointError, match="is not a directory; give a checkpoint's path or a hub id"):
        kept.open_model(source)


def test_names(tmp_path: Path) -> None:
    assert name_of(tmp_path / "my-orion") == "my-orion"
    assert name_of(tmp_path / f"models--org--my--orion/snapshots/{COMMIT}") == f"org/my--orion@{COMMIT}"
