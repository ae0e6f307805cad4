"""Inputs of `kept report`: a record, an evaluation and metrics, as the commands write them, small and made up."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from kept.ir import spec as ir
from kept.ir.serialise import to_json

if TYPE_CHECKING:
    from pathlib import Path


def _parity(scale: float, kl: float) -> dict[str, Any]:
    layers = [scale * (n + 1) for n in range(5)]
    errors = {"max_logit_error": 12 * scale, "mean_logit_error": scale, "kl": kl, "top1": 1 - 20 * scale}
    return {
        "tokens": 512,
        "logit_std": 2.5,
        **errors,
        "perplexity_reference": 34.5,
        "perplexity": 34.625,
        "layers": layers,
    }


PROMPT = {"prompt": "Once upon a time", "source": ", a ship was late.", "output": ", a ship was early."}

NORM = ir.Norm("rms", 1e-5)
LAYER = ir.Layer(ir.Attention(4, 4, 40, ir.Rope(1e4, 40)), ir.Mlp(400, "silu"), NORM, NORM)
SPEC = to_json(ir.Spec(2048, 160, 512, (LAYER,) * 3, NORM))
LONGER_SPEC = to_json(ir.Spec(2048, 160, 512, (LAYER,) * 4, NORM))
"""The architecture before and after, of the model in `RECORD`."""

RECORD: dict[str, Any] = {
    "kept": "0.1.0",
    "source": {"name": "my-orion", "family": "orion", "files": {}},
    "recipe": {"to": "llama", "norm": "exact"},
    "before": {
        "dtype": "bfloat16",
        "parameters": 8_000_000,
        "bytes": 16_000_000,
        "kv_cache": {"512": 2_097_152},
        "spec": SPEC,
        "description": ["embedding: 2048 tokens x 160"],
    },
    "after": {
        "dtype": "bfloat16",
        "parameters": 9_000_000,
        "bytes": 18_000_000,
        "kv_cache": {"512": 2_359_296},
        "spec": LONGER_SPEC,
        "description": ["embedding: 2048 tokens x 160", "head: RMSNorm, own matrix"],
    },
    "promise": "exact",
    "layers": {"of_source": 3, "origins": [0, 1, 2, "affine-tail"]},
    "passes": [
        {"name": "centre", "options": {}, "promise": "exact", "layers": 0, "parameters": 0},
        {"name": "affine-tail", "options": {}, "promise": "exact", "layers": 1, "parameters": 1_000_000},
    ],
    "runtimes": ["llama.cpp f16: float16 cannot hold the tail's constants; it takes bf16"],
    "verification": {
        "text": "the built-in sample",
        "dtype": "bfloat16",
        "copied": False,
        "same": {**_parity(6e-3, 7.5e-5), "tokens": 512},
        "proof": _parity(1e-12, 2e-17),
        "output": _parity(4e-3, 7.3e-5),
        "floor": _parity(5e-3, 7.4e-5),
        "continuations": [PROMPT, {**PROMPT, "output": PROMPT["source"]}],
        "notes": [],
        "altered": [],
        "promise": "exact",
        "kept": True,
        "failure": None,
    },
    "files": {},
}


def _measured(step: int, kl: float) -> dict[str, Any]:
    losses = {"loss": kl, "kl": kl, "ce": 4 + kl}
    return {"step": step, "tokens": 2048 * step, "losses": losses, "agreement": 1 - kl}


MEASURED = [_measured(0, 0.45), _measured(50, 0.25), _measured(100, 0.125)]

HEALED: dict[str, Any] = {
    "settings": {
        "student": "plain",
        "teacher": "my-orion",
        "data": ["english=corpus/en.txt", "corpus/py.txt"],
        "train": "norms",
        "batch_size": 8,
        "sequence_length": 256,
        "gradient_accumulation": 2,
        "learning_rate": 1e-3,
        "lr_schedule": "cosine",
        "dtype": "float32",
    },
    "trained": {"parameters": 1_600, "of": 9_000_000},
    "sources": {
        "english": {"documents": 90, "tokens": 200_000, "held_out_documents": 1, "held_out_tokens": 2_000},
        "py": {"documents": 9, "tokens": 20_000, "held_out_documents": 1, "held_out_tokens": 1_000},
    },
    "groups": {"student": {"held_out": MEASURED}},
    "continuations": [{**PROMPT, "source": ", a ship sank."}],
}


def healed(measured: list[dict[str, Any]]) -> dict[str, Any]:
    """The record of a healing with other measurements."""
    return {**HEALED, "groups": {"student": {"held_out": measured}}}


def _figures(*pairs: tuple[float, float]) -> list[dict[str, float]]:
    return [{"value": value, "error": error} for value, error in pairs]


def _shares(*values: float) -> list[dict[str, float]]:
    """Figures with an interval of their own, as proportions have."""
    return [{"value": value, "error": 0.1, "low": value - 0.25, "high": value + 0.125} for value in values]


def _row(part: str, name: str, metric: str, first: float, other: float, **more: object) -> dict[str, Any]:
    (apart,) = _figures((other - first, 0.1 * abs(other - first) + 0.01 * first))
    models = _figures((first, 0.1 * first), (other, 0.1 * other))
    return {"part": part, "name": name, "metric": metric, "items": 20, "models": models, "differences": [apart]} | {
        "agreements": [],
        "detail": False,
        **more,
    }


def _side(domain: str, before: float, after: float, *nats: tuple[float, float]) -> dict[str, Any]:
    token, byte = _figures(*nats)
    said = {"token": token, "byte": byte}
    return {"domains": [{"domain": domain, "nats": said, "perplexity": [before, after]}], "mean": said}


EVALUATION: dict[str, Any] = {
    "models": [
        {"name": "my-orion", "family": "orion", "dtype": "bfloat16", "identity": "aa"},
        {"name": "healed", "family": "llama", "dtype": "bfloat16", "identity": "bb"},
    ],
    "settings": {},
    "rows": [
        _row("text", "english", "perplexity", 20.0, 21.0),
        _row("text", "english", "bits per byte", 1.0, 1.05),
        _row("text", "python", "perplexity", 10.0, 12.5),
        _row("text", "python", "bits per byte", 0.8, 0.9),
        *(_row("positions", "english", f"at {a} to {b}", 20 + b, 21 + b) for a, b in ((0, 1024), (1024, 2048))),
        *(_row("passkey", "passkey", f"at length {n}", 0.75, 0.5, models=_shares(0.75, 0.5)) for n in (1024, 2048)),
        *(_row("passkey", "passkey", f"at depth {d}", 1.0, 0.25) for d in (0.0, 0.5, 1.0)),
        _row("passkey", "passkey", "at all", 0.75, 0.5),
        _row("agreement", "greedy", "identical text", 0, 0, models=[], differences=[], agreements=_shares(0.5)),
        _row("h6", "arc_challenge", "acc_norm", 0.5, 0.45),
        _row("h6", "hellaswag", "acc_norm", 0.5, 0.45, models=_shares(0.5, 0.45), differences=_shares(-0.05)),
        _row("h6", "hellaswag", "acc", 0.5, 0.25),
        _row("h6", "average", "mean of the tasks", 0.5, 0.45),
        _row("h6", "mmlu_anatomy", "acc", 0.5, 0.45, detail=True),
    ],
    "texts": {
        "agreement: greedy": [[["The keeper", " slept."]], [["The keeper", " sailed."]]],
        "mt-bench: writing answers": [[["One day", "Yes."]], [["One night", "No."]]],
    },
    "forgetting": {
        "unit": "token",
        "methods": [
            {
                "model": "healed",
                "learned": _side("python", 12.5, 10.0, (0.2231, 0.02), (0.1, 0.01)),
                "forgot": _side("english", 20.0, 21.0, (0.04879, 0.01), (0.02, 0.005)),
                "verdict": "learned python; forgot english",
            }
        ],
    },
}


def three_models() -> dict[str, Any]:
    """An evaluation of three models; the third is as the second."""
    three = deepcopy(EVALUATION)
    three["models"].append({**three["models"][1], "name": "full"})
    for row in three["rows"]:
        row["models"] += row["models"][1:]
        row["differences"] *= 2
        row["agreements"] *= 2
    three["texts"] = {name: [*both, both[1]] for name, both in three["texts"].items()}
    method = three["forgetting"]["methods"][0]
    three["forgetting"]["methods"].append({**method, "model": "full", "verdict": ""})
    return three


def write_output(directory: Path, record: dict[str, Any] = RECORD, **changes: object) -> Path:
    """A directory with a record, changed at the top."""
    directory.mkdir(parents=True, exist_ok=True)
    return write(directory / "kept.json", {**deepcopy(record), **changes}).parent


def write(file: Path, value: object) -> Path:
    """A file of JSON."""
    file.write_text(json.dumps(value), encoding="utf-8")
    return file


def write_metrics(file: Path) -> Path:
    """The metrics of a run that was killed: a step twice, and a line that broke off."""
    lines = [{"kind": "held-out", "step": 0, "tokens": 0, "groups": {"student": {"loss": 0.45}}}]
    lines += [
        {"kind": "step", "step": n, "tokens": 4096 * n, "groups": {"student": {"loss": 0.5 / n}}}
        for n in (1, 2, 3, 2, 3, 4)
    ]
    file.write_text(
        "\n".join([*map(json.dumps, lines[:5]), '{"kind": "st', *map(json.dumps, lines[5:])]), encoding="utf-8"
    )
    return file
