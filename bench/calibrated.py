"""Predicted against measured tokens per second after ``specplan calibrate``, configuration by configuration.

    python -m bench.calibrated --model FILE.gguf [--draft FILE.gguf] [--gammas 1,2,4,6] [--repeats 3]

Calibrates into a folder of its own, asks the planner about every configuration, then runs them in turns on the same
prompts. The bar: the median of |predicted / measured - 1| is at most 10 %, and the configuration that the planner takes
is within 3 % of the fastest measured one. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from specplan.formulas.memory import MemoryModel
from specplan.plan import Plan
from specplan.planner.analyze import analyze
from specplan.planner.ask import ask
from specplan.planner.question import SearchSpace
from specplan.speculation import Chain, Drafter
from specplan.user_profiles import FOLDER_VARIABLE
from specplan_runtime import Engine
from specplan_runtime.calibration.prompts import PROMPTS
from specplan_runtime.drafters.base import NoDrafter
from specplan_runtime.drafters.ngram import NgramDrafter
from specplan_runtime.text import Tokenizer

#: Passes that are measured; the context of the engines.
ROWS, CONTEXT = "1,2,3,4,5,6,7,8,9,12,16,17", 512


@dataclass(frozen=True, slots=True)
class Configuration:
    """A drafter and its chain."""

    drafter: Drafter
    gamma: int


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--draft")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--gammas", default="1,2,3,4,5,6", help="chain lengths of the draft model, or of ngram without")
    parser.add_argument("--early-exit", default="", help="chain lengths of early exit")
    parser.add_argument("--ngram", default="", help="chain lengths of ngram beside a draft model")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--calibration-repeats", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--prompts", type=int, default=len(PROMPTS), help="how many of the built-in questions")
    parser.add_argument("--profiles", type=Path, help="keep the profiles here, and calibrate only if there are none")
    return parser.parse_args()


def configurations(options: argparse.Namespace) -> list[Configuration]:
    """Plain decoding, and the chains that were asked for."""
    drafter: Drafter = "draft_model" if options.draft else "ngram"
    found = [Configuration("none", 0), *(Configuration(drafter, g) for g in _numbers(options.gammas))]
    found += [Configuration("early_exit", g) for g in _numbers(options.early_exit)]
    if options.draft:
        found += [Configuration("ngram", g) for g in _numbers(options.ngram)]
    return found


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


def calibrate(options: argparse.Namespace, folder: Path) -> None:
    """Run ``specplan calibrate`` on the prompts of the comparison; profiles go to the user's folder."""
    prompts = folder / "prompts.jsonl"
    lines = (json.dumps({"category": kind, "prompt": text}) for kind, text in PROMPTS[: options.prompts])
    prompts.write_text("\n".join(lines))
    command = [sys.executable, "-m", "specplan", "calibrate", "--model", options.model, "--dtype", options.dtype]
    command += ["--draft", options.draft, "--draft-dtype", options.dtype] if options.draft else []
    command += ["--context", str(CONTEXT), "--rows", ROWS, "--max-new-tokens", str(options.tokens)]
    command += ["--prompts", str(prompts), "--repeats", str(options.calibration_repeats)]
    print(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def plan_of(options: argparse.Namespace, configuration: Configuration, **lengths: Any) -> Plan:
    """The planner's plan for one configuration: nothing but its chain is searched."""
    drafter, gamma = configuration.drafter, configuration.gamma
    draft = options.draft if drafter == "draft_model" else None
    layers: dict[str, Any] = {}
    if drafter == "early_exit":  # the depth that calibrate measures
        depth = ask(model=options.model, gpu="local").inputs.target.arch.num_hidden_layers
        layers = {"num_exit_layers": depth // 2}
    question = ask(
        model=options.model, draft=draft, gpu="local", drafter=drafter, dtype=options.dtype,
        num_speculative_tokens=gamma or None, draft_dtype=options.dtype if draft else "auto", **layers, **lengths,
    )  # fmt: skip
    # nothing but the chain: caches, windows and places of the draft stay as they were calibrated
    plain = SearchSpace(num_exit_layers=question.space.num_exit_layers)
    plan = analyze(dataclasses.replace(question, space=plain))
    assert isinstance(plan, Plan), "the models do not fit this machine"
    return plan


def engine_of(options: argparse.Namespace, widest: Configuration) -> Engine:
    """An engine that holds the longest chain of a drafter; shorter ones run in the same memory."""
    plan = plan_of(options, widest, context=CONTEXT)
    speculation = dataclasses.replace(plan.speculation, logits_rows=max(2, widest.gamma + 1))
    plan = dataclasses.replace(plan, speculation=speculation)
    engine = Engine(dataclasses.replace(plan, ledger=MemoryModel(plan.scenario).ledger()))
    engine.stop_at(Tokenizer(plan.inputs.target).eos_token_ids())
    return engine


def tokens_per_s(engine: Engine, configuration: Configuration, prompts: list[list[int]], tokens: int) -> float:
    """Measured speed of one configuration over all prompts, in the memory of an engine that holds the longest chain."""
    speculation = dataclasses.replace(engine.plan.speculation, shape=Chain(configuration.gamma))
    engine.plan = dataclasses.replace(engine.plan, speculation=speculation)
    known = {"none": NoDrafter(), "ngram": NgramDrafter(1)}
    engine.drafter = known.get(configuration.drafter, engine.assembly.drafter)
    engine.reset_counters()
    for prompt in prompts:
        engine.generate(prompt, tokens)
    return engine.timings.tokens_per_s or 0.0


def measure(options: argparse.Namespace, wanted: list[Configuration], prompts: list[list[int]]) -> list[float]:
    """Medians of tokens/s, all configurations in turns; early exit has an engine of its own."""
    engines: dict[bool, Engine] = {}
    for early in (False, True):
        own = [c for c in wanted if (c.drafter == "early_exit") == early and c.gamma]
        if own:
            engines[early] = engine_of(options, max(own, key=lambda c: (c.drafter == "draft_model", c.gamma)))
    speeds: list[list[float]] = [[] for _ in wanted]
    for repeat in range(options.repeats):
        for configuration, found in zip(wanted, speeds, strict=True):
            engine = engines[configuration.drafter == "early_exit"]
            found.append(tokens_per_s(engine, configuration, prompts, options.tokens))
        print(f"round {repeat + 1} of {options.repeats}", file=sys.stderr)
    return [statistics.median(found) for found in speeds]


def predict(options: argparse.Namespace, wanted: list[Configuration], prompts: list[list[int]]) -> Iterator[float]:
    """What the planner says at the mean length of the prompts."""
    lengths = {"prompt_tokens": round(statistics.mean(map(len, prompts))), "new_tokens": options.tokens}
    for configuration in wanted:
        yield plan_of(options, configuration, **lengths).estimate.tokens_per_s.value


def picked(wanted: list[Configuration], speeds: list[float], among: Callable[[Configuration], bool]) -> int:
    """The fastest configuration by ``speeds`` among some: its index."""
    chosen = [index for index, configuration in enumerate(wanted) if among(configuration)]
    return max(chosen, key=lambda index: speeds[index])


def report(wanted: list[Configuration], predicted: list[float], measured: list[float]) -> None:
    """Print predicted beside measured speeds, how far they are apart, and what the planner takes of each drafter."""
    rows = [
        [c.drafter, c.gamma, f"{p:.2f}", f"{m:.2f}", f"{p / m:.3f}"]
        for c, p, m in zip(wanted, predicted, measured, strict=True)
    ]
    print(tabulate(rows, ["drafter", "γ", "predicted tokens/s", "measured tokens/s", "ratio"], disable_numparse=True))
    apart = [abs(p / m - 1) for p, m in zip(predicted, measured, strict=True)]
    print(f"apart: median {100 * statistics.median(apart):.1f} %, at most {100 * max(apart):.1f} % "
          f"({len(apart)} configurations)")  # fmt: skip
    for drafter in dict.fromkeys(c.drafter for c in wanted if c.gamma):

        def among(c: Configuration, drafter: Drafter = drafter) -> bool:
            return c.drafter in ("none", drafter)

        ours, best = picked(wanted, predicted, among), picked(wanted, measured, among)
        print(f"{drafter}: γ {wanted[ours].gamma} picked, γ {wanted[best].gamma} fastest: "
              f"{100 * measured[ours] / measured[best]:.1f} % of its speed")  # fmt: skip


def main() -> None:
    """Calibrate unless profiles are given, predict, measure, report."""
    options = arguments()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.profiles or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        os.environ[FOLDER_VARIABLE] = str(folder)
        if not (folder / "step-times").is_dir():
            calibrate(options, folder)
        wanted = configurations(options)
        target = ask(model=options.model, gpu="local").inputs.target
        tokenizer = Tokenizer(target)
        prompts = [tokenizer.encode_prompt(text, raw=False) for _, text in PROMPTS[: options.prompts]]
        predicted = list(predict(options, wanted, prompts))
        report(wanted, predicted, measure(options, wanted, prompts))


if __name__ == "__main__":
    main()
