"""``Communicator``: what decides how much device memory NCCL takes on one rank."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from specplan.device import DeviceSpec
from specplan.errors import InputError, UnsupportedError

#: NCCL_BUFFSIZE where nobody sets it.
BUFFER_BYTES = 4 << 20
_MAX_RANKS = 1024

#: (channels of a ring, channels between two peers, channels of NVLink SHARP) by major compute capability of
#: data-center devices behind NVSwitch, from NCCL's own start-up lines: nccl-tests issue 100 (A100), logs of eight H100
#: with NCCL 2.28, NVLS_NCHANNELS_SM100 (B200).
_NVSWITCH = {"8.0": (24, 32, 0), "9.0": (24, 32, 16), "10.0": (32, 32, 24), "10.3": (32, 32, 24)}
#: Two devices on PCIe, nccl issue 1358. Without peer access the buffers are in host memory, so this is the most.
_PCIE = (2, 2, 0)


@dataclass(frozen=True, slots=True)
class Communicator:
    """One NCCL communicator as one rank on one node sees it.

    Attributes:
        num_ranks: devices that take part.
        channels: of a collective.
        p2p_channels: between two peers that send and receive.
        nvls_channels: of reductions inside the switch (NVLink SHARP), 0 without them.
        num_sources: peers that a channel receives from: one in a ring, one more for the tree of three ranks and more.
        num_destinations: peers that a channel sends to.
        writes: senders write into the receiver's buffer; False between two A100 on NVLink, where receivers read.
        pool_chunk_bytes: chunk of the pool for network transfers, 0 where there is none: since 2.22 it comes with the
            first network connection, before at once (512 KiB on NVLink, 128 KiB else).
        num_exchanges: peers that plain sends, receives or all-to-all reach.
        buffer_bytes: NCCL_BUFFSIZE.
    """

    num_ranks: int
    channels: int
    p2p_channels: int
    nvls_channels: int
    num_sources: int
    num_destinations: int
    writes: bool
    pool_chunk_bytes: int = 0
    num_exchanges: int = 0
    buffer_bytes: int = BUFFER_BYTES


def default_communicator(device: DeviceSpec, num_ranks: int) -> Communicator:
    """What NCCL 2.22 and later sets up for all-reduces over equal devices of one node.

    The rank is an interior one of the tree, which has the most connectors.

    Raises:
        InputError: fewer than two ranks, or absurdly many.
        UnsupportedError: a device that NCCL does not run on.
    """
    if not 2 <= num_ranks <= _MAX_RANKS:
        raise InputError(f"a communicator of {num_ranks} devices: expected 2 to {_MAX_RANKS}")
    if device.kind != "cuda":
        raise UnsupportedError(f"device {device.name}: the memory of NCCL is known on CUDA devices")
    capability = device.compute_capability or ""
    channels, p2p_channels, nvls_channels = _NVSWITCH.get(capability, _PCIE)
    peers = 1 if num_ranks == 2 else 2
    return Communicator(
        num_ranks=num_ranks,
        channels=channels,
        p2p_channels=p2p_channels,
        nvls_channels=nvls_channels if num_ranks > 2 else 0,
        num_sources=peers,
        num_destinations=peers,
        writes=capability != "8.0",
    )


def stage_communicator(device: DeviceSpec, num_neighbors: int) -> Communicator:
    """What NCCL sets up between stages, which only send and receive: buffers for one or two neighbors.

    Raises:
        UnsupportedError: a device that NCCL does not run on.
    """
    whole = default_communicator(device, 2)
    return dataclasses.replace(
        whole, channels=0, nvls_channels=0, num_sources=0, num_destinations=0, num_exchanges=num_neighbors
    )
