"""How fast `kept heal`'s loop learns: against TRL's GKD trainer and against the plain loop, and what memory each takes.

    python benchmarks/heal_speed.py [--vocabulary 84608] [--train all] [--threads 2]
    pip install "trl>=1.16" accelerate datasets     what it needs beside kept; without trl the other two are compared

One stock Llama as student and one as teacher (random weights, on disk; every contender loads the same files), the same
batches of random tokens (8 rows of 256), forward KL at every token, fused AdamW, gradients clipped at 1, float32.
`trl` is GKDTrainer with lmbda 0 (no on-policy text) and beta 0, which is the forward KL, without gradient
checkpointing; `plain` is the loop that one writes first: whole logits of both models, `kl_div`, backward. `kept` is the
loop of `kept heal` as it is, with its documents, metrics and checks, held-out measurements and checkpoints not counted.
A step is from its batch to zeroed gradients.

Each round starts a process for each contender, in turns, so that all meet the same weather; a process takes
`--warm` steps and then `--runs`. Memory is the process's resident memory (the stock classes
map their weights from the file, kept reads them: both count), sampled every 5 ms: its peak over the steps, above what
it held before it loaded a model (`loop_mb`), and above what it held with both loaded (`steps_mb`).
Processor seconds are of all threads; with one thread they hardly depend on who else uses the machine. The rate is of
the operations that any way needs (kept.distillation.cost), beside what the machine reaches with square products. Prints
medians and writes them with machine, load, command and commit to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from heal_loss import Peak, median, rates
from keeping import keep
from transformers import LlamaConfig, LlamaForCausalLM

from kept.distillation.cost.operations import forward_operations, student_operations
from kept.distillation.data.mixture import Mixture
from kept.distillation.data.packing import BatchStream
from kept.distillation.data.token_dataset import ROW, TokenDataset
from kept.distillation.settings import HealSettings
from kept.distillation.train.choose_trainable import trainable
from kept.distillation.train.end_to_end import STUDENT, EndToEnd
from kept.distillation.train.load_backbone import load_backbone
from kept.distillation.train.metrics import Metrics
from kept.distillation.train.process_group import process_group
from kept.distillation.train.run_checkpoints import RunCheckpoints
from kept.distillation.train.trainer import Trainer
from kept.loaded import open_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from transformers import PreTrainedModel
    from trl.experimental.gkd import GKDConfig

    from kept.distillation.train.process_group import Ranks

WIDTH, LAYERS, HEAD = 256, 8, 32
"""Width of orion-9m; its MLP is three times as wide."""

ROWS, LENGTH = 8, 256

END = {"eos_token": "</s>", "pad_token": "</s>"}

CONTENDERS = ("kept", "plain", *(["trl"] if find_spec("trl") else []))


def prepare(given: argparse.Namespace, folder: Path) -> None:
    """Write both models, the student a little beside its teacher."""
    sizes = {
        "hidden_size": given.width,
        "intermediate_size": 3 * given.width,
        "num_attention_heads": given.width // HEAD,
    }
    config = LlamaConfig(
        **sizes,
        vocab_size=given.vocabulary,
        num_hidden_layers=given.layers,
        max_position_embeddings=2 * LENGTH,
        pad_token_id=None,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight.mul_(10)
    model.save_pretrained(folder / "teacher")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * parameter.std().nan_to_num() * torch.randn_like(parameter))
    model.save_pretrained(folder / "student")


def stream(given: argparse.Namespace) -> BatchStream:
    """Rows of random ids, one document each, as many as are read and one batch that is held out."""
    rows = ROWS * (given.warm + given.runs + 1)
    ids = np.random.default_rng(0).integers(3, given.vocabulary, (rows, LENGTH), dtype=np.uint32)
    table = np.zeros(rows, dtype=ROW)
    table["end"], table["digest"] = LENGTH * np.arange(1, rows + 1), np.arange(1, rows + 1) << 40
    source = TokenDataset(ids.ravel(), table, ("made",), int(ids.max()))
    return BatchStream(Mixture({"made": source}, None, ROWS), ROWS, LENGTH, 0)


def batches(given: argparse.Namespace) -> list[torch.Tensor]:
    """Return the same batches in the form that the other trainers read."""
    return [stream(given).batch_at(step).tokens_BT for step in range(given.warm + given.runs)]


def resident(pid: int) -> int:
    """VmRSS in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


class Steps:
    """When steps ended, and how much processor time they had taken."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.before = resident(os.getpid())
        self.warm, self.clock, self.busy, self.losses = given.warm, [], [], []  # type: int, list[float], list[float], list[float]

    def loaded(self) -> None:
        """Both models are there."""
        gc.collect()
        self.models = resident(os.getpid())
        self.peak = Peak(resident)
        self.peak.__enter__()
        self.tick()

    def tick(self) -> None:
        """A step begins or ends."""
        self.clock.append(time.monotonic())
        self.busy.append(time.process_time())

    def measured(self) -> dict[str, Any]:
        """Seconds of each step behind the warm ones, and peaks."""
        self.peak.__exit__()
        seconds, busy = ([b - a for a, b in pairwise(times)][self.warm :] for times in (self.clock, self.busy))
        peaks = {"loop_bytes": self.peak.largest - self.before, "steps_bytes": self.peak.largest - self.models}
        return {"seconds": seconds, "processor_seconds": busy, "losses": self.losses, **peaks}


def asked(given: argparse.Namespace, **changes: Any) -> HealSettings:  # noqa: ANN401 - values of any key
    """Return the settings of a run of steps only; `changes` override them."""
    names = {"student": "", "teacher": "", "out": "", "train": given.train}
    sizes = {"tokens": (given.warm + given.runs) * ROWS * LENGTH, "batch_size": ROWS, "sequence_length": LENGTH}
    return HealSettings(**{**names, **sizes, "eval_every": 10**9, "save_every": 10**9, **changes})


def loop(given: argparse.Namespace, folder: Path, one: Ranks, settings: HealSettings, steps: Steps) -> Trainer:
    """The loop of `kept heal` on models of a folder, which tells when a step ends."""
    student, teacher = (open_model(folder / name).program for name in ("student", "teacher"))
    dtype = getattr(torch, settings.dtype)
    learned = trainable(student, settings.train)
    models = (
        load_backbone(student, dtype, one, learned, checkpointing=settings.gradient_checkpointing),
        load_backbone(teacher, dtype, one),
    )

    def watch(line: Mapping[str, Any]) -> None:
        if line["kind"] == "step":
            steps.tick()
            steps.losses.append(line["groups"][STUDENT]["loss"])

    metrics = Metrics(folder, watch, quiet=not one.is_first)
    return Trainer(settings, one, EndToEnd(settings, one, *models), stream(given), RunCheckpoints(folder, one), metrics)


def kept(given: argparse.Namespace, folder: Path, steps: Steps) -> None:
    """Its steps, and nothing between."""
    with process_group() as one:
        made = loop(given, folder, one, asked(given), steps)
        made._measure = made._save = lambda: None  # type: ignore[method-assign] # noqa: SLF001 - neither is a step
        steps.loaded()
        made.run()


def models(given: argparse.Namespace, folder: Path) -> Iterator[PreTrainedModel]:
    """Student and teacher in the stock classes."""
    for name in ("student", "teacher"):
        model = LlamaForCausalLM.from_pretrained(folder / name, dtype=torch.float32)
        for key, parameter in model.named_parameters():
            parameter.requires_grad_(name == "student" and (given.train == "all" or "norm" in key))
        yield model


def plain(given: argparse.Namespace, folder: Path, steps: Steps) -> None:
    """Return the loss from the logits of all tokens at once."""
    student, teacher = models(given, folder)
    learning = [p for p in student.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learning, lr=1e-3, weight_decay=0.0, fused=True)
    read = batches(given)
    steps.loaded()
    for rows in read:
        with torch.no_grad():
            log_p = torch.log_softmax(teacher(rows, use_cache=False).logits[:, :-1], dim=-1).flatten(0, 1)
        log_q = torch.log_softmax(student(rows, use_cache=False).logits[:, :-1], dim=-1).flatten(0, 1)
        loss = torch.nn.functional.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        steps.losses.append(float(loss.detach()))
        del log_p, log_q, loss
        steps.tick()


def trl(given: argparse.Namespace, folder: Path, steps: Steps) -> None:
    """GKDTrainer."""
    # ruff: noqa: PLC0415 - only this contender needs them
    from datasets import Dataset
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from torch.utils.data import SequentialSampler
    from transformers import PreTrainedTokenizerFast, TrainerCallback
    from trl.experimental.gkd import GKDTrainer

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: object, **__: object) -> None:
            steps.loaded()

        def on_step_end(self, *_: object, **__: object) -> None:
            steps.tick()

        def on_log(self, *_: object, logs: dict[str, Any], **__: object) -> None:  # type: ignore[override]
            steps.losses.extend([logs["loss"]] if "loss" in logs else [])

    class InOrder(GKDTrainer):
        def _get_train_sampler(self, *_: object) -> SequentialSampler:
            return SequentialSampler(self.train_dataset)

    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"</s>": 2})), **END)
    student, teacher = models(given, folder)
    trainer = InOrder(
        model=student,
        teacher_model=teacher,
        args=_gkd_config(given, folder),
        data_collator=_collate,
        train_dataset=Dataset.from_dict({"input_ids": torch.cat(batches(given)).tolist()}),
        processing_class=words,
        callbacks=[Clock()],
    )
    trainer.train()


def _gkd_config(given: argparse.Namespace, folder: Path) -> GKDConfig:
    """Return TRL's settings of the run."""
    from trl.experimental.gkd import GKDConfig

    return GKDConfig(
        output_dir=str(folder / "trl"),
        lmbda=0.0,
        beta=0.0,
        temperature=1.0,
        max_steps=given.warm + given.runs,
        per_device_train_batch_size=ROWS,
        learning_rate=1e-3,
        lr_scheduler_type="cosine",
        weight_decay=0.0,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        max_length=LENGTH,
    )


def _collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Return the ids of rows as a batch for TRL."""
    ids = torch.tensor([row["input_ids"] for row in rows])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """One contender in this process."""
    contender: Callable[[argparse.Namespace, Path, Steps], None] = {"kept": kept, "plain": plain, "trl": trl}[given.one]
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        for name in ("student", "teacher"):
            (folder / name).symlink_to(given.models / name)
        steps = Steps(given)
        contender(given, folder, steps)
        return steps.measured()


def run(given: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Every round, each contender in a process of its own."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in (*CONTENDERS, "products")}
    sizes = ("vocabulary", "width", "layers", "train", "warm", "runs", "threads")
    asked = [f"--{name}={getattr(given, name)}" for name in sizes]
    with tempfile.TemporaryDirectory() as work:
        prepare(given, Path(work))
        for _ in range(given.rounds):
            for name, results in found.items():
                command = [sys.executable, __file__, *asked, "--models", work, "--one", name]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    sys.exit(f"{name} failed: {done.stderr}")
                said = done.stdout.strip().splitlines()[-1]
                results.append(json.loads(said))
                print(f"{name}: {said[:200]}, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
        program = open_model(Path(work) / "student").program
    given.operations = student_operations(program.spec, trainable(program, given.train), LENGTH) + forward_operations(
        program.spec, LENGTH
    )
    return found


def summary(given: argparse.Namespace, found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians, and what they are to kept's."""
    machine = max(one["square"] for one in found["products"])
    rows: dict[str, dict[str, Any]] = {}
    for name in CONTENDERS:
        seconds = median(found[name], "seconds")
        gflop = given.operations * ROWS * LENGTH / 1e9
        rows[name] = {
            "seconds": round(seconds, 4),
            "best_seconds": round(min(min(one["seconds"]) for one in found[name]), 4),
            "processor_seconds": round(median(found[name], "processor_seconds"), 4),
            "tokens_per_second": round(ROWS * LENGTH / seconds, 1),
            "loop_mb": round(statistics.median(one["loop_bytes"] for one in found[name]) / 1e6, 1),
            "steps_mb": round(statistics.median(one["steps_bytes"] for one in found[name]) / 1e6, 1),
            "gflop_per_second": round(gflop / seconds, 1),
            "of_the_machines_rate": round(gflop / seconds / machine, 3),
            "first_loss": found[name][0]["losses"][0],
        }
    others = [name for name in CONTENDERS if name != "kept"]
    ours = rows["kept"]
    return {
        "machine_gflop_per_second": round(machine, 1),
        "contenders": rows,
        "kept against": {
            name: {
                "speed": round(rows[name]["seconds"] / ours["seconds"], 2),
                "speed at best": round(rows[name]["best_seconds"] / ours["best_seconds"], 2),
                "processor time": round(ours["processor_seconds"] / rows[name]["processor_seconds"], 3),
                "memory of the loop": round(ours["loop_mb"] / rows[name]["loop_mb"], 3),
                "memory of the steps": round(ours["steps_mb"] / rows[name]["steps_mb"], 3),
            }
            for name in others
        },
    }


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, size in (("vocabulary", 84608), ("width", WIDTH), ("layers", LAYERS)):
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--train", default="all", choices=("all", "norms"))
    parser.add_argument("--rounds", type=int, default=3, help="processes of each contender")
    parser.add_argument("--warm", type=int, default=2, help="steps that do not count")
    parser.add_argument("--runs", type=int, default=3, help="steps in each process")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--models", type=Path, help="where the models of --one are")
    parser.add_argument("--one", help="measure one contender in this process")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.one:
        given.tokens = ROWS * LENGTH
        print(json.dumps(rates(given) if given.one == "products" else measure(given)))
        return
    found = run(given)
    results = {
        "threads": given.threads,
        "torch": torch.__version__,
        "sizes": {name: getattr(given, name) for name in ("vocabulary", "width", "layers", "train", "rounds", "runs")},
        **summary(given, found),
        "runs": found,
    }
    few = f"-{given.threads}-threads" if given.threads != os.cpu_count() else ""
    keep(f"heal-speed-{given.vocabulary}-{given.train}{few}", results)


if __name__ == "__main__":
    main()
