"""What captured graphs and NCCL keep on a device beside the runtime's own bytes."""

from __future__ import annotations

import sympy

from specplan.formulas.functions import RoundUp
from specplan.formulas.symbols import TABLE
from specplan.parallel.communicator import Communicator
from specplan.provenance import Figure

n_g = TABLE.natural("n_g", "captured CUDA graphs")
z_g = TABLE.natural("z_g", "bytes that the driver keeps per captured graph")
n_d = TABLE.natural("n_d", "ranks of the communicator")
c_c = TABLE.natural("c_c", "channels of a collective")
c_p = TABLE.natural("c_p", "channels between two peers that send and receive")
c_v = TABLE.natural("c_v", "channels of NVLink SHARP, 0 for two ranks")
p_i = TABLE.natural("p_i", "peers that a channel receives from: 1 in a ring, 1 more in the tree")
p_o = TABLE.natural("p_o", "peers that a channel sends to")
p_a = TABLE.natural("p_a", "peers reached by plain sends, receives or all-to-all")
f_w = TABLE.natural("f_w", "1 when senders write into the receiver's buffer, 0 when receivers read the sender's")
z_c = TABLE.natural("z_c", "bytes per chunk of the network pool, 0 without one")
z_b = TABLE.natural("z_b", "NCCL_BUFFSIZE")
n_c = TABLE.natural("n_c", "communicators of a rank")
z_r = TABLE.natural("z_r", "bytes that RCCL keeps per communicator")
z_s = TABLE.natural("z_s", "bytes of a segment of gloo's sums")

#: Buffers of NCCL's protocols, src/init.cc computeBuffSizes: lines or elements per thread, threads, steps, bytes.
LL_BYTES = 8 * 512 * 8 * 16
LL128_BYTES = 120 * 640 * 8 * 8
#: Of a connector, beside its buffers.
_HEAD_BYTES = 4096
#: Memory that peers map is rounded to this (CUDA_IPC_MIN).
_MAPPED_BYTES = 2 << 20
_NVLS_BYTES = 8 * (128 << 10)
_POOL_CHUNKS = 16

GRAPH_BYTES = Figure(
    28 << 20,
    "assumed",
    "24 to 28 MiB per captured batch size in vLLM (pull request 22897, issue 50780); other graphs may differ",
)

RCCL_BYTES = Figure(
    round(0.65 * (1 << 30)), "published", "0.65 GiB per communicator and rank on an MI250X, LUMI-AI-Guide issue 111"
)

GLOO_SEGMENT_BYTES = Figure(1 << 20, "published", "the largest segment of gloo's ring, allreduce.h")


def cuda_graphs() -> sympy.Expr:
    """What the driver keeps for captured graphs, outside PyTorch's statistics.

    A capture takes its tensors from a private pool with segments of its own; an arena that is placed before needs none.
    Today's runtime captures no graph and its plans have no such item.
    """
    return n_g * z_g


def nccl() -> sympy.Expr:
    """Buffers of one communicator on one rank of one node; every further communicator has its own.

    Per channel and peer one buffer to receive and one to send, which hold the protocols' buffers (LL, LL128, and the
    simple one at the side that is written to or read from) and a head, in steps of 2 MiB; the chunks of the network
    pool; two buffers per rank and NVLink SHARP channel. Tensor ranks have one communicator for sums; stages have one
    that only sends and receives.
    """
    receive = RoundUp(LL_BYTES + LL128_BYTES + _HEAD_BYTES + f_w * z_b, _MAPPED_BYTES)
    send = RoundUp(_HEAD_BYTES + (1 - f_w) * z_b, _MAPPED_BYTES)
    collectives = c_c * (p_i * receive + p_o * send)
    exchanges = c_p * p_a * (receive + send)
    return collectives + exchanges + c_p * _POOL_CHUNKS * z_c + 2 * n_d * c_v * _NVLS_BYTES


def rccl() -> sympy.Expr:
    """What RCCL keeps on an AMD device: so much for every communicator."""
    return n_c * z_r


def gloo() -> sympy.Expr:
    """What gloo takes for a sum over processes of a host: two segments, each at most so large."""
    return 2 * z_s


def communicator_values(communicator: Communicator) -> dict[str, int]:
    """Values of the symbols of ``nccl``."""
    return {
        "n_d": communicator.num_ranks,
        "c_c": communicator.channels,
        "c_p": communicator.p2p_channels,
        "c_v": communicator.nvls_channels,
        "p_i": communicator.num_sources,
        "p_o": communicator.num_destinations,
        "p_a": communicator.num_exchanges,
        "f_w": int(communicator.writes),
        "z_c": communicator.pool_chunk_bytes,
        "z_b": communicator.buffer_bytes,
    }
