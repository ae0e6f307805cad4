"""Output of `kept inspect` and `kept check`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kept.cli.display.console import hint, printer
from kept.formatting import amount, kv_cache, parameters

if TYPE_CHECKING:
    from kept.commands.check import CheckReport
    from kept.commands.inspect import Inspection


def inspection(found: Inspection, *, verbose: bool = False) -> None:
    """`kept inspect`. `verbose` prints refusals whole."""
    console = printer()
    size = amount(found.nbytes, "bytes")
    console.print(f"{found.path}: {found.family}, {parameters(found.parameters)} parameters, {found.dtype}, {size}")
    if found.quantised:
        console.print(f"the file stores {found.quantised}; sizes are of the dequantised weights")
    for line in found.description:
        console.print(f"  {line}")
    console.print(f"  KV cache: {kv_cache(found.kv_cache)}")
    biased = [norm.bias_to_gain for norm in found.norms if norm.bias_to_gain]
    if biased:
        console.print(f"  norm biases: |bias| / |gain| from {min(biased):.3g} to {max(biased):.3g}")
    for norm in found.norms:
        if norm.mean_to_std is not None:
            errors = (
                f"relative error as RMSNorm {norm.error_copied:.3g}, with calibrated gains {norm.error_calibrated:.3g}"
            )
            console.print(f"  {norm.name}: |mean| / std {norm.mean_to_std:.3g}, {errors}", markup=False)
    for reach in found.targets:
        refused = f"refused: {reach.refusal if verbose else reach.reason}"
        how = f"{reach.promise}: {', '.join(reach.passes) or 'nothing to do'}" if reach.promise else refused
        console.print(f"  to {reach.target}: {how}")
        for where in reach.domain:
            console.print(f"    the promise holds {where}", markup=False)
    if not verbose and any(reach.refusal for reach in found.targets):
        hint("kept plan PATH --to TARGET, or --verbose, says where and what to do instead")


def checked(found: CheckReport) -> None:
    """`kept check`: a line a finding, then the verdict."""
    console = printer()
    size = amount(found.nbytes, "bytes")
    console.print(f"{found.path}: {found.family or 'unknown family'}, {found.tensors} tensors, {size}")
    for line in found.damage:
        console.print(f"  {line}")
    for line in found.remarks:
        hint(line)
    if found.summed:
        console.print(f"  sha256 of {found.summed} files compared")
    console.print(found.verdict)
