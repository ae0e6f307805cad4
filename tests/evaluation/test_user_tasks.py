"""YAML files of users run no code unless that is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from jinja2.exceptions import SecurityError
from lm_eval import utils

from kept.errors import InputError
from kept.evaluation.user_tasks import checked_folder

if TYPE_CHECKING:
    from pathlib import Path

REFUSED = [
    ("process_docs: !function utils.process", r"a\.yaml: would run code \(!function\); allow it with --run-task-code"),
    ("x: [1, {y: !function os.system}]", "would run code"),
    ("x: !!python/object/apply:os.system [echo]", r"would run code \(tag:yaml.org,2002:python"),
    ("class: task.Mine", r"would run code \(class\)"),
    ("include: ../other.yaml", r"includes \.\./other\.yaml, which is outside"),
    ("include: /etc/passwd", "includes /etc/passwd, which is outside"),
    ("x: [", "is no YAML file"),
    ("x: " + "[" * 5000, "is no YAML file"),
]


@pytest.mark.parametrize(("text", "words"), REFUSED)
def test_what_would_run_code_is_refused(tmp_path: Path, text: str, words: str) -> None:
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "a.yaml").write_text(f"task: a\n{text}\n")
    with pytest.raises(InputError, match=words):
        checked_folder(folder, code=False)


def test_an_included_file_is_checked_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("task: a\ninclude: base.txt\n")
    (tmp_path / "base.txt").write_text("process_docs: !function utils.process\n")
    with pytest.raises(InputError, match=r"base\.txt: would run code"):
        checked_folder(tmp_path, code=False)


def test_a_link_that_leaves_the_directory(tmp_path: Path) -> None:
    folder = tmp_path / "tasks"
    folder.mkdir()
    (tmp_path / "a.yaml").write_text("task: a\n")
    (folder / "a.yaml").symlink_to(tmp_path / "a.yaml")
    with pytest.raises(InputError, match="is a link that leaves"):
        checked_folder(folder, code=False)


def test_templates_are_rendered_in_a_sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utils, "env", utils.env)
    (tmp_path / "a.yaml").write_text("task: a\ndoc_to_text: '{{question}}'\n")
    assert checked_folder(tmp_path, code=False) == tmp_path
    assert utils.apply_template("{{q | regex_replace('a', 'b')}}\n", {"q": "aa"}) == "bb\n"
    with pytest.raises(SecurityError):
        utils.apply_template("{{ ''.__class__.__mro__ }}", {})


def test_code_that_was_asked_for_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("task: a\nprocess_docs: !function utils.process\n")
    assert checked_folder(tmp_path, code=True) == tmp_path
    assert checked_folder(None, code=False) is None
