"""`kept.json`: what was done to a checkpoint, and what was measured.

Free of times and of where source and output lie, so that the same conversion writes the same bytes.
"""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kept.checkpoint.reader import read_json
from kept.checkpoint.writer import finite
from kept.errors import CheckpointError
from kept.ir.tensors import TORCH_NAMES
from kept.ir.text import describe
from kept.passes import Promise
from kept.passes.plan import Claim, created
from kept.recipe import SAME, options_of
from kept.runtimes import notes
from kept.stated import text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kept.ir.program import Program
    from kept.ir.spec import Spec
    from kept.opened import Opened
    from kept.passes.plan import Plan
    from kept.recipe import Recipe
    from kept.verification.verify import Verification

RECORD = "kept.json"

PLACES = ("tokenizer", "rows")
"""Options of passes that may say where something lies."""


def record(
    source: Opened, recipe: Recipe, plan: Plan, hashes: Mapping[str, Mapping[str, str]], found: Verification | None
) -> dict[str, Any]:
    """What `kept.json` holds. `hashes` has the sha256 of every `source` and every `output` file by name."""
    return {
        "kept": version("kept"),
        "torch": version("torch"),
        "source": {"name": source.name, "family": source.family.name, "files": dict(hashes["source"])},
        "recipe": _asked(recipe),
        "before": _described(source.program),
        "after": _described(plan.program),
        "promise": str(plan.promise),
        "passes": [
            {**_named(step.rewrite), "promise": str(step.promise), "layers": step.layers, "parameters": step.parameters}
            for step in plan.steps
        ],
        "new_layers": [*plan.new_layers],
        "new_parameters": created(source.program.spec, plan),
        "new_tokens": [plan.new_tokens.start, plan.new_tokens.stop] if plan.new_tokens else [],
        "expansions": expansions(source, plan),
        "vocabularies": vocabularies(source, plan),
        "runtimes": [str(note) for note in notes(plan)],
        "verification": None if found is None else verification_table(found),
        "files": dict(hashes["output"]),
    }


def verification_table(found: Verification) -> dict[str, Any]:
    """A verification as plain data, with its verdict."""
    table: dict[str, Any] = finite(asdict(found))
    return {**table, "promise": str(found.promise), "kept": found.failure is None, "failure": found.failure}


def _described(program: Program) -> dict[str, Any]:
    """A model in words and in figures; `cache_bytes` are those of one token's keys and values."""
    return {
        "dtype": TORCH_NAMES[program.dtype],
        "parameters": program.parameters,
        "bytes": program.nbytes,
        "cache_bytes": program.cache_bytes,
        "spec": describe(program.spec),
    }


def expansions(source: Opened, plan: Plan) -> list[dict[str, list[int]]]:
    """Every block expansion that the result has, oldest first, in its own numbers: the source's own, and the plan's.

    Raises CheckpointError where the source's record tells of layers that the source does not have.
    """
    file = source.path / RECORD
    earlier = read_json(file).get("expansions", []) if file.is_file() else []
    try:
        moved = [{key: [plan.origins.index(n) for n in one[key]] for key in ("layers", "copies_of")} for one in earlier]
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(f"{file}: its expansions are not those of this model; remove the file") from None
    return [*moved, *({"layers": [*one.layers], "copies_of": [*one.copies_of]} for one in plan.expansions)]


def vocabularies(source: Opened, plan: Plan) -> list[dict[str, Any]]:
    """Every expansion of the vocabulary that the result has, oldest first: the source's own, and the plan's.

    `new` are the first new id and one past the last, `before` and `after` count rows. Raises CheckpointError where the
    source's record tells of others than the source has.
    """
    file, had = source.path / RECORD, source.program.spec.vocabulary
    earlier = read_json(file).get("vocabularies", []) if file.is_file() else []
    try:
        fits = all(0 < one["before"] <= one["after"] <= had for one in earlier)
    except (KeyError, TypeError):
        fits = False
    if not fits:
        raise CheckpointError(f"{file}: its vocabularies are not those of this model; remove the file")
    out: list[dict[str, Any]] = [*earlier]
    for one in plan.vocabularies:
        before, had = had, one.size(had)
        new = [one.grown.first, one.grown.end]
        out.append({"new": new, "before": before, "after": had, "rows": Path(one.rows).name})
    return out


def target(record: Mapping[str, Any]) -> str:
    """The family of an output, by its record. Raises LookupError or TypeError where that does not say it."""
    asked = text(record["recipe"]["to"])
    return text(record["source"]["family"]) if asked == SAME else asked


def copies(record: Mapping[str, Any], before: int, after: int) -> tuple[int, ...]:
    """The layers that block expansions added, by the record of a model of `after` layers, whose source had `before`.

    None where the record says nothing that explains the difference.
    """
    found = record.get("expansions")
    lists = [one.get("layers") for one in found if isinstance(one, dict)] if isinstance(found, list) else []
    numbers = {n for layers in lists if isinstance(layers, list) for n in layers if type(n) is int and 0 <= n < after}
    return tuple(sorted(numbers)) if before + len(numbers) == after else ()


def learned(record: Mapping[str, Any], before: Spec, after: Spec) -> Claim:
    """What a model that learned is held to: no promise, and what it shares with its source is compared."""
    tokens = _shared(record.get("vocabularies"), before.vocabulary)
    return Claim(Promise.LOSSY, copies=copies(record, before.depth, after.depth), tokens=tokens)


def _shared(vocabularies: object, before: int) -> int | None:
    """The old tokens of the first expansion of a vocabulary that had so many rows; None where there is none."""
    for one in vocabularies if isinstance(vocabularies, list) else ():
        new = one.get("new") if isinstance(one, dict) and one.get("before") == before else None
        if isinstance(new, list) and new and type(new[0]) is int and 0 < new[0] <= before:
            return new[0]
    return None


def _named(rewrite: Any) -> dict[str, Any]:  # noqa: ANN401 - any pass
    return {"name": rewrite.name, "options": _placeless(options_of(rewrite))}


def _asked(recipe: Recipe) -> dict[str, Any]:
    """A recipe as a record keeps it."""
    asked = {key: value for key, value in recipe.to_dict().items() if key not in {"source", "out"}}
    return {**asked, **({"passes": [*map(_placeless, asked["passes"])]} if "passes" in asked else {})}


def _placeless(options: Mapping[str, Any]) -> dict[str, Any]:
    """A pass's options; of tokenizers and rows the names, wherever they lie."""
    return {key: Path(value).resolve().name if key in PLACES else value for key, value in options.items()}
