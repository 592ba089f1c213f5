"""A verification for people and for machines."""

from __future__ import annotations

from typing import Any

from tabulate import tabulate

from specplan.output.ranks import rank_names
from specplan.units import format_exact_bytes
from specplan_runtime.verification import Proof, Verification


def to_text(verification: Verification) -> str:
    """Formula against trace, line by line, and the verdict."""
    rows = [_row(proof) for proof in verification.proofs]
    headers = ["", "formula, bytes", "trace, bytes", "difference", "traced as"]
    columns = ["left", "right", "right", "right", "left"]
    if verification.plan.spread is not None:
        rows = [[rank_names(proof.ranks), *row] for proof, row in zip(verification.proofs, rows, strict=True)]
        headers, columns = ["ranks", *headers], ["left", *columns]
    table = tabulate(rows, headers, "simple", colalign=columns, disable_numparse=True)
    if verification.holds:
        verdict = f"formula = trace on all {len(rows)} lines: 0 bytes difference"
    else:
        worst = max(verification.proofs, key=lambda proof: abs(proof.difference))
        where = f"{worst.subject} of {rank_names(worst.ranks)}" if worst.ranks else worst.subject
        verdict = f"formula and trace differ, most on {where}: {worst.difference:+d} bytes"
    return f"{table}\n\n{verdict}\n"


def _row(proof: Proof) -> list[str]:
    return [
        proof.subject,
        format_exact_bytes(proof.formula_bytes),
        format_exact_bytes(proof.traced_bytes),
        f"{proof.difference:+d}" if proof.difference else "0",
        proof.method,
    ]


def to_data(verification: Verification) -> dict[str, Any]:
    """The content of the JSON answer."""
    return {
        "forward": verification.plan.forward,
        "holds": verification.holds,
        "lines": [
            {
                "subject": proof.subject,
                "ranks": list(proof.ranks),
                "formula_bytes": proof.formula_bytes,
                "traced_bytes": proof.traced_bytes,
                "difference_bytes": proof.difference,
                "method": proof.method,
            }
            for proof in verification.proofs
        ],
    }
