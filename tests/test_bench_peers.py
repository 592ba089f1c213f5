"""The bench of peers: its exact answers, the files it hands out, and how it reads what peers print."""

from pathlib import Path

import pytest

from bench.peer_adapters import PEERS, fields, pattern
from bench.peer_questions import LLAMA_68M, QUESTIONS, Question, model_folder, write_model
from specplan.models.safetensors_header import read_headers, safetensors_files


@pytest.mark.parametrize("question", [*QUESTIONS, LLAMA_68M], ids=lambda question: question.title)
def test_exact_weights_are_the_published_parameters(question: Question) -> None:
    assert question.weight_bytes == 2 * question.num_parameters


def test_exact_totals() -> None:
    assert [round(question.exact_gib, 3) for question in QUESTIONS] == [14.551, 129.729, 0.967]


def test_written_model_has_the_tensors(tmp_path: Path) -> None:
    write_model(LLAMA_68M, tmp_path)
    tensors = read_headers(safetensors_files(model_folder(LLAMA_68M, tmp_path)))
    assert {name: list(tensor.shape) for name, tensor in tensors.items()} == LLAMA_68M.tensors()


def test_json_is_read_after_log_lines_and_added_up() -> None:
    read = fields("memory.weights", "memory.kv", per_gib=1024)
    assert read('loading\n{"memory": {"weights": 1024, "kv": 512.0}}\n') == 1.5
    with pytest.raises(KeyError):
        read('{"memory": {"weights": 1024}}')
    with pytest.raises(ValueError, match="substring"):
        read("offline")


def test_patterns_ignore_color_and_refuse_output_without_a_total() -> None:
    read = pattern(r"Total: ([\d.]+) GB")
    assert read("\x1b[1mTotal: \x1b[32m14.40 GB\x1b[0m") == 14.4
    with pytest.raises(ValueError, match="no total"):
        read("Traceback")


def test_peers_are_named_once_and_pin_torch_exactly() -> None:
    assert len({peer.name for peer in PEERS}) == len(PEERS)
    assert all("==" in need for peer in PEERS for need in peer.needs)
