"""Weights, KV cache and recurrent states to the byte, against transformers models on the meta device and their caches.

Every bundled profile; tests/test_odd_configs.py does the same for tiny configs of every family.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from functools import cache

import numpy as np
import pytest

from specplan.arch import ModelArch
from specplan.devices.bundled import device_profile
from specplan.families import FAMILIES
from specplan.formulas.memory import MemoryModel
from specplan.formulas.term import Knobs
from specplan.models.config import read_config
from specplan.profiles import profile_names, read_profile
from specplan.scenario import Scenario
from specplan.speculation import Chain, Drafter, Speculation
from specplan.workload import Workload
from tests.conftest import unquantized
from tests.transformers_counts import Counts, count

MODELS = profile_names("models")
#: Shorter than every window, longer than some, than most, than all.
CONTEXTS = (100, 3000, 20_000, 300_000)


@cache
def profile_counts(name: str) -> Counts:
    return count(read_profile("models", name)["config"])


def profile_arch(name: str) -> ModelArch:
    return read_config(unquantized(read_profile("models", name)["config"]), name)


def ledger(
    arch: ModelArch,
    dtype: str,
    kv_dtype: str = "float16",
    context: int = 64,
    batch_size: int = 1,
    gamma: int = 0,
    chunk: int = 16,
    drafts: bool = False,
) -> dict[str, int]:
    """Bytes by item of a model on a GPU; alone, or drafting for itself."""
    workload = Workload(context, batch_size, dtype, kv_dtype, dtype, kv_dtype)
    drafter: Drafter = "draft_model" if drafts else "ngram" if gamma else "none"
    speculation = Speculation(drafter, Chain(gamma), 0, chunk, 2)
    scenario = Scenario(arch, arch if drafts else None, device_profile("h200"), workload, speculation)
    return {item.name: item.bytes for item in MemoryModel(scenario).ledger().items}


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("name", MODELS)
def test_weights_equal_transformers(name: str, dtype: str) -> None:
    assert ledger(profile_arch(name), dtype)["target.weights"] == profile_counts(name).weight_bytes(dtype)


@pytest.mark.parametrize(("batch_size", "dtype"), [(1, "float16"), (3, "float32")])
@pytest.mark.parametrize("name", MODELS)
def test_caches_equal_transformers(name: str, batch_size: int, dtype: str) -> None:
    """One token at a time, as the static cache of transformers is written."""
    counts, arch = profile_counts(name), profile_arch(name)
    for context in CONTEXTS:
        items = ledger(arch, dtype, dtype, context=context, batch_size=batch_size, chunk=1)
        assert items["target.kv_cache"] == counts.cache_bytes(context + 1, batch_size, dtype)
        assert items.get("target.recurrent_state", 0) == counts.state_bytes(batch_size, dtype)


#: γ and prefill chunks.
PASSES = [(0, 7), (5, 1), (5, 64), (1, 5000), (0, 1)]


@pytest.mark.parametrize("name", MODELS)
def test_caches_of_longer_passes_equal_transformers(name: str) -> None:
    """A pass of n tokens leaves the window whole behind each of them: n - 1 slots beyond it.

    Each verified token can be the last that is accepted, so there is a state for each.
    """
    counts, arch = profile_counts(name), profile_arch(name)
    gammas, chunks = (np.array(values) for values in zip(*PASSES, strict=True))
    for context in CONTEXTS:
        workload = Workload(context, 2, "float32", "float16", "float32", "float16")
        scenario = Scenario(arch, None, device_profile("h200"), workload, Speculation("ngram", Chain(1), 0, 1, 2))
        model = MemoryModel(scenario, Knobs(gammas, chunks, np.full(len(PASSES), 2)))
        found = {term.name: term.bytes for term in model.terms}
        caches, states = (
            np.broadcast_to(found.get(item, 0), len(PASSES)) for item in ("target.kv_cache", "target.recurrent_state")
        )
        for (gamma, chunk), cache_bytes, state_bytes in zip(PASSES, caches, states, strict=True):
            spare = max(gamma, min(chunk, context) - 1)
            assert cache_bytes == counts.cache_bytes(context + gamma + 1, 2, "float16", spare)
            assert state_bytes == (gamma + 1) * counts.state_bytes(2, "float32")


@pytest.mark.parametrize("name", MODELS)
def test_drafts_equal_transformers(name: str) -> None:
    """The last drafted token is never fed to the draft: a slot less than the target."""
    counts = profile_counts(name)
    items = ledger(profile_arch(name), "float16", "float32", context=4500, gamma=3, chunk=1, drafts=True)
    assert items["draft.weights"] == items["target.weights"] == counts.weight_bytes("float16")
    assert items["target.kv_cache"] == counts.cache_bytes(4504, 1, "float32", 3)
    assert items["draft.kv_cache"] == counts.cache_bytes(4503, 1, "float32", 3)
    assert items.get("draft.recurrent_state", 0) == 4 * counts.state_bytes(1, "float16")


@pytest.mark.parametrize("name", [name for name in MODELS if FAMILIES[profile_arch(name).model_type].runnable])
def test_int8_weights_equal_transformers(name: str) -> None:
    assert ledger(profile_arch(name), "int8")["target.weights"] == profile_counts(name).int8_bytes()


@pytest.mark.parametrize("name", [name for name in MODELS if FAMILIES[profile_arch(name).model_type].runnable])
def test_int4_weights_equal_transformers(name: str) -> None:
    arch = profile_arch(name)
    assert ledger(arch, "int4")["target.weights"] == profile_counts(name).int4_bytes(arch.vocab_size)


@pytest.mark.parametrize("name", MODELS)
def test_profiles_state_their_parameters(name: str) -> None:
    assert read_profile("models", name)["num_parameters"] == profile_counts(name).parameters


@pytest.mark.parametrize("gamma", [0, 4])
def test_llama_2_7b(gamma: int) -> None:
    items = ledger(profile_arch("llama-2-7b-chat"), "float16", context=4096, gamma=gamma)
    assert items["target.weights"] == 13_476_831_232
    assert items["target.kv_cache"] == 2 * 32 * 32 * 128 * (4096 + gamma + 1) * 2


def test_qwen_2_5_half_b() -> None:
    assert ledger(profile_arch("qwen2.5-0.5b"), "float16")["target.weights"] == 988_065_536


def test_deepseek_v3_keeps_a_compressed_row() -> None:
    """576 elements a token and layer; 58 layers have a float32 correction for each of 256 experts."""
    items = ledger(profile_arch("deepseek-v3"), "bfloat16", "bfloat16", context=4095)
    assert items["target.kv_cache"] == 61 * 576 * 2 * 4096
    assert items["target.weights"] == 2 * 671_026_404_352 + 4 * 58 * 256


def test_a_pruned_gpt_oss_weighs_what_its_index_says() -> None:
    """total_size of the model.safetensors.index.json beside the config: 5 of 32 experts, in bfloat16."""
    assert ledger(profile_arch("gpt-oss-4.8b-5-experts"), "bfloat16")["target.weights"] == 9_565_955_952


def test_qwen3_next_keeps_states() -> None:
    """36 layers with a matrix of 128 x 128 for each of 32 heads, and four taps of 8192 channels; 12 with a cache."""
    items = ledger(profile_arch("qwen3-next-80b-a3b"), "bfloat16", "bfloat16", context=4095)
    assert items["target.recurrent_state"] == 36 * (32 * 128 * 128 * 4 + 8192 * 4 * 2)
    assert items["target.kv_cache"] == 12 * 2 * 2 * 256 * 2 * 4096


@pytest.mark.parametrize("name", MODELS)
def test_tying_removes_one_table(name: str) -> None:
    arch = profile_arch(name)
    tied, untied = (
        ledger(dataclasses.replace(arch, tie_word_embeddings=tie), "float16")["target.weights"] for tie in (True, False)
    )
    assert untied - tied == 2 * arch.vocab_size * arch.hidden_size


def test_every_family_has_three_published_configurations() -> None:
    found = Counter(profile_arch(name).model_type for name in MODELS)
    assert set(found) == set(FAMILIES)
    assert min(found.values()) >= 3
