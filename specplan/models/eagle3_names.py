"""What checkpoints call the tensors of an EAGLE-3 head, and their shapes.

Its authors call the layer ``midlayer`` (github.com/SafeAILab/EAGLE, eagle/model/cnets.py); the speculators library, and
vLLM inside, ``layers.0`` (github.com/vllm-project/speculators, src/speculators/models/eagle3). All other names agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from specplan.arch import ModelArch
from specplan.errors import InputError, UnsupportedError
from specplan.heads import NUM_FEATURES, Eagle3Head, head_layer
from specplan.models.tensors import Shape, TensorEntry

FUSION, FINAL_NORM, HEAD, EMBEDDING = "fc.weight", "norm.weight", "lm_head.weight", "embed_tokens.weight"
#: For each token of the draft the distance to its id in the target's vocabulary.
TOKEN_MAP = "d2t"  # noqa: S105 - a name, no password
#: Which tokens of the target the draft knows: what ``d2t`` says, for training.
KNOWN_TOKENS = "t2d"

_LAYERS = ("midlayer", "layers.0")
_FLOATS = ("F32", "F16", "BF16")
_INTEGERS = ("I64", "I32")


@dataclass(frozen=True, slots=True)
class Eagle3Names:
    """The tensors of a checkpoint.

    Attributes:
        layer: name of the decoder layer.
        mapped: it has a map from its tokens to the target's; without one they are the same.
        own_embedding: it has an input embedding.
    """

    layer: str
    mapped: bool
    own_embedding: bool

    def of_layer(self, name: str) -> str:
        """A tensor of the decoder layer."""
        return f"{self.layer}.{name}.weight"


def eagle3_names(entries: Mapping[str, TensorEntry], where: str) -> Eagle3Names:
    """Which of the conventions a file follows.

    Raises:
        InputError: no EAGLE-3 head.
    """
    for layer in _LAYERS:
        if any(name.startswith(f"{layer}.") for name in entries):
            return Eagle3Names(layer, TOKEN_MAP in entries, EMBEDDING in entries)
    raise InputError(f"{where}: holds no EAGLE-3 layer: no tensor of {' or '.join(_LAYERS)}")


def eagle3_shapes(heads: Eagle3Head, names: Eagle3Names, target: ModelArch) -> dict[str, Shape]:
    """Every tensor of floats with its shape."""
    layer, h = head_layer(heads, target), target.hidden_size
    width, kv_width = layer.num_attention_heads * layer.head_dim, layer.num_key_value_heads * layer.head_dim
    inner = layer.intermediate_size
    shapes: dict[str, Shape] = {
        FUSION: (h, NUM_FEATURES * h),
        names.of_layer("input_layernorm"): (h,),
        names.of_layer("hidden_norm"): (h,),
        names.of_layer("self_attn.q_proj"): (width, 2 * h),
        names.of_layer("self_attn.k_proj"): (kv_width, 2 * h),
        names.of_layer("self_attn.v_proj"): (kv_width, 2 * h),
        names.of_layer("self_attn.o_proj"): (h, width),
        names.of_layer("post_attention_layernorm"): (h,),
        names.of_layer("mlp.gate_proj"): (inner, h),
        names.of_layer("mlp.up_proj"): (inner, h),
        names.of_layer("mlp.down_proj"): (h, inner),
        FINAL_NORM: (h,),
        HEAD: (heads.draft_vocab_size, h),
    }
    return shapes | ({EMBEDDING: (target.vocab_size, h)} if heads.own_embedding else {})


def check_eagle3_tensors(entries: Mapping[str, TensorEntry], heads: Eagle3Head, target: ModelArch, where: str) -> None:
    """Hold the tensors of a file against the head that its config describes and the target that it is for.

    Raises:
        InputError: a tensor that is missing, or of another shape.
        UnsupportedError: a tensor that no EAGLE-3 head has, or one of another dtype.
    """
    names = eagle3_names(entries, where)
    expected = eagle3_shapes(heads, names, target)
    if names.mapped:
        expected[TOKEN_MAP] = (heads.draft_vocab_size,)
    elif heads.draft_vocab_size != target.vocab_size:
        raise InputError(
            f"{where}: tensor {TOKEN_MAP} is missing: which {heads.draft_vocab_size} of {target.vocab_size} tokens are "
            "proposed"
        )
    for name, entry in entries.items():
        if name not in expected and name != KNOWN_TOKENS:
            raise UnsupportedError(f"{where}: tensor {name!r} belongs to no EAGLE-3 head that specplan knows")
        allowed = _INTEGERS if name == TOKEN_MAP else _FLOATS
        if name in expected and entry.dtype not in allowed:
            raise UnsupportedError(f"{where}: tensor {name} is {entry.dtype}, expected one of {', '.join(allowed)}")
    for name, shape in expected.items():
        if name not in entries:
            raise InputError(f"{where}: tensor {name} is missing")
        if entries[name].shape != shape:
            raise InputError(f"{where}: tensor {name} is {list(entries[name].shape)}, expected {list(shape)}")
