"""What a training is about, its folder, and its first stage: the text."""

from __future__ import annotations

import gc
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from specplan.atomic import write_atomically
from specplan.dtypes import FLOAT_BYTES
from specplan.errors import BudgetError, EnvironmentProblem, InputError, UnsupportedError
from specplan.json_input import read_json
from specplan.models.medusa import ACCEPTANCE_NAME, CONFIG_NAME, FILE_NAMES
from specplan.plan import Infeasible, ModelInput, Plan
from specplan.planner.analyze import analyze
from specplan.planner.ask import ask
from specplan.strict import canonical, decode, encode
from specplan_runtime.budget import torch_device
from specplan_runtime.engine import Engine
from specplan_runtime.sampling import SamplingParams
from specplan_runtime.session import read_prompts
from specplan_runtime.text import Tokenizer
from specplan_runtime.training.feature_shards import feature_shard_of, save_feature_shard
from specplan_runtime.training.memory import shard_bytes, tile_rows_within
from specplan_runtime.training.options import Told, TrainOptions
from specplan_runtime.training.shards import load_shard, save_shard, shard_of, shard_path
from specplan_runtime.training.text import ANSWERING, SHARD_ANSWERS, Prompts, generate_answers

#: Answers that are generated at once, as many of these as the budget holds.
_BATCHES = (64, 32, 16, 8, 4, 2, 1)
_MAX_OPTIONS_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Identity:
    """What must be the same when a training is resumed.

    Attributes:
        target_sha256: ``config_sha256`` of the target.
        dtype: that it computes in.
        prompts_sha256: of the file of prompts, None where the target asks itself.
        options: of the training.
    """

    target_sha256: str
    dtype: str
    prompts_sha256: str | None
    options: TrainOptions


@dataclass(frozen=True, slots=True)
class Setting:
    """A training.

    Attributes:
        target: the model, a folder or a GGUF file.
        folder: where the heads go.
        options: what decides the result.
        prompts: JSONL of a user's prompts, None where the target asks itself.
        dtype: weights of the target while it generates.
        budget_bytes: that the process may use.
        plan: of generation, one sequence at a time.
    """

    target: ModelInput
    folder: Path
    options: TrainOptions
    prompts: Path | None
    dtype: str
    budget_bytes: int
    plan: Plan

    @property
    def process_bytes(self) -> int:
        """What the process takes beside tensors."""
        return sum(item.bytes for item in self.plan.ledger.items if item.owner == "system" and item.phase == "resident")

    @property
    def device(self) -> torch.device:
        """Where the training happens."""
        return torch_device(self.plan)

    @property
    def work(self) -> Path:
        """Text and checkpoint."""
        return self.folder / "training"

    @property
    def state_path(self) -> Path:
        """The checkpoint."""
        return self.work / "state.safetensors"

    @property
    def identity(self) -> Identity:
        """What a resumed training must share.

        Raises:
            InputError: prompts that cannot be read.
        """
        sha256 = None
        if self.prompts is not None:
            try:
                sha256 = hashlib.sha256(self.prompts.read_bytes()).hexdigest()
            except OSError as error:
                raise InputError(f"{self.prompts}: cannot read prompts: {error.strerror or error}") from None
        return Identity(self.target.config_sha256, self.dtype, sha256, self.options)


def setting_of(
    model: str, folder: Path, options: TrainOptions, prompts: Path | None, dtype: str, budget: int | None
) -> Setting:
    """Resolve the model and plan its plain decoding.

    Raises:
        InputError: a model without weights, or options that make no sense.
        UnsupportedError: a model that the runtime does not run in floats.
        BudgetError: the target does not even decode within the budget.
    """
    SamplingParams(temperature=options.temperature)  # refuses what it cannot be
    plan = _plan(model, dtype, 64, 1, budget)
    if plan.workload.dtype not in FLOAT_BYTES:
        raise UnsupportedError(f"--dtype {plan.workload.dtype}: heads are trained on hidden states in floats")
    if plan.inputs.target.kind not in ("folder", "gguf"):
        kind = plan.inputs.target.kind
        raise InputError(f"--model {model}: a {kind} has no weights here: give a folder or a .gguf file")
    return Setting(plan.inputs.target, folder, options, prompts, plan.workload.dtype, plan.inputs.budget_bytes, plan)


def prepare(setting: Setting, resume: bool) -> None:
    """Make the folder, or find the training that is to be resumed.

    Raises:
        BudgetError: the budget is too small to train.
        InputError: a folder in use without ``resume``, another training in it, or prompts that cannot be read.
        EnvironmentProblem: the folder cannot be made.
    """
    path = setting.work / "options.json"
    if path.is_file():
        if not resume:
            raise InputError(f"{setting.folder}: holds a training already: give --resume, or another folder")
        before = decode(Identity, read_json(path, "training", _MAX_OPTIONS_BYTES), str(path))
        if before != setting.identity:
            differing = _differing(encode(before), encode(setting.identity))
            raise InputError(f"--resume: {', '.join(differing)} differ from the training in {setting.folder}")
        return
    for name in (CONFIG_NAME, *FILE_NAMES, ACCEPTANCE_NAME):
        if (setting.folder / name).exists():
            raise InputError(f"{setting.folder}: holds a {name} of something else: give another folder")
    # what would end the training is said before there is a folder of it, which would have to be removed
    tile_rows_within(setting.target.arch, setting.options, setting.budget_bytes, setting.process_bytes)
    if setting.prompts is not None:
        read_prompts(setting.prompts)
    identity = canonical(encode(setting.identity))
    try:
        setting.work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentProblem(f"cannot make {setting.work}: {error.strerror or error}") from error
    write_atomically(path, identity)


def _differing(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    flat = [{**each, **each["options"]} for each in (before, now)]
    return [key for key in flat[1] if key != "options" and flat[0][key] != flat[1][key]]


def generate(setting: Setting, told: Told) -> list[Path]:
    """Generate the shards that are missing; returns all of them."""
    options, arch = setting.options, setting.target.arch
    tokenizer = Tokenizer(setting.target)
    prompts = Prompts(tokenizer, setting.prompts, options)
    paths: list[Path] = []
    total, engine = 0, None
    most = prompts.num_shards()
    while total < options.num_tokens and (most is None or len(paths) < most):
        path = shard_path(setting.work, len(paths))
        if not path.is_file():
            engine = engine or _engine(setting, prompts.longest + options.new_tokens, tokenizer)
            aside = _within(told, total, options)
            recorded = generate_answers(engine, prompts, len(paths), options, aside)
            if options.kind == "eagle3":
                save_feature_shard(feature_shard_of(recorded), path)
            else:
                save_shard(shard_of(recorded), path)
            del recorded
        total += load_shard(path, arch.hidden_size, arch.vocab_size).num_tokens
        paths.append(path)
        told("text", min(1.0, total / options.num_tokens))
    del engine
    gc.collect()  # the arena goes before training begins
    return paths


def _within(told: Told, done_tokens: int, options: TrainOptions) -> Told:
    """Progress of one shard as progress of the whole text."""
    share = SHARD_ANSWERS * options.new_tokens

    def tell(what: str, done: float) -> None:
        tokens = done_tokens + (done * share if what == ANSWERING else 0)
        told(f"{what}, text", min(0.999, tokens / options.num_tokens))

    return tell


def _engine(setting: Setting, context: int, tokenizer: Tokenizer) -> Engine:
    """The target, with as many sequences at once as fit beside the text that they give."""
    beside = shard_bytes(setting.target.arch, setting.options) if setting.device.type == "cpu" else 0
    for batch in _BATCHES:
        try:
            plan = _plan(setting.target.reference, setting.dtype, context, batch, setting.budget_bytes - beside)
            break
        except BudgetError:
            if batch == _BATCHES[-1]:
                raise
    engine = Engine(plan)
    engine.stop_at(tokenizer.eos_token_ids())
    return engine


def _plan(model: str, dtype: str, context: int, batch: int, budget: int | None) -> Plan:
    if budget is not None and budget < 1:
        raise BudgetError(f"--budget {budget}: leaves nothing for the target")
    asked = ask(
        model=model, gpu="local", drafter="none", context=context, batch_size=batch, dtype=dtype, budget=budget,
        turns=1, prompt_tokens=max(1, context // 2),
    )  # fmt: skip
    found = analyze(asked)
    if isinstance(found, Infeasible):
        raise BudgetError(f"generating text: {found.reasons[0]}")
    if found.forward != "specplan":
        raise UnsupportedError(f"the runtime does not run this target: {'; '.join(found.notes)}")
    return found
