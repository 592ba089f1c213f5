"""GGUF files as models, and broken ones."""

from __future__ import annotations

from pathlib import Path

from specplan.models.resolve import resolve_model
from specplan.plan import ModelInput


def read_gguf(path: Path) -> ModelInput:
    model = resolve_model(str(path))
    assert model.kind == "gguf"
    return model


def damaged(tmp_path: Path, content: bytes | bytearray) -> Path:
    path = tmp_path / "damaged.gguf"
    path.write_bytes(content)
    return path
