"""Upload an output to a hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kept.commands.verify import altered
from kept.errors import InputError, OutputError, PromiseError, cause
from kept.formatting import amount
from kept.hub import ID
from kept.loaded import open_model
from kept.output.export import CARD
from kept.output.record import RECORD, read_record
from kept.reporting import Progress, reporter_of
from kept.summary import Summarised

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from kept.output.record import Record

FRONT = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
"""The metadata at the start of a model card."""


@dataclass(frozen=True, repr=False)
class Push(Summarised):
    """An upload, or what it would be: the repository, its files with their bytes, and the metadata of the card.

    `url` is empty in a dry run.
    """

    repository: str
    private: bool
    files: Mapping[str, int]
    metadata: Mapping[str, Any]
    url: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(self.files.values())

    def summary(self) -> dict[str, str]:
        """Return the repository, and what was uploaded."""
        what = f"{len(self.files)} files, {amount(self.nbytes, 'bytes')}"
        seen = "private" if self.private else "public"
        return {"repository": f"{self.repository} ({seen})", "uploaded": what if self.url else f"{what} (not uploaded)"}


def push(
    path: str | Path,
    repository: str,
    *,
    private: bool = True,
    force: bool = False,
    dry_run: bool = False,
    endpoint: str | None = None,
    progress: Progress = False,
) -> Push:
    """Upload an output: the files that its record names, the record, and the card with the hub's metadata.

    The hub's token is that of `hf auth login`, or HF_TOKEN.

    Args:
        path: an output of kept.
        repository: the repository to create or to add to, as org/name.
        private: whether a new repository is private. It is made public in the hub's settings.
        force: upload although the promise is broken, files changed since, or there is no record.
        dry_run: check everything and upload nothing.
        endpoint: the hub's URL. [default: HF_ENDPOINT, or huggingface.co]
        progress: True shows bars on stderr; or a `kept.Reporter`.

    Returns:
        The repository, the files, the card's metadata, and the URL of the commit.

    Raises:
        PromiseError: the record says that the promise is broken, or files are not those of the record.
        InputError: the repository's name is wrong, or there is no record.
        OutputError: the hub refuses the upload.

    Example:
        ```python
        kept.push("out/llama", "org/orion-llama", dry_run=True)
        ```
    """
    match = ID.fullmatch(repository)
    if match is None or match["revision"]:
        raise InputError(f"repository: is {repository!r}, it must be org/name")
    model = open_model(path)
    record = read_record(model.path)
    reporter = reporter_of(progress)
    if not force:
        _check(model.path, record, altered(model, reporter))
    names = sorted({*([] if record is None else record.files), *(file.name for file in model.files), "config.json"})
    files = {name: model.path / name for name in (*names, RECORD) if (model.path / name).is_file()}
    card, metadata = _card(model.path, record, model.family.name)
    sizes = {name: file.stat().st_size for name, file in files.items()} | {CARD: len(card)}
    if dry_run:
        return Push(repository, private, sizes, metadata)
    with reporter.stage("push", sum(sizes.values()), "bytes") as advance:
        url = _upload(repository, files, card, private=private, endpoint=endpoint)
        advance(sum(sizes.values()))
    return Push(repository, private, sizes, metadata, url)


def _check(path: Path, record: Record | None, changed: tuple[str, ...]) -> None:
    """Raise an error for an output that is not as its record says."""
    if record is None:
        raise InputError(f"{path}: has no {RECORD}, so nothing says how it was made; --force uploads it")
    if record.verification is not None and record.verification.failure is not None:
        raise PromiseError(f"{path}: its promise is broken ({record.verification.failure}); --force uploads it")
    if changed:
        raise PromiseError(f"{path}: {', '.join(changed)} changed since it was written; --force uploads it")


def _card(path: Path, record: Record | None, family: str) -> tuple[bytes, dict[str, Any]]:
    """Return the model card with the hub's metadata, and the metadata. What the card states itself wins."""
    import yaml  # noqa: PLC0415 - needed to upload only

    file = path / CARD
    text = file.read_text(encoding="utf-8") if file.is_file() else f"# {path.name}\n"
    found = FRONT.match(text)
    try:
        stated = (yaml.safe_load(found[1]) if found else None) or {}
    except yaml.YAMLError:
        raise InputError(f"{file}: its metadata is not YAML; correct it") from None
    if not isinstance(stated, dict):
        raise InputError(f"{file}: its metadata is not a table; correct it")
    made = {} if record is None else _origin(record)
    tags = [*dict.fromkeys((*(stated.get("tags") or ()), "kept", family))]
    metadata = {**made, **stated, "tags": tags}
    front = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n{text[found.end() :] if found else text}".encode(), metadata


def _origin(record: Record) -> dict[str, Any]:
    """Return `base_model` if a source of the chain is a repository of a hub: the newest one."""
    names = [one.source.name for one in reversed(record.chain) if one.source is not None]
    found = next((match["name"] for name in names if (match := ID.fullmatch(name)) is not None), None)
    return {} if found is None else {"base_model": found, "base_model_relation": "finetune"}


def _upload(repository: str, files: Mapping[str, Path], card: bytes, *, private: bool, endpoint: str | None) -> str:
    """Create the repository if there is none, and add one commit. Returns its URL."""
    from huggingface_hub import CommitOperationAdd, HfApi  # noqa: PLC0415 - needed to upload only

    operations = [CommitOperationAdd(name, file) for name, file in files.items() if name != CARD]
    operations.append(CommitOperationAdd(CARD, card))
    hub = HfApi(endpoint=endpoint)
    try:
        hub.create_repo(repository, private=private, exist_ok=True)
        return str(hub.create_commit(repository, operations, commit_message="Upload with kept").commit_url)
    except Exception as error:  # noqa: BLE001 - whatever the client raises: no token, no network, no right
        raise OutputError(f"{repository}: cannot be uploaded ({cause(error)})") from None
