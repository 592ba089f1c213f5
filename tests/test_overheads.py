"""What driver and libraries keep: NCCL's buffers against what others measured, graphs, matrix libraries' workspaces."""

from __future__ import annotations

import dataclasses

import pytest

from specplan.device import DeviceSpec
from specplan.devices.bundled import device_profile
from specplan.errors import InputError, UnsupportedError
from specplan.formulas.bind import evaluate
from specplan.formulas.explain import explain_formula, explain_items
from specplan.formulas.memory import MemoryModel
from specplan.formulas.overheads import GRAPH_BYTES, LL128_BYTES, LL_BYTES, communicator_values
from specplan.parallel.communicator import Communicator, default_communicator
from specplan.profiles import profile_names
from specplan.scenario import Scenario
from tests.conftest import tiny_arch
from tests.test_explain import scenario

MIB = 1 << 20
A100 = Communicator(2, 24, 32, 0, 1, 1, writes=False)
H100 = Communicator(2, 24, 32, 16, 1, 1, writes=True)


def nccl(communicator: Communicator) -> int:
    return int(evaluate("nccl", communicator_values(communicator)))


def changed(base: Scenario, **changes: object) -> Scenario:
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("communicator", "num_bytes"),
    [
        # nccl issue 964, four A100 on NVLink: two ranks, and rank 0 of more, which ends every chain of the tree
        (dataclasses.replace(A100, pool_chunk_bytes=512 << 10), 544 * MIB),
        (dataclasses.replace(A100, num_ranks=4, num_sources=2, pool_chunk_bytes=512 << 10), 688 * MIB),
        # nccl issue 2363, one rank on a B300: the pool alone
        (Communicator(1, 0, 64, 0, 0, 0, True, pool_chunk_bytes=512 << 10), 536_870_912),
        # what NVLink SHARP logs as nvlsTotalSize on eight H100
        (Communicator(8, 0, 32, 16, 0, 0, True), 268_435_456),
        # nccl issue 1685: an H100 receives through 10 485 760 bytes per channel and peer, sends through 2 097 152
        (Communicator(2, 1, 32, 0, 1, 0, True), 10_485_760),
        (Communicator(2, 1, 32, 0, 0, 1, True), 2_097_152),
        (Communicator(2, 1, 32, 0, 1, 0, True, buffer_bytes=MIB), 8 * MIB),
        (dataclasses.replace(H100, nvls_channels=0, num_exchanges=7), (24 * 12 + 7 * 32 * 12) * MIB),
    ],
)
def test_nccl_equals_what_was_measured(communicator: Communicator, num_bytes: int) -> None:
    assert nccl(communicator) == num_bytes


def test_protocol_buffers_sum_to_what_a_host_connection_maps() -> None:
    """9 641 984 bytes were mapped per proxy connection on a DGX Spark: the three buffers and 8192 more."""
    assert LL_BYTES + LL128_BYTES + (4 << 20) == 9_641_984 - 8192


@pytest.mark.parametrize(
    ("name", "num_ranks", "mebibytes"),
    [("h100-80gb", 2, 288), ("h100-80gb", 4, 704), ("h100-80gb", 8, 832), ("b200", 8, 1152), ("rtx-4090", 2, 24)],
)
def test_default_communicators(name: str, num_ranks: int, mebibytes: int) -> None:
    asked = changed(scenario(gpu=name), num_devices=num_ranks)
    items = MemoryModel(asked).ledger().by_name()
    assert items["nccl"].bytes == mebibytes * MIB == nccl(default_communicator(device_profile(name), num_ranks))
    assert (items["nccl"].owner, items["nccl"].phase, items["nccl"].source) == ("system", "resident", "modelled")


def test_more_devices_never_take_less() -> None:
    for name in ("a100-80gb", "h100-80gb", "b200", "l4"):
        found = [nccl(default_communicator(device_profile(name), ranks)) for ranks in range(2, 17)]
        assert found == sorted(found)


def test_one_device_without_graphs_has_neither_item() -> None:
    for name in ("rtx-4090", "mi300x", "apple-m2-16gb", "cpu-generic"):
        assert not {"nccl", "cuda_graphs"} & MemoryModel(scenario(gpu=name)).ledger().by_name().keys()


@pytest.mark.parametrize("transformers", [False, True])
def test_graphs_count_one_by_one(transformers: bool) -> None:
    asked = scenario("none", gpu="rtx-4090")
    if transformers:
        asked = changed(asked, target=tiny_arch(head_dim=8, rotary_dim=8), transformers_version="5.23.0")
    items = MemoryModel(changed(asked, num_cuda_graphs=5)).ledger().by_name()
    assert items["cuda_graphs"].bytes == 5 * int(GRAPH_BYTES.value) == 5 * 28 * MIB
    assert items["cuda_graphs"].source == "assumed"
    peak = MemoryModel(asked).ledger().peak_bytes
    assert MemoryModel(changed(asked, num_cuda_graphs=5)).ledger().peak_bytes == peak + 5 * 28 * MIB


def test_explanations() -> None:
    asked = changed(scenario(gpu="h100-80gb"), num_devices=4, num_cuda_graphs=3)
    (found,) = explain_items(asked, "nccl")
    assert {symbol: value for symbol, _, value in found.symbols}["c_c"] == 24
    assert all(meaning != "a figure of the device profile" for _, meaning, _ in explain_formula("nccl").symbols)
    assert "no such item" in explain_formula("cuda_graphs").formula.meaning


@pytest.mark.parametrize(
    ("name", "num_ranks", "error"),
    [("mi300x", 2, UnsupportedError), ("apple-m2-16gb", 2, UnsupportedError), ("h100-80gb", 100_000, InputError)],
)
def test_other_communicators_are_refused(name: str, num_ranks: int, error: type[Exception]) -> None:
    with pytest.raises(error):
        default_communicator(device_profile(name), num_ranks)
    with pytest.raises(InputError):
        default_communicator(device_profile(name), 1)


@pytest.mark.parametrize(
    ("kind", "capability", "mebibytes"),
    [
        ("cuda", "7.5", 20), ("cuda", "8.9", 20), ("cuda", "9.0", 32), ("cuda", "10.0", 32), ("cuda", "11.0", 32),
        ("cuda", "12.0", 32), ("rocm", "gfx90a", 108), ("rocm", "gfx942", 204), ("mps", None, 0), ("cpu", None, 0),
    ],
)  # fmt: skip
def test_workspace_of_matrix_libraries(kind: str, capability: str | None, mebibytes: int) -> None:
    device: DeviceSpec = dataclasses.replace(device_profile("t4"), kind=kind, compute_capability=capability)  # type: ignore[arg-type]
    assert device.cublas_workspace_bytes.value == mebibytes * MIB


def test_contexts_grow_with_the_generation() -> None:
    """What nobody measured is assumed to be no smaller than what was measured on the generation before."""
    devices = [device_profile(name) for name in profile_names("devices")]
    cuda = [device for device in devices if device.kind == "cuda" and device.context_bytes.source == "assumed"]
    assert cuda
    by_age = sorted(cuda, key=lambda device: float(device.compute_capability or 0))
    found = {device.name: device.context_bytes.value for device in by_age}
    assert found["rtx-5090"] > found["rtx-4090"] == found["h100-80gb"] > found["rtx-3060"]
