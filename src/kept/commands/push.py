"""Upload an output to a hub."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kept.checkpoint.byte_stream import digest
from kept.checkpoint.file_access import check_readable
from kept.commands.verify import altered
from kept.errors import CheckpointError, InputError, OutputError, PromiseError, cause, reason
from kept.formatting import amount
from kept.hub import ID
from kept.loaded import open_model
from kept.output.export import CARD
from kept.output.record import RECORD, read_record
from kept.reporting import Progress, reporter_of
from kept.summary import Summarised

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kept.loaded import LoadedModel
    from kept.output.record import Record

FRONT = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
"""The metadata at the start of a model card."""

LONGEST_FRONT = 100_000
"""Characters of that metadata; YAML of megabytes takes minutes to read."""

PATIENCE = 20.0
"""Seconds that the hub may take to answer at all."""

WAYS_OUT = {
    401: "the hub does not know the token: log in with hf auth login, or set HF_TOKEN",
    403: "the token may not write there: use one with write access, or another name",
    404: "check the name, and that the token may write there",
    409: "something else is changing the repository; run the command again",
    413: "the hub does not take files of this size; convert with a smaller --max-shard-size",
    429: "wait, and run the command again",
}
"""Advice to the user for each HTTP status with which the hub refuses a request."""


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
        dry_run: check everything but the token, and upload nothing.
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
    files = _files(model, record)
    if not dry_run:
        _check_token()
    reporter = reporter_of(progress)
    if not force:
        _check(model.path, record, (*altered(model, reporter), *_changed(model, record)))
    card, metadata = _card(model.path, record, model.family.name)
    sizes = {name: file.stat().st_size for name, file in files.items()} | {CARD: len(card)}
    if dry_run:
        return Push(repository, private, sizes, metadata)
    with reporter.stage("push", sum(sizes.values()), "bytes") as advance:
        url = _upload(repository, files, card, private=private, endpoint=endpoint)
        advance(sum(sizes.values()))
    return Push(repository, private, sizes, metadata, url)


def _files(model: LoadedModel, record: Record | None) -> dict[str, Path]:
    """Return the files to upload by name. Raises CheckpointError for a name or a link that leads out of the output."""
    names = sorted({*([] if record is None else record.files), *(file.name for file in model.files), "config.json"})
    files = {name: model.path / name for name in (*names, RECORD) if (model.path / name).exists()}
    for name in files:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise CheckpointError(f"{model.path / RECORD}: names {name!r}, which lies outside of it; convert again")
        check_readable(model.path, name)
    return files


def _check_token() -> None:
    """Raise InputError without a token, before gigabytes are read."""
    from huggingface_hub import get_token  # noqa: PLC0415 - needed to upload only

    if get_token() is None:
        raise InputError("push: no token of the hub is stored; log in with hf auth login, or set HF_TOKEN")


def _changed(model: LoadedModel, record: Record | None) -> tuple[str, ...]:
    """Return the small files of the record that are missing or have another sha256. The card may be edited."""
    weights = {CARD, *(file.name for file in model.files)}
    recorded = {} if record is None else {name: value for name, value in record.files.items() if name not in weights}
    found = {name: model.path / name for name in recorded}
    return tuple(name for name, file in found.items() if not file.is_file() or digest(file) != recorded[name])


def _check(path: Path, record: Record | None, changed: tuple[str, ...]) -> None:
    """Raise an error for an output that is not as its record says."""
    if record is None:
        raise InputError(f"{path}: has no {RECORD}, so nothing says how it was made; --force uploads it")
    if record.verification is not None and record.verification.failure is not None:
        raise PromiseError(f"{path}: its promise is broken ({record.verification.failure}); --force uploads it")
    if changed:
        raise PromiseError(f"{path}: {', '.join(changed)} changed since it was written; --force uploads it")


def _card(path: Path, record: Record | None, family: str) -> tuple[bytes, dict[str, Any]]:
    """Return the model card with the metadata for the hub, and the metadata. Values in the card take precedence."""
    import yaml  # noqa: PLC0415 - needed to upload only

    file = path / CARD
    try:
        text = file.read_text(encoding="utf-8") if file.is_file() else f"# {path.name}\n"
        found = FRONT.match(text)
        front = "" if found is None else found[1]
        stated = front if len(front) > LONGEST_FRONT else yaml.safe_load(front) or {}
    except (yaml.YAMLError, ValueError, RecursionError):
        raise InputError(f"{file}: its metadata is not YAML in UTF-8; correct it") from None
    if not isinstance(stated, dict):
        raise InputError(f"{file}: its metadata is not a table of at most {LONGEST_FRONT} characters; correct it")
    made = {} if record is None else _origin(record)
    tags = [*dict.fromkeys((*_tags(file, stated), "kept", family))]
    metadata = {**made, **stated, "tags": tags}
    front = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n{text[found.end() :] if found else text}".encode(), metadata


def _tags(file: Path, stated: Mapping[str, Any]) -> Sequence[str]:
    """Return the tags that a card states: a word or a list of words. Raises InputError for anything else."""
    found = stated.get("tags") or ()
    tags = [found] if isinstance(found, str) else found
    if not isinstance(tags, list | tuple) or not all(isinstance(tag, str) for tag in tags):
        raise InputError(f"{file}: its tags are not a list of words; correct it")
    return tags


def _origin(record: Record) -> dict[str, Any]:
    """Return `base_model` if a source of the chain is a repository of a hub: the newest one."""
    names = [one.source.name for one in reversed(record.chain) if one.source is not None]
    found = next((match["name"] for name in names if (match := ID.fullmatch(name)) is not None), None)
    trained = {"base_model_relation": "finetune"} if any(one.healed is not None for one in record.chain) else {}
    return {} if found is None else {"base_model": found, **trained}


def _upload(repository: str, files: Mapping[str, Path], card: bytes, *, private: bool, endpoint: str | None) -> str:
    """Create the repository if there is none, and add one commit. Returns its URL."""
    from huggingface_hub import CommitOperationAdd, HfApi  # noqa: PLC0415 - needed to upload only
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415 - the same

    operations = [CommitOperationAdd(name, file) for name, file in files.items() if name != CARD]
    operations.append(CommitOperationAdd(CARD, card))
    hub = HfApi(endpoint=endpoint)
    try:
        with suppress(HfHubHTTPError):  # any answer will do: the requests below wait for ever
            hub.repo_info(repository, timeout=PATIENCE)
        hub.create_repo(repository, private=private, exist_ok=True)
        return str(hub.create_commit(repository, operations, commit_message="Upload with kept").commit_url)
    except Exception as error:  # noqa: BLE001 - whatever the client raises: no token, no network, no right
        raise OutputError(f"{repository}: cannot be uploaded ({_refusal(error)}") from None


def _refusal(error: Exception) -> str:
    """Return what the hub or its client said, a closing parenthesis, and the way out."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is None:
        return f"{cause(error)}); is the hub reachable? The same command tries again"
    said = getattr(error, "server_message", None) or reason(error)
    return f"status {status}: {said}); {WAYS_OUT.get(status, 'the same command tries again')}"
