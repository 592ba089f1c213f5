"""``Link``: how long devices take to tell each other something."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from specplan.device import DeviceKind, DeviceSpec
from specplan.speed.roofline import Times

#: Seconds that starting a collective takes: NCCL tuning.cc, baseLat of a ring with LL; the same of RCCL; gloo: assumed.
_START_S: dict[DeviceKind, float] = {"cuda": 6.6e-6, "rocm": 1.2e-5, "cpu": 1e-4, "mps": 1e-4}
#: Of telling all ranks which tokens were proposed or accepted, through the hosts; assumed.
TOKENS_S = 5e-5


@dataclass(frozen=True, slots=True)
class Link:
    """The slowest link between the devices of a plan.

    Attributes:
        bandwidth: bytes per second in one direction.
        step_s: that one step of a ring takes at least.
        start_s: that starting a collective takes.
    """

    bandwidth: float
    step_s: float
    start_s: float

    def sum_seconds(self, num_ranks: int, num_bytes: Times) -> Times:
        """An all-reduce in a ring: 2(n-1) steps that each move 1/n of the bytes.

        Patarasuk and Yuan, Bandwidth optimal all-reduce algorithms, JPDC 69, 2009; 0 for one rank.
        """
        if num_ranks == 1:
            return np.zeros_like(num_bytes)
        result: Times = self.start_s + 2 * (num_ranks - 1) * (self.step_s + num_bytes / num_ranks / self.bandwidth)
        return result

    def gather_seconds(self, num_ranks: int, num_bytes: Times) -> Times:
        """Every rank's bytes to all others in a ring; 0 for one rank."""
        if num_ranks == 1:
            return np.zeros_like(num_bytes)
        result: Times = self.start_s + (num_ranks - 1) * (self.step_s + num_bytes / self.bandwidth)
        return result

    def send_seconds(self, num_bytes: Times) -> Times:
        """Bytes to one other device."""
        result: Times = self.start_s + self.step_s + num_bytes / self.bandwidth
        return result


def slowest_link(devices: Sequence[DeviceSpec]) -> Link:
    """The link that all devices can keep up with."""
    return Link(
        min(device.link_bandwidth_bytes_per_s.value for device in devices),
        max(device.link_latency_s.value for device in devices),
        max(_START_S[device.kind] for device in devices),
    )
