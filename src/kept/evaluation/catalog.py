"""The tasks that `lm-eval` knows: names, YAML files, groups and tags.

lm-eval parses about 14,000 YAML files to index its tasks, which takes 15 seconds of processor time. Here names are
found by a search for their lines, and only the files of requested tasks are parsed.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kept.errors import InputError
from kept.setting_types import nearest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

LINE = re.compile(r"^[\"']?(task|group|tag|include)[\"']?:[ \t]*([^\n]*)\n((?:[ \t]*-[^\n]*\n)*)", re.MULTILINE)
"""A key at the left margin with its value, or with a list below it."""

WORD = re.compile(r"[^\s'\"#,\[\]]+")

OWN_GROUPS: Mapping[str, Mapping[str, Any]] = {
    "h6": {
        "group": "h6",
        "task": [
            {"task": "arc_challenge", "num_fewshot": 25},
            {"task": "hellaswag", "num_fewshot": 10},
            {"task": "mmlu", "num_fewshot": 5},
            {"task": "truthfulqa_mc2", "num_fewshot": 0},
            {"task": "winogrande", "num_fewshot": 5},
            {"task": "gsm8k", "num_fewshot": 5},
        ],
    }
}
"""Groups in the form of lm-eval's, besides its own."""


@dataclass(frozen=True)
class TaskGroup:
    """A group of tasks. `averages` are the metrics that it averages, each with whether documents weigh equally."""

    name: str
    averages: tuple[tuple[str, bool], ...] = ()


@dataclass(frozen=True)
class CatalogTask:
    """A task: its YAML file (None: `changes` are its config), and the keys that its groups, outermost first, change."""

    name: str
    file: Path | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    groups: tuple[TaskGroup, ...] = ()


class TaskCatalog:
    """The tasks, groups and tags of some directories of YAML files; later directories override earlier ones."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self.files: dict[str, Path] = {}
        self.tags: dict[str, list[str]] = defaultdict(list)
        for root in roots:
            self._scan(root)

    @classmethod
    def installed(cls, more: Path | None = None) -> TaskCatalog:
        """Return the tasks of lm-eval and of another directory. Raises InputError if lm-eval is not installed."""
        spec = find_spec("lm_eval")
        if spec is None or not spec.submodule_search_locations:
            raise InputError("tasks: need lm-eval, which is not installed: pip install 'kept[eval]'")
        own = Path(next(iter(spec.submodule_search_locations))) / "tasks"
        return cls([own] if more is None else [own, more])

    @property
    def names(self) -> list[str]:
        """All names of tasks, groups and tags."""
        return sorted({*self.files, *self.tags, *OWN_GROUPS})

    def tasks(self, name: str) -> list[CatalogTask]:
        """Return a task, or the tasks of a group or tag. Raises InputError for an unknown name."""
        return [*self._tasks(name, {}, ())]

    def _scan(self, root: Path) -> None:
        seen: set[str] = set()
        for file in sorted(root.rglob("*.yaml"), key=lambda file: file.as_posix()):
            found = _keys(file)
            for name in found["group"] or found["task"]:
                if name not in seen:
                    seen.add(name)
                    self.files[name] = file
                    for tag in () if found["group"] else found["tag"]:
                        self.tags[tag].append(name)

    def _tasks(self, name: str, changes: Mapping[str, Any], groups: tuple[TaskGroup, ...]) -> Iterator[CatalogTask]:
        if name not in self.files and name not in OWN_GROUPS:
            if name not in self.tags:
                raise InputError(f"tasks: no task is called {name!r}{nearest(name, self.names)}; see --list-tasks")
            for member in sorted(set(self.tags[name])):
                yield from self._tasks(member, changes, groups)
            return
        config = OWN_GROUPS.get(name) or _config(self.files[name])
        if "group" in config:
            yield from self._members(config, changes, groups)
        else:
            yield CatalogTask(str(changes.get("task", name)), self.files[name], changes, groups)

    def _members(
        self, config: Mapping[str, Any], changes: Mapping[str, Any], groups: tuple[TaskGroup, ...]
    ) -> Iterator[CatalogTask]:
        """Yield the tasks of a group, with the group's changes of their keys."""
        from lm_eval.config.group import GroupConfig  # noqa: PLC0415 - lm-eval is an optional dependency

        structure = {one.name for one in fields(GroupConfig)}
        changes = {**{key: value for key, value in config.items() if key not in structure}, **changes}
        groups = (*groups, TaskGroup(config["group"], _averages(config)))
        for item in config["task"] if isinstance(config.get("task"), list) else ():
            yield from self._member(item, changes, groups)

    def _member(
        self, item: str | dict[str, Any], changes: Mapping[str, Any], groups: tuple[TaskGroup, ...]
    ) -> Iterator[CatalogTask]:
        if isinstance(item, str):
            yield from self._tasks(item, changes, groups)
        elif "group" not in item:
            known = item["task"] in self.files or item["task"] in self.tags
            merged = {**changes, **item}
            if known:
                rest = {key: value for key, value in merged.items() if key != "task"}
                yield from self._tasks(item["task"], rest, groups)
            else:
                name = f"{groups[-1].name}::{item['task']}"
                yield CatalogTask(name, None, {**merged, "task": name}, groups)
        elif item["group"] in self.files:
            rest = {key: value for key, value in item.items() if key != "group"}
            yield from self._tasks(item["group"], {**changes, **rest}, groups)
        else:
            yield from self._members(item, changes, groups)


def _keys(file: Path, depth: int = 0) -> dict[str, list[str]]:
    """Return the words of each key that `LINE` finds in a file, and the tags of the files that it includes."""
    found: dict[str, list[str]] = {"task": [], "group": [], "tag": [], "include": []}
    text = file.read_text(encoding="utf-8", errors="replace") + "\n"
    for key, rest, below in LINE.findall(text):
        inline = rest.partition(" #")[0]
        if key in {"task", "group", "include"}:
            found[key] += WORD.findall(inline)[:1]
        else:
            found[key] += WORD.findall(inline) or [WORD.findall(line.lstrip(" \t-"))[0] for line in below.splitlines()]
    if not found["tag"] and not found["group"] and depth < 4:
        for name in found["include"]:
            if (file.parent / name).is_file():
                found["tag"] += _keys(file.parent / name, depth + 1)["tag"]
    return found


def _averages(config: Mapping[str, Any]) -> tuple[tuple[str, bool], ...]:
    found = config.get("aggregate_metric_list") or []
    return tuple(
        (one["metric"] if name == "none" else f"{one['metric']},{name}", one.get("weight_by_size", True))
        for one in (found if isinstance(found, list) else [found])
        for name in _listed(one.get("filter_list", "none"))
    )


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _config(file: Path) -> dict[str, Any]:
    """Return the config in a YAML file, without resolving functions."""
    from lm_eval.tasks._yaml_loader import load_yaml  # noqa: PLC0415 - lm-eval is an optional dependency

    found: dict[str, Any] = load_yaml(file, resolve_func=False)
    return found
