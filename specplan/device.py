"""``DeviceSpec``: what a device offers, every figure with its source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from specplan.errors import UnsupportedError
from specplan.provenance import Figure, Source

DeviceKind = Literal["cuda", "rocm", "mps", "cpu"]


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """One accelerator, or a CPU with its memory.

    Attributes:
        name: profile name, for example ``rtx-4090``.
        title: name for people.
        kind: cuda, rocm, mps or cpu.
        compute_capability: of an NVIDIA device, for example ``8.9``; the gfx name of an AMD device.
        unified_memory: memory is shared with the host.
        memory_bytes: total bytes, as the driver reports them where that is known.
        memory_bandwidth_bytes_per_s: peak.
        link_bandwidth_bytes_per_s: to the host or a peer, one direction.
        flop_per_s: dense peak by dtype; a dtype that the hardware lacks is absent.
        kernel_launch_s: time that one small kernel costs at least.
        context_bytes: what the driver keeps per process.
    """

    name: str
    title: str
    kind: DeviceKind
    compute_capability: str | None
    unified_memory: bool
    memory_bytes: Figure
    memory_bandwidth_bytes_per_s: Figure
    link_bandwidth_bytes_per_s: Figure
    flop_per_s: dict[str, Figure]
    kernel_launch_s: Figure
    context_bytes: Figure

    @property
    def cublas_workspace_bytes(self) -> Figure:
        """What PyTorch gives its matrix library per handle and stream; CUDABlas.cpp, getChosenWorkspaceSize."""
        if self.kind == "cuda":
            major = int((self.compute_capability or "0").split(".")[0])
            if major >= 9:
                source: Source = "published" if major == 9 else "assumed"
                return Figure(33_554_432, source, "PyTorch's default on Hopper; newer devices are taken to be the same")
            default = "PyTorch's default below compute capability 9.0: 8 519 680 bytes, in a segment of 20 MiB"
            return Figure(20 << 20, "published", default)
        if self.kind == "rocm":
            mi300 = (self.compute_capability or "").startswith("gfx94")
            return Figure(
                134_217_728 if mi300 else 33_554_432, "assumed", "PyTorch's default for hipBLAS, not measured"
            )
        return Figure(0, "exact", "no such library")

    def matmul_rate(self, compute_dtype: str) -> Figure:
        """FLOP/s of matrix products in ``compute_dtype``; float32's rate where hardware has to emulate it.

        Raises:
            UnsupportedError: the profile gives no rate at all.
        """
        rate = self.flop_per_s.get(compute_dtype) or self.flop_per_s.get("float32")
        if rate is None:
            raise UnsupportedError(f"device {self.name}: no FLOP/s for {compute_dtype} in its profile")
        return rate
