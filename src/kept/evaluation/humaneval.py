"""HumanEval (arXiv 2107.03374) as a task for `lm-eval`: functions completed greedily, and run against their tests.

lm-eval's own description of it fetches the program that runs them from the hub; here they run in `sandbox.py`.
"""

from __future__ import annotations

from typing import Any

from kept.evaluation.sandbox import passes

STOPS = ["\nclass", "\ndef", "\n#", "\nif", "\nprint", "\nassert", "\n@"]
"""Where the function ends: with the next thing at the margin."""

NEW_TOKENS = 512


def description() -> dict[str, Any]:
    """The task as `lm-eval` wants to be told."""
    return {
        "task": "humaneval",
        "output_type": "generate_until",
        "doc_to_text": "prompt",
        "doc_to_target": "entry_point",
        "process_results": judged,
        "metric_list": [{"metric": "pass@1", "aggregation": "mean", "higher_is_better": True}],
        "generation_kwargs": {"until": STOPS, "max_gen_toks": NEW_TOKENS, "do_sample": False},
    }


def judged(document: dict[str, str], results: list[str]) -> dict[str, float]:
    """1 where the completed function passes its tests."""
    return {"pass@1": float(passes(program(document, results[0])))}


def program(document: dict[str, str], completion: str) -> str:
    """The prompt, its completion, and the tests called on it."""
    return f"{document['prompt']}{completion}\n{document['test']}\ncheck({document['entry_point']})\n"
