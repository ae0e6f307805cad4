"""HumanEval (arXiv 2107.03374) as a task for `lm-eval`: greedy completions of functions, run against their tests.

lm-eval's own description downloads code to run the completions; here they run in `sandbox.py`.
"""

from __future__ import annotations

from typing import Any

from kept.evaluation.sandbox import passes

STOPS = ["\nclass", "\ndef", "\n#", "\nif", "\nprint", "\nassert", "\n@"]
"""Stop texts: the next statement without indentation ends the function."""

NEW_TOKENS = 512


def description() -> dict[str, Any]:
    """Return the configuration of the task for `lm-eval`."""
    return {
        "task": "humaneval",
        "dataset_path": "openai/openai_humaneval",
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "prompt",
        "doc_to_target": "entry_point",
        "process_results": score,
        "metric_list": [{"metric": "pass@1", "aggregation": "mean", "higher_is_better": True}],
        "generation_kwargs": {"until": STOPS, "max_gen_toks": NEW_TOKENS, "do_sample": False},
    }


def score(document: dict[str, str], results: list[str]) -> dict[str, float]:
    """Return pass@1 of a document: 1 if the completed function passes its tests, else 0."""
    return {"pass@1": float(passes(program(document, results[0])))}


def program(document: dict[str, str], completion: str) -> str:
    """Return the prompt with its completion, followed by a call of the tests."""
    return f"{document['prompt']}{completion}\n{document['test']}\ncheck({document['entry_point']})\n"
