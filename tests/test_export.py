"""``specplan export``: what it writes, read back as ``specplan check`` reads it, and held against figures by hand."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import random
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from transformers.generation.candidate_generator import AssistedCandidateGenerator

from specplan import planfile
from specplan.cli.main import cli
from specplan.deployments.engines.serving_of import serving_of
from specplan.deployments.read import read_deployments
from specplan.deployments.serving import Serving
from specplan.deployments.source import Source
from specplan.errors import InputError, UnsupportedError
from specplan.export.command import script
from specplan.export.export import export_plan
from specplan.export.exported import Exported, TooLarge
from specplan.export.limits import ENGINES, LIMITS, Target
from specplan.export.request import AS_PLANNED, Weights
from specplan.models.resolve import profile_input
from specplan.output.exports import rendered
from specplan.plan import Plan
from specplan.planner.analyze import analyze
from specplan.planner.ask import ask
from specplan.profiles import profile_names, read_profile
from specplan.rules.checking import Options, check_paths
from specplan.rules.report import Report
from specplan.speculation import Chain, Tree
from tests.cli_helpers import llama_folder
from tests.test_deployment_mutations import check, damaged

FORMATS = {"command": "sh", "compose": "yaml", "k8s": "yaml", "json": "json"}
SERVERS = tuple(engine for engine in ENGINES if engine != "transformers")
#: No release is known to be the commit that was read.
IMAGE = "nvcr.io/nvidia/tensorrt-llm/release:1.3.0rc22"
COMMIT = "0e9e39f249a16976918f6564b8830bc894c89659"
#: 2 · 8 KV heads · 128 · 2 B · 32 layers, and 2 · 8 · 64 · 2 B · 16 layers.
TARGET_TOKEN, DRAFT_TOKEN = 131072, 32768
GPU = "rtx-4090"


def bundled_pairs() -> list[tuple[str, str]]:
    """For every bundled target, the smallest bundled model of its vocabulary and family that is a quarter of it."""
    sizes = {name: read_profile("models", name)["num_parameters"] for name in profile_names("models")}
    archs = {name: profile_input(name).arch for name in sizes}
    found = []
    for target, arch in archs.items():
        drafts = [
            (sizes[name], name)
            for name, other in archs.items()
            if (other.vocab_size, other.model_type) == (arch.vocab_size, arch.model_type)
            and 4 * sizes[name] <= sizes[target]
        ]
        found += [(target, min(drafts)[1])] if drafts else []
    return found


PAIRS = bundled_pairs()


@lru_cache(maxsize=1)
def pair_plan(target: str, draft: str) -> Plan | None:
    """A plan with the draft where that pays, else what the planner takes; None where no device holds it."""
    for gpu in ("h200", "b200", "mi300x"):
        answer = analyze(ask(model=target, draft=draft, gpu=gpu, context=1024, drafter="draft_model"))
        if isinstance(answer, Plan):
            pays = answer.estimate.speedup.value > 1
            other = answer if pays else analyze(ask(model=target, draft=draft, gpu=gpu, context=1024))
            return other if isinstance(other, Plan) else None
    return None


@lru_cache(maxsize=128)
def plan(**options: Any) -> Plan:
    """A plan of bundled models; those of the command line where nothing is said."""
    result = analyze(ask(**{"model": "llama-3.1-8b", "gpu": GPU, "context": 4096, **options}))
    assert isinstance(result, Plan)
    return result


def llamas(**options: Any) -> Plan:
    """Llama 8B with its 1B draft, and four drafted tokens."""
    return plan(
        **{"draft": "llama-3.2-1b", "drafter": "draft_model", "num_speculative_tokens": 4, "context": 5000, **options}
    )


def exported(given: Plan, engine: Target, weights: Weights = AS_PLANNED, nearest: bool = False) -> Exported:
    found = export_plan(given, engine, weights, nearest, IMAGE if engine == "tensorrt-llm" else None)
    assert isinstance(found, Exported), found
    return found


def serving(found: Exported) -> Serving:
    text = rendered(found, "command")
    (deployment,) = read_deployments(Source("a.py" if found.limits.engine == "transformers" else "a.sh", text))
    return serving_of(deployment)


def checked(found: Exported, output_format: str, folder: Path, gpu: str) -> Report:
    is_python = found.limits.engine == "transformers" and output_format == "command"
    path = folder / f"deployment.{'py' if is_python else FORMATS[output_format]}"
    path.write_text(rendered(found, output_format))
    return check_paths([path], Options(gpu))


def option(found: Exported, name: str) -> str:
    argv = found.command.argv
    return argv[argv.index(name) + 1]


# --- what is exported has no findings -----------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("target", "draft"), PAIRS)
def test_bundled_pairs_have_no_findings(target: str, draft: str, engine: Target, tmp_path: Path) -> None:
    """Every format, unless the plan does not fit the largest device, or the engine is refused by name."""
    answer = pair_plan(target, draft)
    if answer is None:
        return  # fits no bundled device
    formats = list(FORMATS) if engine != "transformers" else ["command", "json"]
    try:
        found = exported(answer, engine)
    except InputError as error:
        if not any(words in str(error) for words in (LIMITS[engine].title, "recurrent state", "windowed")):
            raise
        return
    for output_format in formats:
        if found.image is None and output_format in ("compose", "k8s"):
            continue
        report = checked(found, output_format, tmp_path, answer.inputs.device.name)
        assert report.exit_code == 0
        assert report.num_deployments == 1
        assert [each for each in report.findings if each.code != "SP403"] == []


def test_pairs_are_many() -> None:
    assert len(PAIRS) >= 25
    assert ("llama-3.1-8b", "llama-3.2-1b") in PAIRS


@pytest.mark.parametrize("output_format", FORMATS)
@pytest.mark.parametrize("engine", SERVERS)
def test_a_draft_model_has_no_findings_and_is_pinned(engine: Target, output_format: str, tmp_path: Path) -> None:
    pins = AS_PLANNED if engine == "llama.cpp" else Weights(revision=COMMIT, draft_revision=COMMIT)
    report = checked(exported(llamas(), engine, pins), output_format, tmp_path, GPU)
    assert (report.findings, report.unknowns, report.num_deployments) == ([], [], 1)


@pytest.mark.parametrize("engine", ENGINES)
def test_n_grams(engine: Target, tmp_path: Path) -> None:
    given = plan(drafter="ngram", num_speculative_tokens=5)
    found = serving(exported(given, engine))
    assert found.method is not None
    assert found.method.value == "ngram"
    assert found.num_verify_tokens == 6
    assert found.draft is None
    report = checked(exported(given, engine), "json", tmp_path, GPU)
    assert report.exit_code == 0


@pytest.mark.parametrize("output_format", FORMATS)
@pytest.mark.parametrize("engine", ENGINES)
def test_damaged_exports_are_no_surprise(engine: Target, output_format: str) -> None:
    if engine == "transformers" and output_format in ("compose", "k8s"):
        return
    chance, text = random.Random(f"{engine} {output_format}"), rendered(exported(llamas(), engine), output_format)
    name = "a.py" if (engine, output_format) == ("transformers", "command") else f"a.{FORMATS[output_format]}"
    for _ in range(25):
        check(name, damaged(text, chance))


# --- what is exported is the plan ---------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", SERVERS)
def test_servers_get_the_plans_numbers(engine: Target) -> None:
    given = llamas(batch_size=2)
    found = serving(exported(given, engine))
    assert found.method is not None
    assert found.method.value == "draft_model"
    assert found.num_speculative_tokens is not None
    assert found.num_speculative_tokens.value == 4
    assert found.context is not None
    assert found.context.value == (10000 if engine == "llama.cpp" else 5000)
    assert found.max_sequences is not None
    assert found.max_sequences.value == 2
    assert found.num_verify_tokens == 5


def test_vllm_pool_by_hand() -> None:
    """5 000 + 4, no more than 5 000, in blocks of 16; and the block that stands for nothing."""
    found = exported(llamas(batch_size=2), "vllm")
    per_token = TARGET_TOKEN + DRAFT_TOKEN
    assert option(found, "--kv-cache-memory-bytes") == str(2 * 5008 * per_token + 16 * per_token)
    assert float(option(found, "--gpu-memory-utilization")) < 0.92
    assert json.loads(option(found, "--speculative-config"))["num_speculative_tokens"] == 4


def test_sglang_pool_by_hand() -> None:
    """5 000 + 2 · max(1 · 4, 5) slots of each sequence; the fraction holds them at the price of target layers."""
    found = exported(llamas(batch_size=2), "sglang")
    assert option(found, "--max-total-tokens") == str(2 * 5010)
    assert option(found, "--speculative-num-draft-tokens") == "5"
    device = found.request.device
    free = int(device.memory_bytes.value) - int(device.context_bytes.value)
    weights = sum(part.bytes for part in found.memory if part.name.endswith("weights"))
    priced = weights + 2 * 5010 * (TARGET_TOKEN + TARGET_TOKEN // 2)
    fraction = float(option(found, "--mem-fraction-static"))
    assert fraction * free > priced >= (fraction - 0.001) * free
    assert {part.name: part.bytes for part in found.memory}["KV cache"] == 2 * 5010 * (TARGET_TOKEN + DRAFT_TOKEN)


def test_llama_cpp_cells_by_hand() -> None:
    """10 000 cells for two sequences, padded to 10 240, which is 5 120 for each."""
    found = exported(llamas(batch_size=2), "llama.cpp")
    assert option(found, "-c") == "10000"
    assert {part.name: part.bytes for part in found.memory}["KV cache"] == 10240 * (TARGET_TOKEN + DRAFT_TOKEN)
    assert option(found, "--fit") == "off"
    assert option(found, "--spec-type") == "draft-simple"


def test_tensorrt_llm_pool_by_hand() -> None:
    """5 000 + 4 + (1 + 4) slots, the scheduler being a step ahead, in blocks of 32."""
    found = exported(llamas(batch_size=2), "tensorrt-llm")
    settings = yaml.safe_load(found.command.files["trtllm.yaml"])
    assert settings["kv_cache_config"]["max_gpu_total_bytes"] == 2 * 5024 * (TARGET_TOKEN + DRAFT_TOKEN)
    assert settings["speculative_config"] == {
        "decoding_type": "Draft_Target",
        "max_draft_len": 4,
        "speculative_model": "meta-llama/Llama-3.2-1B-Instruct",
    }


@pytest.mark.parametrize("engine", ENGINES)
def test_the_budget_decides_to_the_byte(engine: Target) -> None:
    given = llamas()
    needed = exported(given, engine).needed_bytes

    def within(num_bytes: int) -> Exported | TooLarge:
        inputs = dataclasses.replace(given.inputs, budget_bytes=num_bytes)
        return export_plan(dataclasses.replace(given, inputs=inputs), engine)

    assert isinstance(within(needed), Exported)
    assert isinstance(within(needed - 1), TooLarge)


def test_eagle3_tree_on_sglang() -> None:
    given = plan(drafter="eagle3", num_speculative_tokens=3)
    tree = Tree(((0,), (1,), (0, 0), (0, 1), (1, 0)))
    given = dataclasses.replace(given, speculation=dataclasses.replace(given.speculation, shape=tree))
    found = serving(exported(given, "sglang", Weights(draft="my/eagle3-head")))
    assert (found.topk, found.num_verify_tokens) == (2, 6)
    assert found.num_speculative_tokens is not None
    assert found.num_speculative_tokens.value == 2
    settings = yaml.safe_load(exported(given, "tensorrt-llm", Weights(draft="my/head")).command.files["trtllm.yaml"])
    assert settings["speculative_config"]["max_total_draft_tokens"] == 5


@pytest.mark.parametrize("engine", ["vllm", "sglang", "tensorrt-llm"])
def test_heads_inside_the_target(engine: Target, tmp_path: Path) -> None:
    given = plan(model="gigachat3.1-10b-a1.8b", gpu="h100-80gb", drafter="mtp")
    planfile.save(given, tmp_path / "plan.json")
    assert planfile.load(tmp_path / "plan.json") == given
    found = exported(given, engine)
    read = serving(found)
    assert read.method is not None
    assert read.method.value == "mtp"
    assert read.num_verify_tokens == given.speculation.num_draft_nodes + 1
    report = checked(found, "command", tmp_path, "h100-80gb")
    assert report.unknowns == []
    assert [each.code for each in report.findings if each.code[:3] in ("SP1", "SP2")] == []


# --- what an engine cannot do -------------------------------------------------------------------------------------


def changed(given: Plan, **changes: Any) -> Plan:
    """A plan with other values of its speculation or workload."""
    workload = {key: value for key, value in changes.items() if hasattr(given.workload, key)}
    speculation = {key: value for key, value in changes.items() if key not in workload}
    return dataclasses.replace(
        given,
        workload=dataclasses.replace(given.workload, **workload),
        speculation=dataclasses.replace(given.speculation, **speculation),
    )


DEEP = Tree(tuple(path for depth in (1, 2, 3) for path in itertools.product((0, 1), repeat=depth)))
WIDE = Tree(tuple((rank,) for rank in range(4)) + tuple((rank, 0) for rank in range(4)))


@pytest.mark.parametrize(
    ("engine", "options", "changes", "reason", "nearest"),
    [
        ("vllm", {"drafter": "medusa"}, {}, "has no medusa drafter", "n-grams of γ"),
        ("sglang", {"drafter": "early_exit"}, {}, "has no early_exit drafter", "n-grams of γ"),
        ("vllm", {"drafter": "eagle3"}, {"shape": WIDE}, "no trees with eagle3", "a chain of 2"),
        ("sglang", {"drafter": "eagle3"}, {"shape": DEEP}, "at most 10 nodes of 2 branches", "a chain of 3"),
        ("transformers", {"drafter": "ngram", "batch_size": 2}, {}, "1 sequence at a time", "batch 1"),
        ("sglang", {"drafter": "ngram", "kv_dtype": "int8"}, {}, "no int8 cache", "fp8_e4m3"),
        ("llama.cpp", {"drafter": "ngram", "kv_dtype": "fp8_e4m3"}, {}, "no fp8_e4m3 cache", "q8_0"),
        ("transformers", {"drafter": "ngram", "kv_dtype": "int4"}, {}, "no int4 cache", "the dtype of the model"),
        (
            "vllm",
            {"drafter": "draft_model", "draft": "llama-3.2-1b"},
            {"draft_context": 512},
            "512 tokens",
            "the whole",
        ),
        (
            "vllm",
            {"drafter": "draft_model", "draft": "llama-3.2-1b"},
            {"draft_dtype": "float16"},
            "float16",
            "bfloat16",
        ),
        (
            "tensorrt-llm",
            {"drafter": "draft_model", "draft": "llama-3.2-1b"},
            {"draft_kv_dtype": "fp8_e4m3"},
            "no fp8_e4m3 cache of the draft",
            "auto",
        ),
        (
            "sglang",
            {"model": "qwen2.5-7b", "draft": "qwen2.5-0.5b", "drafter": "draft_model"},
            {},
            "152064 and 151936",
            "n-grams of γ",
        ),
        (
            "vllm",
            {"model": "qwen2.5-7b", "draft": "qwen2.5-0.5b", "drafter": "draft_model"},
            {},
            "152064 and 151936",
            "use_heterogeneous_vocab",
        ),
    ],
)
def test_refused_with_the_reason_or_replaced_when_asked(
    engine: Target, options: dict[str, Any], changes: dict[str, Any], reason: str, nearest: str, tmp_path: Path
) -> None:
    given = changed(plan(**options), **changes)
    weights = Weights(draft="my/eagle3-head") if options["drafter"] == "eagle3" else AS_PLANNED
    with pytest.raises(UnsupportedError, match=reason) as refused:
        exported(given, engine, weights)
    assert "--nearest takes" in str(refused.value)
    assert "\n" not in str(refused.value)
    found = exported(given, engine, weights, nearest=True)
    assert any(reason in note and nearest in note for note in found.notes)
    report = checked(found, "command", tmp_path, GPU)
    assert report.unknowns == []
    assert [each.code for each in report.findings if each.code[:3] in ("SP1", "SP2")] == []


@pytest.mark.parametrize(
    ("engine", "options", "reason"),
    [
        ("vllm", {"drafter": "eagle3"}, "name it with --draft"),
        ("vllm", {"model": "smollm2-135m", "gpu": "cpu-generic", "drafter": "ngram"}, "the plan is for cpu-generic"),
        ("tensorrt-llm", {"gpu": "mi300x", "drafter": "ngram"}, "modelled on cuda devices"),
        ("vllm", {"dtype": "int8", "drafter": "ngram"}, "has no int8 weights of a plain target"),
        ("sglang", {"dtype": "nf4", "drafter": "ngram"}, "name a checkpoint with --model"),
        ("llama.cpp", {"dtype": "nf4", "drafter": "ngram"}, "reads GGUF files"),
        ("transformers", {"drafter": "none"}, "needs nothing from it"),
        ("llama.cpp", {"model": "jamba-reasoning-3b", "drafter": "ngram"}, "stored as GGUF is not known"),
    ],
)
def test_refused_whatever_is_asked(engine: Target, options: dict[str, Any], reason: str) -> None:
    for nearest in (False, True):
        with pytest.raises(UnsupportedError, match=reason):
            exported(plan(**options), engine, nearest=nearest)


def test_models_that_are_not_the_plans() -> None:
    with pytest.raises(InputError, match="is not the plan's model"):
        exported(llamas(), "vllm", Weights(model="qwen2.5-7b"))
    with pytest.raises(InputError, match="loads nothing"):
        exported(plan(drafter="ngram"), "vllm", Weights(draft="llama-3.2-1b"))


# --- containers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", SERVERS)
def test_compose_and_kubernetes_files_are_whole(engine: Target) -> None:
    found = exported(llamas(), engine)
    compose = yaml.safe_load(rendered(found, "compose"))
    service = compose["services"]["llm"]
    assert service["deploy"]["resources"]["reservations"]["devices"] == [
        {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    ]
    deployment, *others = yaml.safe_load_all(rendered(found, "k8s"))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 1}
    assert container["image"] == service["image"] == found.image
    assert container["command"] + container["args"] == service["entrypoint"] + service["command"]
    volumes = {volume["name"] for volume in deployment["spec"]["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    assert deployment["spec"]["selector"]["matchLabels"] == deployment["spec"]["template"]["metadata"]["labels"]
    assert [other["kind"] for other in others] == ["Service", *(["ConfigMap"] if found.command.files else [])]
    for name, text in found.command.files.items():
        assert others[-1]["data"][name] == text == compose["configs"]["file0"]["content"]
        assert f"/etc/specplan/{name}" in container["args"]


@pytest.mark.parametrize("engine", ["vllm", "sglang", "llama.cpp"])
def test_images_are_of_the_version_that_was_read(engine: Target) -> None:
    found = exported(llamas(), engine)
    assert found.image is not None
    assert found.image.rpartition(":")[2] not in ("", "latest")
    if engine != "llama.cpp":  # a commit, whose build number its tag has
        assert found.image.endswith(f":v{found.version}")


def test_containers_need_an_image_and_a_gpu() -> None:
    no_image = dataclasses.replace(exported(llamas(), "tensorrt-llm"), image=None)
    with pytest.raises(UnsupportedError, match="name one with --image"):
        rendered(no_image, "compose")
    with pytest.raises(UnsupportedError, match="no server"):
        rendered(exported(llamas(), "transformers"), "k8s")


# --- local models, the command line, the script itself -----------------------------------------------------------


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a target, a draft and a plan for both, whose name a shell, YAML and compose have to quote."""
    folder = tmp_path_factory.mktemp("it's a $HOME & more")
    llama_folder(folder / "target", max_position_embeddings=256)
    llama_folder(folder / "draft", num_hidden_layers=1, max_position_embeddings=256)
    for gpu in (GPU, "cpu-generic"):
        answer = analyze(
            ask(
                model=str(folder / "target"),
                draft=str(folder / "draft"),
                gpu=gpu,
                drafter="draft_model",
                num_speculative_tokens=3,
                context=64,
            )
        )
        assert isinstance(answer, Plan)
        planfile.save(answer, folder / f"{gpu}.json")
    return folder


@pytest.mark.parametrize("output_format", FORMATS)
@pytest.mark.parametrize("engine", ["vllm", "sglang", "tensorrt-llm"])
def test_local_models_are_named_as_they_are(engine: Target, output_format: str, local: Path, tmp_path: Path) -> None:
    found = exported(planfile.load(local / f"{GPU}.json"), engine)
    report = checked(found, output_format, tmp_path, GPU)
    assert report.unknowns == []
    assert [each.code for each in report.findings if each.code[:3] != "SP3"] == []  # γ was asked for
    if output_format == "compose":
        service = yaml.safe_load(rendered(found, "compose"))["services"]["llm"]
        path = str(local / "target").replace("$", "$$")
        assert f"{path}:{path}:ro" in service["volumes"]


def test_the_shell_gets_what_was_meant(local: Path, tmp_path: Path) -> None:
    found = exported(planfile.load(local / f"{GPU}.json"), "vllm")
    fake = tmp_path / "vllm"
    fake.write_text('#!/bin/sh\nfor word in "$@"; do printf "%s\\n" "$word"; done\n')
    fake.chmod(0o755)
    path = tmp_path / "serve.sh"
    path.write_text(script(found.command))
    result = subprocess.run(
        ["sh", path], capture_output=True, text=True, check=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}
    )
    assert result.stdout.splitlines() == list(found.command.argv[1:])


def test_the_transformers_script_runs_as_planned(
    local: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In transformers itself: the text of plain greedy decoding, from drafts of the planned length."""
    found = exported(planfile.load(local / "cpu-generic.json"), "transformers")
    (text,) = found.command.files.values()
    original, drafted = AssistedCandidateGenerator.get_candidates, []

    def spied(self: AssistedCandidateGenerator, input_ids: Any, **kwargs: Any) -> Any:
        ids, logits = original(self, input_ids, **kwargs)
        drafted.append(ids.shape[1] - input_ids.shape[1])
        return ids, logits

    monkeypatch.setattr(AssistedCandidateGenerator, "get_candidates", spied)

    def output(script: str) -> str:
        monkeypatch.setattr(sys, "stdin", io.StringIO("a b c"))
        exec(compile(script, "generate.py", "exec"), {})
        return capsys.readouterr().out

    speculated = output(text)
    assert max(drafted) == 3
    assert speculated == output(text.replace("assistant_model=draft, ", ""))
    assert len(speculated.split()) > 3


def command(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["export", *arguments], standalone_mode=False)


def test_the_command_line(local: Path, tmp_path: Path) -> None:
    path, output = str(local / f"{GPU}.json"), tmp_path / "serve.sh"
    result = command(path, "--engine", "vllm")
    assert result.return_value == 0
    assert result.stdout.startswith("#!/bin/sh\n")
    assert "vLLM needs" in result.stderr
    assert command(path, "--engine", "vllm", "-o", str(output)).stdout == ""
    assert output.read_text() == result.stdout
    written = tmp_path / "serve.json"
    assert command(path, "--engine", "vllm", "--format", "json", "-o", str(written)).return_value == 0
    found = CliRunner().invoke(cli, ["check", str(written), "--gpu", GPU, "--select", "SP1"], standalone_mode=False)
    assert found.return_value == 0
    assert found.stdout == "1 deployment in 1 file: 0 findings\n"
    data = json.loads(written.read_text())
    assert data.keys() == {"engine", "version", "argv", "env", "files", "notes"}
    assert data["argv"][:3] == ["vllm", "serve", str(local / "target")]


def test_what_does_not_fit_ends_with_1(tmp_path: Path) -> None:
    given = llamas()
    path = tmp_path / "plan.json"
    planfile.save(
        dataclasses.replace(given, inputs=dataclasses.replace(given.inputs, budget_bytes=given.peak_bytes)), path
    )
    result = command(str(path), "--engine", "transformers")
    assert result.return_value == 1
    assert result.stdout == ""
    assert "does not fit: transformers needs" in result.stderr


def test_chains_are_what_the_shape_says() -> None:
    given = changed(llamas(), shape=Chain(7))
    assert json.loads(option(exported(given, "vllm"), "--speculative-config"))["num_speculative_tokens"] == 7
