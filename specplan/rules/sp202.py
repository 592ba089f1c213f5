"""SP202: tokenizers differ."""

from __future__ import annotations

import re
from collections.abc import Iterator

from specplan.models.vocabulary import vocabulary
from specplan.rules.finding import Finding
from specplan.rules.rule import Example, Rule
from specplan.rules.sp201 import maps_tokens, sizes_agree
from specplan.rules.subject import Subject

#: llama.cpp compares tokens from this id on and refuses the first difference (common/speculative.cpp).
_FIRST = 5
#: Up to this share of ids may mean others: base and chat models name reserved tokens differently.
_RENAMED = 0.01
_PADDING = re.compile(r"\[PAD\d+\]")


def check(subject: Subject) -> Iterator[Finding]:
    """Tokens of both models by id, where both vocabularies are here."""
    serving, draft = subject.serving, subject.draft
    if draft is None or maps_tokens(subject) or not sizes_agree(subject, draft):
        return
    ours, theirs = vocabulary(subject.target), vocabulary(draft)
    if ours is None or theirs is None:
        return
    strict = serving.engine == "llama.cpp"
    common = [number for number in ours.keys() & theirs.keys() if strict or not _padding(ours[number], theirs[number])]
    other = sorted(number for number in common if ours[number] != theirs[number])
    refused = strict and any(number >= _FIRST for number in other)
    if not other or (not refused and len(other) <= _RENAMED * len(common)):
        return
    first = next(number for number in other if number >= _FIRST or not refused)
    yield Finding(
        "SP202",
        "error" if refused else "warning",
        subject.location_of(serving.draft),
        f"{len(other)} of {len(common)} ids mean other tokens to {draft.reference} than to "
        f"{subject.target.reference}: id {first} is {theirs[first]!r} against {ours[first]!r}: "
        + ("llama.cpp refuses the draft" if refused else "what the draft proposes is not what it means"),
        "take a draft with the target's tokenizer",
        {"num_compared": len(common), "num_different": len(other)},
    )


def _padding(ours: str, theirs: str) -> bool:
    return bool(_PADDING.fullmatch(ours) or _PADDING.fullmatch(theirs))


RULE = Rule(
    "SP202",
    "Tokenizers differ",
    "warning",
    "Engines compare the sizes of vocabularies, and two tokenizers may have the same size: every proposal is then "
    "another word, nothing is accepted, and nothing fails. Tokens are compared id by id where both models are here as "
    "a folder with tokenizer.json or as a GGUF file; of bundled profiles and hub ids the vocabulary is not known, and "
    "the rule says nothing. One id in a hundred may differ: chat models name reserved tokens. llama.cpp refuses any "
    "difference, which is an error.",
    Example(
        "serve.sh",
        "vllm serve models/target --max-model-len 2048 --spec-method draft_model \\\n"
        "  --spec-model models/other-tokenizer --spec-tokens 3\n",
    ),
    Example(
        "serve.sh",
        "vllm serve models/target --max-model-len 2048 --spec-method draft_model \\\n"
        "  --spec-model models/same-tokenizer --spec-tokens 3\n",
    ),
    "Take a draft with the target's tokenizer.",
    check,
)
