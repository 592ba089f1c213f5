"""Times of models over several devices: links and pipelines by hand, and what must hold of them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from specplan.device import DeviceSpec
from specplan.devices.bundled import device_profile
from specplan.heads import Eagle3Head, published_heads
from specplan.parallel.ranks import rank_scenarios
from specplan.parallelism import Parallelism
from specplan.provenance import Figure
from specplan.scenario import Scenario
from specplan.speculation import Chain
from specplan.speed.links import TOKENS_S, Link, slowest_link
from specplan.speed.parallel import SpreadTimer
from specplan.speed.roofline import Pass, pass_seconds
from specplan.speed.steps import prefill_seconds, step_seconds
from tests.conftest import tiny_arch
from tests.test_ranks import whole

FREE = Figure(1e-30, "assumed", "as if links took no time")


def linkless(device: DeviceSpec) -> DeviceSpec:
    fast = Figure(1e30, "assumed", "as if links took no time")
    return dataclasses.replace(device, link_bandwidth_bytes_per_s=fast, link_latency_s=FREE, kernel_launch_s=FREE)


def timer(scenario: Scenario, parallelism: Parallelism) -> SpreadTimer:
    ranks = rank_scenarios(scenario, parallelism, [scenario.device] * parallelism.num_ranks)
    return SpreadTimer(scenario, parallelism, ranks)


def step(scenario: Scenario, parallelism: Parallelism, gamma: int = 0) -> float:
    return float(timer(scenario, parallelism).step_seconds(np.array([gamma]), np.array([64]))[0])


def test_links_by_hand() -> None:
    link = Link(bandwidth=1e9, step_s=1e-6, start_s=5e-6)
    num_bytes = np.array([4e6])
    assert link.send_seconds(num_bytes)[0] == pytest.approx(5e-6 + 1e-6 + 4e-3)
    assert link.sum_seconds(4, num_bytes)[0] == pytest.approx(5e-6 + 6 * (1e-6 + 1e-3))
    assert link.gather_seconds(4, num_bytes)[0] == pytest.approx(5e-6 + 3 * (1e-6 + 4e-3))
    assert link.sum_seconds(1, num_bytes)[0] == link.gather_seconds(1, num_bytes)[0] == 0


def test_the_slowest_link_counts() -> None:
    fast, slow = device_profile("h100-80gb"), device_profile("rtx-3060")
    assert slowest_link([fast, slow]) == slowest_link([slow])
    assert slowest_link([fast]).bandwidth == 450e9


def test_stages_without_links_take_as_long_as_one_device() -> None:
    scenario = dataclasses.replace(whole(tiny_arch(num_hidden_layers=4)), device=linkless(device_profile("rtx-3060")))
    one = float(step_seconds(scenario, np.array([0]), np.array([64]))[0])
    sends = 2 * 6.6e-6
    assert step(scenario, Parallelism(1, (1, 2, 1))) == pytest.approx(one + sends + TOKENS_S, rel=1e-9)


def test_micro_batches_hide_stages_behind_each_other() -> None:
    """With m parts over p equal stages a step takes (m + p - 1) / p passes of a part."""
    device = linkless(device_profile("h100-80gb"))
    arch = tiny_arch(hidden_size=4096, intermediate_size=16384, num_hidden_layers=4, vocab_size=4)
    scenario = dataclasses.replace(whole(arch, batch_size=64, drafter="ngram"), device=device)
    whole_pass, part = (
        float(
            pass_seconds(arch, device, "float32", "float32", Pass(
                rows=sequences * 33, batch_size=sequences, context=scenario.workload.mean_context,
                logits_rows=64, head_rows=sequences * 33,
            ))
        )
        for sequences in (64, 16)
    )  # fmt: skip
    start = 6.6e-6 + 2 * TOKENS_S
    assert step(scenario, Parallelism(1, (2, 2), 1), 32) == pytest.approx(whole_pass + start, rel=1e-3)
    assert step(scenario, Parallelism(1, (2, 2), 4), 32) == pytest.approx(part * (4 + 1) / 2 + start, rel=1e-2)


def test_tensor_ranks_share_the_work_and_pay_for_sums() -> None:
    arch = tiny_arch(hidden_size=2048, intermediate_size=8192, num_attention_heads=16, num_key_value_heads=8)
    scenario = dataclasses.replace(whole(arch), device=linkless(device_profile("h100-80gb")))
    one = float(step_seconds(scenario, np.array([0]), np.array([64]))[0])
    sums = (2 * 2 + 1) * 6.6e-6  # two behind each layer, one behind the embedding
    assert step(scenario, Parallelism(4, (2,))) == pytest.approx(one / 4 + sums + 6.6e-6 + TOKENS_S, rel=1e-6)


def test_chunks_of_a_prompt_follow_one_another() -> None:
    base = whole(tiny_arch(hidden_size=4096, intermediate_size=16384, num_hidden_layers=4, vocab_size=4))
    workload = dataclasses.replace(base.workload, prompt_tokens=64)
    scenario = dataclasses.replace(base, workload=workload, device=linkless(device_profile("rtx-3060")))
    chunk = np.array([16])
    one = float(prefill_seconds(scenario, chunk)[0])  # four passes
    stages = float(timer(scenario, Parallelism(1, (2, 2))).prefill_seconds(chunk)[0])
    assert stages == pytest.approx(one * (2 + 3) / 8, rel=0.01)


@pytest.mark.parametrize("placement", ["rank", "replicated", "split"])
def test_drafts_take_time_wherever_they_live(placement: str) -> None:
    scenario = whole(tiny_arch(num_hidden_layers=4), tiny_arch(num_hidden_layers=2), device="rtx-3060")
    parallelism = Parallelism(1, (2, 2), 1, placement, 1)  # type: ignore[arg-type]
    assert step(scenario, parallelism, 4) > step(scenario, parallelism, 2) > step(scenario, parallelism, 0)


def test_features_of_other_stages_are_sent_to_an_eagle3_head() -> None:
    arch = tiny_arch(num_hidden_layers=6)
    base = whole(arch, drafter="eagle3", device="rtx-3060")
    heads = published_heads("eagle3", arch, Chain(3), shares_head=False)
    assert isinstance(heads, Eagle3Head)
    device = base.device
    one_send = 6.6e-6 + device.link_latency_s.value
    row = arch.hidden_size * 4 / device.link_bandwidth_bytes_per_s.value

    def seconds(*layers: int) -> float:
        head = dataclasses.replace(heads, feature_layers=layers)
        return step(dataclasses.replace(base, heads=head), Parallelism(1, (3, 3), draft_rank=1), 2)

    rows = base.workload.batch_size * 3
    assert seconds(0, 2, 5) - seconds(3, 4, 5) == pytest.approx(2 * (one_send + rows * row), rel=1e-6)


def test_a_draft_away_from_the_logits_sends_its_probabilities() -> None:
    scenario = whole(tiny_arch(num_hidden_layers=4), tiny_arch(num_hidden_layers=2), device="rtx-3060")
    near, far = (step(scenario, Parallelism(1, (2, 2), 1, "rank", rank), 3) for rank in (1, 0))
    device = scenario.device
    sent = 4 * 3 * 3 * 32 / device.link_bandwidth_bytes_per_s.value
    assert far - near == pytest.approx(6.6e-6 + device.link_latency_s.value + sent, rel=1e-6)
