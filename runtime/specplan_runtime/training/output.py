"""What a training leaves behind: heads in the published layout, and their acceptance profile beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save

from specplan.acceptance_profiles import ALL, SCHEMA_VERSION, AcceptanceProfile, Conditions
from specplan.atomic import write_atomically
from specplan.heads import Eagle3Head
from specplan.models.medusa import ACCEPTANCE_NAME, CONFIG_NAME, SAFETENSORS_NAME
from specplan.speed.head_counts import HeadTrace, count_heads
from specplan.strict import canonical, encode
from specplan_runtime.calibration.answers import TOPK
from specplan_runtime.training.trainer import HeadTrainer

if TYPE_CHECKING:
    from specplan_runtime.training.stages import Setting
    from specplan_runtime.training.train_eagle import TrainedEagle


def profile_of(setting: Setting, held_out: Sequence[HeadTrace]) -> AcceptanceProfile:
    """Acceptance on answers that were not trained on.

    Raises:
        ValueError: answers too short for a single step.
    """
    target, options = setting.target, setting.options
    asked = "questions that the target asked itself" if setting.prompts is None else f"of {setting.prompts.name}"
    return AcceptanceProfile(
        SCHEMA_VERSION,
        f"{target.config_sha256[:16]}-{options.kind}-{options.num_heads}",
        (),
        target.reference,
        target.config_sha256,
        options.kind,
        None,
        None,
        None,
        "measured",
        "specplan train-heads: steps replayed over answers that were not trained on",
        Conditions(
            f"{asked}, held out",
            len(held_out),
            sum(trace.num_tokens for trace in held_out),
            None,
            setting.dtype,
            "sampled" if options.temperature else "greedy",
        ),
        {ALL: count_heads(held_out, TOPK)},
    )


@dataclass(frozen=True, slots=True)
class HeadFolder:
    """What makes a folder of heads.

    Attributes:
        file_name: of the tensors.
        tensors: by their published names.
        config: of config.json.
    """

    file_name: str
    tensors: dict[str, torch.Tensor]
    config: dict[str, Any]


def medusa_folder(setting: Setting, trainer: HeadTrainer) -> HeadFolder:
    """Medusa heads as their authors publish them."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in trainer.parameters.items()}
    config = {
        **_target_fields(setting),
        "hidden_size": setting.target.arch.hidden_size,
        "medusa_num_heads": setting.options.num_heads,
        "medusa_num_layers": setting.options.num_layers,
        "vocab_size": setting.target.arch.vocab_size,
    }
    return HeadFolder(SAFETENSORS_NAME, tensors, config)


def eagle_folder(setting: Setting, trained: TrainedEagle) -> HeadFolder:
    """An EAGLE-3 head as the speculators library writes it."""
    head, arch = trained.head, setting.target.arch
    layer = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "head_dim": head.head_dim,
        "hidden_act": "silu",
        "hidden_size": arch.hidden_size,
        "intermediate_size": head.intermediate_size,
        "max_position_embeddings": arch.max_position_embeddings,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": head.num_attention_heads,
        "num_hidden_layers": 1,
        "num_key_value_heads": head.num_key_value_heads,
        "rms_norm_eps": head.rms_norm_eps,
        "rope_parameters": _rope_fields(head),
        "tie_word_embeddings": False,
        "vocab_size": arch.vocab_size,
    }
    config = {
        **_target_fields(setting),
        "architectures": ["Eagle3DraftModel"],
        "draft_vocab_size": head.draft_vocab_size,
        "eagle_aux_hidden_state_layer_ids": list(head.feature_layers),
        "norm_before_residual": head.norm_before_residual,
        "speculators_config": {"algorithm": "eagle3"},
        "speculators_model_type": "eagle3",
        "target_hidden_size": None,
        "transformer_layer_config": layer,
    }
    return HeadFolder("model.safetensors", trained.trainer.model.tensors(trained.token_ids), config)


def _target_fields(setting: Setting) -> dict[str, Any]:
    """Which target heads are for."""
    target = setting.target
    return {"base_model_name_or_path": target.reference, "base_model_config_sha256": target.config_sha256}


def _rope_fields(head: Eagle3Head) -> dict[str, Any]:
    """Rotary positions as a config.json of transformers says them."""
    if head.rope_scaling is None:
        return {"rope_theta": head.rope_theta, "rope_type": "default"}
    scaling = {name: value for name, value in encode(head.rope_scaling).items() if value is not None}
    return {**scaling, "rope_theta": head.rope_theta}


def write_heads(setting: Setting, heads: HeadFolder, profile: AcceptanceProfile) -> None:
    """Write heads, then profile, then the config that makes a folder of them: each whole or not at all.

    Raises:
        EnvironmentProblem: the disk is full, or the folder not writable.
    """
    write_atomically(setting.folder / heads.file_name, save(heads.tensors, metadata={"format": "pt"}))
    write_atomically(setting.folder / ACCEPTANCE_NAME, canonical(encode(profile)))
    write_atomically(setting.folder / CONFIG_NAME, canonical(heads.config))
