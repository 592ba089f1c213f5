"""What a user calls a model: folders, files, profiles, hub ids; and what is none of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from specplan.arch import ModelArch
from specplan.errors import EnvironmentProblem, InputError, UnsupportedError
from specplan.models import hub
from specplan.models.config import read_config
from specplan.models.resolve import resolve_model
from specplan.profiles import profile_names, read_profile
from tests.conftest import llama_config, random_model, write_config


def read(config: Any) -> ModelArch:
    return read_config(config, "config.json")


def test_a_folder_with_weights(checkpoint: Path) -> None:
    model = resolve_model(str(checkpoint))
    assert model.kind == "folder"
    assert model.reference == str(checkpoint.resolve())
    assert len(model.config_sha256) == 64
    arch = model.arch
    assert (arch.num_hidden_layers, arch.hidden_size, arch.head_dim, arch.vocab_size) == (2, 16, 4, 32)
    assert (arch.num_attention_heads, arch.num_key_value_heads) == (4, 2)
    assert (arch.dtype, arch.eos_token_ids, arch.tie_word_embeddings) == ("float32", (2,), False)


def test_a_folder_without_weights(tmp_path: Path) -> None:
    model = resolve_model(str(write_config(tmp_path, llama_config())))
    assert model.arch == read(llama_config())


def test_a_sharded_folder(tmp_path: Path) -> None:
    random_model(llama_config()).save_pretrained(tmp_path, max_shard_size="4KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert resolve_model(str(tmp_path)).arch.num_hidden_layers == 2


def test_a_tied_folder(tmp_path: Path) -> None:
    random_model(llama_config(tie_word_embeddings=True)).save_pretrained(tmp_path)
    assert resolve_model(str(tmp_path)).arch.tie_word_embeddings


@pytest.mark.parametrize("config", [None, 5, "llama", [], [llama_config()], True, 1.5], ids=repr)
def test_a_config_that_is_no_object_is_refused(config: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json"):
        resolve_model(str(write_config(tmp_path, config)))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"not json",
        b"\xff\xfe\x00",
        b"[" * 200000,
        b'{"a":' * 50000,
        b"\x00" * 100,
        b"9" * 5000,
        b'{"model_type": "llama", "vocab_size": ' + b"9" * 5000 + b"}",
        b"{}",
        b'{"model_type": "\xc3("}',
    ],
    ids=lambda content: repr(content[:24]),
)
def test_a_config_that_is_no_json_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(InputError, match=r"config\.json"):
        resolve_model(str(tmp_path))


def test_a_config_of_absurd_size_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match="expected at most"):
        resolve_model(str(tmp_path))


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config\.json"):
        resolve_model(str(tmp_path))
    (tmp_path / "config.json").mkdir()
    with pytest.raises(InputError, match=r"no config\.json"):
        resolve_model(str(tmp_path))


@pytest.mark.parametrize("typed", ["llama-2-7b-chat", "Llama 2 7B chat", "meta-llama/Llama-2-7b-chat-hf", "llama-2-7b"])
def test_profiles_by_any_spelling(typed: str) -> None:
    model = resolve_model(typed)
    assert (model.kind, model.reference) == ("profile", "llama-2-7b-chat")
    assert model.arch.num_key_value_heads == 32


def test_the_same_config_has_the_same_fingerprint() -> None:
    configs = {name: read_profile("models", name)["config"] for name in profile_names("models")}
    models = [resolve_model(name) for name in configs]
    assert models == [resolve_model(name) for name in configs]
    different = {json.dumps(config, sort_keys=True) for config in configs.values()}
    assert len({model.config_sha256 for model in models}) == len(different) > 60  # tunes may share a config


@pytest.mark.parametrize(
    "reference",
    [
        "",
        " ",
        "lama-2-7b",
        "./nothing",
        "/nothing/here",
        "nothing.gguf",
        "a/b/c",
        "nothing/",
        "\x00",
        "a\x00b/c",
        "~nosuchuser/model",
        "~",
        "../..",
        "x" * 300,
        "x" * 5000 + ".gguf",
        "�",
        "owner/na me",
        "-",
    ],
    ids=lambda text: repr(text[:20]),
)
def test_a_name_for_nothing_is_refused(reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(InputError):
        resolve_model(reference)


def test_a_near_miss_gets_a_suggestion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"did you mean .*qwen3-0\.6b"):
        resolve_model("qwen3-0.7b")


def test_the_hub_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "reachable", lambda: False)
    with pytest.raises(EnvironmentProblem, match="cannot be reached"):
        resolve_model("nobody/no-such-model-anywhere")


@pytest.mark.parametrize("name", ["model.bin", "model.safetensors", "pytorch_model.pt", "model"])
def test_other_files_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(UnsupportedError, match=name):
        resolve_model(str(tmp_path / name))
