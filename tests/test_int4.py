"""Matrices in 4 bits: what they hold, where it lies, and what their products are."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specplan.devices.bundled import device_profile
from specplan.errors import InputError, UnsupportedError
from specplan.models.resolve import resolve_model
from specplan.plan_checks import check_plan_values
from specplan.planner.ask import ask
from specplan.planner.notes import KEPT_IN_INT4
from specplan.speed.roofline import Pass, layer_seconds
from specplan_runtime.build import OwnAssembly, assemble_own
from specplan_runtime.engine import Engine
from specplan_runtime.groups import Groups, grouped
from specplan_runtime.linear import FloatLinear, Int4Linear, Int8Linear
from specplan_runtime.loading.gguf_groups import GROUPED
from specplan_runtime.nibbles import codes_of, store_codes
from specplan_runtime.report import measure_items
from specplan_runtime.span import Span
from tests.gguf_checkpoints import write_gguf
from tests.runtime_helpers import checkpoint, plan_for, prompt_of, reference_greedy, reference_logits, serve, variant

#: Rows that end inside blocks of 16, 32 and 64.
ROWS = (16, 32, 48, 64, 80, 112, 192, 320)


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def random_codes(rows: int, columns: int) -> torch.Tensor:
    return torch.randint(0, 16, (rows, columns), dtype=torch.uint8, generator=torch.Generator().manual_seed(rows))


def values_of(groups: Groups) -> torch.Tensor:
    """What groups stand for, in float64."""
    parts = groups.codes.double().view(*groups.scale.shape, 32)
    return ((parts - 8) * groups.scale.double()[..., None] + groups.zero.double()[..., None]).view(groups.codes.shape)


def matrix_of(linear: Int4Linear) -> torch.Tensor:
    """What a layer's bytes stand for, in float64."""
    scale, zero = (linear.scales[..., index].t().float() for index in (0, 1))
    return values_of(Groups(codes_of(linear.codes), scale, zero))


def layer_of(values: torch.Tensor, step: int, bias: torch.Tensor | None = None) -> Int4Linear:
    """A layer that was stored ``step`` rows at a time."""
    rows, columns = values.shape
    codes = torch.zeros(rows, columns // 2, dtype=torch.uint8)
    linear = Int4Linear(codes, torch.zeros(columns // 32, rows, 2, dtype=torch.bfloat16), bias)
    for first in range(0, rows, step):
        linear.store(first, grouped(values[first : first + step]))
    return linear


# ------------------------------------------------------------------------------------------------- bytes


@pytest.mark.parametrize("step", [1, 7, 16, 65, 1000])
@pytest.mark.parametrize("rows", ROWS)
def test_codes_lie_as_pytorch_packs_them(rows: int, step: int) -> None:
    """Whatever the tiles that rows come in."""
    codes, place = random_codes(rows, 64), torch.full((rows, 32), 255, dtype=torch.uint8)
    for first in range(0, rows, step):
        store_codes(place, first, codes[first : first + step])
    assert torch.equal(place, torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.int(), 2))
    assert torch.equal(codes_of(place), codes)


def test_rows_are_stored_in_any_order() -> None:
    codes, place = random_codes(192, 64), torch.zeros(192, 32, dtype=torch.uint8)
    for first in (128, 24, 0, 152, 64):
        last = {128: 152, 24: 64, 0: 24, 152: 192, 64: 128}[first]
        store_codes(place, first, codes[first:last])
    assert torch.equal(codes_of(place), codes)


# ------------------------------------------------------------------------------------------ quantization


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 20), st.sampled_from([1e-6, 0.02, 3.0, 1e4]), st.sampled_from([-3.0, 0.0, 0.5, 20.0]))
def test_values_are_within_about_half_a_step(seed: int, size: float, offset: float) -> None:
    """A step is a fifteenth of a group's range, 0 included; scale and zero point are rounded to bfloat16."""
    values = size * (torch.randn(8, 96, generator=torch.Generator().manual_seed(seed)) + offset)
    parts = values.double().view(8, 3, 32)
    step = (parts.amax(-1).clamp_min(0) - parts.amin(-1).clamp_max(0)) / 15
    error = (values_of(grouped(values)) - values.double()).abs().view(8, 3, 32).amax(-1)
    assert bool((error <= 0.55 * step).all())


def test_groups_of_zeros_and_of_one_huge_value() -> None:
    values = torch.zeros(2, 64)
    values[1, 3] = 1000
    found = values_of(grouped(values))
    assert float(found[0].abs().max()) < 1e-25
    torch.testing.assert_close(found[1], values[1].double(), rtol=2**-7, atol=4)
    assert float(found[1, 32:].abs().max()) < 1e-25


# ---------------------------------------------------------------------------------------------- products


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("num_rows", [1, 2, 3, 4, 5, 9, 33])
@pytest.mark.parametrize(("rows", "columns"), [(16, 32), (64, 96), (112, 64), (192, 160)])
def test_products_are_those_of_the_dequantized_matrix(rows: int, columns: int, num_rows: int, bias: bool) -> None:
    generator = torch.Generator().manual_seed(columns)
    values = torch.randn(rows, columns, generator=generator)
    offset = torch.arange(rows) if bias else torch.zeros(rows)
    linear = layer_of(values, 24, offset.bfloat16() if bias else None)
    x = torch.randn(num_rows, columns, generator=generator).bfloat16()
    matrix = values_of(grouped(values))
    exact = x.double() @ matrix.T + offset
    size = x.double().abs() @ matrix.abs().T + offset
    found = linear(x, None)
    assert bool(((found.double() - exact).abs() <= 2.0**-7 * size + 1e-6).all())
    assert torch.equal(found[:1], linear(x[:1], None))  # rows do not depend on how many there are


# ------------------------------------------------------------------------------------------------- GGUF


def random_blocks(kind: str, rows: int, blocks: int) -> np.ndarray[Any, Any]:
    """Rows of random codes whose float16 figures are finite."""
    random = np.random.default_rng(3)
    size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][1]
    raw = random.integers(0, 256, (rows, blocks, size), dtype=np.uint8)
    for at in range(0, 4 if kind != "Q4_0" else 2, 2):
        raw[..., at : at + 2] = random.normal(0, 0.1, (rows, blocks, 1)).astype(np.float16).view(np.uint8)
    return raw.reshape(rows, -1)


@pytest.mark.parametrize("kind", sorted(GROUPED))
def test_blocks_of_a_file_are_groups(kind: str) -> None:
    """Against gguf's own dequantization; before their scales are rounded there is nothing lost."""
    raw = random_blocks(kind, 5, 3)
    found = values_of(GROUPED[kind](raw))
    expected = torch.from_numpy(gguf.dequantize(raw, gguf.GGMLQuantizationType[kind])).double()
    if kind == "Q4_0":
        assert torch.equal(found.float(), expected.float())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_the_plan_knows_which_types_are_kept() -> None:
    assert {f"ggml-{kind.lower()}" for kind in GROUPED} == KEPT_IN_INT4


def assembled(path: Path, dtype: str, **options: Any) -> OwnAssembly:
    drafting: dict[str, Any] = {"drafter": "ngram", "num_speculative_tokens": 4}
    return assemble_own(plan_for(path, dtype=dtype, **drafting | options), lambda _: None)


def all_logits(assembly: OwnAssembly, tokens: list[int]) -> torch.Tensor:
    """Logits [T, V] of a verify pass of two rows with different numbers of tokens before them."""
    prefill = assembly.workspaces["prefill_target"]
    for row, count in enumerate((8, 3)):
        assembly.target.forward(prefill, Span([tokens[:count]], [0], row))
    work = assembly.workspaces["verify"]
    assembly.target.forward(work, Span([tokens[8:13], tokens[3:8]], [8, 3]))
    found: list[torch.Tensor] = []
    for first, tile in assembly.target.logits(work, None, 10):
        found += [row.float().clone() for row in tile[: 10 - first]]
    return torch.stack(found)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1"])
def test_a_file_in_4_bits_keeps_its_values(kind: str, tmp_path: Path) -> None:
    """Codes to the bit, with the rows of queries and keys put back in order; scales rounded to bfloat16."""
    path = write_gguf(variant("llama-gqa"), tmp_path / "model.gguf", dtype=kind)
    plain, packed = (assembled(path, dtype).layout.target for dtype in ("bfloat16", "int4"))
    exact = assembled(path, "float32").layout.target
    assert isinstance(packed.head, Int8Linear)
    for index, layer in enumerate(packed.layers):
        for name in ("qkv", "output", "gate_up", "down"):
            linear, floats, halves = (getattr(model.layers[index], name) for model in (packed, exact, plain))
            assert isinstance(linear, Int4Linear)
            assert isinstance(halves, FloatLinear)
            unpacked = floats.unpacked() if not isinstance(floats, FloatLinear) else floats.weight
            error = (matrix_of(linear) - unpacked.double()).abs()
            if kind == "Q4_0":  # as close as bfloat16 weights
                assert bool((error <= 2.0**-8 * unpacked.abs()).all())
            scale = linear.scales.float().abs().permute(1, 0, 2).repeat_interleave(32, 1)
            assert bool((error <= 2.0**-8 * (8 * scale[..., 0] + scale[..., 1])).all())


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1"])
def test_a_file_in_4_bits_gives_the_logits_of_its_floats(kind: str, tmp_path: Path) -> None:
    """About as well as bfloat16 weights of the same file, in a batch whose rows are at different positions."""
    tokens, path = prompt_of(13), write_gguf(variant("llama-gqa"), tmp_path / "model.gguf", dtype=kind)
    exact, halves, packed = (
        all_logits(assembled(path, dtype, batch_size=2), tokens) for dtype in ("float32", "bfloat16", "int4")
    )
    error, usual = (float(((found - exact).norm(dim=1) / exact.norm(dim=1)).mean()) for found in (packed, halves))
    assert error < 1.5 * usual + 0.01


# ----------------------------------------------------------------------------------------------- running


@pytest.mark.parametrize("name", ["llama-mha-biased", "qwen2-tied", "qwen3-wide-heads", "gpt-neox", "mixtral"])
def test_logits_are_those_of_the_dequantized_model(name: str) -> None:
    """The layers' matrices written back into a plain decoder: only the precision of activations differs."""
    folder, tokens = variant(name), prompt_of(13)
    packed, plain = (assembled(folder, dtype, batch_size=2) for dtype in ("int4", "bfloat16"))
    rounded = all_logits(plain, tokens)
    for theirs, ours in zip(plain.layout.target.layers, packed.layout.target.layers, strict=True):
        for linear, held in zip(linears(theirs), linears(ours), strict=True):
            assert isinstance(held, Int4Linear)
            linear.weight.copy_(matrix_of(held))
    expected, found = all_logits(plain, tokens), all_logits(packed, tokens)
    error = ((found - expected).norm(dim=1) / expected.norm(dim=1)).mean()
    lost = ((rounded - expected).norm(dim=1) / expected.norm(dim=1)).mean()
    assert float(error) < 0.08 < float(lost)


def linears(layer: Any) -> list[Any]:
    dense = [linear for linear in (layer.gate_up, layer.down) if linear is not None]
    experts = [] if layer.experts is None else [*layer.experts.gate_up, *layer.experts.down]
    return [layer.qkv, layer.output, *dense, *experts]


def test_a_draft_in_int4_does_not_change_the_output() -> None:
    folder = variant("llama-gqa")
    options: dict[str, Any] = {"draft": folder, "draft_dtype": "int4", "num_speculative_tokens": 4, "batch_size": 2}
    plan = plan_for(folder, drafter="draft_model", **options)
    prompts = [prompt_of(9), [5], prompt_of(4)]
    assert serve(Engine(plan), prompts, 16) == [reference_greedy(folder, prompt, 16) for prompt in prompts]


@pytest.mark.parametrize("drafter", ["none", "ngram", "early_exit", "draft_model"])
@pytest.mark.parametrize("tied", [False, True])
def test_measured_is_what_was_planned(drafter: str, tied: bool) -> None:
    folder = checkpoint("llama", seed=3, tie_word_embeddings=tied, mlp_bias=True)
    options: dict[str, Any] = {} if drafter == "none" else {"num_speculative_tokens": 3}
    if drafter == "draft_model":
        options["draft"] = folder
    engine = Engine(plan_for(folder, drafter=drafter, dtype="int4", batch_size=2, **options))
    assert [len(tokens) for tokens in serve(engine, [prompt_of(9), [5], prompt_of(4)], 12)] == [12] * 3
    items = [item for item in measure_items(engine, None) if item.owned]
    assert items
    assert all(item.difference == 0 for item in items)
    assert engine.stats.draft_acceptance_rate == (1 if drafter == "draft_model" else engine.stats.draft_acceptance_rate)


def test_bytes_of_a_model_by_hand() -> None:
    """Three layers of 32·(64 + 32 + 128 + 64) elements in 5 bits, two tables of 131 rows, seven norms."""
    items = plan_for(checkpoint("llama"), drafter="none", dtype="int4").ledger.by_name()
    head, embedding, norms = 131 * (32 + 2), 131 * 32 * 2, 7 * 32 * 2
    assert items["target.weights"].bytes == 3 * 32 * (64 + 32 + 128 + 64) * 5 // 8 + head + embedding + norms


# ------------------------------------------------------------------------------------------------- speed


def layer_times(dtype: str, gpu: str, rows: range) -> list[float]:
    arch, device = resolve_model("llama-3.2-1b").arch, device_profile(gpu)
    found = layer_seconds(arch, device, dtype, "bfloat16", Pass(rows=np.array(rows), batch_size=1, context=1))
    return [float(seconds) for seconds in found]


@pytest.mark.parametrize("dtype", ["int4", "int8"])
def test_on_a_cpu_every_fifth_row_decodes_the_matrices_again(dtype: str) -> None:
    """Of several rows the first of a block costs most; on a GPU a few rows cost what one costs."""
    times = layer_times(dtype, "cpu-generic", range(1, 10))
    steps = [after - before for before, after in itertools.pairwise(times)]
    assert min(steps[3], steps[7]) > 3 * max(steps[:3] + steps[4:7])
    few = layer_times("int8", "rtx-3090", range(1, 5))
    assert few[3] < 1.01 * few[0]


def test_few_bits_pay_for_few_rows() -> None:
    """A product with one row took a third to a fifth of float32's time, one with 64 somewhat more."""
    dtypes = ("float32", "int8", "int4")
    one, many = ([layer_times(dtype, "cpu-generic", range(rows, rows + 1))[0] for dtype in dtypes] for rows in (1, 64))
    assert 5 > one[0] / one[2] > one[0] / one[1] > 1
    assert many[0] < many[2] < many[1]


# --------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("fields", [
    {"intermediate_size": 48}, {"hidden_size": 48, "head_dim": 8},
    {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8},
    {"num_attention_heads": 16, "num_key_value_heads": 1, "head_dim": 2},
])  # fmt: skip
def test_shapes_without_whole_groups_are_refused_by_name(fields: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError, match="dtype int4 needs matrices"):
        plan_for(checkpoint("llama", **fields), dtype="int4")


@pytest.mark.parametrize("option", ["dtype", "draft_dtype"])
def test_other_devices_are_refused_by_name(option: str) -> None:
    asked: dict[str, Any] = {option: "int4"}
    with pytest.raises(UnsupportedError, match=rf"--{option.replace('_', '-')} int4: .* CPUs only, and rtx-3060"):
        ask(model="llama-68m", draft="llama-68m", gpu="rtx-3060", **asked)
    plan = plan_for(checkpoint("llama"), dtype="int4")
    device = dataclasses.replace(plan.inputs.device, kind="cuda")
    edited = dataclasses.replace(plan, inputs=dataclasses.replace(plan.inputs, device=device))
    with pytest.raises(UnsupportedError, match=r"workload\.dtype is int4, which runs on CPUs only"):
        check_plan_values(edited, "plan.json")


def test_several_devices_are_refused_by_name() -> None:
    with pytest.raises(InputError, match="int4 are planned on one device"):
        plan_for(checkpoint("llama"), dtype="int4", num_gpus=2)


def test_the_plan_says_what_is_held_how(tmp_path: Path) -> None:
    folder = variant("llama-gqa")
    (note,) = (note for note in plan_for(folder, dtype="int4").notes if "int4" in note)
    assert note == "the target's layers are held in int4, its output head in int8: this changes the output"
    path = write_gguf(folder, tmp_path / "model.gguf", dtype="Q4_0")
    (note,) = (note for note in plan_for(path, dtype="int4").notes if "int4" in note)
    assert note.endswith("; 21 of 21 matrices of layers keep the file's 4-bit values")


def test_logits_stay_close_to_the_models() -> None:
    """A sanity check of quantization itself: random weights suffer more than trained ones."""
    folder, tokens = variant("qwen3-wide-heads"), prompt_of(13)
    found, expected = all_logits(assembled(folder, "int4", batch_size=2), tokens), reference_logits(folder, tokens)
    error = (found[:5] - expected[8:]).norm(dim=1) / expected[8:].norm(dim=1)
    assert float(error.mean()) < 0.5
