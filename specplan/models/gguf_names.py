"""GGUF's names of tensors, by those of the checkpoints that the files were converted from."""

from __future__ import annotations

from specplan.arch import ModelArch
from specplan.models.names import naming_of

_GLOBAL = {"embedding": "token_embd", "final_norm": "output_norm", "head": "output"}
_LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_NORMS = {
    "attention_in": "attn_norm",
    "attention_out": "post_attention_norm",
    "mlp_in": "ffn_norm",
    "mlp_out": "post_ffw_norm",
}
ROPE_FACTORS_GGUF = "rope_freqs.weight"


def gguf_name(arch: ModelArch, name: str) -> str:
    """The GGUF name of a tensor given by its name in a checkpoint."""
    names = naming_of(arch)
    stem, kind = name.rsplit(".", 1)
    for role, short in _GLOBAL.items():
        if stem == getattr(names, role):
            return f"{short}.{kind}"
    _, _, layer, rest = stem.split(".", 3)
    norms = {getattr(names, role): short for role, short in _NORMS.items()}
    return f"blk.{layer}.{(_LAYER | norms)[rest]}.{kind}"
