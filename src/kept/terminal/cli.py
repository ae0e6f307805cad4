"""The command line: parse, call, print. Data goes to stdout, everything else to stderr."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from dataclasses import MISSING, Field, fields
from functools import partial
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from kept.distillation.settings import HELP, LISTED, LOSSES, WORDS, HealSettings
from kept.errors import CheckpointError, KeptError, cause
from kept.interruption import Terminated, terminable
from kept.terminal import display

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from kept.recipe import Recipe


def _words(_: click.Context, parameter: click.Parameter, begun: str) -> list[str]:
    """The words that an option takes, for the shell."""
    from kept.recipe import WORDS

    return [word for word in WORDS[str(parameter.name)] if word.startswith(begun)]


def _suites(_: click.Context, __: click.Parameter, begun: str) -> list[str]:
    """The names of suites and tasks, for the shell."""
    from kept.evaluation.tasks import NAMES

    return [name for name in NAMES if name.startswith(begun)]


def _folders(_: click.Context, __: click.Parameter, begun: str) -> list[CompletionItem]:
    """Ask the shell for directories."""
    return [CompletionItem(begun, type="dir")]


def _files(_: click.Context, __: click.Parameter, begun: str) -> list[CompletionItem]:
    """Ask the shell for files."""
    return [CompletionItem(begun, type="file")]


TEXT = click.option(
    "--text",
    shell_complete=_files,
    help="UTF-8 file that calibration and verification read. [default: a built-in sample]",
)
VERIFY_TOKENS = click.option(
    "--verify-tokens",
    type=int,
    help="Tokens of the final verification; 0 leaves it out. [default: 512, of large models 64]",
)
TIE = click.option(
    "--tie/--untie",
    default=None,
    help="If the stored head differs from tied embeddings: use the embedding, or the stored head.",
)
DRY_RUN = click.option("--dry-run", is_flag=True, help="Say what would be written, and write nothing.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
RECIPE = click.option("--recipe", type=click.Path(), help="A TOML file with any of these options; flags win over it.")

BASE = click.option("--base", shell_complete=_folders, metavar="DIR", help="Base model of a LoRA adapter.")

CHOICES: tuple[Callable[..., Any], ...] = (
    click.option(
        "--to", metavar="FAMILY", shell_complete=_words, help="Target family; same: the source's own. [default: llama]"
    ),
    click.option(
        "--norm",
        metavar="MODE",
        shell_complete=_words,
        help="LayerNorm becomes RMSNorm: exact, opm, opm-centred, calibrated or carried. [default: exact]",
    ),
    click.option(
        "--final-bias",
        metavar="WAY",
        shell_complete=_words,
        help="The last norm's bias: block (exact, one more layer) or drop. [default: block]",
    ),
    click.option(
        "--rope",
        metavar="FORM",
        shell_complete=_words,
        help="Partial rotation is said as llama3 (any runtime) or proportional (transformers 5). [default: llama3]",
    ),
    click.option(
        "--context",
        type=int,
        metavar="TOKENS",
        help="State fewer positions; a sliding window as long as them goes away.",
    ),
    TIE,
    click.option(
        "--dtype",
        metavar="DTYPE",
        shell_complete=_words,
        help="Write float32, bfloat16, float16 or float64. [default: the source's]",
    ),
    BASE,
    RECIPE,
    JSON,
)


class Group(click.Group):
    """Turns the errors that users can act on into one line and an exit code."""

    def invoke(self, context: click.Context) -> Any:
        """Run a command."""
        display.take_any_name()
        try:
            with terminable():
                return super().invoke(context)
        except KeptError as error:
            display.complain(str(error))
            context.exit(error.exit_code)
        except KeyboardInterrupt as error:
            display.complain(str(error) or "interrupted; the same command continues")
            # CPython remembers one that left an exec of text, as imports of dataclasses have, and would die by the
            # signal at its end although it was caught; another exec lets it forget.
            exec("")  # noqa: S102 - no text
            context.exit(143 if isinstance(error, Terminated) else 130)
        except (BrokenPipeError, click.ClickException, click.Abort, click.exceptions.Exit):
            raise  # click's own ends; and whoever read the output has seen enough
        except Exception as error:
            if "KEPT_DEBUG" in os.environ:
                raise
            display.complain(f"{cause(error)} (KEPT_DEBUG=1 shows where)")
            context.exit(2)


def with_choices(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what a conversion is."""
    for option in reversed(CHOICES):
        command = option(command)
    return command


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="kept")
def main() -> None:
    """Change the architecture of a pretrained decoder language model and keep what it knows.

    \b
    kept inspect path/to/orion                     what it is, and what it can become
    kept plan    path/to/orion --to llama          the passes, their promises and their cost
    kept convert path/to/orion out/llama           do it, and measure the result
    kept verify  path/to/orion out/llama           measure it again, on your own text
    kept check   out/llama                         is it whole, and every weight a number
    kept expand  out/llama out/pro --groups 8      room to learn: new layers, the same function
    kept tokenizer train korean/ --like out/llama  ... and new tokens, to be merged into its own
    kept heal    out/llama --teacher path/to/orion what was lost is learned from the source
    kept shrink-expanded out/pro out/small         what came to nothing goes again
    kept run     recipe.toml                       several of these, one after another
    kept eval    path/to/orion out/llama           what both know: texts, length, tasks, answers
    kept report  out/llama --eval eval.json        all that is known of it, on one page
    kept demo                                      all of it on a small model that comes along
    """


@main.command()
@click.argument("path", shell_complete=_folders)
@click.option(
    "--text", shell_complete=_files, metavar="FILE", help="Also measure, on this text, what each LayerNorm does."
)
@BASE
@JSON
def inspect(path: str, *, text: str | None, base: str | None, as_json: bool) -> None:
    """Say what a checkpoint is and what it can become.

    Its spec, what it costs to run, how large its norms' biases are, and which targets it reaches or why not.

    \b
    kept inspect path/to/orion
    kept inspect path/to/orion --json | jq .targets
    """
    from kept.commands.inspect import inspect as look

    found = look(path, text, base)
    display.out_json(found) if as_json else display.inspection(found)


@main.command()
@click.argument("source", metavar="SOURCE|RECIPE", shell_complete=_files, required=False)
@with_choices
@click.option(
    "--cluster",
    metavar="WHERE",
    help="To heal on: h100, 8xh100, a TOML file, or here, which measures this machine. [default: here]",
)
@click.option("--price", type=float, metavar="PRICE", help="Of one of these machines and an hour.")
def plan(
    source: str | None,
    recipe: str | None,
    cluster: str | None,
    price: float | None,
    *,
    as_json: bool,
    **options: Any,
) -> None:
    """Print the passes that a conversion would run, or what healing would take.

    Of a SOURCE: each pass with its promise and its cost. Of a RECIPE, a TOML file for kept heal: memory of a rank by
    what it is for, what would take less, tokens a second, hours and price. Reads no weights; a RECIPE's models may be
    directories with a config.json alone.

    \b
    kept plan path/to/orion
    kept plan path/to/orion --norm opm --json
    kept plan recipe.toml --cluster 8xh100 --price 2.5
    """
    if source is not None and source.endswith(".toml"):
        _plan_healing(source, cluster, price, as_json=as_json, beside=[recipe, *options.values()])
        return
    if cluster is not None or price is not None:
        raise click.UsageError("--cluster and --price go with a recipe for kept heal: kept plan RECIPE.toml")
    from kept.commands.plan import make_plan, target_family
    from kept.loaded import open_model

    chosen = _recipe(recipe, source=source, out="not written", **options)
    opened = open_model(chosen.source, chosen.base, tie=chosen.tie)
    found = make_plan(opened, chosen, unmeasured=True)
    target = target_family(opened, chosen).name
    display.out_json(display.plan_table(found)) if as_json else display.plan(opened, found, target)


def _plan_healing(file: str, where: str | None, price: float | None, *, as_json: bool, beside: list[Any]) -> None:
    from kept.commands.forecast import forecast
    from kept.distillation.cluster import HERE, cluster
    from kept.distillation.settings_file import load_settings

    if any(value is not None for value in beside):
        raise click.UsageError(f"{file} is a recipe for kept heal: it goes with --cluster, --price and --json alone")
    asked = load_settings(file)
    with _keyed(file, student=asked.student, teacher=asked.teacher):
        found = forecast(asked, cluster(where or HERE, price=price))
    display.out_json(display.forecast_table(found)) if as_json else display.forecast(found)


@main.command()
@click.argument("source", shell_complete=_folders, required=False)
@click.argument("out", shell_complete=_folders, required=False)
@with_choices
@click.option("--shard-size", metavar="SIZE", help="Largest weight file, as 5GB or 500MB. [default: 5GB]")
@TEXT
@VERIFY_TOKENS
@DRY_RUN
def convert(
    source: str | None, out: str | None, recipe: str | None, *, as_json: bool, dry_run: bool, **options: Any
) -> None:
    """Convert SOURCE into OUT and measure the result.

    OUT is a directory that stock tools load.

    Interrupted, the same command continues. Exit code 1: the result is not what the passes promised.

    \b
    kept convert path/to/orion out/llama
    kept convert path/to/orion out/plain --norm opm
    kept convert path/to/orion out/llama --dtype float32 --text my.txt
    kept convert path/to/orion out/llama --dry-run
    kept convert --recipe recipe.toml
    """
    _convert(_recipe(recipe, source=source, out=out, **options), as_json=as_json, dry_run=dry_run)


def _convert(asked: Recipe, *, as_json: bool, dry_run: bool) -> None:
    """Run a recipe, or say what it would write."""
    from kept.commands.convert import rehearse, run

    if dry_run:
        rehearsed = rehearse(asked, display.ProgressBars())
        display.out_json(display.rehearsal_table(rehearsed)) if as_json else display.rehearsal(rehearsed)
        return
    done = run(asked, display.ProgressBars())
    display.out_json(done.record) if as_json else display.conversion(done)


def _layers(_: click.Context, __: click.Parameter, said: str | None) -> tuple[int, ...]:
    """Layer numbers with commas between."""
    try:
        return tuple(int(number) for number in said.split(",")) if said is not None else ()
    except ValueError:
        raise click.BadParameter(f"{said!r} is not a list of layer numbers, as 4,9,14") from None


@main.command()
@click.argument("source", shell_complete=_folders)
@click.argument("out", shell_complete=_folders)
@click.option("--groups", type=int, metavar="N", help="Groups that the layers are cut into, as even as possible.")
@click.option("--blocks", type=int, metavar="P", help="Layers that are copied of each, its topmost. [default: 1]")
@click.option("--at", metavar="LIST", callback=_layers, help="Instead: the numbers of the new layers, as 4,9,14.")
@click.option(
    "--place",
    metavar="WHERE",
    help="Copies stand on their group (interleaved), or all before (prefix) or behind (suffix) the model's layers. "
    "[default: interleaved]",
)
@click.option(
    "--tokenizer", metavar="DIR", shell_complete=_folders, help="A merged tokenizer: its new tokens get rows."
)
@click.option(
    "--rows",
    metavar="WAY",
    shell_complete=_files,
    help="New rows are the mean of what the old tokenizer made of a token, zero, or those of a safetensors file with "
    "embedding, head and bias. [default: mean]",
)
@click.option("--multiple", type=int, metavar="N", help="Round the number of rows up. [default: 1]")
@TIE
@TEXT
@VERIFY_TOKENS
@DRY_RUN
@JSON
def expand(source: str, out: str, *, as_json: bool, dry_run: bool, **options: Any) -> None:
    """Put new layers into SOURCE that add nothing yet, or give it new tokens, or both.

    The result is of the same family, its logits are the same to the bit, and only the new layers' bytes are written
    anew. They are copies of the layers below them (LLaMA Pro, arXiv 2401.02415), silenced where they write; kept.json
    lists them, and heal --train new trains them alone.

    With --tokenizer, embedding and head get rows for what a tokenizer has beyond SOURCE's own (see kept tokenizer).
    Texts without a new token are read as before; heal --train new trains the new rows alone.

    Interrupted, the same command continues.

    \b
    kept expand path/to/llama out/pro --groups 8 --blocks 1
    kept expand path/to/llama out/pro --at 4,9,14 --dry-run
    kept expand path/to/llama out/korean --tokenizer out/merged --groups 8
    kept heal out/pro --train new --loss ce --data new-domain/ --tokens 20M --out out/pro-trained
    """
    from kept.commands.convert import expansion
    from kept.recipe import SAME

    given = {key: value for key, value in options.items() if value is not None}
    layers = {key: given.pop(key) for key in [*given] if key in {"groups", "blocks", "at", "place"}}
    tokens = {key: given.pop(key) for key in [*given] if key in {"tokenizer", "rows", "multiple"}}
    passes = expansion(layers, tokens)
    _convert(_recipe(None, source=source, out=out, to=SAME, passes=passes, **given), as_json=as_json, dry_run=dry_run)


@main.command("shrink-expanded")
@click.argument("source", shell_complete=_folders)
@click.argument("out", shell_complete=_folders)
@click.option("--below", type=float, metavar="NATS", help="What those that go may be worth together. [default: 0.0001]")
@click.option("--untouched", is_flag=True, help="Only those that write nothing, to the bit; measures nothing.")
@click.option("--layers", metavar="LIST", callback=_layers, help="Instead: the layers that go, as 4,9.")
@click.option("--text", shell_complete=_files, help="UTF-8 file to measure on. [default: a built-in sample]")
@click.option("--tokens", type=int, help="How many tokens of it. [default: 512, of large models 64]")
@DRY_RUN
@JSON
def shrink_expanded(source: str, out: str, *, as_json: bool, dry_run: bool, **options: Any) -> None:
    """Drop the layers of an expansion that came to nothing.

    What an expanded layer of SOURCE is worth is the KL of the model without it from the model with it, in nats a token.
    The least go first, as long as all that go are worth less than --below together. Of layers that nothing trained,
    expansion and shrinking give back the same weights, byte for byte. Where none goes, nothing is written.

    Interrupted, the same command continues.

    \b
    kept shrink-expanded out/pro-trained out/small --dry-run
    kept shrink-expanded out/pro-trained out/small --below 1e-3 --text mine.txt
    kept shrink-expanded out/pro out/llama --untouched
    """
    from kept.commands.shrink import shrink, shrinking_from

    done = shrink(shrinking_from({}, source=source, out=out, **options), display.ProgressBars(), dry=dry_run)
    display.out_json(display.shrunk_table(done)) if as_json else display.shrunk(done, source)


@main.command()
@click.argument("source", shell_complete=_folders)
@click.argument("out", shell_complete=_folders)
@click.option("--text", shell_complete=_files, help="UTF-8 file to measure on. [default: a built-in sample]")
@click.option("--tokens", default=2048, show_default=True, help="How many tokens of it.")
@click.option("--streamed", is_flag=True, help="Never hold a whole model: leaves out the continuations.")
@TIE
@JSON
def verify(source: str, out: str, *, as_json: bool, **options: Any) -> None:
    """Measure OUT against SOURCE.

    Logits, KL, perplexity, every layer, and continuations side by side.

    Exit code 1: the output is not what its passes promised.

    \b
    kept verify path/to/orion out/llama --text my.txt
    kept verify path/to/orion out/llama --streamed --json
    """
    from kept.commands.verify import verify as measure
    from kept.output.write_record import verification_table

    found = measure(source, out, **options, reporter=display.ProgressBars())
    display.out_json(verification_table(found)) if as_json else display.verification(found)
    if found.failure is not None:
        display.complain(f"{out}: the promise ({found.promise}) is broken: {found.failure}")
        raise click.exceptions.Exit(1)


@main.command()
@click.argument("recipe", shell_complete=_files)
@click.option("--out", metavar="DIR", shell_complete=_folders, help="Instead of the recipe's own.")
@click.option("--keep/--no-keep", default=None, help="Leave what the other steps wrote in .OUT.kept-run beside OUT.")
@DRY_RUN
@JSON
def run(recipe: str, *, as_json: bool, dry_run: bool, **options: Any) -> None:
    """Run the steps of RECIPE, a TOML file, one after another.

    Each step is one of the commands expand, convert, heal, shrink-expanded, verify, eval and report, with its options
    as keys, and goes on from what the one before it wrote. Everything is checked before the first begins, and the last
    model gets its name when all of them are done.

    Interrupted, the same command continues. What a step was asked or read is noted: where that changed, it and those
    behind it are done again.

    \b
    kept run recipes/expand-and-teach.toml --dry-run
    kept run recipes/expand-and-teach.toml
    """
    from kept.commands.preflight import check
    from kept.commands.recipe_steps import load_steps
    from kept.commands.run_recipe import run_all
    from kept.terminal.heal_progress import HealProgress

    asked = load_steps(recipe, **options)
    if dry_run:
        check(asked)
        display.out_json(display.steps_table(asked)) if as_json else display.steps(asked)
        return
    with HealProgress() as watch:
        done = run_all(asked, display.ProgressBars(), display.RecipeDisplay(data=as_json), watch)
    display.out_json(display.ran_table(asked, done)) if as_json else display.ran(done)


@main.command()
@click.argument("path", shell_complete=_folders)
@JSON
def check(path: str, *, as_json: bool) -> None:
    """Check that a checkpoint is whole.

    Headers, index and config against the tensors, the sums that kept.json states, every weight a finite number, and a
    tokenizer that loads and fits.

    Exit code 2: it is damaged.

    \b
    kept check path/to/orion
    kept check out/llama --json | jq .damage
    """
    from dataclasses import asdict

    from kept.commands.check import check as examine

    found = examine(path, display.ProgressBars())
    display.out_json({**asdict(found), "verdict": found.verdict}) if as_json else display.checked(found)
    if found.damage:
        display.complain(f"{path}: {found.verdict}")
        raise click.exceptions.Exit(2)


@main.group()
def tokenizer() -> None:
    """Train a tokenizer on new text, and merge it into a model's own.

    What comes out is for kept expand --tokenizer.

    \b
    kept tokenizer train korean/ --like path/to/llama --size 8000 --out out/korean
    kept tokenizer merge path/to/llama out/korean --out out/merged
    """


@tokenizer.command("train")
@click.argument("texts", metavar="TEXT...", nargs=-1, required=True, shell_complete=_files)
@click.option("--out", required=True, shell_complete=_folders, help="Directory for the tokenizer.")
@click.option("--size", default=8000, show_default=True, help="Tokens that it has, bytes and special ones among them.")
@click.option("--like", metavar="MODEL", shell_complete=_folders, help="Cut and write words as this model's tokenizer.")
@click.option("--kind", metavar="KIND", help="Without a model: byte-level or byte-fallback. [default: byte-level]")
@click.option("--text-field", default="text", show_default=True, help="Field or column with the text.")
@JSON
def tokenizer_train(texts: tuple[str, ...], out: str, *, as_json: bool, **options: Any) -> None:
    """Train a BPE tokenizer on TEXT.

    Files or directories of text, JSON lines or parquet. With --like it can be merged into that model's own.

    \b
    kept tokenizer train korean/ --like path/to/llama --size 8000 --out out/korean
    kept tokenizer train corpus.jsonl --text-field content --kind byte-fallback --out out/own
    """
    from kept.tokenizer.train import train_tokenizer

    done = train_tokenizer(texts, out, reporter=display.ProgressBars(), **options)
    display.out_json(display.trained_table(done)) if as_json else display.trained(done)


@tokenizer.command("merge")
@click.argument("model", shell_complete=_folders)
@click.argument("new", shell_complete=_folders)
@click.option("--out", required=True, shell_complete=_folders, help="Directory for the merged tokenizer.")
@click.option("--most", type=int, metavar="N", help="Take only the first N new pieces.")
@click.option(
    "--text",
    "texts",
    multiple=True,
    shell_complete=_files,
    help="UTF-8 file to count tokens on; may be given several times. [default: a built-in sample]",
)
@JSON
def tokenizer_merge(model: str, new: str, out: str, *, most: int | None, texts: tuple[str, ...], as_json: bool) -> None:
    """Merge the pieces of the tokenizer NEW into MODEL's own.

    Old tokens keep their ids, and text without a new piece is cut as before. New merges stand behind the old ones; a
    piece that none can make is left out and counted.

    \b
    kept tokenizer merge path/to/llama out/korean --out out/merged --text korean.txt
    kept expand path/to/llama out/grown --tokenizer out/merged
    """
    from kept.tokenizer.merge import merge_tokenizers

    done = merge_tokenizers(model, new, out, most=most, texts=texts)
    display.out_json(display.merged_table(done)) if as_json else display.merged(done)


def with_settings(command: Callable[..., Any], only: Collection[str] = HELP) -> Callable[..., Any]:
    """An option for each setting of healing but the student. What is not given is None: a recipe may say it."""
    for field in reversed(fields(HealSettings)):
        if field.name == "student" or field.name not in only:
            continue
        name, hint = f"--{field.name.replace('_', '-')}", str(field.type)
        shared: dict[str, Any] = {"help": HELP[field.name] + _default(field), "default": None}
        if hint == "bool":
            command = click.option(f"{name}/--no-{name[2:]}", **shared)(command)
        elif hint.startswith("tuple"):
            command = click.option(name, multiple=True, **shared)(command)
        else:
            kind = (
                click.Choice(WORDS[field.name]) if field.name in WORDS else {"int": int, "float": float}.get(hint, str)
            )
            command = click.option(name, type=kind, **shared)(command)
    return command


def _default(field: Field[Any]) -> str:
    """How a help text says what a setting is where nobody says it."""
    value = ", ".join(field.default) if isinstance(field.default, tuple) else field.default
    return "" if value in (None, "", MISSING) or isinstance(value, bool) else f" [default: {value}]"


@main.command()
@click.argument("student", metavar="STUDENT|RECIPE", shell_complete=_files)
@click.option(
    "--loss",
    type=click.Choice(LOSSES),
    help="What is minimised: its weight is 1, the others' 0, where they are not given. ce needs no teacher. "
    "[default: kl]",
)
@with_settings
@JSON
def heal(student: str, *, as_json: bool, **options: Any) -> None:
    """Let STUDENT learn what its conversion could not keep.

    It is trained on what its teacher puts out, by default on the teacher's own texts, and only in its norms. With
    --loss ce it learns from texts alone, without a teacher; --loss ce --kl 0.1 --teacher MODEL learns them and stays
    near MODEL (learning without forgetting, arXiv 1606.09282).

    A RECIPE is a TOML file with the student and any of these options, whose keys have _ for -, as teacher_cache; flags
    win over it. torchrun splits both models over processes. Interrupted, the same command continues.

    \b
    kept heal out/plain --teacher path/to/orion --data corpus/ --train norms --tokens 2M --out out/healed
    kept heal out/plain --teacher path/to/orion --train norms+head --learning-rate 3e-4 --out out/healed
    kept heal out/pro --train new --loss ce --data new-domain/ --tokens 20M --out out/pro-trained
    kept heal recipe.toml --learning-rate 3e-4
    torchrun --nproc-per-node 2 -m kept heal recipe.toml
    """
    from kept.commands.heal import heal as mend
    from kept.distillation.settings_file import load_settings, settings_from
    from kept.reporting import shows
    from kept.terminal.heal_progress import HealProgress

    given = {key: value or None if value == () else value for key, value in options.items()}
    asked = (
        load_settings(student, **given) if student.endswith(".toml") else settings_from({}, student=student, **given)
    )
    recipe = student if student.endswith(".toml") else None
    with _keyed(recipe, student=asked.student, teacher=asked.teacher), HealProgress() as watch:
        done = mend(asked, display.ProgressBars(), watch)
    if shows():
        display.out_json(done.record) if as_json else display.healed(done)


@contextmanager
def _keyed(recipe: str | None, **named: str | None) -> Iterator[None]:
    """Say of a model that cannot be opened where it was named: the recipe, and its key."""
    try:
        yield
    except CheckpointError as error:
        key = next((key for key, value in named.items() if str(error).startswith((f"{value}:", f"{value}/"))), None)
        if recipe is None or key is None:
            raise
        raise CheckpointError(f"{recipe}: {key}: {error}") from None


OF_CACHES = (
    "data",
    "text_field",
    "chat",
    "chat_template",
    "chat_date",
    "mixture",
    "hold_out",
    "tokens",
    "batch_size",
    "sequence_length",
    "temperature",
    "sample_temperatures",
    "precision",
    "seed",
)


@main.command("cache-teacher")
@click.argument("teacher", shell_complete=_folders)
@click.option("--out", required=True, shell_complete=_folders, help="Directory for the cache.")
@click.option("--k", default=LISTED, show_default=True, help="Likeliest tokens that are kept of each distribution.")
@click.option(
    "--student",
    shell_complete=_folders,
    help="Measure the bias of k tokens against this student. [default: the teacher without its last layer]",
)
@partial(with_settings, only=OF_CACHES)
@JSON
def cache_teacher(teacher: str, student: str | None, k: int, *, as_json: bool, **options: Any) -> None:
    """Run TEACHER once, and keep what it puts out.

    Its likeliest tokens at every place of the texts are written to OUT, with what they lose against all tokens. Runs of
    `kept heal --teacher-cache OUT` with the same data, length, held-out part and temperature read them, in any order.

    Interrupted, the same command continues.

    \b
    kept cache-teacher path/to/orion --data corpus/ --tokens 2000000 --out out/teacher
    kept heal out/plain --teacher-cache out/teacher --data corpus/ --tokens 2000000 --out out/healed
    """
    from kept.commands.cache_teacher import cache_teacher as write
    from kept.distillation.settings_file import settings_from

    given = {key: value or None if value == () else value for key, value in options.items()}
    done = write(settings_from({}, student=student or teacher, teacher=teacher, **given), k, display.ProgressBars())
    display.out_json(display.cache_table(done)) if as_json else display.cached_teacher(done)


@main.command("eval")
@click.argument("path", metavar="PATH", shell_complete=_folders)
@click.argument("others", metavar="[OTHER]...", nargs=-1, shell_complete=_folders)
@click.option(
    "--text",
    "texts",
    multiple=True,
    metavar="[DOMAIN=]FILE",
    help="UTF-8 file of a domain; may be given several times. [default: a built-in sample]",
)
@click.option(
    "--old", multiple=True, metavar="[DOMAIN=]FILE", help="A text of what PATH knew: what do the others forget of it?"
)
@click.option(
    "--new", multiple=True, metavar="[DOMAIN=]FILE", help="A text of what is new: what do the others learn of it?"
)
@click.option(
    "--suite",
    "suites",
    multiple=True,
    metavar="NAME",
    shell_complete=_suites,
    help="positions, passkey, agreement, h6, kobest, blimp, lambada, humaneval, mt-bench, or a task; may be given "
    "several times.",
)
@click.option("--data", type=click.Path(), shell_complete=_folders, metavar="DIR", help="Where the tasks' files are.")
@click.option("--limit", type=int, metavar="N", help="Only N documents a task, questions a category, prompts, trials.")
@click.option("--window", type=int, metavar="TOKENS", help="Window of perplexity. [default: the context]")
@click.option("--stride", type=int, metavar="TOKENS", help="How far it moves. [default: half the window]")
@click.option("--characters", type=int, metavar="N", help="How much of a text is read. [default: 200000]")
@click.option("--longest", type=int, metavar="TOKENS", help="Of positions and passkey. [default: the model's limit]")
@click.option("--dtype", metavar="DTYPE", shell_complete=_words, help="Run in this dtype. [default: each weight's own]")
@click.option("--device", metavar="DEVICE", help="Where it runs: cpu, cuda, cuda:1, ... [default: cpu]")
@click.option("--execute", is_flag=True, help="Run the generated programs of humaneval, in a fenced process.")
@click.option("--unsafe", is_flag=True, help="With --execute: run even if this system cannot enforce every limit.")
@click.option("--chat", is_flag=True, help="Ask mt-bench with the checkpoint's chat template, in a fenced process.")
@click.option("--chat-date", metavar="DATE", help="Current date for the chat template, as 2026-01-31. [default: today]")
@click.option("--judge", metavar="URL", help="OpenAI-compatible endpoint that grades mt-bench; key in KEPT_JUDGE_KEY.")
@click.option("--judge-model", metavar="NAME", help="The judge's model. [default: gpt-4]")
@click.option("--seed", type=int, metavar="N", help="Of the pass keys. [default: 0]")
@click.option("--results", default="kept-eval", show_default=True, help="Directory of what is finished.")
@click.option("--out", type=click.Path(), shell_complete=_files, metavar="FILE", help="Also write the JSON to a file.")
@JSON
def evaluate(
    path: str,
    others: tuple[str, ...],
    results: str,
    out: str | None,
    *,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure what the model in PATH knows, or several models side by side.

    Perplexity by domain, by position, pass keys in long texts, greedy agreement, and tasks on local files. Each OTHER
    has its difference to PATH with the standard error over the same items, and with --old and --new what it forgot and
    learned. A model may be given a name: pro=out/trained.

    Interrupted, the same command continues: what is finished is not measured again.

    \b
    kept eval path/to/orion out/llama --text english=en.txt --text python=code.txt
    kept eval path/to/llama pro=out/pro full=out/full --old stories=en.txt --new python=code.txt
    kept eval out/llama --suite positions --suite passkey --text book.txt
    kept eval path/to/orion out/llama --suite h6 --suite agreement --data evals/ --out eval.json
    kept eval out/llama --suite mt-bench --data evals/ --judge https://host/v1 --judge-model NAME
    """
    from kept.evaluation.evaluation_file import check, table, write
    from kept.evaluation.run import evaluate as measure

    files = {role: _domains(options.pop(role)) for role in ("texts", "old", "new")}
    given = {key: value for key, value in options.items() if value is not None}
    if out is not None:
        data = [options["data"]] if options["data"] is not None else []
        check(out, (path, *others), [file for one in files.values() for file in one.values()] + data)
    found = measure(path, *others, results=results, reporter=display.ProgressBars(), **files, **given)
    if out is not None:
        write(out, found)
    display.out_json(table(found)) if as_json else display.evaluation(found)


def _domains(texts: tuple[str, ...]) -> dict[str, str]:
    """Files by domain; one without a domain is called by its name."""
    from kept.naming import split_name

    pairs = [split_name(text) for text in texts]
    empty = next((text for text, (_, file) in zip(texts, pairs, strict=True) if not file), None)
    if empty is not None:
        raise click.UsageError(f"{empty!r} names no file; write it as DOMAIN=FILE.")
    named = [(name or os.path.basename(file), file) for name, file in pairs]  # noqa: PTH119 - any text
    twice = next((name for n, (name, _) in enumerate(named) if name in dict(named[:n])), None)
    if twice is not None:
        raise click.UsageError(f"Two texts are called {twice!r}; name them: --text DOMAIN=FILE.")
    return dict(named)


@main.command()
@click.argument("path", shell_complete=_folders)
@click.option("--prompt", "prompts", multiple=True, help="Text to continue; may be given several times.")
@click.option("--tokens", default=64, show_default=True, help="How many new tokens.")
@click.option("--temperature", default=0.0, show_default=True, help="0 is greedy.")
@click.option("--top-p", default=1.0, show_default=True, help="Sample from the likeliest tokens of this total.")
@click.option("--seed", default=0, show_default=True, help="Of the sampling.")
@JSON
def generate(path: str, prompts: tuple[str, ...], *, as_json: bool, **options: Any) -> None:
    """Continue prompts with the model in PATH.

    It may be of any family that kept reads.

    \b
    kept generate out/llama --prompt "Once upon a time"
    kept generate path/to/orion --prompt "def add(" --temperature 0.8 --top-p 0.9
    """
    from kept.commands.generate import generate as write

    texts = write(path, prompts or ("Once upon a time",), reporter=display.ProgressBars(), **options)
    display.out_json(texts) if as_json else display.generations(texts)


@main.command()
@click.argument("out", shell_complete=_folders)
@click.option("--out", "file", metavar="FILE", shell_complete=_files, help="The page. [default: OUT/report.html]")
@click.option(
    "--eval",
    "evaluations",
    multiple=True,
    metavar="FILE",
    shell_complete=_files,
    help="What kept eval wrote with --out; may be given several times.",
)
@click.option("--metrics", metavar="FILE", shell_complete=_files, help="The metrics.jsonl of the run that healed OUT.")
@JSON
def report(out: str, file: str | None, *, as_json: bool, **options: Any) -> None:
    """Write a page about OUT.

    What was done to it, pass by pass; how near it is to its source; how it healed; what each domain kept; texts side by
    side; how to load it. One HTML file that needs nothing else; what is not known has no section.

    \b
    kept report out/llama
    kept report out/healed --eval eval.json --metrics out/.healed.kept-healing/metrics.jsonl
    kept report out/llama --out page.html
    """
    from kept.pages.page import report as write

    done = write(out, file, **options)
    display.out_json({"page": str(done.path), "sections": done.sections}) if as_json else display.reported(done)


@main.command()
@click.option("--out", default="kept-demo", show_default=True, help="Directory for the result and the page.")
@JSON
def demo(out: str, *, as_json: bool) -> None:
    """Convert the small model that comes along.

    It is verified, loaded with transformers, and shown on a page.

    \b
    kept demo
    kept demo --out /tmp/demo
    """
    from kept.demo import run_demo

    done = run_demo(out, display.ProgressBars())
    display.out_json(done.record) if as_json else display.demo(done)


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that completes `kept` in a shell.

    \b
    kept completion bash >> ~/.bashrc
    kept completion zsh >> ~/.zshrc
    kept completion fish > ~/.config/fish/completions/kept.fish
    """
    from click import shell_completion

    found = shell_completion.get_completion_class(shell)
    assert found is not None, shell
    made = found(main, {}, "kept", "_KEPT_COMPLETE")
    click.echo(made.source_template % made.source_vars())  # `source()` starts the shell to ask for its version


def _recipe(file: str | None, **options: Any) -> Any:
    """The recipe that a file and flags make; a missing argument is click's kind of error."""
    from kept.recipe import load_recipe, recipe_from

    given = {key: value for key, value in options.items() if value is not None}
    if file is not None:
        return load_recipe(file, **given)
    for key in ("source", "out"):
        if key not in given:
            raise click.UsageError(f"Missing argument '{key.upper()}' (or --recipe).")
    return recipe_from({}, **given)


if __name__ == "__main__":
    sys.exit(main())
