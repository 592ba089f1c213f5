"""What ``check`` reads besides commands: files that deployments write, names of GGUF files, calls of ``generate``."""

from __future__ import annotations

from pathlib import Path

import pytest

from specplan.deployments.deployment import CannotTell, Deployment
from specplan.deployments.engines.serving_of import serving_of
from specplan.deployments.read import read_deployments
from specplan.deployments.source import Source
from specplan.models.gguf_file_names import gguf_by_name, gguf_file_name
from specplan.profiles import read_profile
from specplan.rules.checking import Options, check_paths
from specplan.rules.registry import selected
from specplan.rules.report import Report, check_deployments
from specplan.rules.subject import Subject

DOCS = Path(__file__).parent.parent / "docs"


def only(name: str, text: str) -> Deployment:
    (found,) = read_deployments(Source(name, text))
    return found


def report(name: str, text: str) -> Report:
    source, found = Source(name, text), Report()
    check_deployments(source, read_deployments(source), selected((), ("SP403",)), "rtx-4090", found)
    return found


SETTINGS = "max_seq_len: 4096\nkv_cache_config:\n  free_gpu_memory_fraction: 1.5\n"


@pytest.mark.parametrize(
    ("redirection", "end"),
    [("cat > cfg.yaml <<'EOF'", "EOF"), ("cat >cfg.yaml <<EOF", "EOF"), ("  cat > 'cfg.yaml' <<\"END\"", "END")],
)
def test_here_documents(redirection: str, end: str) -> None:
    text = f"{redirection}\n{SETTINGS}{end}\ntrtllm-serve Qwen/Qwen2.5-7B-Instruct --config cfg.yaml\n"
    (finding,) = report("serve.sh", text).findings
    assert finding.code == "SP208"
    assert (finding.location.line, finding.location.column) == (4, 3)


@pytest.mark.parametrize(
    "text",
    [
        "cat > other.yaml <<'EOF'\nmax_seq_len: 4096\nEOF\n",
        "cat > cfg.yaml <<EOF\nmax_seq_len: $LENGTH\nEOF\n",
        "# cat > cfg.yaml <<'EOF'\n# max_seq_len: 4096\n# EOF\n",
        "cat > cfg.yaml <<'EOF'\nmax_seq_len: 4096\n",
    ],
)
def test_here_documents_that_say_nothing(text: str) -> None:
    found = report("serve.sh", f"{text}\ntrtllm-serve Qwen/Qwen2.5-7B-Instruct --config cfg.yaml\n")
    assert any("cfg.yaml" in unknown.message for unknown in found.unknowns) or not found.num_deployments


def manifest(kind: str) -> str:
    return f"""\
apiVersion: v1
kind: {kind}
metadata: {{name: settings}}
data:
  cfg.yaml: |
    max_seq_len: 4096
    kv_cache_config:
      free_gpu_memory_fraction: 1.5
---
apiVersion: v1
kind: Pod
metadata: {{name: llm}}
spec:
  containers:
    - name: llm
      command: [trtllm-serve, Qwen/Qwen2.5-7B-Instruct, --config, /etc/llm/cfg.yaml]
"""


def test_config_maps() -> None:
    (finding,) = report("pod.yaml", manifest("ConfigMap")).findings
    assert (finding.code, finding.location.line, finding.location.column) == ("SP208", 8, 7)
    assert report("pod.yaml", manifest("Secret")).unknowns


@pytest.mark.parametrize(
    ("target", "length", "known"),
    [
        ("/cfg.yaml", "4096", True),
        ("/other.yaml", "4096", False),
        ("/cfg.yaml", "$LENGTH", False),
        ("/cfg.yaml", "4096 # $$", True),
    ],
)
def test_inline_configs_of_compose(target: str, length: str, known: bool) -> None:
    text = f"""\
services:
  llm:
    command: trtllm-serve Qwen/Qwen2.5-7B-Instruct --config /cfg.yaml
    configs:
      - source: settings
        target: {target}
configs:
  settings:
    content: |
      max_batch_size: 1
      max_seq_len: {length}
"""
    found = only("compose.yaml", text)
    assert (found.get("max_seq_len") is not None) == known
    assert bool(found.problems) != known


def test_gguf_files_by_their_names() -> None:
    """Matrices in the format of the name, vectors in float32; the input embedding stays on the host."""
    found = gguf_by_name("/models/Llama-3.1-8B-Instruct-F16.gguf")
    assert found is not None
    norms = (2 * 32 + 1) * 4096
    subject = Subject(only("a.sh", "llama-server -m /models/Llama-3.1-8B-Instruct-F16.gguf -ngl all -c 4096\n"), "h200")
    weights = {part.name: part.bytes for part in subject.budget.static}["target weights"]
    on_device = read_profile("models", "llama-3.1-8b")["num_parameters"] - 128256 * 4096
    assert weights == 2 * on_device + 2 * norms
    assert gguf_file_name("meta-llama/Llama-3.1-8B-Instruct", "float16") == "Llama-3.1-8B-Instruct-F16.gguf"


@pytest.mark.parametrize(
    "name", ["Llama-3.1-8B-Instruct-Q4_K_M.gguf", "Llama-3.1-8B-Instruct.gguf", "mine-F16.gguf", "jamba-v0.1-F16.gguf"]
)
def test_names_that_do_not_say_what_is_inside(name: str) -> None:
    assert gguf_by_name(name) is None
    with pytest.raises(CannotTell, match="no such model file"):
        _ = Subject(only("a.sh", f"llama-server -m ./{name} -c 4096\n"), "rtx-4090").target


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ("ngram-simple --spec-ngram-simple-size-m 7", 8),
        ("ngram-simple", 49),
        ("ngram-map-k --spec-ngram-map-k-size-m 5", 6),
        ("ngram-mod --spec-ngram-mod-n-max 9", 10),
        ("ngram-mod", 65),
    ],
)
def test_types_of_n_grams_have_lengths_of_their_own(options: str, rows: int) -> None:
    assert serving_of(only("a.sh", f"llama-server -m a.gguf -c 4096 --spec-type {options}\n")).num_verify_tokens == rows


SGLANG = (
    "python -m sglang.launch_server --model-path meta-llama/Llama-3.1-8B-Instruct --context-length 4096 "
    "--max-running-requests 1 --speculative-algorithm STANDALONE --speculative-num-steps 3 "
    "--speculative-draft-model-path meta-llama/Llama-3.2-1B-Instruct --mem-fraction-static 0.88"
)


def test_the_price_of_a_draft_matters_only_where_it_decides_the_pool() -> None:
    assert [each.code for each in report("a.sh", f"{SGLANG}\n").findings] == ["SP107"]
    assert report("a.sh", f"{SGLANG} --max-total-tokens 8192\n").findings == []


GENERATE = """\
import torch
from transformers import AutoModelForCausalLM

target = AutoModelForCausalLM.from_pretrained("Qwen/Qwen3-8B", dtype=torch.bfloat16).to("cuda")
draft = AutoModelForCausalLM.from_pretrained("Qwen/Qwen3-0.6B")
draft.generation_config.num_assistant_tokens = 4
output = target.generate(ids, assistant_model=draft, max_length=2048)
"""


def test_calls_of_generate() -> None:
    found = serving_of(only("generate.py", GENERATE))
    assert found.model is not None
    assert found.model.value == "Qwen/Qwen3-8B"
    assert (found.model.location.line, found.model.location.column) == (4, 47)
    assert found.draft is not None
    assert found.draft.value == "Qwen/Qwen3-0.6B"
    assert found.num_speculative_tokens is not None
    assert (found.num_speculative_tokens.value, found.num_speculative_tokens.location.line) == (4, 6)
    assert found.context is not None
    assert found.context.value == 2048
    default = serving_of(only("generate.py", GENERATE.replace("draft.generation_config", "other")))
    assert default.num_verify_tokens == 21


def test_generation_that_does_not_speculate_is_no_deployment() -> None:
    assert read_deployments(Source("a.py", GENERATE.replace("assistant_model=draft, ", ""))) == []
    assert read_deployments(Source("a.py", GENERATE.replace("AutoModelForCausalLM", "Mine"))) == []


def test_the_memory_of_generate_by_hand() -> None:
    budget = Subject(only("generate.py", GENERATE), "rtx-4090").budget
    parts = {part.name: part.bytes for part in budget.static}
    assert parts["target weights"] == 2 * read_profile("models", "qwen3-8b")["num_parameters"]
    # 8 KV heads · 128 · K and V · 2 B, in 36 and in 28 layers
    assert budget.least_kv_bytes == 2048 * (36 + 28) * 2 * 8 * 128 * 2
    assert parts["concatenation"] == 2048 * 2 * 8 * 128 * 2
    assert parts["logits"] == 5 * 151936 * (2 + 4)
    too_long = report("a.py", GENERATE.replace("2048", "65536").replace("bfloat16", "float32"))
    assert "SP101" in [each.code for each in too_long.findings]


def test_the_page_on_deploying_is_checked_as_it_is_printed() -> None:
    found = check_paths([DOCS / "deploy.md"], Options("rtx-4090", (), ("SP403",)))
    assert found.num_deployments >= 3
    assert (found.findings, found.unknowns) == ([], [])
