"""The prompts of bench.runtime and bench.batches: a JSONL file, or a few of each kind."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from specplan.errors import InputError
from specplan_runtime.calibration.answers import Question
from specplan_runtime.calibration.prompts import PROMPTS
from specplan_runtime.calibration.questions import UNNAMED
from specplan_runtime.session import read_prompts
from specplan_runtime.text import Tokenizer

#: An edit that repeats most of its text.
EDIT = (Path(__file__).parent.parent / "docs" / "demo-prompt.txt").read_text(encoding="utf-8")
#: Open texts, in which hardly anything can be looked up.
STORIES: tuple[tuple[str, str], ...] = (
    ("story", "Tell a story about a lighthouse keeper who finds a door at the bottom of the sea."),
    ("story", "Write the opening of a novel in which a clockmaker receives a letter from the future."),
)
BUILT_IN: tuple[tuple[str, str], ...] = (("edit", EDIT), *PROMPTS, *STORIES)


def questions(
    path: Path | None, tokenizer: Tokenizer, per_category: int, max_prompt_tokens: int, only: Collection[str] = ()
) -> list[Question]:
    """The first prompts of each category that are short enough.

    Args:
        path: a JSONL file whose lines have a ``prompt`` or ``turns``, of which the first is asked; None for ours.
        tokenizer: of the target.
        per_category: prompts of each.
        max_prompt_tokens: longer ones are passed over.
        only: categories, none for all.

    Raises:
        InputError: a file that cannot be read, or nothing left to ask.
    """
    texts = list(BUILT_IN) if path is None else [(kind or UNNAMED, text) for kind, text in read_prompts(path)]
    found: dict[str, list[Question]] = {}
    for category, text in texts:
        chosen = found.setdefault(category, [])
        if len(chosen) < per_category and (not only or category in only):
            tokens = tokenizer.encode_prompt(text, raw=False)
            if len(tokens) <= max_prompt_tokens:
                chosen.append(Question(category, tokens))
    asked = [question for chosen in found.values() for question in chosen]
    if not asked:
        raise InputError(f"{path or 'built-in prompts'}: none of these categories within {max_prompt_tokens} tokens")
    return asked
