"""`kept.json`: what was done to a checkpoint, and what was measured.

Free of times and of where source and output lie, so that the same conversion writes the same bytes.
"""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kept.checkpoint.json_file import finite, json_if_there
from kept.errors import CheckpointError, printable
from kept.ir.promise import Claim
from kept.ir.tensors import TORCH_NAMES
from kept.ir.text import describe
from kept.json_values import listed, text, whole
from kept.output.runtimes import notes
from kept.passes.plan import created, moved
from kept.recipe import SAME, options_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kept.ir.program import Program
    from kept.ir.promise import Promise
    from kept.ir.spec import Spec
    from kept.loaded import LoadedModel
    from kept.output.input_files import FileSums
    from kept.passes.plan import Plan
    from kept.recipe import Recipe
    from kept.verification.verify import Verification

RECORD = "kept.json"

PLACES = ("tokenizer", "rows")
"""Options of passes that may say where something lies."""


def record(
    source: LoadedModel, recipe: Recipe, plan: Plan, sums: FileSums, found: Verification | None
) -> dict[str, Any]:
    """What `kept.json` holds. `sums` has the sha256 of every file that was read and written."""
    return {
        "kept": version("kept"),
        "torch": version("torch"),
        **history(recorded(source)),
        "source": _source(source, sums.source),
        "recipe": _asked(recipe),
        "before": _described(source.program),
        "after": _described(plan.program),
        "promise": str(plan.promise),
        "domain": [*plan.domain],
        "passes": passes(plan),
        "layers": {"of_source": source.program.spec.depth, "origins": [*plan.makers]},
        **new(source, plan),
        "runtimes": [str(note) for note in notes(plan)],
        "verification": None if found is None else verification_table(found),
        "files": dict(sums.output),
    }


def _source(source: LoadedModel, sums: Mapping[str, str]) -> dict[str, Any]:
    """Return the record of a source: name, family, quantisation types, sha256 of its files, weight files not read."""
    beside = source.checkpoint.left_out
    return {
        "name": source.name,
        "family": source.family.name,
        **({"quantised": source.quantised} if source.quantised else {}),
        "files": dict(sums),
        **({"left_out": [*beside]} if beside else {}),
        **({"notes": [*source.config_notes]} if source.config_notes else {}),
    }


def passes(plan: Plan) -> list[dict[str, Any]]:
    """The passes of a plan, each with what it promised and what it added."""
    return [
        {**_named(step.rewrite), "promise": str(step.promise), "layers": step.layers, "parameters": step.parameters}
        for step in plan.steps
    ]


def verification_table(found: Verification) -> dict[str, Any]:
    """A verification as plain data, with its verdict."""
    table: dict[str, Any] = finite(asdict(found))
    return {**table, "promise": str(found.promise), "kept": found.failure is None, "failure": found.failure}


def domain(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the domain of a record's promise; empty if absent. Raises TypeError if it is not a list of strings."""
    return tuple(printable(text(one)) for one in listed(record.get("domain", [])))


def _described(program: Program) -> dict[str, Any]:
    """A model in words and in figures; `cache_bytes` are those of one token's keys and values."""
    return {
        "dtype": TORCH_NAMES[program.dtype],
        "parameters": program.parameters,
        "bytes": program.nbytes,
        "cache_bytes": program.cache_bytes,
        "spec": describe(program.spec),
    }


def recorded(opened: LoadedModel) -> dict[str, Any]:
    """What the record of a checkpoint says; nothing where it has none."""
    file = opened.path / RECORD
    return json_if_there(file)


def history(earlier: Mapping[str, Any]) -> dict[str, list[Any]]:
    """What was done before, oldest first: what an earlier record tells of that, and then itself; nothing without one.

    The sums of its files and the measurements of each layer stay behind.
    """
    if not earlier:
        return {}
    told = earlier.get("history")
    own = {key: value for key, value in earlier.items() if key not in {"history", "files", "new_parameters"}}
    if isinstance(own.get("verification"), dict):
        own["verification"] = {key: own["verification"].get(key) for key in ("text", "kept", "failure")}
    return {"history": [*(told if isinstance(told, list) else []), own]}


def new(source: LoadedModel, plan: Plan) -> dict[str, Any]:
    """What a result has that is new, and every expansion of it, oldest first, in its own numbers.

    New is what the plan made, and where it adds no layers, or no tokens, what is left of those that the source's own
    expansions added. Raises CheckpointError where the source's record tells of what the source does not have.
    """
    earlier = [moved(copied, plan.origins) for copied in expansions(source)]
    made = [dict(zip(one.layers, one.copies_of, strict=True)) for one in plan.expansions]
    kept = () if made else moved(dict.fromkeys(new_copies(source)), plan.origins)
    return {
        "new_layers": sorted({*kept, *plan.new_layers}),
        "new_parameters": created(source.program.spec, plan, kept),
        "new_tokens": [plan.new_tokens.start, plan.new_tokens.stop] if plan.vocabularies else new_tokens(source),
        "expansions": [{"layers": [*one], "copies_of": [*one.values()]} for one in (*earlier, *made) if one],
        "vocabularies": vocabularies(source, plan),
    }


def expansions(opened: LoadedModel) -> list[dict[int, int | None]]:
    """Every block expansion that a checkpoint's record tells of, oldest first: new layers, and what each is a copy of.

    Raises CheckpointError where these are not layers of the checkpoint, or not as kept writes them.
    """
    try:
        return [_copied(one, opened.program.spec.depth) for one in listed(recorded(opened).get("expansions", []))]
    except (LookupError, TypeError, ValueError):
        file = opened.path / RECORD
        raise CheckpointError(f"{file}: its expansions are not those of this model; remove the file") from None


def _copied(one: Mapping[str, Any], depth: int) -> dict[int, int | None]:
    layers, copies_of = listed(one["layers"]), listed(one["copies_of"])
    found = dict(zip(map(whole, layers), copies_of, strict=True))
    if len(found) < len(layers) or not {*found, *copies_of} <= {*range(depth), None}:
        raise ValueError(found)
    return found


def new_copies(opened: LoadedModel) -> tuple[int, ...]:
    """The layers that a checkpoint's record calls new and that an expansion made. Raises as `expansions` does."""
    copied = {number for one in expansions(opened) for number in one}
    called = recorded(opened).get("new_layers")
    return tuple(sorted(copied & {n for n in called if type(n) is int})) if isinstance(called, list) else ()


def vocabularies(source: LoadedModel, plan: Plan) -> list[dict[str, Any]]:
    """Every expansion of the vocabulary that the result has, oldest first: the source's own, and the plan's.

    `new` are the first new id and one past the last, `before` and `after` count rows. Raises CheckpointError where the
    source's record tells of others than the source has.
    """
    had = source.program.spec.vocabulary
    try:
        out = [*listed(recorded(source).get("vocabularies", []))]
        fits = all(0 < one["before"] <= one["after"] <= had for one in out)
    except (LookupError, TypeError):
        fits = False
    if not fits:
        file = source.path / RECORD
        raise CheckpointError(f"{file}: its vocabularies are not those of this model; remove the file")
    for one in plan.vocabularies:
        before, had = had, one.size(had)
        new = [one.grown.first, one.grown.end]
        out.append({"new": new, "before": before, "after": had, "rows": Path(one.rows).name})
    return out


def new_tokens(opened: LoadedModel) -> list[int]:
    """The first id that a checkpoint's record calls new, and one past the last; empty where it says nothing."""
    match recorded(opened).get("new_tokens"):
        case [int(first), int(end)] if 0 <= first < end <= opened.program.spec.vocabulary:
            return [first, end]
        case _:
            return []


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
    return tuple(sorted(numbers)) if before + len(numbers) <= after else ()


def claim_of(record: Mapping[str, Any], promise: Promise, before: Spec, after: Spec) -> Claim:
    """What a model is held to by its record alone, against a source whose layers and tokens it may have more of."""
    tokens = _shared(record.get("vocabularies"), before.vocabulary)
    return Claim(promise, copies=copies(record, before.depth, after.depth), tokens=tokens)


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
    asked = {key: value for key, value in recipe.to_dict().items() if key not in {"source", "out", "base"}}
    return {**asked, **({"passes": [*map(_placeless, asked["passes"])]} if "passes" in asked else {})}


def _placeless(options: Mapping[str, Any]) -> dict[str, Any]:
    """A pass's options; of tokenizers and rows the names, wherever they lie."""
    return {key: Path(value).resolve().name if key in PLACES else value for key, value in options.items()}
