"""The closed forms of transformers' forward against traces of it: 0 bytes of difference, for hundreds of shapes.

The trace runs transformers' own modules on the meta device and knows nothing of the formulas. Shapes are drawn so
that every stage of every form holds the most at least ten times: a wrong term cannot hide behind another stage.
"""

from __future__ import annotations

import random
from collections import Counter
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto import CONFIG_MAPPING

from specplan.errors import UnsupportedError
from specplan.formulas.bind import evaluate_expression
from specplan.formulas.transformers_families import FORWARDS, forward_of
from specplan.formulas.transformers_forward import QUERIES_PACKED_FROM, forward_flags, release_of
from specplan_runtime.tracing.tracker import StorageTracker
from specplan_runtime.tracing.transformers_pass import (
    ForwardShape,
    efficient_attention,
    layer_kinds,
    trace_pass,
)
from specplan_runtime.transformers_forward.cache import CachePass, CacheRows, PlanCache
from specplan_runtime.transformers_forward.model import meta_model

INSTALLED = transformers.__version__
HALVES = (torch.float16, torch.bfloat16)
DTYPES = (*HALVES, torch.float32)
#: Shapes per stage and form. Llama's and Qwen 3's are those of the runtime's own families: more than 300 together.
SHAPES = {"llama": 20, "qwen3": 16}
FEWER = 11
#: model_types whose shapes are drawn together.
DRAWN = {"llama": ("llama", "mistral", "qwen2")}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}


def values_of(model: PreTrainedModel, shape: ForwardShape, version: str = INSTALLED) -> dict[str, Any]:
    """The symbols of a pass, read from the config that transformers keeps."""
    config = model.config
    d = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kinds = len(layer_kinds(model))
    values = {
        "L": config.num_hidden_layers,
        "h": config.hidden_size,
        "I": config.intermediate_size,
        "H": config.num_attention_heads,
        "H_k": config.num_key_value_heads,
        "d": d,
        "d_o": int(d * (config.rope_parameters or {}).get("partial_rotary_factor", 1.0)),
        "V": config.vocab_size,
        "s": model.dtype.itemsize,
        "f_h": int(model.dtype.itemsize < 4),
        "T": shape.num_sequences * shape.num_rows,
        "b": shape.num_sequences,
        "S": shape.num_slots,
        "R": shape.logits_rows,
        "f_c": int(shape.gathered),
        "n_m": kinds,
        "n_o": kinds,
    }
    return values | forward_flags(version, values)


def stage_bytes(model: PreTrainedModel, shape: ForwardShape, version: str = INSTALLED) -> dict[str, int]:
    values = values_of(model, shape, version)
    stages = forward_of(model.config.model_type).stages()
    return {name: int(evaluate_expression(stage(), values)) for name, stage in stages.items()}


def peak_bytes(model: PreTrainedModel, shape: ForwardShape, version: str = INSTALLED) -> int:
    expression = forward_of(model.config.model_type).workspace()
    return int(evaluate_expression(expression, values_of(model, shape, version)))


def config_of(model_type: str, **sizes: Any) -> dict[str, Any]:
    return {"model_type": model_type, "max_position_embeddings": 512, "pad_token_id": 0, "eos_token_id": None, **sizes}


class Draw:
    """A random shape at which a stage should hold the most; the other sizes stay small."""

    def __init__(self, model_type: str, stage: str, rng: random.Random) -> None:
        self.rng = rng
        self.kv_heads, self.group = rng.choice((1, 1, 2, 3)), rng.choice((1, 2, 4))
        self.head_dim = rng.choice((16, 24, 64, 136, 160))
        self.hidden_per_head, self.intermediate, self.vocab = rng.randint(1, 8), rng.randint(1, 20), rng.randint(3, 40)
        self.rows, self.sequences = rng.choice((1, 2, 3, rng.randint(4, 9))), rng.choice((1, 1, 2, 4))
        self.more_slots = rng.randint(0, 8)
        self.dtype = rng.choice(DTYPES)
        self.rotated = rng.choice((1.0, 0.75, 0.5))
        self.model_type, self.makes_all_logits = model_type, stage == "logits"
        getattr(self, stage)()

    def query_norm(self) -> None:
        self.kv_heads, self.group, self.dtype = 1, 4, self.rng.choice(HALVES)
        self.head_dim = self.rng.choice((64, 136))

    def query_rotary(self) -> None:
        self.kv_heads, self.group, self.dtype = 1, self.rng.choice((2, 4)), torch.float32
        self.head_dim, self.rotated = self.rng.choice((64, 160)), 1.0

    def key_rotary(self) -> None:
        self.group, self.dtype, self.rotated = 1, torch.float32, 1.0
        self.head_dim = self.rng.choice((64, 160))

    def mask(self) -> None:
        self.kv_heads, self.head_dim = 1, self.rng.choice((8, 16))
        self.more_slots = 8 * self.rng.randint(30, 70) + 4 - self.rows % 8

    def kernel(self) -> None:
        """Repeated keys decide, or queries that outweigh the mask, or a mask that needs no padding."""
        self.rows = max(2, self.rows)
        self.kv_heads, self.group, self.head_dim = self.rng.choice(((2, 2, 64), (3, 4, 96), (3, 2, 136), (1, 1, 32)))
        aligned = self.kv_heads < 3 or self.rng.random() < 0.5
        self.more_slots = 8 * self.rng.randint(40, 70) + (-self.rows % 8 if aligned else 0)

    def norm(self) -> None:
        self.kv_heads = self.group = 1
        self.head_dim, self.hidden_per_head = 8, self.rng.randint(200, 400)
        self.dtype = self.rng.choice(HALVES)

    def mlp(self) -> None:
        self.intermediate, self.head_dim, self.kv_heads = self.rng.randint(800, 1500), 16, 1

    def down(self) -> None:
        self.norm()
        self.intermediate, self.rows = self.hidden_per_head // 3, self.rng.randint(4, 9)
        self.dtype = torch.float32

    def residual(self) -> None:
        self.norm()
        self.dtype = torch.float32

    def logits(self) -> None:
        self.vocab, self.kv_heads, self.head_dim = self.rng.randint(4000, 7000), 1, 16

    def unpack(self) -> None:
        self.rows, self.kv_heads, self.group = 1, self.rng.choice((2, 3)), 4
        self.head_dim, self.rotated = self.rng.choice((64, 96, 128)), 0.25

    def output(self) -> None:
        self.rotated, self.dtype, self.kv_heads = 0.25, torch.float32, 1
        self.head_dim, self.more_slots = self.rng.choice((16, 32)), 0
        self.hidden_per_head = 2 * self.head_dim

    @property
    def config(self) -> dict[str, Any]:
        heads, layers = self.kv_heads * self.group, self.rng.choice((1, 1, 2))
        config = config_of(
            self.model_type,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.head_dim,
            hidden_size=heads * self.hidden_per_head,
            intermediate_size=self.intermediate,
            vocab_size=self.vocab,
            tie_word_embeddings=self.rng.random() < 0.5,
        )
        if self.model_type in ("llama", "qwen3"):
            config["attention_bias"] = self.rng.random() < 0.5
        if self.model_type == "llama":
            config["mlp_bias"] = self.rng.random() < 0.5
            config["rope_parameters"] = self.rng.choice((LLAMA3_ROPE, {"rope_type": "default", "rope_theta": 10000.0}))
        if self.model_type == "gemma3_text":
            config["layer_types"] = self.rng.choices(("full_attention", "sliding_attention"), k=layers)
        if self.model_type == "phi3":
            rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": self.rotated}
            config["rope_parameters"] = rope
        return config

    @property
    def shape(self) -> ForwardShape:
        most = self.sequences * self.rows
        logits = most if self.makes_all_logits else self.rng.choice((1, most, self.rng.randint(1, most)))
        return ForwardShape(self.sequences, self.rows, self.rows + self.more_slots, logits, self.rng.random() < 0.3)


def draws(form: str) -> list[Draw]:
    rng = random.Random(form)
    return [
        Draw(rng.choice(DRAWN.get(form, (form,))), stage, rng)
        for stage in FORWARDS[form].STAGES
        for _ in range(SHAPES.get(form, FEWER))
    ]


@pytest.mark.parametrize("form", ["llama", "qwen3", "gemma", "gemma3_text", "granite", "phi3", "olmo2"])
def test_the_closed_form_is_the_trace(form: str) -> None:
    binding: Counter[str] = Counter()
    differences = []
    for draw in draws(form):
        model, shape = meta_model(draw.config, draw.dtype), draw.shape
        traced, stages = trace_pass(model, shape), stage_bytes(model, shape)
        peak = max(stages.values())
        binding.update(name for name, num_bytes in stages.items() if num_bytes == peak)
        if not traced.peak_bytes == peak == peak_bytes(model, shape):
            differences.append((traced.peak_bytes - peak, model.config, shape))
    assert differences == []
    never = {"unpack"} if release_of(INSTALLED) < QUERIES_PACKED_FROM else set()
    assert [stage for stage in FORWARDS[form].STAGES if stage not in never and binding[stage] < 10] == []


def test_more_than_three_hundred_shapes_of_the_decoder_families() -> None:
    drawn = [draw for form in SHAPES for draw in draws(form)]
    assert len(drawn) > 300
    assert {draw.model_type for draw in drawn} == {"llama", "mistral", "qwen2", "qwen3"}
    assert {draw.dtype for draw in drawn} == set(DTYPES)
    assert {draw.head_dim > 128 for draw in drawn} == {draw.shape.num_slots % 8 > 0 for draw in drawn} == {True, False}


@pytest.mark.parametrize("model_type", sorted(FORWARDS))
def test_every_family_that_is_listed(model_type: str) -> None:
    if model_type not in CONFIG_MAPPING:
        pytest.skip(f"not in transformers {INSTALLED}")
    sizes = {"num_hidden_layers": 2, "hidden_size": 96, "intermediate_size": 200, "vocab_size": 300, "head_dim": 32}
    model = meta_model(config_of(model_type, num_attention_heads=4, num_key_value_heads=2, **sizes), torch.float16)
    for shape in (ForwardShape(1, 33, 70, 1), ForwardShape(3, 1, 37, 3), ForwardShape(2, 5, 64, 10)):
        assert trace_pass(model, shape).peak_bytes == peak_bytes(model, shape)


# ---------------------------------------------------------------------------------------------- real models

LLAMA_3_8B = config_of(
    "llama",
    num_hidden_layers=32,
    hidden_size=4096,
    intermediate_size=14336,
    num_attention_heads=32,
    num_key_value_heads=8,
    vocab_size=128256,
)
LLAMA_2_70B = LLAMA_3_8B | {
    "num_hidden_layers": 80,
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_attention_heads": 64,
    "vocab_size": 32000,
}


@cache
def real_model(name: str) -> PreTrainedModel:
    return meta_model({"8b": LLAMA_3_8B, "70b": LLAMA_2_70B}[name], torch.float16)


@pytest.mark.parametrize(
    "shape",
    [ForwardShape(1, 512, 4096, 1), ForwardShape(1, 64, 4096, 64), ForwardShape(4, 1, 4099, 4)],
    ids=["prefill", "verify", "draft"],
)
def test_llama_2_70b(shape: ForwardShape) -> None:
    assert trace_pass(real_model("70b"), shape).peak_bytes == peak_bytes(real_model("70b"), shape)


def test_llama_3_8b_verifies_64_rows_in_132_mib() -> None:
    """The figure of the tables that were measured with the real CUDA build's host code."""
    shape = ForwardShape(1, 64, 8192, 64)
    repeated = 2 * 8192 * 4096 * 2
    assert peak_bytes(real_model("8b"), shape) == repeated + 64 * (24 + 8192 + 2 * 256 + 5 * 8192 + 8192 * 2)
    assert round(peak_bytes(real_model("8b"), shape) / 2**20, 1) == 132.0


def test_one_row_steps_need_less_since_queries_are_packed() -> None:
    shape = ForwardShape(1, 1, 8192, 1)
    before, since = (peak_bytes(real_model("8b"), shape, version) for version in ("5.22.2", "5.23.0"))
    assert before > 2**27 > 100 * since


# ------------------------------------------------------------------------------------- pieces and refusals


@pytest.mark.parametrize(("rows", "head_dim"), [(1, 64), (7, 128), (64, 256)])
def test_attention_has_the_layout_of_pytorchs_operator(rows: int, head_dim: int) -> None:
    query = torch.empty(2, 4, rows, head_dim, dtype=torch.float16, device="meta")
    key = torch.empty(2, 4, 40, head_dim, dtype=torch.float16, device="meta")
    mask = torch.empty(2, 1, rows, 40, dtype=torch.bool, device="meta")
    operator = torch.ops.aten._scaled_dot_product_efficient_attention
    expected = operator(query, key, key, None, False)[0]
    output = efficient_attention(query, key, key, mask)
    assert (output.shape, output.stride(), output.dtype) == (expected.shape, expected.stride(), expected.dtype)


def test_pytorch_converts_boolean_masks_as_the_trace_does() -> None:
    """The conversion is PyTorch's own on every device: two scalars and one mask, no negated copy."""
    query, mask = torch.zeros(1, 2, 3, 16), torch.ones(1, 1, 3, 13, dtype=torch.bool)
    key = torch.zeros(1, 2, 13, 16)
    with torch.no_grad(), StorageTracker() as real:
        torch.nn.functional.scaled_dot_product_attention(query, key, key, attn_mask=mask)
    with torch.no_grad(), StorageTracker() as replaced:
        efficient_attention(query, key, key, mask)
    converting = [[(event.operator, event.num_bytes) for event in trace.events[:3]] for trace in (real, replaced)]
    assert converting[0] == converting[1]
    assert converting[0][2] == ("aten.where.self", 4 * 3 * 13)


def test_attention_refuses_what_the_kernel_does_not_compute() -> None:
    query = torch.empty(1, 2, 3, 20, dtype=torch.float16, device="meta")
    mask = torch.empty(1, 1, 3, 3, dtype=torch.bool, device="meta")
    with pytest.raises(UnsupportedError, match="memory-efficient"):
        efficient_attention(query, query, query, mask)


def test_the_plan_cache_computes_what_transformers_computes() -> None:
    """Two sequences at different positions, in two chunks, against one pass each without a cache."""
    torch.manual_seed(5)
    sizes = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "vocab_size": 50}
    config_class: Any = CONFIG_MAPPING["llama"]
    config = config_class(num_attention_heads=4, num_key_value_heads=2, **sizes)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa").eval()
    ids = torch.randint(0, 50, (2, 9))
    starts, num_rows, num_slots = torch.tensor([3, 5]), 4, 11
    cache = PlanCache.allocate(CacheRows(2, 2, 8, 8), 2, num_slots, torch.float32, torch.device("cpu"))
    sequence = torch.arange(2)[:, None]
    for positions in (torch.arange(5).expand(2, 5), starts[:, None] + torch.arange(num_rows)):
        cache.current = CachePass(sequence * num_slots + positions, slice(None), num_slots)
        mask = torch.arange(num_slots)[None, None, None] <= positions[:, None, :, None]
        with torch.no_grad():
            output = model(ids.gather(1, positions), position_ids=positions, attention_mask=mask, past_key_values=cache)
    with torch.no_grad():
        expected = model(ids).logits
    for i in range(2):
        torch.testing.assert_close(output.logits[i], expected[i, starts[i] : starts[i] + num_rows])


def test_inputs_are_counted() -> None:
    traced = trace_pass(meta_model(LLAMA_3_8B | {"num_hidden_layers": 1}, torch.float16), ForwardShape(2, 3, 20, 1))
    assert sum(event.num_bytes for event in traced.tracker.events[:4]) == 6 * (3 * 8 + 20)
    assert traced.tracker.live_bytes == 0


def test_flags_take_arrays() -> None:
    rows, slots = np.array([2, 2, 4, 6]), np.array([8, 9, 16, 15])
    values = {"L": 2, "H": 8, "H_k": 2, "d": 160, "s": 2, "T": rows, "b": 2, "S": slots}
    arrays = forward_flags("5.23.0", values)
    for i in range(4):
        numbers = {name: int(value[i]) if isinstance(value, np.ndarray) else value for name, value in values.items()}
        single = forward_flags("5.23.0", numbers)
        assert {name: int(np.broadcast_to(value, 4)[i]) for name, value in arrays.items()} == single
    assert arrays["f_p"].tolist() == [0, 1, 0, 1]
    assert arrays["f_u"].tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize("version", ["5.16.1", "4.57", "main"])
def test_other_versions_are_refused(version: str) -> None:
    with pytest.raises(UnsupportedError, match="transformers"):
        release_of(version)


def test_other_families_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="jamba"):
        forward_of("jamba")
    with pytest.raises(UnsupportedError, match="no architecture"):
        meta_model({"model_type": "nothing"}, torch.float16)
