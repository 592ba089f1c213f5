"""Plan files: canonical, and nothing in them is taken on trust."""

from __future__ import annotations

import copy
import errno
import json
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from specplan import planfile
from specplan.atomic import write_atomically
from specplan.checks import check_plan
from specplan.errors import EnvironmentProblem, InputError, SpecplanError
from specplan.models.resolve import resolve_model
from specplan.plan import SCHEMA_VERSION, Plan
from tests.conftest import model_input, tiny_arch, tiny_plan

Steps = tuple[str | int, ...]


def with_draft() -> Plan:
    """A plan in which every optional part is there."""
    rope = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 256}
    return tiny_plan(target=model_input(tiny_arch(rope_scaling=rope)), drafters=("none", "draft_model"), alpha=0.9)


PLAN = with_draft()
DATA: dict[str, Any] = json.loads(planfile.dumps(PLAN))


def nodes(value: Any, steps: Steps = ()) -> Iterator[tuple[Steps, Any]]:
    """Every value of the plan with the way to it; of a list only the first entry."""
    yield steps, value
    if isinstance(value, dict):
        for key in sorted(value):
            yield from nodes(value[key], (*steps, key))
    elif isinstance(value, list) and value:
        yield from nodes(value[0], (*steps, 0))


def spell(steps: Steps) -> str:
    """The path as messages spell it: ``ledger.items[0].bytes``."""
    text = ""
    for step in steps:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def changed(steps: Steps, value: Any, plan: dict[str, Any] = DATA) -> Any:
    """A copy of the plan with another value at one place; ``...`` removes the key."""
    data = copy.deepcopy(plan)
    if not steps:
        return value
    place: Any = data
    for step in steps[:-1]:
        place = place[step]
    if value is ...:
        del place[steps[-1]]
    else:
        place[steps[-1]] = value
    return data


def way(path: str) -> Steps:
    """The reverse of ``spell``."""
    return tuple(int(step) if step.isdigit() else step for step in path.replace("[", ".").replace("]", "").split("."))


def load(tmp_path: Path, data: Any) -> Plan:
    path = tmp_path / "plan.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return planfile.load(path)


def refusal(tmp_path: Path, data: Any) -> str:
    """The message with which a plan is refused; it always names the file."""
    with pytest.raises(InputError) as caught:
        load(tmp_path, data)
    message = str(caught.value)
    assert "plan.json" in message
    assert "\n" not in message
    return message


OBJECTS = [steps for steps, value in nodes(DATA) if isinstance(value, dict)]
LEAVES = [(steps, value) for steps, value in nodes(DATA) if not isinstance(value, dict | list)]
FREE_KEYS = {"drafters", "flop_per_s", "searched"}  # objects whose keys are data


def test_the_plan_under_test_is_complete() -> None:
    assert PLAN.inputs.draft is not None
    assert PLAN.certificate.neighbours
    assert PLAN.marks.speculates is not None
    assert PLAN.inputs.target.arch.rope_scaling is not None
    assert len(OBJECTS) > 20
    assert len(LEAVES) > 150


def test_the_plan_itself_loads(tmp_path: Path) -> None:
    assert load(tmp_path, DATA) == PLAN


@pytest.mark.parametrize("steps", OBJECTS, ids=spell)
def test_an_unknown_key_is_refused_with_its_path(steps: Steps, tmp_path: Path) -> None:
    path = spell((*steps, "unexpected"))
    message = refusal(tmp_path, changed((*steps, "unexpected"), 0))
    assert path in message
    if steps == () or steps[-1] not in FREE_KEYS:
        assert f"unknown key {path}" in message


@pytest.mark.parametrize("steps", [steps for steps, _ in nodes(DATA) if steps and steps[-1] != 0], ids=spell)
def test_a_missing_key_is_refused_with_its_path(steps: Steps, tmp_path: Path) -> None:
    if len(steps) > 1 and steps[-2] in FREE_KEYS:
        return
    message = refusal(tmp_path, changed(steps, ...))
    if steps[-1] != "num_speculative_tokens":  # without it a shape could as well be a tree
        assert steps == ("schema_version",) or f"missing key {spell(steps)}" in message


_NULL_HERE = (
    "sliding_window",
    "compute_capability",
    "attention_multiplier",
    "attention_softcap",
    "logit_softcap",
    "local_rope_theta",
    "transformers_version",
)

WRONG: dict[type, list[Any]] = {
    int: [1.5, 1.0, "1", True, [], {}, float("nan"), 1 << 80],
    float: ["1.0", True, [], {}, float("nan"), float("inf"), -float("inf")],
    str: [1, True, [], {}],
    bool: [0, 1, "true", [], {}],
}


@pytest.mark.parametrize(("steps", "value"), LEAVES, ids=lambda x: spell(x) if isinstance(x, tuple) else None)
def test_a_wrong_type_is_refused_with_its_path(steps: Steps, value: Any, tmp_path: Path) -> None:
    number = isinstance(value, int) and steps[-1] in ("value", "throughput", "keep", "rope_theta")
    for wrong in WRONG.get(float if number else type(value), [5, "x", True]):
        if steps[-1] in _NULL_HERE and type(wrong) in (int, str):
            continue  # null in this plan, of either type in others
        message = refusal(tmp_path, changed(steps, wrong))
        assert spell(steps) in message


@pytest.mark.parametrize(("steps", "value"), LEAVES, ids=lambda x: spell(x) if isinstance(x, tuple) else None)
def test_null_is_refused_where_something_is_needed(steps: Steps, value: Any, tmp_path: Path) -> None:
    if value is None or (steps[-1] == "dtype" and "arch" in steps):
        return
    assert spell(steps) in refusal(tmp_path, changed(steps, None))


@pytest.mark.parametrize("steps", [*OBJECTS, ("ledger", "items"), ("notes",)], ids=spell)
@pytest.mark.parametrize("wrong", [5, "x", True], ids=repr)
def test_a_container_of_another_type_is_refused(steps: Steps, wrong: Any, tmp_path: Path) -> None:
    assert spell(steps) in refusal(tmp_path, changed(steps, wrong))


@pytest.mark.parametrize("version", [0, 1, 3, -1, "1", 1.0, True, None, [], ...], ids=repr)
def test_another_schema_version_is_refused(version: Any, tmp_path: Path) -> None:
    assert version is True or version != SCHEMA_VERSION or isinstance(version, float)
    assert "schema_version" in refusal(tmp_path, changed(("schema_version",), version))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "5",
        '"plan"',
        "{}",
        "\x00",
        "[" * 200000,
        '{"a":' * 100000,
        "NaN",
        "1" * 5000,
        '{"schema_version": ' + "1" * 5000 + "}",
        '{"schema_version": 1e999}',
        '{"schema_version": NaN}',
    ],
    ids=lambda text: repr(text[:20]),
)
def test_text_that_is_no_plan_is_refused(text: str, tmp_path: Path) -> None:
    refusal(tmp_path, text)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_bytes(b'{"schema_version": "\xff\xfe"}')
    with pytest.raises(InputError):
        planfile.load(tmp_path / "plan.json")


def test_a_plan_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such plan"):
        planfile.load(tmp_path / "nothing.json")
    with pytest.raises(InputError):
        planfile.load(tmp_path)


def test_a_plan_of_absurd_size_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match="expected at most"):
        planfile.load(path)


@pytest.mark.parametrize("path", ["inputs.keep", "marks.fastest.throughput", "inputs.device.memory_bytes.value"])
@pytest.mark.parametrize("number", ["1" + "0" * 400, "1e999", "-1e999", "9" * 5000])
def test_numbers_beyond_a_float_are_refused(path: str, number: str, tmp_path: Path) -> None:
    text = json.dumps(changed(way(path), "HERE")).replace('"HERE"', number)
    refusal(tmp_path, text)


@pytest.mark.parametrize(
    "path",
    [
        "ledger.items[0].bytes",
        "inputs.budget_bytes",
        "marks.decodes.bytes",
        "marks.drafters.none.bytes",
        "certificate.neighbours[0].peak_bytes",
        "inputs.device.memory_bytes.value",
        "inputs.device.memory_bandwidth_bytes_per_s.value",
        "inputs.device.context_bytes.value",
        "estimate.tokens_per_s.value",
        "marks.fastest.throughput",
    ],
)
def test_negative_amounts_are_refused(path: str, tmp_path: Path) -> None:
    refusal(tmp_path, changed(way(path), -1))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("workload.context", 0),
        ("workload.context", (1 << 24) + 1),
        ("workload.batch_size", 0),
        ("workload.batch_size", 4097),
        ("workload.dtype", "float7"),
        ("workload.draft_dtype", "q4_0"),
        ("workload.kv_dtype", "int3"),
        ("workload.kv_dtype", "fp8"),
        ("workload.kv_dtype", "bf16"),
        ("workload.draft_kv_dtype", "q8_0"),
        ("workload.draft_kv_dtype", ""),
        ("speculation.shape.num_speculative_tokens", -1),
        ("speculation.shape.num_speculative_tokens", 1025),
        ("speculation.prefill_chunk", 0),
        ("speculation.logits_rows", 1),
        ("speculation.num_exit_layers", -1),
        ("speculation.num_exit_layers", 3),
        ("speculation.drafter", "medusa"),
        ("speculation.draft_context", -1),
        ("speculation.draft_context", 257),
        ("speculation.draft_device", "host"),
        ("speculation.draft_device", "cloud"),
        ("workload.prompt_tokens", -1),
        ("workload.prompt_tokens", 256),
        ("workload.num_turns", 0),
        ("workload.num_turns", 257),
        ("frontier[0].bytes", -1),
        ("frontier[0].workload.batch_size", "many"),
        ("inputs.budget_bytes", 0),
        ("inputs.keep", 0),
        ("inputs.keep", 1.5),
        ("inputs.target.arch.num_hidden_layers", 0),
        ("inputs.target.arch.head_dim", 3),
        ("inputs.target.arch.num_key_value_heads", 3),
        ("inputs.target.arch.vocab_size", 1 << 40),
        ("inputs.target.arch.rms_norm_eps", 0.0),
        ("inputs.target.arch.model_type", "gpt9"),
        ("inputs.draft.arch.hidden_size", -5),
        ("inputs.draft.arch.vocab_size", 4096),
        ("inputs.device.kind", "tpu"),
        ("inputs.target.kind", "ftp"),
        ("ledger.items[0].phase", "lunch"),
        ("ledger.items[0].owner", "nobody"),
        ("ledger.items[0].source", "guessed"),
        ("ledger.items", []),
        ("forward", "remote_code"),
    ],
    ids=str,
)
def test_values_that_cannot_be_meant_are_refused(path: str, value: Any, tmp_path: Path) -> None:
    refusal(tmp_path, changed(way(path), value))


def test_a_repeated_ledger_item_is_refused(tmp_path: Path) -> None:
    data = copy.deepcopy(DATA)
    data["ledger"]["items"].append(data["ledger"]["items"][0])
    assert "unique" in refusal(tmp_path, data)


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs.draft": None},
        {"speculation.drafter": "ngram"},
        {"speculation.drafter": "none"},
        {"speculation.drafter": "none", "inputs.draft": None},
        {"speculation.drafter": "early_exit", "inputs.draft": None},
        {"speculation.drafter": "early_exit", "speculation.num_exit_layers": 1},
        {"speculation.num_exit_layers": 1},
        {"speculation.shape.num_speculative_tokens": 0},
    ],
    ids=str,
)
def test_a_drafter_that_contradicts_the_rest_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    assert PLAN.speculation.drafter == "draft_model"
    data = copy.deepcopy(DATA)
    for path, value in changes.items():
        *steps, last = way(path)
        place: Any = data
        for step in steps:
            place = place[step]
        place[last] = value
    assert "drafter" in refusal(tmp_path, data)


def test_a_host_that_no_draft_lives_on_is_refused(tmp_path: Path) -> None:
    text = refusal(tmp_path, changed(way("inputs.host"), DATA["inputs"]["device"]))
    assert "inputs.host" in text
    assert "draft_device" in text


def test_a_window_on_a_draft_that_has_its_own_is_refused(tmp_path: Path) -> None:
    data = copy.deepcopy(DATA)
    data["inputs"]["draft"]["arch"] |= {"layer_types": ["sliding_attention"], "sliding_window": 5}
    assert "draft_context" not in refusal(tmp_path, data)  # only its hash is wrong: a draft may have windows
    data["speculation"]["draft_context"] = 100
    assert "speculation.draft_context 100" in refusal(tmp_path, data)


@pytest.mark.parametrize("changes", [{"draft_context": 100}, {"draft_device": "host"}], ids=str)
def test_a_draft_that_is_not_there_sees_and_lives_nowhere(changes: dict[str, Any], tmp_path: Path) -> None:
    data = json.loads(planfile.dumps(tiny_plan(draft=None, drafters=("none", "ngram"), alpha=0.9)))
    data["speculation"] |= changes
    assert "speculation.drafter ngram" in refusal(tmp_path, data)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("workload.context", 1 << 20),
        ("workload.batch_size", 64),
        ("workload.kv_dtype", "float16"),
        ("workload.kv_dtype", "int4"),
        ("workload.kv_dtype", "fp8_e4m3"),
        ("speculation.shape.num_speculative_tokens", 64),
        ("inputs.target.arch.num_hidden_layers", 400),
        ("ledger.items[0].bytes", 1),
    ],
    ids=str,
)
def test_a_ledger_of_another_question_is_noticed(path: str, value: Any, tmp_path: Path) -> None:
    """A plan edited by hand, or merged badly, must not pass ``check`` as fitting: its ledger no longer follows."""
    plan = tiny_plan(target=resolve_model("llama-68m"), draft=None, drafters=("none", "ngram"), alpha=0.8)
    assert check_plan(plan, None) == ()
    try:
        edited = load(tmp_path, changed(way(path), value, json.loads(planfile.dumps(plan))))
        findings = check_plan(edited, None)
    except InputError:
        return
    assert findings


def test_text_is_canonical() -> None:
    text = planfile.dumps(PLAN)
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    assert all(isinstance(item["bytes"], int) for item in DATA["ledger"]["items"])


def test_saving_writes_canonical_bytes(tmp_path: Path) -> None:
    planfile.save(PLAN, tmp_path / "plan.json")
    assert (tmp_path / "plan.json").read_bytes() == planfile.dumps(PLAN).encode()
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_an_odd_file_name_in_a_plan_is_saved_or_refused(tmp_path: Path) -> None:
    """A folder whose name is not UTF-8 reaches Python as a lone surrogate."""
    plan = tiny_plan(target=model_input(tiny_arch(), "/models/\udcff"))
    with suppress(SpecplanError):
        planfile.save(plan, tmp_path / "plan.json")
        assert planfile.load(tmp_path / "plan.json") == plan
        return
    assert list(tmp_path.iterdir()) == []


def test_writing_into_a_missing_folder_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="cannot write"):
        write_atomically(tmp_path / "missing" / "plan.json", "text")
    assert list(tmp_path.iterdir()) == []


def test_writing_below_a_file_leaves_it_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(EnvironmentProblem):
        write_atomically(tmp_path / "file" / "plan.json", "text")
    assert (tmp_path / "file").read_text() == "old"


def test_writing_onto_a_folder_leaves_it_alone(tmp_path: Path) -> None:
    (tmp_path / "plan.json").mkdir()
    with pytest.raises(EnvironmentProblem):
        write_atomically(tmp_path / "plan.json", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("old", [None, "old content"])
def test_a_write_that_fails_keeps_the_old_file(
    step: str, old: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "plan.json"
    if old is not None:
        path.write_text(old)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    owner: Any = os if step == "fsync" else Path
    monkeypatch.setattr(owner, step, full)
    with pytest.raises(EnvironmentProblem, match="No space left"):
        write_atomically(path, "new content")
    monkeypatch.undo()
    assert [entry.name for entry in tmp_path.iterdir()] == ([] if old is None else ["plan.json"])
    assert old is None or path.read_text() == old


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "plan.json", "text")
    assert list(tmp_path.iterdir()) == []


def test_writing_replaces_and_respects_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    old = os.umask(0o027)
    try:
        write_atomically(path, "first")
        write_atomically(path, "zweite Fassung: γ\n")
    finally:
        os.umask(old)
    assert path.read_bytes() == "zweite Fassung: γ\n".encode()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_device_is_never_replaced_by_a_file(tmp_path: Path) -> None:
    """``-o /dev/null`` as root must not rename a file over the device; a pipe stands for it here."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with suppress(SpecplanError):
            write_atomically(pipe, "text")
        assert stat.S_ISFIFO(pipe.lstat().st_mode)
    finally:
        os.close(reader)


def test_a_link_keeps_pointing(tmp_path: Path) -> None:
    (tmp_path / "plans").mkdir()
    target, link = tmp_path / "plans" / "real.json", tmp_path / "plan.json"
    target.write_text("old")
    link.symlink_to(target)
    write_atomically(link, "new")
    assert link.read_text() == "new"
    assert link.is_symlink()
    assert target.read_text() == "new"
