"""Models of transformers' own classes: without memory first, then with the plan's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from specplan.errors import UnsupportedError
from specplan.families import EAGER_FAMILIES


def meta_model(config: Mapping[str, Any], dtype: torch.dtype, attention: str | None = None) -> PreTrainedModel:
    """A model without memory.

    Args:
        config: fields of config.json, ``model_type`` among them; code that it names is never run.
        dtype: of weights and activations.
        attention: implementation that its forward uses; None for the one that plans are made for.

    Raises:
        UnsupportedError: transformers has no such architecture.
    """
    fields = {name: value for name, value in config.items() if name != "model_type"}
    model_type = config["model_type"]
    if model_type not in CONFIG_MAPPING:
        raise UnsupportedError(f"transformers has no architecture {model_type!r}")
    try:
        known = CONFIG_MAPPING[model_type](**fields)
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise UnsupportedError(f"transformers refuses a {model_type} of these sizes: {error}") from None
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            known,
            dtype=dtype,
            attn_implementation=attention or ("eager" if model_type in EAGER_FAMILIES else "sdpa"),
            experts_implementation="eager",
            trust_remote_code=False,
        )
    model.train(False)
    _keep_wide(model)
    return model


def _keep_wide(model: PreTrainedModel) -> None:
    """What transformers loads in float32 whatever the dtype: corrections of routers."""
    names = tuple(model._keep_in_fp32_modules_strict or ())
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and name in names:
                module._buffers[name] = buffer.float()


def weight_tensors(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """What a checkpoint holds, by the model's names; tied tensors once."""
    kept = model.state_dict(keep_vars=True)
    buffers = {name: tensor for name, tensor in model.named_buffers() if name in kept}
    return dict(model.named_parameters()) | buffers


def constant_tensors(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """What is computed from the config: rotary frequencies, factors of embeddings."""
    kept = weight_tensors(model)
    return {name: tensor for name, tensor in model.named_buffers() if name not in kept}


def output_head(model: PreTrainedModel) -> nn.Module:
    """From normalized hidden states [R, h] to logits [R, V]."""
    head: nn.Module = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return head


def materialize(model: PreTrainedModel, memory: Mapping[int, torch.Tensor]) -> None:
    """Put every tensor where it will stay; constants are computed, weights are left for the loader.

    Args:
        model: without memory.
        memory: place of each tensor, by the tensor's id.
    """
    parameters: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            if id(parameter) not in parameters:
                parameters[id(parameter)] = nn.Parameter(memory[id(parameter)], False)
            module._parameters[name] = parameters[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = memory[id(buffer)]
    with torch.no_grad():
        for name in constant_tensors(model):
            model._init_weights(model.get_submodule(name.rpartition(".")[0]))  # type: ignore[no-untyped-call]
