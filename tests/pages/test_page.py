"""The report page: all known data, no empty section, and no markup from files."""

from __future__ import annotations

import json
import math
import re
from copy import deepcopy
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from markupsafe import Markup

import kept
from kept.cli.root import main
from kept.errors import CheckpointError, InputError, OutputError
from kept.ir.serialise import to_json
from kept.pages.blocks import Fact, Page, TextPair
from reported import (
    EVALUATION,
    HEALED,
    MEASURED,
    RECORD,
    healed,
    three_models,
    write,
    write_metrics,
    write_output,
)
from support.specs import plain_spec

if TYPE_CHECKING:
    from pathlib import Path

VOID = {"meta", "link", "br", "path", "use", "rect"}


class Structure(HTMLParser):
    """The tags of a page, which must nest, its headings' levels, its ids, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.levels: list[int] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.links += [value for name, value in attrs if name in {"href", "src", "xlink:href"} and value]
        self.levels += [int(tag[1])] if re.fullmatch("h[1-6]", tag) else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def html_of(done: kept.pages.page.Report) -> str:
    return done.path.read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def sketched(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts are empty but have their words, since drawing takes time. A test with `drawn` has real ones."""
    if "drawn" not in request.fixturenames:
        empty = Markup('<svg role="img" aria-label="{}"></svg>')
        monkeypatch.setattr("kept.pages.figures.draw", lambda chart, _: empty.format(chart.summary))


@pytest.fixture
def drawn() -> None:
    """Charts are drawn."""


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[kept.pages.page.Report, Structure]:
    """A page with every section."""
    folder = tmp_path_factory.mktemp("full")
    out = write_output(folder / "out", healed=HEALED)
    evaluation, metrics = write(folder / "eval.json", EVALUATION), write_metrics(folder / "metrics.jsonl")
    done = kept.report(out, evaluations=[evaluation], metrics=metrics)
    return done, Structure(html_of(done))


# ------------------------------------------------------------------------------------------------------------- contents


def test_every_section_is_there_where_all_is_known(full: tuple[kept.pages.page.Report, Structure]) -> None:
    done, page = full
    assert done.sections == (
        "forgetting",
        "domains",
        "architecture",
        "lineage",
        "passes",
        "parity",
        "healing",
        "generations",
        "sizes",
        "load",
    )
    assert set(done.sections) <= set(page.ids)
    assert {f"#{name}" for name in done.sections} <= set(page.links)


def test_the_page_is_well_made(full: tuple[kept.pages.page.Report, Structure]) -> None:
    _, page = full
    assert len(page.ids) == len(set(page.ids)), "figures have ids of their own"
    assert page.levels[0] == 1
    assert page.levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(page.levels, page.levels[1:], strict=False))
    others = {link for link in page.links if not link.startswith("#")}
    assert others == {"data:,", "kept.json"}, "it needs nothing else, and links its record"
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert "script" not in page.tags


@pytest.mark.parametrize(
    "words",
    [
        "my-orion converted to llama, healed",
        "promise exact: kept",
        "judged in float64, before anything is rounded: no logit differs from the source's by more than 1.2e-11, where",
        "where logits spread by 2.50: the same function.",
        "Largest logit difference 0.072 (512 tokens, bfloat16); the source's own rounding is 0.06; in float64 the",
        "in float64 the difference is 1.2e-11.",
        "Healing on 204,800 tokens took the held-out KL from the teacher from 0.45 to 0.125.",
        "affine-tail an added layer holds the bias of the logits as a constant coordinate exact +1 +1 M",
        "Difference from the source",
        "its attention above its MLP",
        "kept export",
        "the sha256 of every file",
        "Trained: norms, 1.6 K of 9 M parameters, from my-orion; on: english, py (of 220,000 tokens; 3,000 more",
        "are held out). Rows of 256 tokens, 16 a step; learning rate 0.001, cosine;",
        "KL from the teacher, nats per token 0.45 0.125",
        "top-1 agreement 55.00 % 87.50 %",
        "english 20 passages 20.0 ± 2.0 21.0 ± 2.1 +5.0 ± 1.4 %",
        "+25.0 ± 2.7 % perplexity, python (20 passages)",
        "healed against my-orion: perplexity higher on python (+25.0 ± 2.7 %) and english (+5.0 ± 1.4 %)",
        "tasks worse on arc_challenge (-0.050 ± 0.010) and without clear change on hellaswag (20 documents each).",
        "over the same passages (20 passages of python and 20 passages of english).",
        "Brackets hold 95 % intervals, a figure after ± is one standard error.",
        "8 M",
        "2.36 MB",
        "Limited support: llama.cpp f16",
        "trust_remote_code=False",
        "vllm serve",
        "convert_hf_to_gguf.py",
        "Before and after healing before Once upon a time , a ship sank. after Once upon a time , a ship was early.",
        "When it was verified the teacher",
        "kept eval path/to/my-orion",
        "The keeper slept. healed The keeper sailed.",
        "[question 1, turn 2] No.",
        "arc_challenge acc_norm, 20 documents 0.500 ± 0.050 0.450 ± 0.045 -0.050 ± 0.010",
        "hellaswag acc_norm, 20 documents 0.50 [0.25, 0.62] 0.45 [0.20, 0.57] -0.05 [-0.30, +0.07]",
        "h6, average mean of the tasks, 20 documents 0.500 ± 0.050",
        "greedy identical text 20 prompts 50 % [25, 62]",
        "healed +0.223 ± 0.020 +0.049 ± 0.010 learned python; forgot english",
        "healed 12.50 → 10.00 20.00 → 21.00",
        "Pass keys found, by tokens of text; 20 trials each, with 95 % intervals",
        "healed 50 % [25, 62] 50 % [25, 62]",
    ],
)
def test_it_says(full: tuple[kept.pages.page.Report, Structure], words: str) -> None:
    _, page = full
    facts = re.sub(r"(perplexity, python \(20 passages\)) (\+25.0 ± 2.7 %)", r"\2 \1", page.text)
    assert words in facts


def test_figures_at_the_top_name_their_text_and_length(tmp_path: Path) -> None:
    page = Structure(html_of(kept.report(write_output(tmp_path / "out")))).text
    assert "top-1 agreement (512 tokens, bfloat16) 88.00 %" in page
    assert "perplexity of the built-in sample (512 tokens) 34.5 → 34.62" in page


@pytest.mark.parametrize(("count", "five", "three"), [(1, 1, 1), (4, 4, 2), (5, 5, 3), (6, 3, 3), (7, 4, 3)])
def test_rows_of_figures_are_full(count: int, five: int, three: int) -> None:
    page = Page("", kept=None, verdict="", lede=(), facts=(Fact("1", ""),) * count, sections=(), beside_record=False)
    assert (page.facts_per_row(5), page.facts_per_row(3)) == (five, three)


@pytest.mark.parametrize(
    ("source", "output", "shared"),
    [
        ("We return left", "We remain", "We "),
        ("We return", "We return left", "We return"),
        ("one\n", "one\ntwo", "one\n"),
        ("가을 바람", "가을 바다", "가을 "),
        ("我们回家", "我们回来", "我们回"),
        ("same", "same", "same"),
    ],
)
def test_a_difference_begins_at_its_word(source: str, output: str, shared: str) -> None:
    assert source[: TextPair("", source, output).shared] == shared


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("licence",), "no clear change of perplexity on licence (11 passages)."),
        (("a", "b"), "no clear change of perplexity on a and b (11 passages each)."),
        (("a", "b", "c", "d"), "no clear change of perplexity on any of 4 domains (11 passages each)."),
    ],
)
def test_no_clear_change_names_a_few_domains(tmp_path: Path, names: tuple[str, ...], words: str) -> None:
    row = {**EVALUATION["rows"][0], "items": 11, "differences": [{"value": 0.1, "error": 1.0}]}
    rows = [{**row, "name": name} for name in names]
    file = write(tmp_path / "eval.json", {**EVALUATION, "rows": rows, "forgetting": None})
    page = Structure(html_of(kept.report(write_output(tmp_path / "out"), evaluations=[file]))).text
    assert f"healed against my-orion: {words}" in page
    assert "A figure after ± is one standard error." in page
    assert "rackets" not in page, "there are none"


def test_what_counts_once_is_not_told_twice(full: tuple[kept.pages.page.Report, Structure]) -> None:
    _, page = full
    assert "weighted sum" not in page.text, "the loss is the KL here"
    assert "mmlu_anatomy" not in page.text, "a detail"


def test_every_picture_has_words(full: tuple[kept.pages.page.Report, Structure]) -> None:
    html = html_of(full[0])
    labels = re.findall(r'<(?:svg|div) [^>]*role="img" aria-label="([^"]+)"', html)
    assert len(labels) == html.count("<svg") + 1 == 9, "the layers' picture is no SVG"
    assert "3 layers before, 4 after; new after: 3" in labels
    errors = "Relative error after each layer: the output, in bfloat16 from 8.0e-03 to 2.0e-02;"
    assert any(label.startswith(errors) for label in labels)
    apart = "arc_challenge -0.050 ± 0.010; hellaswag, acc_norm -0.05 [-0.30, +0.07]; hellaswag, acc -0.250 ± 0.030;"
    assert any(label.startswith(f"difference to my-orion: {apart}") for label in labels)
    assert "loss of each batch over 4 measurements: from 0.5 to 0.125." in labels
    assert "perplexity against my-orion, %: english +5.0 ± 1.4; python +25.0 ± 2.7." in labels


def test_pictures_follow_the_page_s_colours(full: tuple[kept.pages.page.Report, Structure]) -> None:
    pictures = re.findall(r"<svg.*?</svg>", html_of(full[0]), flags=re.DOTALL)
    assert all("currentColor" in svg and "var(--c0)" in svg for svg in pictures)
    assert not [svg for svg in pictures if re.search(r"(?:fill|stroke): #|<metadata|sans-serif", svg)]


def test_the_same_command_writes_the_same_bytes(tmp_path: Path, drawn: None) -> None:
    out = write_output(tmp_path / "out", healed=HEALED)
    first = kept.report(out).path.read_bytes()
    assert kept.report(out).path.read_bytes() == first


def test_a_run_with_many_groups_shows_the_worst(tmp_path: Path) -> None:
    """Five groups, of which one has diverged; four have curves. There is one loss and no agreement."""
    ends = {"layer 0": 0.1, "layer 1": 0.9, "layer 2": 0.3, "layer 3": 0.2, "layer 4": 0.4}
    groups: dict[str, Any] = {
        name: {
            "held_out": [{"step": n, "tokens": 10 * n, "losses": {"loss": loss}} for n, loss in ((0, 1.0), (5, end))]
        }
        for name, end in ends.items()
    }
    groups["layer 1"]["stopped"] = "step 6: the loss of the layer 1 is nan"
    lines: list[dict[str, Any]] = [
        {"kind": "step", "step": n, "tokens": 10 * n, "groups": {name: {"loss": end / n} for name, end in ends.items()}}
        for n in (1, 2)
    ]
    del lines[1]["groups"]["layer 1"]
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = write_output(tmp_path / "out", healed={**HEALED, "groups": groups})
    page = Structure(html_of(kept.report(out, metrics=metrics)))
    assert "held-out loss, median of 5 groups 1 → 0.3" in page.text
    assert "from 1 to 0.3; the worst is 0.9 (layer 1); 1 stopped, since the loss diverged." in page.text
    assert "layer 1, stopped 1 0.9 layer 4 1 0.4" in page.text, "the worst first"
    assert page.text.count("The worst 4 of 5 groups.") == 2
    assert "layer 0" in page.text
    assert '<span class="key c0">layer 1</span><span class="key c1">layer 4</span>' in html_of(kept.report(out))


# ------------------------------------------------------------------------------------------------------ what is missing


def test_what_is_not_known_has_no_section(tmp_path: Path) -> None:
    nothing = kept.report(write_output(tmp_path / "bare", {}, healed=HEALED))
    assert nothing.sections == ("healing", "generations", "load")
    assert "no conversion is recorded" in html_of(nothing)
    unmeasured = kept.report(write_output(tmp_path / "plain", verification=None))
    assert unmeasured.sections == ("architecture", "passes", "sizes", "load")
    assert "promise exact: not measured" in html_of(unmeasured)


def test_a_weaker_promise_of_an_earlier_step_is_in_the_headline(tmp_path: Path) -> None:
    taught = {**RECORD, "promise": "lossy", "healed": HEALED, "source": {**RECORD["source"], "name": "first"}}
    out = write_output(tmp_path / "out", passes=[], history=[taught], recipe={"to": "same"})
    done = kept.report(out)
    page, html = Structure(html_of(done)).text, html_of(done)
    assert '<p class="verdict">last step: promise exact: kept; since the first source: lossy</p>' in html
    assert "The last step promises exact against its own source, my-orion as step 2 left it." in page
    assert "Since the first source, first, the weakest promise is lossy." in page
    assert "no logit differs from its own source's by more than" in page
    assert "Nothing had to change in the last step" in page
    assert "1 first (orion): converted to llama (centre, affine-tail) exact" in page
    assert "2 healed on english, py: norms trained, 204,800 tokens, from my-orion lossy" in page
    assert "3 my-orion (orion): nothing changed exact" in page
    odd = kept.report(write_output(tmp_path / "odd", history=[{"source": 3, "recipe": 1, "passes": 2}]))
    assert "since the first source: not known" in html_of(odd)


def test_a_healed_model_repeats_no_conversion(tmp_path: Path) -> None:
    once = {**RECORD, "promise": "lossy", "healed": HEALED}
    page = Structure(html_of(kept.report(write_output(tmp_path / "out", once, history=[once])))).text
    assert page.count("my-orion (orion): converted to llama") == 1
    assert page.count("healed on english, py: norms trained") == 2


def test_a_copy_says_that_nothing_had_to_change(tmp_path: Path) -> None:
    assert "Nothing had to change" in html_of(kept.report(write_output(tmp_path / "out", passes=[])))


@pytest.mark.parametrize(
    ("promise", "failure", "verdict", "look"),
    [
        ("exact", None, "promise exact: kept", "verdict good"),
        ("exact", "KL is 3", "promise exact: broken: KL is 3", "verdict bad"),
        ("lossy", None, "promise lossy: nothing is promised; the difference was measured", "verdict"),
    ],
)
def test_the_verdict(tmp_path: Path, promise: str, failure: str | None, verdict: str, look: str) -> None:
    found = {**RECORD["verification"], "failure": failure, "proof": None}
    html = html_of(kept.report(write_output(tmp_path / "out", promise=promise, verification=found)))
    assert f'<p class="{look}">{verdict}</p>' in html
    assert "In float64" not in html


def test_invalid_numbers_are_refused(tmp_path: Path) -> None:
    """Null is what JSON has for NaN and infinity."""
    found = deepcopy(RECORD["verification"])
    for run in ("same", "output"):
        found[run] |= {"kl": None, "max_logit_error": None, "layers": [None, None, 1.0, 0.0, 1e-3]}
    first, second, _ = MEASURED
    held_out = [{**first, "agreement": None, "losses": {**first["losses"], "kl": None}}, second]
    apart = {"value": 1.0, "error": None}
    rows = [{**row, "differences": [apart for _ in row["differences"]]} for row in EVALUATION["rows"]]
    out = write_output(tmp_path / "out", verification=found, healed=healed(held_out))
    assert "nan" in html_of(kept.report(out, evaluations=[write(tmp_path / "eval.json", {**EVALUATION, "rows": rows})]))


def test_one_model_alone(tmp_path: Path) -> None:
    rows = [{**row, "models": row["models"][:1], "differences": []} for row in EVALUATION["rows"] if row["models"]]
    alone = {"models": EVALUATION["models"][:1], "settings": {}, "rows": rows, "texts": {}, "forgetting": None}
    page = Structure(html_of(kept.report(write_output(tmp_path / "out"), evaluations=[write(tmp_path / "e", alone)])))
    assert "english 20 passages 20.0 ± 2.0 python" in page.text
    assert "Bits per byte by domain: further left is better. Whiskers are 95 % intervals." in page.text
    assert "against" not in page.text.partition("Evaluation")[2].partition("Architecture")[0]


def test_evaluation_texts_have_curves_of_their_own(tmp_path: Path) -> None:
    held_out = [
        {**one, "sources": {"py": {"ce": 4.0 - n}}, "eval_data": {"stories": {"ce": 1.0 + n / 4}}}
        for n, one in enumerate(MEASURED)
    ]
    html = html_of(kept.report(write_output(tmp_path / "out", healed=healed(held_out))))
    said = "cross-entropy, nats per token over 3 measurements: stories (evaluation data) from 1 to 1.5; py from 4 to 2."
    assert f'aria-label="{said}"' in html
    assert '<span class="key c0">stories (evaluation data)</span><span class="key c1">py</span>' in html
    alone = [{**one, "eval_data": {}} for one in held_out]
    html = html_of(kept.report(write_output(tmp_path / "out", healed=healed(alone))))
    assert "Each text by itself" not in html, "one source is what is held out"


def test_three_models(tmp_path: Path) -> None:
    three = three_models()
    page = Structure(html_of(kept.report(write_output(tmp_path / "out"), evaluations=[write(tmp_path / "e", three)])))
    for words in (
        "my-orion (orion, bfloat16), healed (llama, bfloat16) and full (llama, bfloat16).",
        "english 20 passages 20.0 ± 2.0 21.0 ± 2.1 +5.0 ± 1.4 % 21.0 ± 2.1 +5.0 ± 1.4 %",
        "healed against my-orion: perplexity higher on python",
        "full against my-orion: perplexity higher on python",
        "greedy identical text full 20 prompts 50 % [25, 62]",
        "agreement: greedy, full",
        "full +0.223 ± 0.020 +0.049 ± 0.010 nothing",
    ):
        assert words in page.text
    assert page.text.count("perplexity, python") == 0, "whose it would be is not known"


def test_a_share_of_what_two_models_differ_by_has_its_own_error(tmp_path: Path) -> None:
    """Twice as much in every passage is twice as much: whatever the passages, nothing is uncertain."""
    row = deepcopy(EVALUATION["rows"][0])
    row["models"] = [{"value": 16.0, "error": 2.0}, {"value": 32.0, "error": 4.0}]
    for apart, words in ((2.0, "english +100 ± 0."), (4.472135955, "english +100 ± 35.")):
        row["differences"] = [{"value": 16.0, "error": apart}]
        file = write(tmp_path / "eval.json", {**EVALUATION, "rows": [row]})
        assert f"perplexity against my-orion, %: {words}" in html_of(
            kept.report(write_output(tmp_path / "out"), evaluations=[file])
        )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"unit": "letter"}, "it should be 'token' or 'byte'"),
        ({"methods": []}, "models have the same domains"),
        ({"methods": [{}]}, "forgetting.methods.0.model: is missing"),
        ({"unit": []}, "forgetting.unit: is [], it should be"),
    ],
)
def test_a_damaged_table_of_forgetting_is_one_line(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    damaged = {**EVALUATION, "forgetting": {**EVALUATION["forgetting"], **changes}}
    with pytest.raises(CheckpointError, match=re.escape(words)):
        kept.report(write_output(tmp_path / "out"), evaluations=[write(tmp_path / "eval.json", damaged)])


def test_tasks_that_do_not_differ_have_no_picture(tmp_path: Path) -> None:
    rows = [{**row, "differences": [{"value": 0.0, "error": 0.0}]} for row in EVALUATION["rows"] if row["part"] == "h6"]
    html = html_of(
        kept.report(write_output(tmp_path / "o"), evaluations=[write(tmp_path / "e", {**EVALUATION, "rows": rows})])
    )
    assert "No task differs" in html
    assert html.count("<svg") == 2, "of the layers' errors, and of what was forgotten"


def test_what_costs_nothing_and_changes_nothing_has_no_columns_and_no_bars(tmp_path: Path) -> None:
    step = {"name": "carry-norm-bias", "options": {}, "promise": "lossy", "layers": 0, "parameters": 0}
    same = {
        "parameters": 9_000_000,
        "bytes": 18_000_000,
        "kv_cache": {"1024": 4_718_592},
        "dtype": "bfloat16",
        "description": ["a"],
        "spec": to_json(plain_spec()),
    }
    page = html_of(kept.report(write_output(tmp_path / "out", passes=[step], before=same, after=same)))
    assert "norm biases are stored in a reserved constant direction of the residual stream" in page
    assert ">layers</th>" not in page
    assert "parameters: 9 M, unchanged" in page
    assert 'class="bar"' not in page.partition('id="sizes"')[2]


def test_several_evaluations_have_a_title_each(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{n}.json", EVALUATION) for n in range(2)]
    page = Structure(html_of(kept.report(write_output(tmp_path / "out"), evaluations=files)))
    assert page.text.count("my-orion and healed") == 4, "two sections have both"


# --------------------------------------------------------------------------------------------------------------- safety

EVIL = '</title></style></svg><script>alert("1")</script><img src=x onerror=alert(2)>$\\frac{1$ \x00 "\'&'


def _poisoned(value: Any) -> Any:
    """Every text that is not a key or a word of kept's own, made hostile."""
    own = {
        "exact",
        "lossy",
        "perplexity",
        "bits per byte",
        "text",
        "positions",
        "passkey",
        "agreement",
        "llama",
        "token",
        *("rms", "attention", "dense", "silu"),  # words of the architecture, which is validated
        "norms",
    }
    if isinstance(value, dict):
        return {key: _poisoned(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_poisoned(inner) for inner in value]
    keep = not isinstance(value, str) or value in own or value.startswith("at ")
    return value if keep else f"{EVIL}{value}"


def test_nothing_that_a_file_says_becomes_a_tag(tmp_path: Path, drawn: None) -> None:
    harmless = kept.report(
        write_output(tmp_path / "plain", healed=HEALED),
        evaluations=[write(tmp_path / "plain.json", EVALUATION)],
    )
    out = write_output(tmp_path / "<script>alert(3)</script>", _poisoned(RECORD), healed=_poisoned(HEALED))
    hostile = kept.report(out, evaluations=[write(tmp_path / "eval.json", _poisoned(EVALUATION))])
    html = html_of(hostile)
    assert "alert(&#34;1&#34;)" in html
    before, after = Structure(html_of(harmless)), Structure(html)
    page_tags = [[tag for tag in page.tags if tag != "mark"] for page in (before, after)]
    assert not {"script", "img"} & set(after.tags)
    assert page_tags[0].count("svg") == page_tags[1].count("svg")


# -------------------------------------------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"passes": 3}, "the record is not as kept writes it (passes: is 3, it should be a valid array)"),
        ({"passes": [{}]}, "passes.0.name: is missing"),
        (
            {"passes": [{"name": [], "options": {}, "promise": "exact"}]},
            "passes.0.name: is [], it should be a valid",
        ),
        ({"promise": "eternal"}, "promise: is \"eternal\", it should be 'exact', 'approximate' or 'lossy'"),
        ({"promise": {}}, "promise: is {}, it should be 'exact'"),
        ({"verification": "good"}, "the record is not as kept writes it"),
        ({"verification": {}}, "verification.text: is missing"),
        ({"before": {"parameters": True}}, "before.dtype: is missing"),
        (
            {"before": {**RECORD["before"], "parameters": True}},
            "before.parameters: is true, it should be",
        ),
        ({"source": {}}, "source.name: is missing"),
        ({"source": []}, "the record is not as kept writes it"),
        ({"runtimes": {}}, "runtimes: is {}, it should be a valid array"),
        ({"healed": {}}, "healed.settings: is missing"),
        ({"healed": {**HEALED, "groups": {}}}, "healed.groups: "),
        ({"healed": healed([])}, "healed.groups.student.held_out: "),
        ({"healed": healed([{"tokens": 1, "losses": {"loss": "x"}}])}, 'losses.loss: is "x", it should be'),
        ({"healed": healed([{"tokens": 1, "losses": {"kl": 1.0}}])}, "losses: has no loss"),
    ],
)
def test_a_damaged_record_is_one_line(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    out = write_output(tmp_path / "out", **changes)
    with pytest.raises(CheckpointError, match=rf"kept\.json: .*{re.escape(words)}.*; convert again"):
        kept.report(out)
    assert [entry.name for entry in out.iterdir()] == ["kept.json"], "nothing was written"


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b'{"models": []}', b'{"models": [], "rows": [{}], "texts": {}}', b"\xff"]
)
def test_a_damaged_evaluation_is_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "eval.json"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"eval\.json: (is not what kept eval --out wrote|.*make it again)"):
        kept.report(write_output(tmp_path / "out"), evaluations=[file])


def test_arguments_that_cannot_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere: has no kept\.json"):
        kept.report(tmp_path / "nowhere")
    out = write_output(tmp_path / "out")
    with pytest.raises(InputError, match=r"gone\.json: no such file; kept eval --out writes it"):
        kept.report(out, evaluations=[tmp_path / "gone.json"])
    with pytest.raises(InputError, match="was not healed"):
        kept.report(out, metrics=write_metrics(tmp_path / "metrics.jsonl"))
    healed = write_output(tmp_path / "healed", healed=HEALED)
    with pytest.raises(InputError, match=r"gone\.jsonl: cannot be read"):
        kept.report(healed, metrics=tmp_path / "gone.jsonl")
    with pytest.raises(InputError, match=r"empty\.jsonl: has no steps"):
        kept.report(healed, metrics=write(tmp_path / "empty.jsonl", {}))
    with pytest.raises(CheckpointError, match=r"odd\.jsonl: a line .*tokens: is missing"):
        kept.report(healed, metrics=write(tmp_path / "odd.jsonl", {"kind": "step", "step": 1}))
    with pytest.raises(OutputError, match=r"page\.html: cannot be written"):
        kept.report(out, "/dev/null/page.html")
    with pytest.raises(OutputError, match="out: is not a regular file"):
        kept.report(out, out)
    assert not [*tmp_path.rglob("*.part")]


def test_a_page_that_is_there_is_replaced(tmp_path: Path) -> None:
    out = write_output(tmp_path / "out")
    page = kept.report(out).path
    page.write_text(page.read_text() + "old")
    assert kept.report(out).path == page
    assert page.read_text(encoding="utf-8").lstrip().startswith("<!doctype html>")
    assert {entry.name for entry in out.iterdir()} == {"kept.json", "report.html"}


# --------------------------------------------------------------------------------------------------------- command line


def run(*arguments: object) -> Any:
    return CliRunner().invoke(main, ["report", *map(str, arguments)])


def test_the_command(tmp_path: Path) -> None:
    out, file = write_output(tmp_path / "out"), tmp_path / "page.html"
    said = run(out)
    assert (said.exit_code, said.stderr) == (0, "")
    assert said.stdout == f"{out}/report.html: written (architecture, passes, parity, generations, sizes, load)\n"
    found = run(out, "--out", file, "--eval", write(tmp_path / "eval.json", EVALUATION), "--json")
    sections = ["forgetting", "domains", "architecture", "passes", "parity", "generations", "sizes", "load"]
    assert json.loads(found.stdout) == {"page": str(file), "sections": sections}
    assert file.is_file()


def test_the_command_s_error_is_one_line(tmp_path: Path) -> None:
    failed = run(write_output(tmp_path / "out", passes=math.pi))
    assert failed.exit_code == 2
    assert failed.stdout == ""
    assert failed.stderr.count("\n") == 1
