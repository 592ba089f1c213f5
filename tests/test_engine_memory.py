"""Engines' arithmetic on numbers worked by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from specplan.deployments.deployment import CannotTell
from specplan.deployments.read import read_deployments
from specplan.deployments.source import Source
from specplan.engine_memory.budget import EngineBudget
from specplan.engine_memory.stages import pipeline_stages
from specplan.engine_memory.vllm import num_captured_graphs
from specplan.rules.subject import Subject

LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
DRAFT = "meta-llama/Llama-3.2-1B-Instruct"
#: 2 · 8 KV heads · 128 · 2 B · 32 layers, and 2 · 8 · 64 · 2 B · 16 layers.
TARGET_TOKEN, DRAFT_TOKEN = 131072, 32768
#: Parameters of the published checkpoints, in bfloat16.
TARGET_WEIGHTS, DRAFT_WEIGHTS = 2 * 8030261248, 2 * 1235814400


def subject(line: str, gpu: str = "rtx-4090") -> Subject:
    (deployment,) = read_deployments(Source("serve.sh", line + "\n"))
    return Subject(deployment, gpu)


def budget(line: str, gpu: str = "rtx-4090") -> EngineBudget:
    return subject(line, gpu).budget


def parts(found: EngineBudget) -> dict[str, int]:
    return {part.name: part.bytes for part in found.static}


def test_vllm_by_hand() -> None:
    found = budget(
        f"vllm serve {LLAMA} --max-model-len 5000 --max-num-seqs 8 --enforce-eager --max-num-batched-tokens 2048 "
        f"--spec-method draft_model --spec-model {DRAFT} --spec-tokens 4"
    )
    assert parts(found)["target weights"] == TARGET_WEIGHTS
    assert parts(found)["draft weights"] == DRAFT_WEIGHTS
    assert "CUDA graphs" not in parts(found)
    # 2 048 rows: 4·4096 of hidden states and 3·14336 of the MLP, two bytes each
    assert parts(found)["profiled peak"] == 2048 * 2 * (4 * 4096 + 3 * 14336)
    # slots: 5 000 + 4, no more than 5 000, in blocks of 16
    assert found.slots == 5008
    assert found.slot_bytes == TARGET_TOKEN + DRAFT_TOKEN
    assert found.least_kv_bytes == 5008 * (TARGET_TOKEN + DRAFT_TOKEN)
    assert int(found.limit.value) == int(0.92 * found.device_bytes)
    assert int(found.pool.value) == int(found.limit.value) - found.static_bytes
    # the profile has one row per sequence; 4 more are verified, and the sampler copies all 5 in float32
    assert int(found.verify.value) == 8 * 4 * 128256 * 2 + 8 * 5 * 128256 * 4
    assert found.headroom == found.device_bytes - int(found.limit.value)


def test_vllm_samplers_copy_is_capped_at_a_gibibyte() -> None:
    found = budget(
        f"vllm serve {LLAMA} --max-num-seqs 400 --max-num-batched-tokens 8192 --spec-method ngram --spec-tokens 7"
    )
    assert int(found.verify.value) == 400 * 7 * 128256 * 2 + (1 << 30)


def test_vllm_shares_heads_and_keeps_one_each() -> None:
    by_four = budget("vllm serve Qwen/Qwen2.5-7B-Instruct --max-model-len 1024 -tp 4")
    by_two = budget("vllm serve Qwen/Qwen2.5-7B-Instruct --max-model-len 1024 -tp 2")
    by_seven = budget("vllm serve Qwen/Qwen2.5-7B-Instruct --max-model-len 1024 -tp 7")
    assert by_two.slot_bytes == 2 * 2 * 128 * 2 * 28
    assert by_four.slot_bytes == by_seven.slot_bytes == 2 * 1 * 128 * 2 * 28


@pytest.mark.parametrize(("option", "bytes_per_element"), [("auto", 2), ("fp8", 1), ("fp8_e4m3", 1), ("bfloat16", 2)])
def test_vllm_caches_in_other_formats(option: str, bytes_per_element: int) -> None:
    found = budget(f"vllm serve {LLAMA} --max-model-len 4096 --kv-cache-dtype {option}")
    assert found.slot_bytes == 2 * 8 * 128 * bytes_per_element * 32


def test_vllm_windows_keep_the_window_and_what_is_in_flight() -> None:
    found = budget("vllm serve google/gemma-3-1b-it --max-model-len 16384 --max-num-batched-tokens 2048")
    # 26 layers, every sixth full: 4 full and 22 with a window of 512; one KV head of 256 elements
    each = 2 * 1 * 256 * 2
    window = (512 - 1 + 2048 + 15) // 16 * 16 + 16
    assert found.least_kv_bytes == 16384 * 4 * each + window * 22 * each


@pytest.mark.parametrize(("sequences", "verified", "expected"), [(1, 1, 2), (8, 1, 3 + 2), (256, 1, 3 + 31 + 17)])
def test_vllm_captures(sequences: int, verified: int, expected: int) -> None:
    """1, 2, 4; 8, 16, … 248; 256, 272, … 512."""
    assert num_captured_graphs(sequences, verified) == expected


def test_sglang_by_hand() -> None:
    found = budget(
        f"python -m sglang.launch_server --model-path {LLAMA} --context-length 8192 --max-running-requests 8 "
        f"--mem-fraction-static 0.85 --speculative-algorithm STANDALONE --speculative-draft-model-path {DRAFT} "
        "--speculative-num-steps 3 --speculative-eagle-topk 1 --speculative-num-draft-tokens 4"
    )
    # context + 2 · max(1 · 3, 4), pages of one token
    assert found.slots == 8200
    # the draft's 16 layers at the target's 4 096 bytes each: twice what they take
    assert found.priced_draft_slot_bytes == 16 * 4096 == 2 * DRAFT_TOKEN
    assert found.slot_bytes == TARGET_TOKEN + 16 * 4096
    free = found.device_bytes - 450887680
    assert int(found.limit.value) == int(0.85 * free)
    assert int(found.pool.value) == int(found.limit.value) - TARGET_WEIGHTS - DRAFT_WEIGHTS
    rows = 8 * 4
    logits = rows * 128256 * (2 + 4 + 4)
    assert int(found.verify.value) == logits + rows * 2 * (4 * 4096 + 3 * 14336)


def test_sglang_prices_qwens_draft_eight_times_too_high() -> None:
    found = budget(
        "python -m sglang.launch_server --model-path Qwen/Qwen2.5-32B-Instruct --speculative-algorithm STANDALONE "
        "--speculative-draft-model-path Qwen/Qwen2.5-0.5B-Instruct --context-length 4096",
        "h100-80gb",
    )
    assert found.priced_draft_slot_bytes == 8 * found.draft_slot_bytes


def test_sglang_pool_of_tokens() -> None:
    line = f"python -m sglang.launch_server --model-path {LLAMA} --context-length 4096 --max-total-tokens 5000"
    assert int(budget(line, "h100-80gb").pool.value) == 5000 * TARGET_TOKEN


def test_llama_cpp_by_hand() -> None:
    found = budget(
        "llama-server -m llama-3.1-8b -c 10000 -np 3 --fit off -ub 256 --spec-type draft-simple -md llama-3.2-1b "
        "--spec-draft-n-max 3"
    )
    # 10 000 → 10 240 cells, a third of them is 3 413 → 3 584 each
    assert found.slots == 3 * 3584
    assert found.least_kv_bytes == 3 * 3584 * (TARGET_TOKEN + DRAFT_TOKEN)
    # logits of 3 · (1 + 3) rows in float32, for each of the two models
    assert parts(found)["logits"] == 2 * 12 * 128256 * 4


def test_llama_cpp_quantized_cache() -> None:
    found = budget("llama-server -m llama-3.1-8b -c 4096 -np 1 --fit off -ctk q8_0 -ctv q4_0")
    # 32 elements and a half: 34 and 18 bytes per 32
    assert found.slot_bytes == 32 * 8 * (128 // 32) * (34 + 18)


EMBEDDING = 128256 * 4096 * 2


@pytest.mark.parametrize(
    ("layers", "embedding", "head", "option"),
    [(32, 0, 1, "all"), (32, 0, 1, "33"), (31, 0, 1, "32"), (0, 0, 1, "1"), (0, 0, 0, "0")],
)
def test_llama_cpp_counts_layers_from_the_output_layer(layers: int, embedding: int, head: int, option: str) -> None:
    found = budget(f"llama-server -m llama-3.1-8b -c 4096 -np 1 --fit off -ngl {option}")
    in_layers = TARGET_WEIGHTS - 2 * EMBEDDING
    assert parts(found).get("target weights", 0) == in_layers * layers // 32 + (embedding + head) * EMBEDDING
    assert found.slot_bytes == layers * 4096
    assert found.least_kv_bytes == 4096 * layers * 4096


def test_llama_cpp_leaves_layers_of_the_draft_on_the_host() -> None:
    line = "llama-server -m llama-3.1-8b -c 4096 -np 1 --fit off --spec-type draft-simple -md llama-3.2-1b"
    # tied: the output is a copy of the embedding on the device
    assert parts(budget(line))["draft weights"] == DRAFT_WEIGHTS
    some = budget(f"{line} -ngld 9")
    assert parts(some)["draft weights"] == (DRAFT_WEIGHTS - 128256 * 2048 * 2) // 2 + 128256 * 2048 * 2
    assert some.draft_slot_bytes == DRAFT_TOKEN // 2
    none = budget(f"{line} -ngl 0")
    assert none.slot_bytes == none.draft_slot_bytes == DRAFT_TOKEN


@pytest.mark.parametrize(
    ("engine", "sizes"), [("vllm", [27, 27, 26]), ("sglang", [26, 27, 27]), ("tensorrt-llm", [27, 27, 26])]
)
def test_layers_in_a_row(engine: str, sizes: list[int]) -> None:
    stages = pipeline_stages(engine, 80, 3)
    assert [stage.num_layers for stage in stages] == sizes
    assert [(stage.embedding, stage.head) for stage in stages] == [(True, False), (False, False), (False, True)]
    assert [stage.start for stage in stages[1:]] == [stage.end for stage in stages[:-1]]
    assert sum(stage.weight_bytes(80 * 7 + 5 + 3, 5, 3, 80) for stage in stages) == 80 * 7 + 5 + 3


def test_vllm_in_a_row_keeps_the_draft_on_the_last_device() -> None:
    alone = budget(f"vllm serve {LLAMA} --max-model-len 4096 -pp 2 --max-num-seqs 8")
    assert parts(alone)["target weights"] == (TARGET_WEIGHTS - 2 * EMBEDDING) // 2 + EMBEDDING
    assert alone.slot_bytes == TARGET_TOKEN // 2
    drafted = budget(
        f"vllm serve {LLAMA} --max-model-len 4096 -pp 2 --max-num-seqs 8 --spec-method draft_model "
        f"--spec-model {DRAFT} --spec-tokens 4"
    )
    assert parts(drafted)["draft weights"] == DRAFT_WEIGHTS
    assert drafted.slot_bytes == TARGET_TOKEN // 2 + DRAFT_TOKEN
    both = budget(f"vllm serve {LLAMA} --max-model-len 4096 -pp 2 -tp 2 --max-num-seqs 8")
    assert parts(both)["target weights"] == parts(alone)["target weights"] // 2
    assert both.slot_bytes == TARGET_TOKEN // 4


def test_stages_of_a_windowed_model_count_their_own_layers() -> None:
    found = budget("vllm serve google/gemma-3-1b-it --max-model-len 16384 -pp 2 --max-num-batched-tokens 2048")
    # 13 and 13 layers; every sixth is full: 2 in each half, 11 windowed; tied, so both ends have the embedding
    window = (512 - 1 + 2048 + 15) // 16 * 16 + 16
    assert found.least_kv_bytes == (16384 * 2 + window * 11) * 2 * 1 * 256 * 2


def test_sglang_windows_in_a_pool_of_their_own() -> None:
    line = "python -m sglang.launch_server --model-path openai/gpt-oss-20b --context-length 8192"
    # 24 layers, every other one windowed; 8 KV heads of 64 elements; 0.8 of the tokens, unless said otherwise
    each = 2 * 8 * 64 * 2
    assert budget(line, "h100-80gb").slot_bytes == 12 * each + -(-12 * each * 8 // 10)
    assert budget(f"{line} --swa-full-tokens-ratio 0.25", "h100-80gb").slot_bytes == 12 * each + 3 * each
    assert budget(f"{line} --disable-hybrid-swa-memory", "h100-80gb").slot_bytes == 24 * each
    with pytest.raises(CannotTell, match="radix"):
        assert budget(f"{line} --disable-radix-cache --max-running-requests 8", "h100-80gb")


@pytest.mark.parametrize(
    "line",
    [
        "python -m sglang.launch_server --model-path google/gemma-3-1b-it --context-length 8192",
        "trtllm-serve google/gemma-3-1b-it --max_seq_len 8192",
    ],
)
def test_windowed_layers_that_cache_whole_sequences(line: str) -> None:
    assert budget(line).slot_bytes == 26 * 2 * 1 * 256 * 2


def test_tensorrt_llm_pools_by_window_are_not_modelled(tmp_path: Path) -> None:
    (tmp_path / "cfg.yaml").write_text("kv_cache_config:\n  max_attention_window: [512, 512, 32768]\n")
    script = tmp_path / "serve.sh"
    (deployment,) = read_deployments(Source(str(script), "trtllm-serve google/gemma-3-1b-it --config cfg.yaml\n"))
    with pytest.raises(CannotTell, match="max_attention_window"):
        assert Subject(deployment, "rtx-4090").budget


def test_tensorrt_llm_by_hand() -> None:
    found = budget(f"trtllm-serve {LLAMA} --max_seq_len 4096 --max_num_tokens 1024 --free_gpu_memory_fraction 0.5")
    free = found.device_bytes - found.static_bytes
    assert int(found.pool.value) == int(0.5 * free)
    # no draft: one step ahead of the overlap scheduler, in blocks of 32
    assert found.slots == 4128
    assert found.least_kv_bytes == 4128 * TARGET_TOKEN


@pytest.mark.parametrize(
    ("line", "word"),
    [
        (f"vllm serve {LLAMA} --pipeline-parallel-size 33", "32 layers"),
        (
            f"python -m sglang.launch_server --model-path {LLAMA} --pp-size 2 --context-length 4096 "
            f"--speculative-algorithm STANDALONE --speculative-draft-model-path {DRAFT}",
            "drafter",
        ),
        ("llama-server -m llama-3.1-8b -c 4096 --fit off -ngl some", "number of layers"),
        (f"vllm serve {LLAMA} --kv-cache-dtype turbo", "turbo"),
        (f"vllm serve {LLAMA} --quantization exl9", "exl9"),
        ("vllm serve ai21labs/Jamba-v0.1", "recurrent"),
        (f"vllm serve {LLAMA} --spec-method dflash --spec-model x/y --spec-tokens 4", "dflash"),
        (f"vllm serve {LLAMA} --dtype int3", "int3"),
    ],
)
def test_what_is_not_modelled_is_named(line: str, word: str) -> None:
    with pytest.raises(CannotTell, match=word):
        assert budget(line)


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ({"context": 4096}, {"context": 8192}),
        ({"max_sequences": 8}, {"max_sequences": 64}),
        ({"num_verify_tokens": 2}, {"num_verify_tokens": 9}),
    ],
)
def test_more_is_never_less(less: dict[str, Any], more: dict[str, Any]) -> None:
    from specplan.rules.nearest import candidate

    line = f"vllm serve {LLAMA} --max-model-len 4096 --spec-method ngram --spec-tokens 3"
    found = subject(line)

    def of(changes: dict[str, Any]) -> EngineBudget:
        made = {key: value if key == "num_verify_tokens" else candidate(found, value) for key, value in changes.items()}
        return found.budget_with(**made)

    one, other = of(less), of(more)
    assert one.needed_bytes <= other.needed_bytes
    assert one.verify.value <= other.verify.value
