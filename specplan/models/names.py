"""What each family calls its tensors in a checkpoint."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from specplan.arch import ModelArch


@dataclass(frozen=True, slots=True)
class Naming:
    """Names in safetensors checkpoints, without ``.weight`` and ``.bias``; those of a layer without its prefix.

    Attributes:
        prefix: of layer tensors, with ``{layer}``.
        embedding, final_norm, head: global tensors.
        qkv: query, key and value matrices, or the fused one.
        output: the attention's output matrix.
        gate_up: gate and up matrices, or the fused one, or up alone.
        down: the MLP's output matrix.
        router: of the experts.
        expert_gate_up, expert_down: of one expert, with ``{expert}``; of all of them where they are one tensor.
        shared_gate_up, shared_down: of the expert that every token visits.
        attention_in, attention_out, mlp_in, mlp_out: norms before and after each block, None where there is none.
        interleaved_qkv: the fused matrix holds query, key and value rows head by head.
        ignored: endings of tensors that hold nothing: buffers that old checkpoints store.
    """

    prefix: str = "model.layers.{layer}."
    embedding: str = "model.embed_tokens"
    final_norm: str = "model.norm"
    head: str = "lm_head"
    qkv: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    output: str = "self_attn.o_proj"
    gate_up: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")
    down: str = "mlp.down_proj"
    router: str = "mlp.gate"
    expert_gate_up: tuple[str, ...] = ("mlp.experts.{expert}.gate_proj", "mlp.experts.{expert}.up_proj")
    expert_down: str = "mlp.experts.{expert}.down_proj"
    shared_gate_up: tuple[str, ...] = ("mlp.shared_experts.gate_proj", "mlp.shared_experts.up_proj")
    shared_down: str = "mlp.shared_experts.down_proj"
    attention_in: str | None = "input_layernorm"
    attention_out: str | None = None
    mlp_in: str | None = "post_attention_layernorm"
    mlp_out: str | None = None
    interleaved_qkv: bool = False
    ignored: tuple[str, ...] = ("rotary_emb.inv_freq",)

    @property
    def norms(self) -> tuple[str, ...]:
        """Names of a layer's norms over the hidden size."""
        found = (self.attention_in, self.attention_out, self.mlp_in, self.mlp_out)
        return tuple(name for name in found if name is not None)

    def layer(self, index: int, name: str) -> str:
        """Full name of a layer's tensor."""
        return self.prefix.format(layer=index) + name


_LLAMA = Naming()
_SANDWICH = Naming(
    attention_out="post_attention_layernorm",
    mlp_in="pre_feedforward_layernorm",
    mlp_out="post_feedforward_layernorm",
)
_FEED_FORWARD = Naming(gate_up=("feed_forward.gate_proj", "feed_forward.up_proj"), down="feed_forward.down_proj")
_NAMINGS = {
    "gemma2": _SANDWICH,
    "gemma3_text": _SANDWICH,
    "phi3": Naming(qkv=("self_attn.qkv_proj",), gate_up=("mlp.gate_up_proj",)),
    "olmo2": dataclasses.replace(_SANDWICH, attention_in=None, mlp_in=None),
    "gpt_neox": Naming(
        prefix="gpt_neox.layers.{layer}.",
        embedding="gpt_neox.embed_in",
        final_norm="gpt_neox.final_layer_norm",
        head="embed_out",
        qkv=("attention.query_key_value",),
        output="attention.dense",
        gate_up=("mlp.dense_h_to_4h",),
        down="mlp.dense_4h_to_h",
        interleaved_qkv=True,
        ignored=("rotary_emb.inv_freq", "attention.bias", "attention.masked_bias"),
    ),
    "mixtral": Naming(
        router="block_sparse_moe.gate",
        expert_gate_up=("block_sparse_moe.experts.{expert}.w1", "block_sparse_moe.experts.{expert}.w3"),
        expert_down="block_sparse_moe.experts.{expert}.w2",
    ),
    "gpt_oss": Naming(
        router="mlp.router", expert_gate_up=("mlp.experts.gate_up_proj",), expert_down="mlp.experts.down_proj"
    ),
    "qwen3_next": Naming(
        shared_gate_up=("mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj"),
        shared_down="mlp.shared_expert.down_proj",
    ),
    "jamba": dataclasses.replace(
        _FEED_FORWARD,
        final_norm="model.final_layernorm",
        router="feed_forward.router",
        expert_gate_up=("feed_forward.experts.{expert}.gate_proj", "feed_forward.experts.{expert}.up_proj"),
        expert_down="feed_forward.experts.{expert}.down_proj",
        mlp_in="pre_ff_layernorm",
    ),
    "bamba": dataclasses.replace(_FEED_FORWARD, final_norm="model.final_layernorm", mlp_in="pre_ff_layernorm"),
    "falcon_h1": dataclasses.replace(_FEED_FORWARD, final_norm="model.final_layernorm", mlp_in="pre_ff_layernorm"),
    "granitemoehybrid": Naming(
        gate_up=("shared_mlp.input_linear",),
        down="shared_mlp.output_linear",
        router="block_sparse_moe.router.layer",
        expert_gate_up=("block_sparse_moe.input_linear",),
        expert_down="block_sparse_moe.output_linear",
        shared_gate_up=("shared_mlp.input_linear",),
        shared_down="shared_mlp.output_linear",
    ),
}


def naming_of(arch: ModelArch) -> Naming:
    """The names of a family whose tensors the runtime loads."""
    return _NAMINGS.get(arch.model_type, _LLAMA)
