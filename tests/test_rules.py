"""Rules: documentation that triggers itself, silences, baseline, settings, and what `check` says and returns."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from specplan.cli.main import cli
from specplan.deployments.read import read_deployments
from specplan.deployments.source import Source
from specplan.errors import InputError
from specplan.models.resolve import resolve_model
from specplan.models.vocabulary import vocabulary
from specplan.output.rules import rule_text, rules_page
from specplan.plan import ModelInput
from specplan.rules.checking import Options, check_paths
from specplan.rules.finding import Finding
from specplan.rules.registry import CODES, find_rule, rules, selected
from specplan.rules.report import Report, check_deployments
from specplan.rules.rule import CHAPTERS, Example

LLAMA = "vllm serve meta-llama/Llama-3.1-8B-Instruct"
TOO_BIG = "vllm serve meta-llama/Llama-3.1-70B-Instruct --max-model-len 4096"


def check_text(text: str, name: str = "serve.sh", gpu: str | None = "rtx-4090") -> Report:
    source, report = Source(name, text), Report()
    check_deployments(source, read_deployments(source), selected((), ("SP403",)), gpu, report)
    return report


def codes(text: str, name: str = "serve.sh", gpu: str | None = "rtx-4090") -> list[str]:
    return [finding.code for finding in check_text(text, name, gpu).findings]


def command(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["check", *arguments], standalone_mode=False)


@pytest.mark.parametrize("code", [code for code in CODES if code not in ("SP202", "SP401")])
def test_documentation_triggers_its_rule(code: str) -> None:
    rule = find_rule(code)

    def found(example: Example) -> Report:
        source, report = Source(example.file, example.text), Report()
        check_deployments(source, read_deployments(source), (rule,), example.gpu, report)
        assert not report.unknowns, report.unknowns
        assert report.num_deployments == 1
        return report

    bad = found(rule.bad).findings
    assert [finding.code for finding in bad] == [code]
    assert bad[0].message
    assert bad[0].fix
    assert bad[0].nearest or not code.startswith("SP1")
    assert found(rule.good).findings == []


@pytest.mark.parametrize("code", CODES)
def test_rules_document_themselves(code: str) -> None:
    rule = find_rule(code.lower())
    assert rule.code == code
    assert code[2] in CHAPTERS
    assert not rule.title.endswith(".")
    assert rule.why.endswith(".")
    assert rule.fix.endswith(".")
    assert rule.bad.text.strip() in rule_text(rule).replace("```sh\n", "")
    assert f"## {code}: {rule.title}" in rules_page(rules().values())


def test_unknown_rules_are_refused() -> None:
    with pytest.raises(InputError, match="SP999"):
        find_rule("SP999")
    with pytest.raises(InputError, match="XY"):
        selected(("XY",), ())
    assert [rule.code[:3] for rule in selected(("sp2",), ("SP207",))] == ["SP2"] * 7


def test_silences_need_a_reason_and_the_right_code() -> None:
    assert codes(f"{TOO_BIG} # specplan: ignore[SP101] offloaded\n") == []
    assert codes(f"# specplan: ignore[SP1] offloaded\n{TOO_BIG}\n") == []
    assert codes(f"{TOO_BIG} # specplan: ignore[SP101]\n") == ["SP101"]
    assert codes(f"{TOO_BIG} # specplan: ignore[SP102] other\n") == ["SP101"]
    assert codes(f"# specplan: ignore[SP101] far away\n\n{TOO_BIG}\n") == ["SP101"]
    assert codes(f"{TOO_BIG} # specplan: ignore[] all\n") == ["SP101"]


def test_fixes_are_what_they_claim() -> None:
    """The nearest configuration has no finding, and one step beyond it has."""
    (finding,) = check_text(f"{LLAMA}\n").findings
    (context,) = (each["context"] for each in finding.nearest if set(each) == {"context"})
    assert isinstance(context, int)
    assert codes(f"{LLAMA} --max-model-len {context}\n") == []
    assert codes(f"{LLAMA} --max-model-len {context + 256}\n") == ["SP106"]
    (finding,) = check_text(f"{LLAMA} --max-model-len 4096 --gpu-memory-utilization 0.6\n").findings
    fraction = float(finding.nearest[0]["memory_fraction"])
    assert codes(f"{LLAMA} --max-model-len 4096 --gpu-memory-utilization {fraction}\n") == []
    assert codes(f"{LLAMA} --max-model-len 4096 --gpu-memory-utilization {fraction - 0.01:.2f}\n") != []


def test_layers_that_fit_are_counted_for_llama_cpp() -> None:
    line = "llama-server -m llama-3.1-8b -c 8192 -np 1 --fit off"
    (finding,) = check_text(f"{line} -ngl all\n", gpu="rtx-3060").findings
    (layers,) = (each["gpu_layers"] for each in finding.nearest if "gpu_layers" in each)
    assert isinstance(layers, int)
    assert codes(f"{line} -ngl {layers}\n", gpu="rtx-3060") == []
    (finding,) = check_text(f"{line} -ngl {layers + 1}\n", gpu="rtx-3060").findings
    assert finding.nearest[-1] == {"gpu_layers": layers}


def test_what_is_missing_is_named_and_the_rest_is_checked() -> None:
    report = check_text("vllm serve Qwen/Qwen2.5-0.5B-Instruct --max-model-len 65536 --nonsense 1\n", gpu=None)
    assert {finding.code for finding in report.findings} == {"SP205", "SP207"}
    assert ["--gpu" in unknown.message for unknown in report.unknowns] == [True]
    assert report.exit_code == 2


def test_gpu_of_the_command_line_goes_first() -> None:
    text = '[[deployment]]\nmodel = "llama-3.1-8b"\ngpu = "h100-80gb"\ncontext = 4096\n'
    assert codes(text, "specplan.toml", None) == []
    assert codes(text, "specplan.toml", "rtx-3060") == ["SP101"]


def test_exit_codes_and_formats_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    good, bad, open_ = (tmp_path / name for name in ("good.sh", "bad.sh", "open.sh"))
    good.write_text(f"{LLAMA} --max-model-len 4096 --max-num-seqs 8 --revision abc\n")
    bad.write_text(f"{TOO_BIG} --revision abc\n")
    open_.write_text("vllm serve $MODEL --max-model-len 4096\n")
    assert command(str(good), "--gpu", "rtx-4090").return_value == 0
    result = command(str(bad), "--gpu", "rtx-4090", "--format", "json")
    assert result.return_value == 1
    (finding,) = json.loads(result.stdout)["findings"]
    assert finding["location"] == {"file": str(bad), "line": 1, "column": 12}
    assert (
        finding["figures"]["shortfall_bytes"] == finding["figures"]["static_bytes"] - finding["figures"]["limit_bytes"]
    )
    assert command(str(good), str(open_), "--gpu", "rtx-4090").return_value == 2
    assert command(str(bad), "--gpu", "rtx-4090", "--ignore", "SP1").return_value == 0
    (tmp_path / "empty.sh").write_text("ls\n")
    with pytest.raises(InputError, match="no deployment"):
        check_paths([tmp_path / "empty.sh"], Options())


def test_baseline_leaves_out_what_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    script, baseline = Path("serve.sh"), Path("baseline.json")
    script.write_text(f"{TOO_BIG} --revision abc\n")
    arguments = [str(script), "--gpu", "rtx-4090", "--baseline", str(baseline)]
    assert command(*arguments, "--write-baseline").return_value == 0
    assert command(*arguments).return_value == 0
    script.write_text(f"# moved\n{TOO_BIG} --revision abc\n")
    assert command(*arguments).return_value == 0
    script.write_text(f"{TOO_BIG} --revision abc\n{TOO_BIG} --revision abc\n")
    assert command(*arguments).return_value == 1, "a second one is new"
    baseline.write_text("[]")
    assert isinstance(command(*arguments).exception, InputError)


def test_settings_of_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("serve.sh").write_text(f"{TOO_BIG} --revision abc\n")
    Path("pyproject.toml").write_text('[tool.specplan]\ngpu = "rtx-4090"\nignore = ["SP1"]\n')
    assert command("serve.sh").return_value == 0
    assert command("serve.sh", "--ignore", "SP2").return_value == 1
    Path("pyproject.toml").write_text("[tool.specplan]\ngpus = 3\n")
    assert isinstance(command("serve.sh").exception, InputError)


def test_rule_command() -> None:
    result = CliRunner().invoke(cli, ["rule", "sp101"])
    assert result.stdout.startswith("## SP101: Does not fit")
    assert all(code in CliRunner().invoke(cli, ["rule"]).stdout for code in CODES)


CONFIG = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512, "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0, "tie_word_embeddings": True, "torch_dtype": "float16", "hidden_act": "silu",
}  # fmt: skip


def test_stale_plans_are_found_where_scripts_run_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    Path("model/config.json").write_text(json.dumps(CONFIG))
    plan = ["analyze", "--model", "model", "--gpu", "t4", "--context", "256", "-o", "plan.json"]
    assert CliRunner().invoke(cli, plan, standalone_mode=False).exception is None
    Path("run.sh").write_text("specplan run plan.json --prompt hello\n")
    assert command("run.sh").return_value == 0
    assert command("plan.json", "--format", "sarif").return_value == 0
    assert command("run.sh", "--gpu", "rtx-4090").return_value == 0
    Path("model/config.json").write_text(json.dumps({**CONFIG, "num_hidden_layers": 3}))
    result = command("run.sh", "--format", "json")
    assert result.return_value == 1
    (finding,) = json.loads(result.stdout)["findings"]
    assert (finding["code"], finding["location"]["column"]) == ("SP401", 14)
    assert "num_hidden_layers" in finding["message"]
    Path("model/config.json").unlink()
    assert command("run.sh").return_value == 2


def tokenizer(tokens: dict[str, int], **added: int) -> str:
    extra = [{"id": number, "content": content} for content, number in added.items()]
    return json.dumps({"model": {"type": "BPE", "vocab": tokens}, "added_tokens": extra})


def gguf_tokens(*tokens: str) -> bytes:
    """A GGUF header with nothing but a vocabulary."""

    def string(text: str) -> bytes:
        return struct.pack("<Q", len(text.encode())) + text.encode()

    array = struct.pack("<IIQ", 9, 8, len(tokens)) + b"".join(map(string, tokens))
    return b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + string("tokenizer.ggml.tokens") + array


def test_documentation_of_sp202_triggers_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = {f"word{number}": number for number in range(500)}
    vocabularies = {
        "target": words,
        "same-tokenizer": {**words, "word7": 8, "word8": 7},
        "other-tokenizer": {word: 499 - number for word, number in words.items()},
    }
    for name, tokens in vocabularies.items():
        folder = Path("models", name)
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(CONFIG))
        (folder / "tokenizer.json").write_text(tokenizer(tokens))
    rule = find_rule("SP202")

    def found(text: str) -> list[Finding]:
        source, report = Source("serve.sh", text), Report()
        check_deployments(source, read_deployments(source), (rule,), rule.bad.gpu, report)
        assert not report.unknowns
        return report.findings

    (finding,) = found(rule.bad.text)
    assert (finding.code, finding.severity) == ("SP202", "warning")
    assert finding.figures == {"num_compared": 500, "num_different": 500}
    assert "id 0 is 'word499' against 'word0'" in finding.message
    assert found(rule.good.text) == [], "two reserved tokens of another name"
    swapped = "llama-server -m models/target -md models/same-tokenizer --spec-type draft-simple -c 512 --fit off\n"
    (finding,) = found(swapped)
    assert finding.severity == "error"
    assert "id 7 is 'word8'" in finding.message
    Path("models/no-tokenizer").mkdir()
    Path("models/no-tokenizer/config.json").write_text(json.dumps(CONFIG))
    assert found(rule.bad.text.replace("other-tokenizer", "no-tokenizer")) == [], "not known is not said"


def test_vocabularies_of_every_kind(tmp_path: Path) -> None:
    def of(content: str) -> dict[int, str] | None:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        (folder / "tokenizer.json").write_text(content)
        return vocabulary(ModelInput(str(folder), "folder", "", llama))

    llama = resolve_model("llama-3.1-8b").arch
    assert of(tokenizer({"a": 0, "b": 1}, b2=2)) == {0: "a", 1: "b", 2: "b2"}
    assert of(json.dumps({"model": {"vocab": [["a", -1.0], ["b", -2.0]]}})) == {0: "a", 1: "b"}
    for broken in (
        "[]",
        "{}",
        '{"model": {"vocab": 3}}',
        '{"model": {"vocab": {"a": []}}}',
        '{"model": {"vocab": [1]}}',
    ):
        with pytest.raises(InputError, match="tokenizer"):
            of(broken)
    file = tmp_path / "a.gguf"
    file.write_bytes(gguf_tokens("a", "é", "c"))
    assert vocabulary(ModelInput(str(file), "gguf", "", llama)) == {0: "a", 1: "é", 2: "c"}
    other = tmp_path / "b.gguf"
    other.write_bytes(gguf_tokens("a", "b")[:-1])
    with pytest.raises(InputError, match="truncated"):
        vocabulary(ModelInput(str(other), "gguf", "", llama))
    assert vocabulary(resolve_model("llama-3.1-8b")) is None


def test_nothing_heavy_is_imported_before_a_model_is_evaluated(tmp_path: Path) -> None:
    (tmp_path / "serve.sh").write_text(f"{LLAMA} --max-model-len 4096 --nonsense 1\n")
    program = (
        "import sys; from specplan.cli.main import cli\n"
        "code = cli.main(['check', 'serve.sh', '--select', 'SP2'], standalone_mode=False)\n"
        "print(code, sorted({'sympy', 'torch', 'transformers'} & sys.modules.keys()))"
    )
    root = Path(__file__).parent.parent
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{root}:{root / 'runtime'}"},
    )
    assert result.stdout.splitlines()[-1] == "1 []", result
