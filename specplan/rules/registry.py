"""All rules by code."""

from __future__ import annotations

import importlib
from functools import cache

from specplan.errors import InputError
from specplan.rules.rule import Rule

CODES = (
    "SP101",
    "SP102",
    "SP103",
    "SP104",
    "SP105",
    "SP106",
    "SP107",
    "SP108",
    "SP201",
    "SP202",
    "SP203",
    "SP204",
    "SP205",
    "SP206",
    "SP207",
    "SP208",
    "SP301",
    "SP302",
    "SP303",
    "SP304",
    "SP401",
    "SP402",
    "SP403",
)


@cache
def rules() -> dict[str, Rule]:
    """Every rule, in the order of codes."""
    return {code: importlib.import_module(f"specplan.rules.{code.lower()}").RULE for code in CODES}


def find_rule(code: str) -> Rule:
    """The rule with a code, in any case.

    Raises:
        InputError: no such rule.
    """
    rule = rules().get(code.strip().upper())
    if rule is None:
        raise InputError(f"no rule {code!r}: one of {', '.join(CODES)}")
    return rule


def selected(select: tuple[str, ...], ignore: tuple[str, ...]) -> tuple[Rule, ...]:
    """Rules whose codes begin with one of ``select`` (all when empty) and with none of ``ignore``.

    Raises:
        InputError: a beginning that no code has.
    """
    for beginning in (*select, *ignore):
        if not beginning or not any(code.startswith(beginning.upper()) for code in CODES):
            raise InputError(f"no rule begins with {beginning!r}: the rules are {', '.join(CODES)}")
    wanted = tuple(beginning.upper() for beginning in select) or ("SP",)
    unwanted = tuple(beginning.upper() for beginning in ignore)
    return tuple(
        rule
        for code, rule in rules().items()
        if code.startswith(wanted) and not (unwanted and code.startswith(unwanted))
    )
