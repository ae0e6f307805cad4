"""Devices that a run is planned for: known accelerators, a TOML file that describes others, or this machine, measured.

```toml
device = "h100"              # a name of DEVICES; the other keys win over its figures
ranks = 16
price = 2.5                  # per device-hour, in any currency
mfu = 0.4                    # model FLOPs utilisation in training: the part of the peak that is reached
memory_gb = 80
bfloat16_tflops = 989
float32_tflops = 67
memory_bandwidth_gb_s = 3350
link_gb_s = 450              # to the other devices of its node, one way
ranks_per_node = 8
network_gb_s = 50            # between nodes, per rank, one way
```
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import psutil
from pydantic import Field
from pydantic.dataclasses import dataclass as settings_dataclass

from kept.errors import RecipeError
from kept.setting_types import nearest
from kept.settings_model import CONFIG, Settings
from kept.toml_file import load

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


GIGA, TERA = 1e9, 1e12


@dataclass(frozen=True)
class Device:
    """One device: bytes of memory, operations per second by precision, bytes per second of its memory and links."""

    memory: float
    bfloat16: float
    float32: float
    traffic: float
    link: float


DEVICES: Mapping[str, Device] = {
    "a100-40gb": Device(40e9, 312e12, 19.5e12, 1555e9, 300e9),
    "a100": Device(80e9, 312e12, 19.5e12, 2039e9, 300e9),
    "h100": Device(80e9, 989e12, 67e12, 3350e9, 450e9),
    "h200": Device(141e9, 989e12, 67e12, 4800e9, 450e9),
    "b200": Device(180e9, 2250e12, 75e12, 8000e9, 900e9),
    "mi300x": Device(192e9, 1307e12, 163e12, 5300e9, 448e9),
    "l40s": Device(48e9, 362e12, 91.6e12, 864e9, 32e9),
    "rtx4090": Device(24e9, 165e12, 82.6e12, 1008e9, 32e9),
}
"""The makers' datasheets: dense matrix products in bfloat16, float32 outside of TensorFloat-32, links one way (NVLink
or Infinity Fabric; else PCIe 4, 16 lanes). Gigabytes are decimal; most have a few percent more, which runtimes take."""

REACHED = 0.4
"""The part of the peak that training reaches where nobody says: 0.38 to 0.43 of an H100's on 8,192 and 16,384 of them
(arXiv 2407.21783, table 4)."""

REACHED_HERE = 0.6
"""Fraction of the speed of square matrix products that runs reached here (docs/explanation/measurements.md)."""

NODE, NETWORK = 8, 50e9
"""Ranks of a node, and bytes per second of the 400 Gb/s that each has to other nodes."""

MOST_RANKS = 1_000_000

HERE = "here"
"""The name of this machine."""


@dataclass(frozen=True)
class Cluster:
    """Ranks on devices of one kind. `price` is for one and an hour; `host`: devices are parts of this machine."""

    name: str
    device: Device
    ranks: int = 1
    price: float = 0.0
    reached: float = REACHED
    node: int = NODE
    network: float = NETWORK
    host: bool = False

    @property
    def memory(self) -> float:
        """The memory of one rank, in bytes."""
        return self.device.memory / self.ranks if self.host else self.device.memory

    @property
    def link(self) -> float:
        """Bytes a second that a rank is sent by the others.

        Weights that come from other nodes come once to a node, over all its links to the network.
        """
        return self.device.link if self.ranks <= self.node else min(self.device.link, self.node * self.network)

    def rate(self, dtype: str) -> float:
        """Return the reached speed of matrix products, in operations per second."""
        return self.reached * (self.device.bfloat16 if dtype == "bfloat16" else self.device.float32)


Amount = Annotated[float, Field(gt=0, lt=1e9)]


@settings_dataclass(frozen=True, config=CONFIG)
class ClusterFile(Settings):
    """Keys of a cluster file."""

    FORMER: ClassVar[Mapping[str, str]] = {
        "reached": "mfu",
        "traffic_gb_s": "memory_bandwidth_gb_s",
        "node": "ranks_per_node",
    }

    device: str | None = Field(default=None, description="Name of a known device; the other keys win over its figures.")
    ranks: int | None = Field(default=None, gt=0, le=MOST_RANKS, description="Devices in all.")
    price: float | None = Field(default=None, ge=0, lt=1e9, description="Price per device-hour, in any currency.")
    mfu: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Model FLOPs utilisation in training: the part of the peak that is reached.",
    )
    memory_gb: Amount | None = Field(default=None, description="Memory of a device in GB (10^9 bytes).")
    bfloat16_tflops: Amount | None = Field(default=None, description="Peak of dense bfloat16 products in TFLOP/s.")
    float32_tflops: Amount | None = Field(default=None, description="Peak of float32 products in TFLOP/s.")
    memory_bandwidth_gb_s: Amount | None = Field(default=None, description="Memory bandwidth of a device in GB/s.")
    link_gb_s: Amount | None = Field(
        default=None, description="Bandwidth to the other devices of the node, one way, in GB/s."
    )
    ranks_per_node: int | None = Field(default=None, gt=0, le=MOST_RANKS, description="Devices of a node.")
    network_gb_s: Amount | None = Field(default=None, description="Bandwidth between nodes per rank, one way, in GB/s.")


def cluster(said: str, **overrides: Any) -> Cluster:  # noqa: ANN401 - values of any key
    """Return the cluster for `h100`, `8xh100`, a TOML file or `here`, which measures this machine.

    `overrides` are keys of a cluster file. Raises RecipeError for an unknown name or key, or a wrong value.
    """
    if said.endswith(".toml"):
        return load(said, cluster_from, overrides)
    count, name = re.fullmatch(r"(?:(\d{1,7})\s*x\s*)?(.*)", said.strip(), re.DOTALL).groups()  # type: ignore[union-attr]
    return cluster_from({"device": name, "ranks": None if count is None else int(count)}, **overrides)


def cluster_from(table: Mapping[str, Any], **overrides: Any) -> Cluster:  # noqa: ANN401 - values of any key
    """Return a cluster from the keys of a table. Raises RecipeError for an unknown, wrong or missing key."""
    asked = ClusterFile.from_table(table, **overrides)
    base = _base(asked)
    name = asked.device or "described"
    made = replace(base, name=name if base.ranks == 1 and asked.ranks in {None, 1} else f"{asked.ranks}x{name}")
    given = {field: getattr(asked, key) for key, field in PLAIN.items() if getattr(asked, key) is not None}
    if asked.network_gb_s is not None:
        given["network"] = asked.network_gb_s * GIGA
    return replace(made, device=_device(base.device, asked), **given)


PLAIN = {"ranks": "ranks", "price": "price", "mfu": "reached", "ranks_per_node": "node"}
"""Keys of a file that are fields of a cluster as they are."""


def _base(asked: ClusterFile) -> Cluster:
    if asked.device == HERE:
        return here(asked.ranks or 1)
    if asked.device is not None:
        words = [*DEVICES, HERE]
        if asked.device not in words:
            near = nearest(asked.device, words)
            raise RecipeError(
                f"{asked.device!r} is not a known device{near}; there are {', '.join(words)}, "
                "or describe it in a TOML file (memory_gb, bfloat16_tflops, ...)",
                "device",
            )
        return Cluster(asked.device, DEVICES[asked.device])
    for key in SIZES:
        if getattr(asked, key) is None:
            raise RecipeError(f"is missing; give it, or name a device ({', '.join(DEVICES)})", key)
    return Cluster("described", Device(0, 0, 0, 0, 0))


SIZES = {
    "memory_gb": ("memory", GIGA),
    "bfloat16_tflops": ("bfloat16", TERA),
    "float32_tflops": ("float32", TERA),
    "memory_bandwidth_gb_s": ("traffic", GIGA),
    "link_gb_s": ("link", GIGA),
}
"""Keys of a cluster file, with the field of `Device` and the unit of each."""


def _device(device: Device, asked: ClusterFile) -> Device:
    said = {key: getattr(asked, key) for key in SIZES if getattr(asked, key) is not None}
    return replace(device, **{SIZES[key][0]: value * SIZES[key][1] for key, value in said.items()})


def here(ranks: int = 1, clock: Callable[[], float] = time.perf_counter) -> Cluster:
    """Return this machine as a cluster. Speed and memory bandwidth are measured, which takes about a second."""
    import torch  # noqa: PLC0415 - a plan for another machine does not need it

    square, (long, out) = torch.randn(2048, 2048), torch.randn(2, 1 << 24)
    plain, rounded = _rate(square, clock), _rate(square.bfloat16(), clock)
    traffic = 3 * long.nbytes / _seconds(lambda: torch.mul(long, long, out=out), clock)
    memory = psutil.virtual_memory().total
    # Ranks of one machine share what it computes, and what they send passes through its memory.
    device = Device(memory, rounded / ranks, plain / ranks, traffic / ranks, traffic / ranks / 3)
    return Cluster(HERE, device, ranks, reached=REACHED_HERE, node=ranks, host=True)


def _rate(square: Tensor, clock: Callable[[], float]) -> float:
    return 2 * len(square) ** 3 / _seconds(lambda: square @ square, clock)


def _seconds(work: Callable[[], object], clock: Callable[[], float]) -> float:
    """Return the shortest of five measured times, in seconds."""
    found = []
    for _ in range(5):
        begun = clock()
        work()
        found.append(clock() - begun)
    return min(found)
