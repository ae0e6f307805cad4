"""One self-contained page about a conversion: no script, no network, light and dark."""

from __future__ import annotations

import io
from importlib.resources import files
from typing import TYPE_CHECKING

import jinja2
import matplotlib as mpl
from matplotlib.figure import Figure

from kept.ir.text import describe

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from kept.demo import Pair
    from kept.pipeline import Conversion
    from kept.verification.verify import Verification


def write_page(file: Path, name: str, conversion: Conversion, stock_class: str, pairs: Sequence[Pair]) -> None:
    """Write the page."""
    template = files("kept").joinpath("templates/demo.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    found = conversion.verification
    html = environment.from_string(template).render(
        name=name,
        conversion=conversion,
        found=found,
        spec=describe(conversion.plan.program.spec),
        stock_class=stock_class,
        pairs=pairs,
        picture="" if found is None else _layers(found),
    )
    file.write_text(html, encoding="utf-8")


def _layers(found: Verification) -> str:
    """Relative error of the residual stream after each layer, as SVG that takes the page's text colour."""
    with mpl.rc_context({"svg.hashsalt": "kept", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure = Figure(figsize=(7, 2.8), layout="constrained")
        axes = figure.subplots()
        lines = (("output", found.output, "#c2410c", "o-"), ("source itself", found.floor, "#64748b", "s--"))
        for label, parity, colour, style in lines:
            axes.semilogy(
                range(1, len(parity.layers)), parity.layers[1:], style, color=colour, label=f"{label}, {found.dtype}"
            )
        if found.proof is not None:
            axes.semilogy(
                range(1, len(found.proof.layers)),
                found.proof.layers[1:],
                "^-",
                color="#0f766e",
                label="the map, float64",
            )
        axes.set_xlabel("after layer")
        axes.set_ylabel("relative error")
        axes.set_xticks(range(1, len(found.output.layers)))
        axes.spines[["top", "right"]].set_visible(b=False)
        axes.legend(frameon=False, fontsize=8)
        figure.patch.set_alpha(0)
        axes.patch.set_alpha(0)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    svg = out.getvalue()
    return svg[svg.index("<svg") :].replace("#000000", "currentColor")
