"""The decoder's logits are those of transformers, whatever the passes, caches and file formats."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from specplan.errors import SpecplanError
from specplan.plan import Plan
from specplan_runtime.build import OwnAssembly, assemble_own
from specplan_runtime.engine import Engine
from specplan_runtime.linear import FloatLinear, Int8Linear
from specplan_runtime.loading.load import _quantize
from specplan_runtime.span import Span
from specplan_runtime.workspace import Workspace
from tests.gguf_checkpoints import write_gguf
from tests.runtime_helpers import (
    FAMILY_VARIANTS,
    VARIANTS,
    checkpoint,
    plan_for,
    prompt_of,
    reference_greedy,
    reference_logits,
    reference_model,
    variant,
)


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=5e-4, rtol=5e-4)


def assembled(folder: Path, **options: Any) -> OwnAssembly:
    drafting: dict[str, Any] = {"drafter": "ngram", "num_speculative_tokens": 4}
    return assemble_own(plan_for(folder, **drafting | options), lambda _: None)


def all_logits(assembly: OwnAssembly, work: Workspace, span: Span) -> torch.Tensor:
    """Run a pass; logits [T, V] of all its rows."""
    assembly.target.forward(work, span)
    rows: list[torch.Tensor] = []
    for first, tile in assembly.target.logits(work, None, span.num_rows):
        assert first == len(rows)
        rows += [row.float().clone() for row in tile[: span.num_rows - first]]
    return torch.stack(rows)


def prefill_logits(assembly: OwnAssembly, tokens: list[int], chunk: int, row: int = 0) -> torch.Tensor:
    """Logits [T, V] of a prompt that is fed chunk by chunk."""
    work = assembly.workspaces["prefill_target"]
    pieces = [
        all_logits(assembly, work, Span([tokens[start : start + chunk]], [start], row))
        for start in range(0, len(tokens), chunk)
    ]
    return torch.cat(pieces)


# ------------------------------------------------------------------------------------------------ passes


@pytest.mark.parametrize("chunk", [1, 2, 5, 16, 17, 40])
@pytest.mark.parametrize("name", [*VARIANTS, *FAMILY_VARIANTS])
def test_prefill_in_chunks(name: str, chunk: int) -> None:
    """Up to 16 rows and beyond them products take different orientations."""
    folder, tokens = variant(name), prompt_of(40)
    assembly = assembled(folder, knobs={"prefill_chunk": chunk})
    assert_same(prefill_logits(assembly, tokens, chunk), reference_logits(folder, tokens))


@pytest.mark.parametrize("tile", [2, 3, 64])
def test_logits_in_tiles(tile: int) -> None:
    folder, tokens = variant("llama-gqa"), prompt_of(15)
    assembly = assembled(folder, knobs={"logits_rows": tile}, batch_size=3)
    found = all_logits(
        assembly, assembly.workspaces["verify"], Span([tokens[i : i + 5] for i in (0, 5, 10)], [0, 0, 0])
    )
    expected = [reference_logits(folder, tokens[i : i + 5]) for i in (0, 5, 10)]
    assert_same(found, torch.cat(expected))


@pytest.mark.parametrize("name", VARIANTS)
def test_decoding_token_by_token(name: str) -> None:
    folder, tokens = variant(name), prompt_of(20)
    assembly = assembled(folder)
    found = [prefill_logits(assembly, tokens[:7], 16)]
    for position in range(7, 20):
        found.append(all_logits(assembly, assembly.workspaces["verify"], Span([[tokens[position]]], [position])))
    assert_same(torch.cat(found), reference_logits(folder, tokens))


@pytest.mark.parametrize("width", [1, 3, 5])
@pytest.mark.parametrize("name", [*VARIANTS, *FAMILY_VARIANTS])
def test_rows_at_different_positions(name: str, width: int) -> None:
    """A verify pass over sequences of different lengths, one row of it unused."""
    folder, lengths = variant(name), (1, 19, 8)
    assembly = assembled(folder, batch_size=4)
    sequences = [prompt_of(length + width, seed=6) for length in lengths]
    for row, (length, tokens) in enumerate(zip(lengths, sequences, strict=True)):
        prefill_logits(assembly, tokens[:length], 16, row)
    span = Span([*(tokens[-width:] for tokens in sequences), [0] * width], [*lengths, 0])
    found = all_logits(assembly, assembly.workspaces["verify"], span).view(4, width, -1)
    for row, tokens in enumerate(sequences):
        assert_same(found[row], reference_logits(folder, tokens)[-width:])


@pytest.mark.parametrize("options", [{}, {"kv_dtype": "int8"}], ids=str)
@pytest.mark.parametrize("name", [*VARIANTS, *FAMILY_VARIANTS])
def test_rows_with_different_numbers_of_tokens(name: str, options: dict[str, Any]) -> None:
    """Logits are those of the same pass filled up, caches too, and nothing is written for who has no tokens."""
    folder, lengths, widths = variant(name), (1, 19, 0, 8, 12), (1, 5, 0, 2, 2)
    assembly = assembled(folder, batch_size=5, **options)
    sequences = [prompt_of(length + width, seed=6) for length, width in zip(lengths, widths, strict=True)]
    for row, (length, tokens) in enumerate(zip(lengths, sequences, strict=True)):
        if length:
            prefill_logits(assembly, tokens[:length], 16, row)
    caches = [
        tensor for cache in (assembly.layout.target.full, assembly.layout.target.windowed) for tensor in cache.tensors
    ]
    before = [tensor.clone() for tensor in caches]
    new = [tokens[length:] for length, tokens in zip(lengths, sequences, strict=True)]
    span = Span(new, lengths, idle=frozenset({2}))
    found = all_logits(assembly, assembly.workspaces["verify"], span)
    for tensor, old in zip(caches, before, strict=True):
        assert torch.equal(tensor[:, 2], old[:, 2])
        assert tensor[:, 0].ne(old[:, 0]).any(-1).any(1).sum(-1).tolist() == [1] * len(tensor), "one slot in each layer"
        tensor.copy_(old)
    filled = all_logits(assembly, assembly.workspaces["verify"], span.filled()).view(5, 5, -1)
    assert_same(found, torch.cat([filled[row, :width] for row, width in enumerate(widths)]))


def test_places_of_a_ragged_pass() -> None:
    span = Span([[1], [], [2, 3, 4], [5, 6]], [7, 0, 2, 9], idle=frozenset({1}))
    assert (span.num_tokens, span.num_rows, span.offsets, span.is_ragged) == (3, 6, [0, 1, 1, 4], True)
    assert span.positions == [7, 2, 3, 4, 9, 10]
    assert span.grid_positions == [7, 7, 7, 0, 0, 0, 2, 3, 4, 9, 10, 10]
    assert (span.length, span.kept_rows) == (11, [slice(0, 6)])
    assert span.filled().tokens == [[1, 0, 0], [0, 0, 0], [2, 3, 4], [5, 6, 0]]
    assert span.filled().kept_rows == [slice(0, 3), slice(6, 12)]


def test_rejected_slots_are_rewritten() -> None:
    folder, tokens = variant("qwen3-wide-heads"), prompt_of(12)
    assembly = assembled(folder)
    verify = assembly.workspaces["verify"]
    prefill_logits(assembly, tokens[:6], 16)
    all_logits(assembly, verify, Span([[*tokens[6:8], 130, 129, 128]], [6]))
    found = all_logits(assembly, verify, Span([tokens[8:]], [8]))
    assert_same(found, reference_logits(folder, tokens)[8:])


def test_a_row_for_prefill_leaves_the_others_alone() -> None:
    folder, tokens = variant("llama-gqa"), prompt_of(12)
    assembly = assembled(folder, batch_size=3)
    keys = assembly.layout.target.full.keys
    prefill_logits(assembly, tokens, 16, row=1)
    before = keys.clone()
    prefill_logits(assembly, prompt_of(20, seed=2), 16, row=0)
    prefill_logits(assembly, prompt_of(30, seed=2), 16, row=2)
    assert torch.equal(keys[:, 1], before[:, 1])


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_of_chosen_rows(name: str) -> None:
    folder, tokens = variant(name), prompt_of(11)
    assembly = assembled(folder)
    work = assembly.workspaces["prefill_target"]
    assembly.target.forward(work, Span([tokens], [0], 0))
    ((first, logits),) = assembly.target.logits(work, [10], 1)
    assert first == 0
    assert_same(logits[0], reference_logits(folder, tokens)[10])


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (3, 1), (6, 3), (5, 5)])
def test_head_counts(heads: int, kv_heads: int) -> None:
    folder = checkpoint(
        "llama", hidden_size=30, num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=6, vocab_size=97
    )
    tokens = prompt_of(20, vocab_size=97)
    found = prefill_logits(assembled(folder), tokens, 16)
    assert_same(found, reference_logits(folder, tokens))


# --------------------------------------------------------------------------------------------- precision


@pytest.mark.parametrize(("options", "relative"), [
    ({"kv_dtype": "float16"}, 3e-3), ({"kv_dtype": "bfloat16"}, 3e-2), ({"dtype": "float16"}, 1e-2),
    ({"dtype": "bfloat16"}, 8e-2), ({"dtype": "bfloat16", "kv_dtype": "float32"}, 8e-2), ({"dtype": "int8"}, 0.15),
])  # fmt: skip
@pytest.mark.parametrize("name", ["llama-mha-biased", "qwen2-tied", "qwen3-wide-heads"])
def test_lower_precision_stays_close(name: str, options: dict[str, Any], relative: float) -> None:
    """Mean error of the logits against their size, in prefill and in a ragged decode pass."""
    folder, tokens = variant(name), prompt_of(20)
    assembly = assembled(folder, batch_size=2, **options)
    expected = reference_logits(folder, tokens)
    found = [prefill_logits(assembly, tokens[:15], 16, row=1)]
    span = Span([[0] * 5, tokens[15:]], [0, 15])
    found.append(all_logits(assembly, assembly.workspaces["verify"], span)[5:])
    error = (torch.cat(found) - expected).norm(dim=1) / expected.norm(dim=1)
    assert float(error.mean()) < relative


def quantized(rows: int, columns: int, seed: int = 0) -> tuple[Int8Linear, torch.Tensor]:
    """An int8 layer and the values it was made from; one row is zero, one has a huge element."""
    values = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    values[1] = 0
    values[2, 3] = 1000
    weight, scale = torch.zeros(rows, columns, dtype=torch.int8), torch.zeros(rows, dtype=torch.bfloat16)
    layer = Int8Linear(weight, scale, torch.arange(rows).bfloat16())
    _quantize(layer, 0, rows, values)
    return layer, values


def test_quantized_weights_are_within_half_a_step() -> None:
    layer, values = quantized(20, 64)
    steps = layer.scale.float()[:, None]
    assert bool(((layer.weight.float() * steps - values).abs() <= 0.5001 * steps).all())


@pytest.mark.parametrize("rows", [1, 2, 9, 33])
def test_int8_products_are_those_of_the_dequantized_weights(rows: int) -> None:
    layer, _ = quantized(20, 64)
    x = torch.randn(rows, 128, generator=torch.Generator().manual_seed(1)).bfloat16()[:, :64]  # strided, as the gate is
    exact = x.double() @ (layer.weight.double() * layer.scale.double()[:, None]).T + torch.arange(20)
    found = layer(x, None).double()
    size = x.double().abs() @ (layer.weight.double() * layer.scale.double()[:, None]).abs().T + torch.arange(20)
    assert bool(((found - exact).abs() <= 2.0**-7 * size + 1e-6).all())


@pytest.mark.parametrize("fields", [{"intermediate_size": 52}, {"hidden_size": 40, "head_dim": 8}, {"head_dim": 6}])
def test_int8_kernels_are_never_given_a_width_they_cannot_do(
    fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On x86 CPUs PyTorch 2.13's kernel reads past the end unless the inner size is a multiple of 16: it crashes or
    gives wrong numbers. Such a model must be refused or computed in another way.
    """
    widths: list[int] = []
    kernel = torch._weight_int8pack_mm

    def guarded(x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        widths.append(weight.shape[1])
        if weight.shape[1] % 16:
            return x @ (weight.to(x.dtype) * scale[:, None]).T
        return kernel(x, weight, scale)

    monkeypatch.setattr(torch, "_weight_int8pack_mm", guarded)
    try:
        Engine(plan_for(checkpoint("llama", **fields), drafter="none", dtype="int8")).generate(prompt_of(5), 3)
    except SpecplanError:
        return
    assert all(width % 16 == 0 for width in widths)


@pytest.mark.parametrize("rows", [1, 2, 16, 17, 40])
@pytest.mark.parametrize("bias", [False, True])
def test_float_products_in_either_orientation(rows: int, bias: bool) -> None:
    generator = torch.Generator().manual_seed(2)
    weight, offset = torch.randn(7, 5, generator=generator), torch.randn(7, generator=generator)
    x, place = torch.randn(rows, 5, generator=generator), torch.zeros(rows * 7 + 3)
    found = FloatLinear(weight, offset if bias else None)(x, place)
    torch.testing.assert_close(found, x @ weight.T + (offset if bias else 0))
    assert found.untyped_storage().data_ptr() == place.untyped_storage().data_ptr()
    assert place[rows * 7 :].tolist() == [0, 0, 0]


# ----------------------------------------------------------------------------------------------- sources


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_checkpoints_in_half_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    """Widening is exact, so float32 on top of rounded weights must match transformers on the same."""
    model = reference_model(variant("qwen3-wide-heads"))
    state = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path, state_dict=state)
    tokens = prompt_of(20)
    found = prefill_logits(assembled(tmp_path), tokens, 16)
    assert_same(found, reference_logits(tmp_path, tokens))


def test_checkpoints_in_shards(tmp_path: Path) -> None:
    folder, tokens = variant("qwen2-tied"), prompt_of(20)
    reference_model(folder).save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    found = prefill_logits(assembled(tmp_path), tokens, 16)
    assert_same(found, reference_logits(folder, tokens))


@pytest.mark.parametrize("columns", [7, 33, 64, 1000])
def test_small_loader_tiles_give_the_same_weights(
    columns: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Tiles that end inside matrices, and inside heads."""
    folder = variant("llama-mha-biased")
    whole = assembled(folder).layout.arena.block
    path = write_gguf(folder, tmp_path / "model.gguf")
    whole_gguf = assembled(path).layout.arena.block
    assert whole is not None
    assert whole_gguf is not None
    monkeypatch.setattr("specplan_runtime.loading.sources.TILE_ELEMENTS", columns)
    for source, expected in ((folder, whole), (path, whole_gguf)):
        found = assembled(source).layout.arena.block
        assert found is not None
        assert torch.equal(found, expected)


_IN_GGUF = [name for name, (family, _) in VARIANTS.items() if family != "mistral"]


@pytest.mark.parametrize("name", [*_IN_GGUF, "gemma2", "gemma3-six"])
def test_gguf_files_give_the_same_logits(name: str, tmp_path: Path) -> None:
    """Rows of queries and keys are put back in order, factors of the rotary frequencies applied."""
    folder, tokens = variant(name), prompt_of(40)
    path = write_gguf(folder, tmp_path / "model.gguf")
    found = prefill_logits(assembled(path), tokens, 16)
    assert_same(found, reference_logits(folder, tokens))


@pytest.mark.parametrize(("dtype", "relative"), [("float16", 1e-2), ("Q8_0", 0.1)])
@pytest.mark.parametrize("name", ["llama-gqa", "llama-llama3-rope"])
def test_gguf_files_in_fewer_bits(name: str, dtype: str, relative: float, tmp_path: Path) -> None:
    folder, tokens = variant(name), prompt_of(20)
    path = write_gguf(folder, tmp_path / "model.gguf", dtype=dtype)
    expected = reference_logits(folder, tokens)
    error = (prefill_logits(assembled(path), tokens, 16) - expected).norm(dim=1) / expected.norm(dim=1)
    assert float(error.mean()) < relative


def test_a_gguf_copy_of_a_tied_head_is_kept_once(tmp_path: Path) -> None:
    folder, tokens = variant("qwen2-tied"), prompt_of(20)
    path = write_gguf(folder, tmp_path / "model.gguf", copy_head=True)
    plan: Plan = plan_for(path, drafter="ngram", num_speculative_tokens=4)
    assert plan.inputs.target.arch.tie_word_embeddings
    found = prefill_logits(assembled(path), tokens, 16)
    assert_same(found, reference_logits(folder, tokens))


def test_a_gguf_drafts_for_a_folder(tmp_path: Path) -> None:
    folder = variant("llama-llama3-rope")
    draft = write_gguf(folder, tmp_path / "draft.gguf")
    plan = plan_for(folder, drafter="draft_model", draft=draft, num_speculative_tokens=3)
    engine = Engine(plan)
    assert engine.generate(prompt_of(9), 21) == reference_greedy(folder, prompt_of(9), 21)
    assert engine.stats.draft_acceptance_rate == 1


@pytest.mark.parametrize("length", [40, 60])
def test_rotary_frequencies_beyond_the_original_context(length: int) -> None:
    """Long enough that scaled and plain frequencies differ."""
    tokens = prompt_of(length)
    plain, scaled = variant("llama-gqa"), variant("llama-linear-rope")
    found = prefill_logits(assembled(scaled), tokens, 16)
    assert_same(found, reference_logits(scaled, tokens))
    assert not torch.allclose(found, reference_logits(plain, tokens), atol=0.1)
