"""What em_choice says of an audit's conditions, in a sentence. It decides nothing."""

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from steering.reports.choices import nats_text, number_text
from steering.studies.audit_rule import AuditArm


def choice_notes(conditions: pd.DataFrame, arms: Mapping[str, AuditArm]) -> list[str]:
    """Shift and damage at each magnitude, beside those of the random directions.

    Args:
        conditions: As `choice_conditions_of` gives them; none give no note.
        arms: What their labels stand for.
    """
    rows = [row for row in conditions.to_dict("records") if row["label"] in arms]
    vectors = sorted(
        (row for row in rows if arms[row["label"]].role == "vector"),
        key=lambda row: arms[row["label"]].factor,
    )
    controls = [row for row in rows if arms[row["label"]].role == "control"]
    if not vectors:
        return []
    parts = [
        f"[{row['label']}] {nats_text(row, 'shift')}, KL {number_text(row['kl'], '.2f')}, "
        f"cross-entropy {number_text(row['cross_entropy_rise'], '+.2f')}"
        for row in vectors
    ]
    beside = "no random direction was asked"
    if controls:
        count = len(controls)
        which = "a random direction" if count == 1 else f"{count} random directions"
        beside = (
            f"{which} of the same length at the working magnitude: "
            f"{_range(controls, 'shift', '+.2f')}, KL {_range(controls, 'kl', '.2f')}"
        )
    head = (
        f"Without a judge ({vectors[0]['questions']}, {vectors[0]['num_pairs']} pairs), the shift "
        "of the log odds of misaligned answers and the damage to neutral ones, nats a token"
    )
    return [f"{head}: {'; '.join([*parts, beside])}; this decides nothing"]


def _range(rows: Sequence[Mapping[str, float]], name: str, form: str) -> str:
    values = [row[name] for row in rows if not math.isnan(row[name])]
    if not values:
        return "none"
    low, high = (number_text(edge(values), form) for edge in (min, max))
    return low if len(values) == 1 else f"{low} to {high}"
