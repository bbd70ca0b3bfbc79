"""Plain rows, and the columns of the frames of contexts: a row a condition and context.

A difference pairs the themes that both sides have; their other columns are those of the frames of
conditions.
"""

from typing import Any

import pandas as pd
import pandera.pandas as pa

from steering.judging import EM_RULES
from steering.questions.contexts import CONTEXT, PLAIN
from steering.results.columns import NATS, SHARE
from steering.results.schema import (
    ANSWER_SCHEMA,
    CHOICE_CONDITION_SCHEMA,
    CONDITION_SCHEMA,
    KEYS,
)


def plain_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of questions as they stand, which a condition's own figures are counted from."""
    return frame[frame[CONTEXT] == PLAIN]


_ENDS = ("", "_low", "_high")


def _of(schema: pa.DataFrameSchema, *names: str) -> dict[str, Any]:
    return {name: schema.columns[name] for name in names}


def _bounded(*names: str) -> list[str]:
    return [f"{name}{end}" for name in names for end in _ENDS]


def _difference(name: str, meaning: str, unit: str) -> dict[str, pa.Column]:
    meanings = {
        "": meaning,
        "_low": f"lower bound of `{name}`, 95%, on questions like these",
        "_high": f"upper bound of `{name}`, 95%, on questions like these",
        "_p": f"p-value of `{name}`, two-sided, by flipping the signs of themes",
    }
    units = {"_p": SHARE}
    return {
        f"{name}{end}": pa.Column(
            float, nullable=True, description=text, metadata={"unit": units.get(end, unit)}
        )
        for end, text in meanings.items()
    }


_NAMED = [*KEYS, "arm", "label", "contexts"]
CONTEXT_SCHEMA = pa.DataFrameSchema(
    {
        **_of(CONDITION_SCHEMA, *_NAMED),
        **_of(ANSWER_SCHEMA, "context"),
        **_of(CONDITION_SCHEMA, "n", "num_questions", "num_themes"),
        **_of(CONDITION_SCHEMA, *_bounded(*(f"em_{rule}" for rule in EM_RULES))),
        **{
            name: column
            for rule in EM_RULES
            for name, column in (
                _difference(
                    f"em_{rule}_to_plain", f"`em_{rule}` less that of the plain questions", SHARE
                )
                | _difference(
                    f"em_{rule}_to_baseline",
                    f"`em_{rule}` less that of the baseline in the same context",
                    SHARE,
                )
            ).items()
        },
        **_of(CONDITION_SCHEMA, *_bounded("aligned", "coherent"), "coherent_share"),
        **_of(CONDITION_SCHEMA, "refusal_share", "code_share", "unscored_share"),
    },
    strict=True,
    name="contexts",
)
CHOICE_CONTEXT_SCHEMA = pa.DataFrameSchema(
    {
        **_of(CHOICE_CONDITION_SCHEMA, *_NAMED),
        **_of(ANSWER_SCHEMA, "context"),
        **_of(CHOICE_CONDITION_SCHEMA, "choice_form", "num_pairs"),
        **_of(CHOICE_CONDITION_SCHEMA, *_bounded("prefers_misaligned", "log_odds", "shift")),
        **_of(CHOICE_CONDITION_SCHEMA, "shift_p"),
        **_difference(
            "prefers_misaligned_to_plain",
            "`prefers_misaligned` less that of the plain prompts",
            SHARE,
        ),
        **_difference("log_odds_to_plain", "`log_odds` less that of the plain prompts", NATS),
        **_difference("shift_to_plain", "`shift` less that of the plain prompts", NATS),
    },
    strict=True,
    name="choice_contexts",
)
