"""What bench.runtime found, as lines of a table: medians and quartiles over rounds, ratios within rounds."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from tabulate import tabulate

from bench.answers import Answer, decode_tokens_per_s, mean_accepted_length, tokens_per_s
from bench.contenders import Side
from specplan.units import format_bytes

ALL = "all"


@dataclass(frozen=True, slots=True)
class Conditions:
    """What was compared and where.

    Attributes:
        models: names of files.
        dtype, draft_dtype: of target and draft on both sides.
        num_prompts: asked.
        tokens: most that an answer has.
        repeats: rounds.
        num_threads: that torch uses, of ``num_cpus``.
        torch, transformers: versions.
    """

    models: tuple[str, ...]
    dtype: str
    draft_dtype: str | None
    num_prompts: int
    tokens: int
    repeats: int
    num_threads: int
    num_cpus: int
    torch: str
    transformers: str


@dataclass(frozen=True, slots=True)
class Rounds:
    """The answers of one contender in one category, round by round.

    Attributes:
        category: of the prompts.
        side, method, numbers: who.
        peak_bytes: of generation, weights apart.
        answers: by round, then by prompt.
    """

    category: str
    side: Side
    method: str
    numbers: str
    peak_bytes: int
    answers: list[list[Answer]]


@dataclass(frozen=True, slots=True)
class Spread:
    """A median with its quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of one value at least."""
        low, median, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3
        return cls(median, low, high)

    def text(self, decimals: int, unit: str = "") -> str:
        """``3.1 (3.0 to 3.2)``."""
        return f"{self.median:.{decimals}f}{unit} ({self.low:.{decimals}f} to {self.high:.{decimals}f})"


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the table.

    Attributes:
        category: of the prompts, or all of them.
        side, method, numbers: who; in all categories together the numbers may differ between them.
        num_tokens: generated in a round.
        tokens_per_s: prefill included.
        decode_tokens_per_s: from the first step's tokens on; None where nothing came after them.
        accepted_length: tokens per step after the first, None as above.
        peak_bytes: of generation, weights apart.
        to_their_best: speed over that of transformers' fastest method, prefill included.
        decode_to_their_best: the same without prefill.
        to_our_plain: speed over that of our plain decoding, without prefill.
        same_tokens: prompts whose answer is that of transformers' plain generate, and prompts.
    """

    category: str
    side: Side
    method: str
    numbers: str
    num_tokens: int
    tokens_per_s: Spread
    decode_tokens_per_s: Spread | None
    accepted_length: float | None
    peak_bytes: int
    to_their_best: Spread
    decode_to_their_best: Spread | None
    to_our_plain: Spread | None
    same_tokens: tuple[int, int]


def lines_of(measured: Sequence[Rounds]) -> list[Line]:
    """Lines of every category, then of all together where there are several; there their best is that of each."""
    categories: dict[str, list[Rounds]] = {}
    for rounds in measured:
        categories.setdefault(rounds.category, []).append(rounds)
    best = {name: _their_best(found) for name, found in categories.items()}
    lines = [line for name, found in categories.items() for line in _compared(found, best[name])]
    if len(categories) > 1:
        families: dict[tuple[Side, str], list[Rounds]] = {}
        for rounds in measured:
            families.setdefault((rounds.side, rounds.method), []).append(rounds)
        lines += _compared([_joined(parts) for parts in families.values()], _joined(list(best.values())))
    return lines


def _their_best(measured: Sequence[Rounds]) -> Rounds:
    theirs = (rounds for rounds in measured if rounds.side == "transformers")
    return max(theirs, key=lambda rounds: statistics.median(map(tokens_per_s, rounds.answers)))


def _joined(parts: Sequence[Rounds]) -> Rounds:
    """Several categories as one, each with the numbers that are fastest there."""
    answers = [[a for answers in round_ for a in answers] for round_ in zip(*(p.answers for p in parts), strict=True)]
    numbers = ", ".join(dict.fromkeys(part.numbers for part in parts))
    return Rounds(ALL, parts[0].side, parts[0].method, numbers, max(part.peak_bytes for part in parts), answers)


def _compared(measured: Sequence[Rounds], best: Rounds) -> list[Line]:
    """The lines of one category beside transformers' best there."""
    by_name = {(rounds.side, rounds.method): rounds for rounds in measured}
    reference, plain = by_name["transformers", "plain"].answers[0], by_name["specplan", "plain"]
    return [_line(rounds, best, plain, reference) for rounds in measured]


def _line(rounds: Rounds, best: Rounds, plain: Rounds, reference: list[Answer]) -> Line:
    first = rounds.answers[0]
    return Line(
        rounds.category, rounds.side, rounds.method, rounds.numbers,
        sum(len(answer.tokens) for answer in first),
        Spread.of([tokens_per_s(answers) for answers in rounds.answers]),
        _spread([decode_tokens_per_s(answers) for answers in rounds.answers]),
        mean_accepted_length(first),
        rounds.peak_bytes,
        Spread.of([
            tokens_per_s(own) / tokens_per_s(other) for own, other in zip(rounds.answers, best.answers, strict=True)
        ]),
        _decode_ratio(rounds, best),
        _decode_ratio(rounds, plain),
        (sum(own.tokens == other.tokens for own, other in zip(first, reference, strict=True)), len(first)),
    )  # fmt: skip


def _decode_ratio(rounds: Rounds, other: Rounds) -> Spread | None:
    """Ratios of decoding speeds, round by round."""
    pairs = [tuple(map(decode_tokens_per_s, pair)) for pair in zip(rounds.answers, other.answers, strict=True)]
    return _spread([None if own is None or base is None else own / base for own, base in pairs])


def _spread(values: Sequence[float | None]) -> Spread | None:
    known = [value for value in values if value is not None]
    return Spread.of(known) if known else None


_HEADERS = (
    "prompts", "who", "how", "tokens/s", "decoding", "accepted length", "peak bytes", "to their best",
    "decoding, to their best", "decoding, to our plain", "same tokens",
)  # fmt: skip


def to_table(where: Conditions, lines: Sequence[Line]) -> str:
    """A heading and a table."""

    def text(spread: Spread | None, decimals: int, unit: str = "") -> str:
        return "" if spread is None else spread.text(decimals, unit)

    rows = [
        [
            line.category, line.side, f"{line.method} {line.numbers}".strip(), line.tokens_per_s.text(1),
            text(line.decode_tokens_per_s, 1), "" if line.accepted_length is None else f"{line.accepted_length:.2f}",
            format_bytes(line.peak_bytes), line.to_their_best.text(2, "x"), text(line.decode_to_their_best, 2, "x"),
            text(line.to_our_plain, 2, "x"), "{} of {}".format(*line.same_tokens),
        ]
        for line in lines
    ]  # fmt: skip
    draft = f", draft in {where.draft_dtype}" if where.draft_dtype else ""
    heading = (
        f"{', '.join(where.models)}, {where.dtype}{draft}; {where.num_prompts} prompts, at most {where.tokens} tokens "
        f"each; medians and quartiles of {where.repeats} rounds; {where.num_threads} threads of {where.num_cpus} CPUs, "
        f"torch {where.torch}, transformers {where.transformers}"
    )
    return f"{heading}\n\n{tabulate(rows, _HEADERS, 'github', disable_numparse=True)}"


def to_json(where: Conditions, lines: Sequence[Line]) -> str:
    """The same figures, unrounded."""
    data = {"conditions": dataclasses.asdict(where), "lines": [dataclasses.asdict(line) for line in lines]}
    return json.dumps(data, indent=2, ensure_ascii=False)
