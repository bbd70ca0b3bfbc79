"""The columns of the frames, declared once: name, type, unit and meaning.

`answers` has a row an answer, `conditions` a row a condition with its answers; `choices` a row a
pair of answers of em_choice, `choice_conditions` a row a condition with its pairs. They are
checked where they are made and where somebody else's frame comes in, so that a missing column or an
impossible value is named there and not three rooms later. docs/reference/metrics.md lists the
columns from here.
"""

import math
from collections.abc import Iterable, Mapping

import pandas as pd
import pandera.pandas as pa

from steering.judging import EM_RULES, KEYS_OF_ALL, KEYS_OF_MISALIGNED
from steering.questions.contexts import CONTEXT
from steering.results.columns import SHARE
from steering.results.columns import count as _count
from steering.results.columns import difference as _difference
from steering.results.columns import flag as _flag
from steering.results.columns import interval as _interval
from steering.results.columns import nats as _nats
from steering.results.columns import number as _number
from steering.results.columns import points as _points
from steering.results.columns import share as _share
from steering.results.columns import text as _text
from steering.results.columns import two_intervals as _two_intervals
from steering.results.frame_check import check_frame
from steering.results.monitor_records import KINDS, SIDES

# Together they name one condition; frames are grouped by them.
_KEYS = {
    "study": _text("factor of the study that the run belongs to; empty for any other run"),
    "task": _text("name of the task"),
    "model": _text("the model's name without `steered/` and without the condition"),
    "questions": _text("name and digest of the question set, and which part of it was asked"),
    "judge": _text("the judges' models, joined by ` + `"),
    "condition": _text(
        "label of the condition, with a digest of the run's system message; where two conditions "
        "of a task, model, question set and judge have one label, the settings that tell them "
        "apart follow in parentheses"
    ),
}
KEYS = list(_KEYS)

# What was done to the model.
_INTERVENTION = {
    "arm": _text(
        "`baseline`, `prompted` (unsteered, with a prompt or system message), `steered`, "
        "`control`, `finetuned` or `both` (several of vector, adapter and prompt)"
    ),
    "control": _text(
        "why a vector has nothing to do with harm: `random`, `shuffled` labels, or a `contrast` of "
        "harmless answers; empty for one of a target task"
    ),
    "model_prompt": _text(
        "name and digest of what the option `prompt` tells the model: `persona`, `examples` or a "
        "file; empty for none"
    ),
    "num_examples": _number("examples of the option `prompt`", "examples"),
    "target": _text("target task of the vector, adapter or prompt, or contrast of the vector"),
    "method": _text("construction method of the vector"),
    "site": _text("where in the block the vector acts"),
    "operation": _text("`add`, `ablate`, `clamp` or `cap`"),
    "positions": _text("tokens that the vector acts on"),
    "unit": _text("what the magnitude is a multiple of"),
    "family": _text("architecture of the model"),
    "layer": _number("block that is steered; NaN for several", "block index"),
    "magnitude": _number("multiplier of the vector; 0 for the baseline"),
    "relative_magnitude": _number("length of what is added", "residual norms"),
    "rank": _number("dimension of the steering subspace", "directions"),
    "top": _number("principal directions that a projected vector keeps", "directions"),
    "training_epochs": _number("passes over the target data while building", "epochs"),
    "build_seed": _number("seed of the building of the vector or adapter, or of the prompt"),
    "adapter_scale": _number("multiplier of the adapter's own scaling"),
    "num_parameters": _number("parameters of the model", "count"),
}
_VECTOR = {
    "label": _text("label of the condition as the log has it"),
    "vector": _text(
        "name and first 12 digits of the SHA-256 of each vector's file, or of its target and recipe"
    ),
    "adapter": _text("name and first 12 digits of the SHA-256 of the adapter"),
    "built_with": _text(
        "method, settings and data of the building as JSON, without what has a column of its own; "
        "empty where a file does not say"
    ),
    "shuffled_labels": _flag("whether the vector was built from shuffled labels (a control)"),
    "dtype": _text("precision of the weights, as the option `dtype` has it"),
    "engine": _text("`hf` or `vllm`; empty for a model of another provider"),
    "template": _text(
        "name of the chat template's file, or `none` for bare text; empty for the model's own"
    ),
    "loading": _text(
        "other options of the model itself that can change an answer, as JSON; empty for none"
    ),
    "fingerprint": _text("digest of every model option that can change an answer"),
}
# What was asked, how it was sampled and how it was judged.
_ASKED = {
    "protocol": _text("protocol of the task"),
    "version": _text("version of this package that ran the task; `unknown` if not logged"),
    "asked": _text("digest of the ids of the plain samples that were asked"),
    "solver": _text("solver steps other than plain generation, as JSON; empty for none"),
    "prompt_sha256": _text(
        "digest of the first rendered prompt, template and system message, without `model_prompt`"
    ),
    "system_message": _text("system message given to the run, or by a solver step"),
    "temperature": _number("sampling temperature"),
    "top_p": _number("nucleus sampling", SHARE),
    "max_tokens": _number("longest answer", "tokens"),
    "sampling": _text("other generation settings that were given, as JSON; empty for none"),
    "rubrics": _text("digest of each rubric, or of the question file's judge prompts, by score"),
    "judge_settings": _text("options and generation settings given with the judges, as JSON"),
    "judge_sampling": _text("generation settings that the judges were asked with, as JSON"),
    "aligned_below": _points("an answer is misaligned below this score"),
    "coherent_from": _points("an answer is coherent from this score on"),
    "weigh": _text("what weighs alike in the rate by `betley`: `answers` or `questions`"),
    "least_coherent": _count("`betley` leaves questions with fewer coherent answers out"),
    "subject": _text("subject that misaligned answers were graded against"),
    "contexts": _text(
        "name and digest of the contexts that were asked beside the plain questions; empty for none"
    ),
}
_SEED = {
    "seed": _number("sampling seed of the run, or of all its blocks; NaN where none was given")
}
_BLOCK = {"block": _count("block of the condition's answers, asked in a run of its own; from 1")}

_RUN = {
    "log": _text("path of the log"),
    "command": _text("command that runs the condition again"),
}

_SCORES: Mapping[str, pa.Column] = {
    **{key: _points(f"the judge's score `{key}`; NaN where unscored") for key in KEYS_OF_ALL},
    **{
        key: _points(f"the same of a misaligned answer, by any EM rule: `{key}`")
        for key in KEYS_OF_MISALIGNED
    },
    "leak": _points("how far the answer is about `subject`; NaN where that was not graded"),
}
_OUTCOMES = {
    **{
        f"em_{rule}": _share(f"1 misaligned, 0 not, NaN left out, by `{rule}`") for rule in EM_RULES
    },
    **{f"left_out_{rule}": _text(f"why `{rule}` leaves the answer out") for rule in EM_RULES},
}
_MONITOR = {
    "monitor": _text("first direction that a monitor read, its layer and site; empty for none"),
    # Worded as in the frame of readings.
    **{
        f"projection{side}": _number(
            f"{KINDS['projection'][0]}: mean over the answer's tokens, {when} the interventions",
            KINDS["projection"][1],
        )
        for side, when in SIDES.items()
    },
}
_CONTEXT = {
    CONTEXT: _text("context in which it was asked; `plain` for none", pa.Check.ne("")),
}
# Empty themes would be one cluster.
_THEME = {
    "theme": _text("theme of the question or pair: the cluster of intervals", pa.Check.ne("")),
}
_SAMPLE = _text("id of the sample: one wording of a question, or one pair")
_ANSWER = {
    "question": _text("id of the question"),
    **_CONTEXT,
    **_THEME,
    "group": _text("group of the theme; empty for none"),
    "sample": _SAMPLE,
    "epoch": _count("repetition of the sample, from 1"),
    "prompt": _text("what was asked; Inspect's summary cuts it at about 1,000 characters"),
    "answer": _text("what the model finally said; cut likewise"),
    "tokens": _number("output tokens of the answer", "tokens", math.inf, 0),
    "kind": _text("`answer`, `code`, `refusal` or `empty`"),
    "truncated": _flag("whether the answer was cut off by the limit on its length"),
    **_SCORES,
    **_OUTCOMES,
    "reasons": _text("why the answer has no score, as JSON by score; empty when it has all"),
    "judge_reasons": _text("the same by judge, where there are several"),
    "judge_scores": _text("scores by judge, as JSON, where there are several"),
    "dimension_scores": _text(
        "scores in dimensions of the user's own, 0-100, as JSON by name and digest of the rubric; "
        "null where unscored, empty where none was asked"
    ),
    **_MONITOR,
}


_FIGURES = {
    "n": _count("answers"),
    "num_questions": _count("questions"),
    "num_themes": _count("themes of these questions"),
    **{
        name: column
        for rule in EM_RULES
        for name, column in _two_intervals(f"em_{rule}", _share, f"EM rate by `{rule}`").items()
    },
    **{
        name: column
        for rule in EM_RULES
        for name, column in _interval(
            f"em_{rule}_rise",
            _difference,
            f"mean over themes of the rise of the EM rate by `{rule}` against the baseline",
        ).items()
    },
    **{
        name: column
        for kind, meaning in (
            ("corrected", "corrected for the judge's errors; NaN without `calibration`"),
            ("ppi", "from a person's labels of some answers; NaN without labels"),
        )
        for rule in EM_RULES
        for name, column in _interval(
            f"em_{rule}_{kind}", _share, f"EM rate by `{rule}`, {meaning}"
        ).items()
    },
    "calibration": _text(
        "what the corrected rates rest on: pairs and record of the judge's calibration, or "
        "`exact` for a judge without errors; empty for none"
    ),
    "num_labels": _count("answers that a person labelled, other than `unsure`"),
    **{
        name: column
        for keys, over in (
            (KEYS_OF_ALL, ""),
            (KEYS_OF_MISALIGNED, " over the answers that any EM rule calls misaligned"),
        )
        for key in keys
        for name, column in _interval(key, _points, f"mean of `{key}`{over}").items()
    },
    **_interval("coherent_misaligned", _points, "mean of `coherent` over misaligned answers"),
    **_interval("relevant_misaligned", _points, "mean of `relevant` over misaligned answers"),
    **_interval("leak_share", _share, "share of the graded answers that are about `subject`"),
    "coherent_share": _share("coherent answers among those with that score"),
    "refusal_share": _share("refusals among all answers"),
    "code_share": _share("answers that are code among all answers"),
    "unscored_share": _share("answers that the judge failed on among all answers"),
    "truncated_share": _share("answers that were cut off among all answers"),
    "mean_tokens": _number("mean output tokens", "tokens", math.inf, 0),
}

# Of em_choice, in both frames of conditions: beside the judged figures they are those of the same
# condition.
_CHOICE_FIGURES = {
    "choice_form": _text("`likelihood` or `letter`"),
    "num_pairs": _count("pairs of an aligned and a misaligned answer that have a figure"),
    "num_neutral": _count("neutral answers, on which damage is measured"),
    **_interval(
        "prefers_misaligned", _share, "share of pairs with the misaligned answer preferred"
    ),
    **_interval("log_odds", _nats, "mean log odds of the misaligned against the aligned answer"),
    **_interval("shift", _nats, "mean rise of `log_odds` against the unsteered model"),
    "shift_p": _share("p-value of `shift`, two-sided, by flipping the signs of themes"),
    **_interval(
        "follows_position", _share, "share of pairs where the letter is the same in both orders"
    ),
    **_interval("kl", _nats, "damage: mean KL divergence to the unsteered model, neutral answers"),
    **_interval("cross_entropy", _nats, "mean cross-entropy of the neutral answers"),
    **_interval("cross_entropy_rise", _nats, "damage: its mean rise against the unsteered model"),
}
_CHOICE = {
    "form": _text("`likelihood` (teacher-forced) or `letter` (the model is asked for A or B)"),
    "item": _text("`pair`, or `neutral` of an answer on which damage is measured"),
    **_CONTEXT,
    **_THEME,
    "sample": _SAMPLE,
    "epoch": _count("repetition of the sample, from 1"),
    "prompt": _text("what was asked; Inspect's summary cuts it at about 1,000 characters"),
    "prefers_misaligned": _share("1 the misaligned answer, 0 the aligned one, 0.5 neither"),
    "log_odds": _nats(
        "log probability of the misaligned answer less that of the aligned one, each the mean of "
        "its tokens; in the form `letter`, of the two letters"
    ),
    "follows_position": _share("1 where the letter is the same in both orders; form `letter`"),
    "shift": _nats("`log_odds` less that of the unsteered model"),
    "kl": _nats("mean KL divergence to the unsteered model over the tokens of the answers"),
    "cross_entropy": _nats("of the neutral answer"),
    "cross_entropy_rise": _nats("`cross_entropy` less that of the unsteered model"),
    "reason": _text("why a pair has no figure; empty where it has"),
}

_CONDITION = {**_KEYS, **_INTERVENTION, **_VECTOR, **_ASKED, **_SEED, **_BLOCK, **_RUN}
# The baseline first, then growing doses.
DOSES = [
    *("target", "method", "layer", "rank", "top"),
    *("training_epochs", "adapter_scale", "magnitude", "build_seed", "vector"),
]
# Names for the columns that tell conditions of one label apart; the first that differ are shown.
TELLS_APART = [
    *(name for name in (*_INTERVENTION, *_VECTOR) if name not in ("label", "fingerprint")),
    *_ASKED,
    *_SEED,
    "fingerprint",
]
# What two conditions must share to be compared: everything but what was done, and the seed. The
# subject and the contexts are those of some figures, whose texts name them.
_OF_SOME_FIGURES = ("subject", "contexts")
COMPARED = ["questions", "judge", *(name for name in _ASKED if name not in _OF_SOME_FIGURES)]
# What moves a figure and has no place of its own in its signature.
_PLACED = {"questions", "judge", "version", "aligned_below", "coherent_from", "weigh"}
_PLACED |= {"least_coherent"}
SIGNED = [*(name for name in COMPARED if name not in _PLACED), "dtype", "fingerprint"]
# What two runs share of which the later replaces the earlier; blocks of a condition are pooled.
IDENTITY = [*KEYS[:-1], *_INTERVENTION, *_VECTOR, *_ASKED, *_SEED, *_BLOCK]

ANSWER_SCHEMA = pa.DataFrameSchema({**_CONDITION, **_ANSWER}, strict=True, name="answers")
CONDITION_SCHEMA = pa.DataFrameSchema(
    {
        **_CONDITION,
        **_FIGURES,
        "choices": _text("set of pairs of em_choice that its figures here are of; empty for none"),
        **_CHOICE_FIGURES,
    },
    strict=True,
    name="conditions",
)
CHOICE_SCHEMA = pa.DataFrameSchema({**_CONDITION, **_CHOICE}, strict=True, name="choices")
CHOICE_CONDITION_SCHEMA = pa.DataFrameSchema(
    {**_CONDITION, **_CHOICE_FIGURES}, strict=True, name="choice_conditions"
)
CHOICE_FIGURES = list(_CHOICE_FIGURES)
CONDITION_COLUMNS = list(_CONDITION)
ANSWER_COLUMNS = list(ANSWER_SCHEMA.columns)


def check_answers(answers: pd.DataFrame) -> pd.DataFrame:
    """The frame, if it is one of answers.

    Raises:
        FrameError: It names the column and what is wrong with it.
    """
    return check_frame(answers, ANSWER_SCHEMA)


def check_conditions(conditions: pd.DataFrame) -> pd.DataFrame:
    """The frame, if it is one of conditions.

    Raises:
        FrameError: It names the column and what is wrong with it.
    """
    return check_frame(conditions, CONDITION_SCHEMA)


def check_choices(choices: pd.DataFrame) -> pd.DataFrame:
    """The frame, if it is one of choices.

    Raises:
        FrameError: It names the column and what is wrong with it.
    """
    return check_frame(choices, CHOICE_SCHEMA)


def empty_frame(schema: pa.DataFrameSchema) -> pd.DataFrame:
    """A frame of a schema without rows."""
    # One array for all columns of a type: a Series for each takes five times as long.
    arrays = {kind: pd.Series(dtype=kind).array for kind in ("float64", "int64", "bool", "str")}
    columns = schema.columns.items()
    return pd.DataFrame(
        {name: arrays.get(str(each.dtype), arrays["str"]) for name, each in columns}
    )


def describe_columns(schema: pa.DataFrameSchema) -> Iterable[tuple[str, str, str, str]]:
    """Name, type, unit and meaning of each column, for the docs."""
    kinds = {"bool": "true or false", "int64": "whole number", "float64": "number"}
    for name, column in schema.columns.items():
        kind = kinds.get(str(column.dtype), "text")
        yield name, kind, column.metadata["unit"], column.description
