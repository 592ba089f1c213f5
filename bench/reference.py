"""Transformers' side of the benches: its model over the numbers of our files, and its ways to generate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.generation.streamers import BaseStreamer

from bench.answers import Answer, Clock
from specplan.errors import UnsupportedError
from specplan.plan import ModelInput
from specplan_runtime.loading.sources import TensorSource, open_source
from specplan_runtime.transformers_forward.config import transformers_config

#: Families whose whole forward is in the fields that ``transformers_config`` writes and a norm's epsilon.
_FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


def load_reference(model: ModelInput, dtype: torch.dtype, device: torch.device | str = "cpu") -> Any:
    """Transformers' model with weights of its own, read through our loader: GGUF blocks dequantized as ours are.

    Args:
        model: a folder or a GGUF file.
        dtype: of its weights.
        device: where it runs.

    Raises:
        UnsupportedError: a family that is not spelled here, or scaled rotary embeddings.
    """
    arch = model.arch
    if arch.model_type not in _FAMILIES or arch.rope_scaling is not None:
        raise UnsupportedError(f"{model.reference}: the benches compare {', '.join(_FAMILIES)} with plain rotations")
    # a last token that never comes stands for the end of a text: without any, prompt lookup does not stop
    fields = transformers_config(arch) | {
        "rms_norm_eps": arch.rms_norm_eps, "eos_token_id": arch.vocab_size - 1, "bos_token_id": None,
    }  # fmt: skip
    config = CONFIG_MAPPING[fields.pop("model_type")](**fields)
    with torch.device("meta"):
        theirs: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
    source = open_source(model.reference, model.kind, arch)
    state = {name: _read(source, name, empty) for name, empty in theirs.named_parameters()}
    theirs.load_state_dict(state, assign=True, strict=False)  # a tied head is listed with the embedding only
    theirs.tie_weights()
    theirs.model.rotary_emb = type(theirs.model.rotary_emb)(config)  # its tables are buffers, still on meta
    assert not any(tensor.is_meta for tensor in theirs.parameters()), "a parameter was not read"
    return theirs.to(device).eval()


def _read(source: TensorSource, name: str, empty: torch.Tensor) -> torch.Tensor:
    tensor = torch.empty(empty.shape, dtype=empty.dtype)
    for first, rows in source.tiles(name):
        tensor[first : first + rows.shape[0]].copy_(rows)
    return tensor


class _Streamer(BaseStreamer):
    """Marks the time of every step; the prompt comes first and is none."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._prompt_seen = clock, False

    def put(self, value: torch.Tensor) -> None:
        """Tokens of a step."""
        if self._prompt_seen:
            self._clock.emitted(value.numel())
        self._prompt_seen = True

    def end(self) -> None:
        """The text is done."""


def generate(model: Any, prompt: Sequence[int], tokens: int, stop: Sequence[int] = (), **options: Any) -> Answer:
    """Greedy generation of one prompt.

    Args:
        model: from ``load_reference``.
        prompt: token ids.
        tokens: most to generate.
        stop: tokens that end it; none of them to generate all.
        options: of ``generate``, for example ``prompt_lookup_num_tokens`` or ``assistant_model``.
    """
    ids = torch.tensor([list(prompt)], device=model.device)
    if stop:
        options["eos_token_id"] = list(stop)
    clock = Clock()
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, streamer=_Streamer(clock),
        **options,
    )  # fmt: skip
    return clock.answer(out[0, len(prompt) :].tolist())


def generate_assisted(
    model: Any, draft: Any, num_tokens: int, prompt: Sequence[int], tokens: int, stop: Sequence[int] = ()
) -> Answer:
    """Assisted generation with a chain of constant length.

    transformers reads these settings from the draft's generation config and ignores them in ``generate``.

    Args:
        model: the target.
        draft: the draft model.
        num_tokens: drafted per step.
        prompt: token ids.
        tokens: most to generate.
        stop: tokens that end it.
    """
    config = draft.generation_config
    config.num_assistant_tokens, config.num_assistant_tokens_schedule = num_tokens, "constant"
    config.assistant_confidence_threshold = 0.0  # the default cuts drafts short
    return generate(model, prompt, tokens, stop, assistant_model=draft)
