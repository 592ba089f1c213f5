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
        link_latency_s: that handing a small message to a peer takes at least, one step of a ring.
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
    link_latency_s: Figure
    flop_per_s: dict[str, Figure]
    kernel_launch_s: Figure
    context_bytes: Figure

    @property
    def cublas_workspace_bytes(self) -> Figure:
        """What PyTorch gives its matrix library per handle and stream; CublasHandlePool.cpp.

        The larger figure where versions from 2.11 on differ: a plan does not say which torch will run it. The workspace
        of cublasLt is the same memory from 2.13 on.
        """
        if self.kind == "cuda":
            return _cublas_workspace(int((self.compute_capability or "0").split(".")[0]))
        if self.kind == "rocm":
            return _hipblas_workspace(self.compute_capability or "")
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


def _cublas_workspace(major: int) -> Figure:
    """By major compute capability: 32 MiB, or 8 519 680 bytes, which take a segment of 20 MiB."""
    if major < 9:
        return Figure(20 << 20, "published", "PyTorch's default before Hopper: 8 519 680 bytes, in a segment of 20 MiB")
    if major == 9:
        return Figure(32 << 20, "published", "PyTorch's default on Hopper")
    since = "2.14" if major == 11 else "2.12"
    source: Source = "published" if major <= 12 else "assumed"
    return Figure(
        32 << 20, source, f"PyTorch's default from {since} on; before 8 519 680 bytes, in a segment of 20 MiB"
    )


def _hipblas_workspace(gfx: str) -> Figure:
    """By gfx name: hipBLAS and hipBLASLt have handles, and workspaces, of their own."""
    hipblas = (128 << 20) if gfx.startswith(("gfx94", "gfx95")) else (32 << 20)
    return Figure(
        hipblas + (76 << 20), "published", f"PyTorch's defaults: {hipblas >> 20} MiB for hipBLAS, 76 for hipBLASLt"
    )
