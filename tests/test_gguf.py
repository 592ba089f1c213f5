"""Reading models from GGUF files."""

from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from specplan.arch import RopeScaling
from specplan.errors import InputError, SpecplanError
from specplan.models.gguf_header import GGML_TYPES, ArrayLength, read_gguf_header
from tests.conftest import gguf_tensors, write_gguf
from tests.gguf_helpers import read_gguf


def test_a_gguf_file(tiny_gguf: Path) -> None:
    arch = read_gguf(tiny_gguf).arch
    assert (arch.model_type, arch.num_hidden_layers, arch.hidden_size, arch.intermediate_size) == ("llama", 1, 8, 16)
    assert (arch.num_attention_heads, arch.num_key_value_heads, arch.head_dim) == (2, 1, 4)
    assert (arch.vocab_size, arch.max_position_embeddings, arch.eos_token_ids) == (32, 64, (2,))
    assert arch.tie_word_embeddings
    assert arch.rms_norm_eps == pytest.approx(1e-5)
    assert arch.rope_scaling is None


def test_gguf_and_the_gguf_package_agree(tiny_gguf: Path) -> None:
    header = read_gguf_header(tiny_gguf)
    reader = gguf.GGUFReader(tiny_gguf)
    assert set(header.tensors) == {tensor.name for tensor in reader.tensors}
    for tensor in reader.tensors:
        entry = header.tensors[tensor.name]
        assert entry.shape == tuple(reversed(tensor.shape.tolist()))
        assert entry.num_bytes == tensor.n_bytes
        assert entry.offset == tensor.data_offset
        assert entry.dtype == tensor.tensor_type.name


def test_ggml_types_equal_the_gguf_package() -> None:
    for number, (name, block, block_bytes) in GGML_TYPES.items():
        kind = gguf.GGMLQuantizationType(number)
        assert kind.name == name
        assert gguf.GGML_QUANT_SIZES[kind] == (block, block_bytes)


def test_gguf_rope_factors(tmp_path: Path) -> None:
    tensors = gguf_tensors() | {"rope_freqs.weight": np.ones(2, dtype=np.float32)}
    assert read_gguf(write_gguf(tmp_path / "m.gguf", tensors)).arch.rope_scaling == RopeScaling("factors")


def test_gguf_biases_and_overrides(tmp_path: Path) -> None:
    tensors = gguf_tensors() | {
        f"blk.0.attn_{x}.bias": np.ones(n, dtype=np.float32) for x, n in zip("qkv", (8, 4, 4), strict=True)
    }
    path = write_gguf(tmp_path / "m.gguf", tensors, rope_freq_base=5e5, rope_scaling_type=gguf.RopeScalingType.LINEAR)
    arch = read_gguf(path).arch
    assert arch.qkv_bias
    assert not arch.output_bias
    assert arch.rope_theta == 5e5
    assert arch.rope_scaling == RopeScaling("linear", 1.0)


def test_long_arrays_are_skipped(tmp_path: Path) -> None:
    path = write_gguf(
        tmp_path / "m.gguf", gguf_tensors(), token_list=[f"<{i}>" for i in range(32)], token_scores=[0.5] * 32
    )
    assert read_gguf(path).arch.vocab_size == 32
    tensors = gguf_tensors() | {"token_embd.weight": np.ones((100, 8), dtype=np.float32)}
    tokens = [f"<{i}>" for i in range(100)]
    path = write_gguf(tmp_path / "n.gguf", tensors, token_list=tokens, token_scores=[0.5] * 100)
    header = read_gguf_header(path)
    assert header.metadata["tokenizer.ggml.tokens"] == ArrayLength(100)
    assert header.metadata["tokenizer.ggml.scores"] == ArrayLength(100)
    assert header.metadata["llama.block_count"] == 1
    assert read_gguf(path).arch.vocab_size == 100


def test_a_vocabulary_larger_than_the_table_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", gguf_tensors(), token_list=[str(i) for i in range(33)])
    with pytest.raises(InputError, match="33 tokens"):
        read_gguf(path)


def wide_tensors(kind: gguf.GGMLQuantizationType) -> dict[str, Any]:
    """The tiny model with a hidden size of 32, as quantization blocks need it, its table in ``kind``."""
    random = np.random.default_rng(1)
    shapes = {
        "token_embd.weight": (64, 32), "output_norm.weight": (32,), "blk.0.attn_norm.weight": (32,),
        "blk.0.ffn_norm.weight": (32,), "blk.0.attn_q.weight": (32, 32), "blk.0.attn_k.weight": (16, 32),
        "blk.0.attn_v.weight": (16, 32), "blk.0.attn_output.weight": (32, 32), "blk.0.ffn_gate.weight": (16, 32),
        "blk.0.ffn_up.weight": (16, 32), "blk.0.ffn_down.weight": (32, 16),
    }  # fmt: skip
    tensors: dict[str, Any] = {name: random.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
    return tensors | {
        "table": tensors["token_embd.weight"],
        "token_embd.weight": quantized(tensors["token_embd.weight"], kind),
    }


def quantized(array: Any, kind: gguf.GGMLQuantizationType) -> tuple[Any, gguf.GGMLQuantizationType]:
    return gguf.quantize(array, kind), kind


Q = gguf.GGMLQuantizationType


@pytest.mark.parametrize("head", [Q.F32, Q.F16, Q.BF16, Q.Q8_0, Q.Q4_0, Q.Q5_1], ids=lambda kind: kind.name)
@pytest.mark.parametrize("embedding", [Q.F32, Q.F16, Q.Q8_0, Q.Q4_1], ids=lambda kind: kind.name)
def test_a_head_that_repeats_the_embedding_is_tied(embedding: Any, head: Any, tmp_path: Path) -> None:
    tensors = wide_tensors(embedding)
    table = tensors.pop("table")
    path = write_gguf(tmp_path / "m.gguf", tensors | {"output.weight": quantized(table, head)}, embedding_length=32)
    assert read_gguf(path).arch.tie_word_embeddings
    other = np.random.default_rng(2).standard_normal(table.shape, dtype=np.float32)
    path = write_gguf(tmp_path / "n.gguf", tensors | {"output.weight": quantized(other, head)}, embedding_length=32)
    assert not read_gguf(path).arch.tie_word_embeddings


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, 3e38])
def test_a_degenerate_head_is_not_tied(value: float, tmp_path: Path) -> None:
    head = np.full((32, 8), value, dtype=np.float32)
    path = write_gguf(tmp_path / "m.gguf", gguf_tensors() | {"output.weight": head})
    assert not read_gguf(path).arch.tie_word_embeddings


def test_a_head_in_double_precision_is_read_or_refused(tmp_path: Path) -> None:
    tensors = gguf_tensors()
    head = tensors["token_embd.weight"].astype(np.float64)
    path = write_gguf(tmp_path / "m.gguf", tensors | {"output.weight": head})
    with suppress(SpecplanError):
        assert read_gguf(path).arch.tie_word_embeddings


def test_a_head_of_another_shape_is_refused(tmp_path: Path) -> None:
    head = np.ones((16, 8), dtype=np.float32)
    with pytest.raises(InputError, match=r"output\.weight"):
        read_gguf(write_gguf(tmp_path / "m.gguf", gguf_tensors() | {"output.weight": head}))


@pytest.mark.parametrize("name", sorted(gguf_tensors()))
def test_a_missing_gguf_tensor_is_refused(name: str, tmp_path: Path) -> None:
    tensors = gguf_tensors()
    del tensors[name]
    with pytest.raises(InputError, match="missing"):
        read_gguf(write_gguf(tmp_path / "m.gguf", tensors))


@pytest.mark.parametrize(
    "metadata",
    [
        {"block_count": 2},
        {"block_count": 0},
        {"block_count": 4_000_000_000},
        {"embedding_length": 9},
        {"head_count": 0},
        {"head_count": 3},
        {"head_count_kv": 0},
        {"head_count_kv": [1, 1]},
        {"feed_forward_length": 0},
        {"feed_forward_length": [16]},
        {"context_length": 0},
        {"key_length": 3},
        {"key_length": 0},
        {"layer_norm_rms_eps": 0.0},
        {"layer_norm_rms_eps": float("nan")},
        {"rope_freq_base": float("inf")},
        {"rope_freq_base": -1.0},
        {"rope_scaling_type": gguf.RopeScalingType.YARN},
        {"custom_alignment": 0},
        {"architecture": "gpt2"},
        {"architecture": ""},
    ],
    ids=str,
)
def test_absurd_gguf_metadata_is_refused(metadata: dict[str, Any], tmp_path: Path) -> None:
    path = gguf_with(tmp_path / "m.gguf", **metadata)
    with pytest.raises(InputError, match=r"m\.gguf"):
        read_gguf(path)


def gguf_with(path: Path, **metadata: Any) -> Path:
    """A GGUF file whose metadata has other values than its tensors need; later keys win."""
    if metadata.get("custom_alignment") == 0:
        write_gguf(path, gguf_tensors(), custom_alignment=32)
        content = path.read_bytes()
        place = content.index(b"general.alignment") + len("general.alignment") + 4
        path.write_bytes(content[:place] + struct.pack("<I", 0) + content[place + 4 :])
        return path
    return write_gguf(path, gguf_tensors(), **metadata)
