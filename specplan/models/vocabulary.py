"""Which token each id means: from tokenizer.json or a GGUF header beside the weights, without a tokenizer library."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from specplan.errors import InputError
from specplan.json_input import read_json
from specplan.models.gguf_header import read_gguf_tokens
from specplan.plan import ModelInput

_NAME = "tokenizer.json"
_MAX_BYTES = 256 << 20


def vocabulary(model: ModelInput) -> dict[int, str] | None:
    """Token by id; None where no file here says it: bundled profiles, hub ids, folders without a tokenizer.json.

    Raises:
        InputError: a file that cannot be understood.
    """
    return _read(model.reference, model.kind)


@lru_cache(maxsize=8)
def _read(reference: str, kind: str) -> dict[int, str] | None:
    path = Path(reference)
    if kind == "gguf":
        tokens = read_gguf_tokens(path)
        return None if tokens is None else dict(enumerate(tokens))
    if kind == "folder" and (path / _NAME).is_file():
        return _of_json(read_json(path / _NAME, "tokenizer", _MAX_BYTES), str(path / _NAME))
    return None


def _of_json(data: Any, where: str) -> dict[int, str]:
    """The vocabulary of a model of the tokenizers library, and what was added to it."""
    try:
        entries = data["model"]["vocab"]
        if isinstance(entries, dict):
            tokens = {int(number): str(token) for token, number in entries.items()}
        else:  # Unigram: pairs of token and score
            tokens = {number: str(token) for number, (token, _) in enumerate(entries)}
        added = {int(token["id"]): str(token["content"]) for token in data.get("added_tokens") or ()}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InputError(f"{where}: is not a tokenizer of the tokenizers library: model.vocab is missing") from None
    return tokens | added
