"""`check --fix`: specplan.toml rewritten to the nearest configuration, and nothing else in it or beside it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from specplan.cli.main import cli
from specplan.deployments.toml_edits import with_settings
from specplan.errors import InputError
from specplan.rules.checking import Options, check_paths
from specplan.rules.fixing import FIXABLE, fix_paths

BAD = """\
# Chat on one card.
[check]
ignore = ["SP403"]

[[deployment]]
model = "llama-3.1-8b"   # the target
draft = "llama-3.2-1b"
gpu = "rtx-4090"
context = 4096 # tokens
concurrency = 3
budget = "18 GiB"

  [[ deployment ]] # vLLM
  engine = "vllm"
  model = "llama-3.1-8b"
  gpu = 'rtx-4090'
  context = 100_000   # long
  memory_fraction = 0.5
  drafter = "ngram"
  num_speculative_tokens = 5
"""


def command(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["check", *arguments], standalone_mode=False)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_only_values_change_and_a_second_check_is_clean(folder: Path, newline: str, mark: str) -> None:
    file = folder / "chat.specplan.toml"
    file.write_bytes((mark + BAD.replace("\n", newline)).encode())
    arguments = (file.name, "--ignore", "SP3", "--ignore", "SP4")
    assert command(*arguments).return_value == 1
    result = command(*arguments, "--fix")
    assert result.return_value == 0, result.stdout
    assert command(*arguments).return_value == 0
    after = file.read_bytes().decode()
    assert after.count("\r") == (after.count("\n") if newline == "\r\n" else 0)
    assert after.startswith(mark + "# Chat on one card.")
    pairs = zip(BAD.splitlines(), after.removeprefix("\ufeff").splitlines(), strict=True)
    assert [(old, new) for old, new in pairs if old != new] == [
        ("context = 4096 # tokens", "context = 512 # tokens"),
        ("  context = 100_000   # long", "  context = 44544   # long"),
        ("  memory_fraction = 0.5", "  memory_fraction = 0.95"),
    ]
    said = [line for line in result.stderr.splitlines() if line.startswith("fixed")]
    assert said == [
        "fixed chat.specplan.toml:7:1: SP102: context 4096 -> 512",
        "fixed chat.specplan.toml:18:3: SP101: memory_fraction 0.5 -> 0.95, context 100000 -> 44544",
    ]


def test_one_step_beyond_the_fix_does_not_fit(folder: Path) -> None:
    file = folder / "specplan.toml"
    file.write_text(BAD)
    command(file.name, "--fix")
    file.write_text(file.read_text().replace("context = 44544", "context = 44800"))
    result = command(file.name, "--select", "SP1")
    assert result.return_value == 1
    assert "SP106" in result.stdout


def test_a_value_that_nobody_wrote_is_added_behind_the_last_key(folder: Path) -> None:
    file = folder / "specplan.toml"
    table = '[[deployment]]\nengine = "vllm"\nmodel = "llama-3.1-8b"\ngpu = "rtx-4090" # last'
    file.write_text(table)
    assert command(file.name, "--fix").return_value == 0
    assert file.read_text() == f"{table}\ncontext = 38912\n"
    assert command(file.name).return_value == 0


def test_what_is_no_settings_file_or_silenced_stays(folder: Path) -> None:
    script, silenced = folder / "serve.sh", folder / "specplan.toml"
    script.write_text("vllm serve meta-llama/Llama-3.1-8B-Instruct\n")
    silenced.write_text(
        '[[deployment]]\nmodel = "llama-3.1-8b"\ngpu = "rtx-4090"\n'
        'budget = "16 GiB" # specplan: ignore[SP101] measured\ncontext = 65536\n'
    )
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in (script, silenced)}
    result = command(".", "--fix", "--gpu", "rtx-4090")
    assert result.return_value == 1
    assert "fixed nothing" in result.stderr
    assert {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in before} == before
    assert sorted(path.name for path in folder.iterdir()) == ["serve.sh", "specplan.toml"]


def test_more_hardware_is_offered_and_not_written(folder: Path) -> None:
    file = folder / "specplan.toml"
    text = '[[deployment]]\nengine = "vllm"\nmodel = "llama-3.1-70b"\ngpu = "h100-80gb"\ncontext = 8192\n'
    file.write_text(text)
    result = command(file.name, "--fix", "--format", "json")
    assert result.return_value == 1
    assert '"tensor_parallel_size": 2' in result.stdout
    assert file.read_text() == text


def test_a_broken_file_is_told_and_left(folder: Path) -> None:
    file = folder / "a.specplan.toml"
    file.write_text("[[deployment]\n")
    assert command(file.name, "--fix").return_value == 2
    assert file.read_text() == "[[deployment]\n"


def test_a_key_inside_a_string_is_no_key() -> None:
    text = '[[deployment]]\ncontext = 8\nname = """\ncontext = 9\n"""\n'
    changed = with_settings("specplan.toml", text, 0, {"context": 4})
    assert changed == text.replace("context = 8", "context = 4")


@pytest.mark.parametrize(
    "body",
    [
        'name = """\n[[deployment]]\n"""\ncontext = 8\n',
        "'context' = 8\n",
        "a.b = 1\n[deployment.more]\ncontext = 8\n",
    ],
)
def test_odd_toml_is_refused(body: str) -> None:
    with pytest.raises(InputError, match=r"specplan\.toml"):
        with_settings("specplan.toml", f"[[deployment]]\n{body}", 0, {"context": 4})


def random_table(choose: random.Random) -> str:
    """A deployment that somebody might write, mostly too large."""
    engine = choose.choice(["vllm", "sglang", "llama.cpp", "tensorrt-llm", "specplan"])
    target, draft = choose.choice([("llama-3.1-8b", "llama-3.2-1b"), ("gemma-3-1b", "gemma-3-270m")])
    values: dict[str, object] = {
        "engine": engine, "model": target, "gpu": choose.choice(["rtx-4090", "rtx-3060", "t4"]),
        "context": choose.choice([512, 16384, 131072, 1000000]), "concurrency": choose.choice([1, 64, 512]),
        "memory_fraction": choose.choice([0.3, 0.9, 0.97, 1.5]), "num_speculative_tokens": choose.choice([0, 3, 64]),
        **choose.choice([{"draft": draft}, {"drafter": "ngram"}, {"drafter": "eagle3"}]),
    }  # fmt: skip
    chosen = [key for key in values if key in ("engine", "model", "gpu") or choose.random() < 0.7]
    return "[[deployment]]\n" + "".join(f"{key} = {json.dumps(values[key])}\n" for key in chosen)


@pytest.mark.parametrize("seed", range(24))
def test_a_second_fix_has_nothing_to_do(folder: Path, seed: int) -> None:
    file = folder / "specplan.toml"
    file.write_text(random_table(random.Random(seed)))
    paths = [Path(file.name)]
    before = check_paths(paths, Options())
    fix_paths(paths, Options())
    after = check_paths(paths, Options())
    assert not any(set(each) <= set(FIXABLE) for found in after.findings for each in found.nearest), file.read_text()
    assert len(after.unknowns) <= len(before.unknowns)
    assert fix_paths(paths, Options()) == []


def test_n_grams_are_counted_as_their_engines_do() -> None:
    from specplan.deployments.engines.serving_of import serving_of
    from specplan.deployments.read import read_deployments
    from specplan.deployments.source import Source

    for engine in ("sglang", "llama.cpp", "vllm", "tensorrt-llm"):
        text = f'[[deployment]]\nengine = "{engine}"\nmodel = "m"\ndrafter = "ngram"\nnum_speculative_tokens = 7\n'
        (deployment,) = read_deployments(Source("specplan.toml", text))
        serving = serving_of(deployment)
        assert serving.num_verify_tokens == 8, engine
        assert serving.num_speculative_tokens is not None
        assert serving.num_speculative_tokens.value == 7, engine
