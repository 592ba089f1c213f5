"""``specplan export`` of plans over several devices: options and pools by hand, and what engines cannot do."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from specplan.errors import UnsupportedError
from specplan.export.export import export_plan
from specplan.export.exported import Exported, TooLarge
from specplan.export.limits import Target
from specplan.output.exports import memory_text, rendered
from specplan.parallelism import Parallelism
from specplan.plan import Plan
from tests.runtime_helpers import spread_over
from tests.test_export import FORMATS, GPU, checked, exported, llamas, option, plan, serving

SPREADING: tuple[Target, ...] = ("vllm", "sglang", "tensorrt-llm")
#: 2 · 128 · 2 B of a KV head in one layer.
HEAD = 512
BIG = "h100-80gb"


def large(**options: Any) -> Plan:
    """Llama-2-70B, 80 layers of 8 KV heads, over four devices."""
    return plan(**{"model": "llama-2-70b-chat", "gpu": BIG, "num_gpus": 4, "context": 4096, "batch_size": 2, **options})


def spread(parallelism: Parallelism, **options: Any) -> Plan:
    """A plan of a small model on one device, over devices like it."""
    return spread_over(plan(**options), parallelism)


def parts_of(found: Exported | TooLarge) -> dict[str, int]:
    return {part.name: part.bytes for part in found.memory}


@pytest.mark.parametrize("output_format", FORMATS)
@pytest.mark.parametrize("engine", SPREADING)
def test_tensor_ranks(engine: Target, output_format: str, tmp_path: Path) -> None:
    found = exported(large(tensor_parallel=4, drafter="ngram"), engine)
    read = serving(found)
    assert read.tensor_parallel is not None
    assert read.tensor_parallel.value == 4
    assert read.pipeline_parallel is None or read.pipeline_parallel.value == 1
    report = checked(found, output_format, tmp_path, BIG)
    assert report.unknowns == []
    assert [each.code for each in report.findings if each.code[:3] in ("SP1", "SP2")] == []


@pytest.mark.parametrize("engine", SPREADING)
def test_stages_of_tensor_ranks(engine: Target, tmp_path: Path) -> None:
    found = exported(large(tensor_parallel=2, pipeline_parallel=2, drafter="none"), engine)
    read = serving(found)
    assert read.tensor_parallel is not None
    assert read.pipeline_parallel is not None
    assert (read.tensor_parallel.value, read.pipeline_parallel.value) == (2, 2)
    report = checked(found, "command", tmp_path, BIG)
    assert report.unknowns == []
    assert [each.code for each in report.findings if each.code[:3] in ("SP1", "SP2")] == []


def test_pools_of_each_device_by_hand() -> None:
    """4 096 tokens of two sequences: on a tensor rank two heads of all layers, in a stage all heads of some."""
    ranks, stages = large(tensor_parallel=4, drafter="none"), large(pipeline_parallel=4, drafter="none")
    token = 80 * 2 * HEAD
    assert option(exported(ranks, "vllm"), "--kv-cache-memory-bytes") == str((2 * 4096 + 16) * token)
    assert option(exported(stages, "vllm"), "--kv-cache-memory-bytes") == str((2 * 4096 + 16) * 20 * 8 * HEAD)
    assert option(exported(ranks, "vllm"), "--tensor-parallel-size") == "4"
    assert option(exported(stages, "vllm"), "--pipeline-parallel-size") == "4"
    found = exported(stages, "sglang")
    assert (option(found, "--pp-size"), "--tp-size" in found.command.argv) == ("4", False)
    assert parts_of(found)["KV cache"] == int(option(found, "--max-total-tokens")) * 20 * 8 * HEAD
    settings = yaml.safe_load(exported(ranks, "tensorrt-llm").command.files["trtllm.yaml"])
    assert settings["tensor_parallel_size"] == 4
    assert settings["kv_cache_config"]["max_gpu_total_bytes"] % token == 0


def test_the_pool_is_enough_for_the_stage_with_most_layers() -> None:
    """vLLM gives the layer that is left over to the last stage but one; the fullest one has the head besides."""
    given = spread(Parallelism(1, (11, 11, 10)), drafter="none")
    needed = int(option(exported(given, "vllm"), "--kv-cache-memory-bytes"))
    assert needed == (4096 + 16) * 11 * 8 * HEAD


def test_communication_is_an_item_of_the_plans_size() -> None:
    given = large(tensor_parallel=4, drafter="none")
    items = given.ledger.by_name()
    found = exported(given, "vllm")
    assert parts_of(found)["communication"] == items["nccl"].bytes > 0
    assert "on each of 4 devices: target weights" in memory_text(found)
    assert "communication" not in parts_of(exported(llamas(), "vllm"))


def test_the_draft_is_shared_like_the_target() -> None:
    given = spread(Parallelism(2, (32,), 1, "split"), draft="llama-3.2-1b", drafter="draft_model", context=5000)
    found = exported(given, "vllm")
    assert '"draft_tensor_parallel_size": 2' in option(found, "--speculative-config")
    parts, alone = parts_of(found), parts_of(exported(llamas(), "vllm"))
    assert parts["draft weights"] == alone["draft weights"] // 2
    whole = spread(Parallelism(2, (32,)), draft="llama-3.2-1b", drafter="draft_model", context=5000)
    with pytest.raises(UnsupportedError, match="the plan has it whole on rank 0; --nearest takes shared instead"):
        exported(whole, "vllm")
    assert exported(whole, "vllm", nearest=True).command == found.command


@pytest.mark.parametrize(
    ("engine", "parallelism", "drafter", "reason", "nearest"),
    [
        ("vllm", Parallelism(1, (16, 16)), "ngram", "does not speculate over 2 stages", "plain decoding"),
        ("sglang", Parallelism(2, (16, 16)), "ngram", "EAGLE only", "plain decoding"),
        ("vllm", Parallelism(1, (12, 10, 10)), "none", "stages of 12 [+] 10 [+] 10 layers", "11 + 11 + 10"),
        ("sglang", Parallelism(1, (11, 11, 10)), "none", "stages of 11 [+] 11 [+] 10 layers", "10 + 11 + 11"),
    ],
)
def test_refused_with_the_reason_or_replaced_when_asked(
    engine: Target, parallelism: Parallelism, drafter: str, reason: str, nearest: str, tmp_path: Path
) -> None:
    given = spread(parallelism, drafter=drafter)
    with pytest.raises(UnsupportedError, match=reason):
        exported(given, engine)
    found = exported(given, engine, nearest=True)
    assert any(nearest in note for note in found.notes)
    report = checked(found, "command", tmp_path, GPU)
    assert report.unknowns == []
    assert [each.code for each in report.findings if each.code[:3] in ("SP1", "SP2")] == []


@pytest.mark.parametrize("engine", ["llama.cpp", "transformers"])
def test_engines_without_such_options_are_refused_by_name(engine: Target) -> None:
    given = spread(Parallelism(2, (32,)), drafter="ngram")
    for nearest in (False, True):
        with pytest.raises(UnsupportedError, match=f"{engine}: a model over 2 devices is not modelled there"):
            export_plan(given, engine, nearest=nearest)


def test_unequal_devices_are_refused() -> None:
    given = plan(model="smollm2-135m", gpu="rtx-3090,rtx-3060", context=256, drafter="none")
    with pytest.raises(UnsupportedError, match="takes its devices to be equal, the plan is for rtx-3090, rtx-3060"):
        export_plan(given, "vllm")


def test_a_draft_that_does_not_divide_gives_way_to_n_grams() -> None:
    given = spread(Parallelism(2, (32,)), draft="llama-3.2-1b", drafter="draft_model", context=5000)
    assert given.inputs.draft is not None
    arch = dataclasses.replace(given.inputs.draft.arch, num_attention_heads=9, num_key_value_heads=3)
    draft = dataclasses.replace(given.inputs.draft, arch=arch)
    given = dataclasses.replace(given, inputs=dataclasses.replace(given.inputs, draft=draft))
    with pytest.raises(UnsupportedError, match="shares the draft over 2 devices, it has 9 heads; --nearest takes n-gr"):
        exported(given, "vllm")


def test_the_smallest_budget_decides_to_the_byte() -> None:
    given = large(tensor_parallel=4, drafter="none")
    needed = exported(given, "vllm").needed_bytes

    def within(num_bytes: int) -> Exported | TooLarge:
        assert given.spread is not None
        kinds = tuple(dataclasses.replace(kind, budget_bytes=num_bytes) for kind in given.spread.kinds)
        return export_plan(dataclasses.replace(given, spread=dataclasses.replace(given.spread, kinds=kinds)), "vllm")

    assert isinstance(within(needed), Exported)
    assert isinstance(within(needed - 1), TooLarge)


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_containers_get_all_devices(engine: Target) -> None:
    found = exported(large(tensor_parallel=4, drafter="none"), engine)
    compose = yaml.safe_load(rendered(found, "compose"))["services"]["llm"]
    assert compose["deploy"]["resources"]["reservations"]["devices"][0]["count"] == 4
    deployment = next(yaml.safe_load_all(rendered(found, "k8s")))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 4}
    assert "4 x NVIDIA H100" in rendered(found, "k8s").splitlines()[0]
