"""transformers 5.23: generation/utils.py and generation/configuration_utils.py (read in the released wheel)."""

from __future__ import annotations

from specplan.deployments.deployment import Deployment
from specplan.deployments.serving import Given, Method, Serving, SettingReader

_ORIGIN = "default of transformers 5.23.0"
_DRAFTED = 20


def transformers_serving(deployment: Deployment) -> Serving:
    """Settings of a call of ``generate`` and of the models that it is given.

    Raises:
        CannotTell: a value that is no literal.
    """
    read = SettingReader(deployment, _ORIGIN)
    draft, lookup = read.text("assistant_model"), read.integer("prompt_lookup_num_tokens")
    tokens: Given[int] | None = None
    method: Given[Method] | None = None
    if draft is not None:
        tokens = read.integer("num_assistant_tokens") or read.default(_DRAFTED)
        method = Given("draft_model", draft.location, "assistant_model")
    elif lookup is not None:
        tokens, method = lookup, Given("ngram", lookup.location, "prompt_lookup_num_tokens")
    return Serving(
        "transformers",
        "transformers",
        deployment.engine_version,
        deployment.location,
        model=read.text("model"),
        draft=draft,
        method=method,
        num_speculative_tokens=tokens,
        num_verify_tokens=1 + (tokens.value if tokens is not None else 0),
        context=read.integer("max_length"),
        max_sequences=read.default(1),
        dtype=read.text("dtype", "torch_dtype") or read.default("auto"),
        kv_dtype=read.default("auto"),
        page_size=read.default(1),
        tensor_parallel=read.default(1),
        captures_graphs=False,
        revision=read.text("revision"),
    )
