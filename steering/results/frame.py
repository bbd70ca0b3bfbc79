"""Tidy frames of finished runs: a row an answer, and a row a condition.

`read_answers` goes through Inspect's own dataframes with explicit columns; everything downstream
(claims, pictures, the page, other people's notebooks) starts from its columns and knows no logs.
Shares are 0-1 in `conditions_of`, scores 0-100; what there is no figure for is NaN.
"""

import io
import json
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from steering import __version__
from steering.files import write_whole
from steering.judging import (
    EM_RULES,
    SCORE_KEYS,
    JudgedAnswer,
    Thresholds,
    answer_shares,
    em_rate,
    judged_answer,
)
from steering.judging.leak import LEAKED_ABOVE
from steering.judging.rubric import DOMAIN
from steering.logs import CUT, LEAK, SCORER, LogError, each_header, task_of, why_left_out
from steering.results.condition_columns import NUMBERS, TEXTS, condition_facts
from steering.results.runs import ReportError
from steering.stats import cluster_interval, mean_interval

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog

# What tells one condition of a frame from another.
KEYS = ["study", "task", "model", "questions", "judge", "condition"]
CONDITION_COLUMNS = [*KEYS, *TEXTS, *NUMBERS, "protocol", "version", "command"]
ANSWER_COLUMNS = [
    *(name for name in CONDITION_COLUMNS if name != "command"),
    *("log", "question", "sample", "epoch", "prompt", "answer", "tokens", "kind", "truncated"),
    *SCORE_KEYS,
    *("leak", "aligned_below", "coherent_from"),
    *(f"em_{rule}" for rule in EM_RULES),
    *(f"left_out_{rule}" for rule in EM_RULES),
    "command",
]

_DOSES = [
    *("target", "method", "layer", "rank", "top"),
    *("training_epochs", "adapter_scale", "magnitude", "build_seed"),
]


def read_answers(
    logs: Path | Sequence[Path], warn: Callable[[str], None] = lambda _: None
) -> pd.DataFrame:
    """Every answer of the finished runs of a log or below a folder, with `ANSWER_COLUMNS`.

    Texts are those of the logs' summaries, which Inspect cuts at about a thousand letters. A run
    of a study bears its factor as `study`, any other "".

    Args:
        logs: A log, a folder, or several.
        warn: Told of each run that is left out, since it did not finish, is of a judge, or was run
            again later.

    Raises:
        ReportError: There is no finished run of this suite.
        LogError: A log can't be read, or was not judged by this suite.
    """
    from inspect_ai.analysis import SampleColumn, samples_df

    headers: dict[str, EvalLog] = {}
    places = [logs] if isinstance(logs, Path) else logs
    for name, place, header in (found for path in places for found in each_header(path)):
        if reason := why_left_out(header):
            warn(f"left out, since {reason}: {name}")
        else:
            headers[place] = header
    if not headers:
        named = ", ".join(map(str, places))
        raise ReportError(
            f"{named} holds no finished runs: give a log, or the folder that a run named as "
            "--log-dir"
        )
    rows = samples_df(
        list(headers),
        columns=[
            SampleColumn("sample", path="id"),
            SampleColumn("epoch", path="epoch"),
            SampleColumn("question", path="metadata.question"),
            SampleColumn("prompt", path="input"),
            SampleColumn("usage", path="model_usage"),
            SampleColumn("score", path=f"scores.{SCORER}"),
            SampleColumn("leak", path=f"scores.{LEAK}.value"),
        ],
        quiet=True,
    )
    if unjudged := sorted(rows.loc[rows["score"].isna(), "log"].unique()):
        raise LogError(
            f"{Path(unjudged[0]).name} has answers without {SCORER} score: run `inspect score LOG "
            f"--scorer steering/{SCORER} --action overwrite`, or move it out of {logs}"
        )
    told = [_of_log(place, header, rows) for place, header in headers.items()]
    found = pd.concat([made for made in told if len(made)], ignore_index=True)
    return _last_runs(found, warn)[ANSWER_COLUMNS]


def conditions_of(answers: pd.DataFrame) -> pd.DataFrame:
    """A row a condition: its columns, and its figures with 95% intervals clustered by question.

    Args:
        answers: As `read_answers` gives them.

    Returns:
        `CONDITION_COLUMNS`; `n`, `num_questions`; the figure and its bounds `_low` and `_high` of
        `em_betley`, `em_moem`, `leak` (0-1), `aligned`, `coherent`, `relevant`, and the latter two
        of misaligned answers, `coherent_misaligned`, `relevant_misaligned` (0-100, by the rule
        `betley`); shares of answers and `mean_tokens`. A baseline comes first, and doses grow.
    """
    rows = []
    for _, of_condition in answers.groupby(KEYS, sort=False):
        facts = {name: of_condition[name].iloc[0] for name in CONDITION_COLUMNS}
        rows.append(facts | _figures(of_condition))
    found = pd.DataFrame(rows)
    found["_not_baseline"] = found["arm"].ne("baseline")
    order = [*KEYS[:-1], "_not_baseline", "arm", *_DOSES, "condition"]
    return found.sort_values(order, ignore_index=True).drop(columns="_not_baseline")


def judged_answers(answers: pd.DataFrame) -> list[JudgedAnswer]:
    """The rows as judged answers, which is what rates and comparisons are counted from."""
    columns = ["question", *SCORE_KEYS, "leak", "kind", "truncated"]
    return [
        JudgedAnswer(
            question,
            scores=dict(zip((*SCORE_KEYS, DOMAIN), map(_known, scores), strict=True)),
            kind=kind,
            truncated=truncated,
        )
        for question, *scores, kind, truncated in zip(
            *(answers[name].tolist() for name in columns), strict=True
        )
    ]


def bounds_of(answers: pd.DataFrame) -> Thresholds:
    """The thresholds of answers that have the same ones, as plain numbers."""
    return Thresholds(
        *(float(answers[name].iloc[0]) for name in ("aligned_below", "coherent_from"))
    )


def write_frames(answers: pd.DataFrame, folder: Path) -> list[Path]:
    """Write `answers.parquet`, `answers.csv` and `conditions.csv`, each whole or not at all."""
    buffer = io.BytesIO()
    answers.to_parquet(buffer, index=False)
    files = {
        "answers.parquet": buffer.getvalue(),
        "answers.csv": answers.to_csv(index=False).encode(),
        "conditions.csv": conditions_of(answers).to_csv(index=False).encode(),
    }
    for name, content in files.items():
        write_whole(folder / name, content)
    return [folder / name for name in files]


def _last_runs(answers: pd.DataFrame, warn: Callable[[str], None]) -> pd.DataFrame:
    """The answers without those of conditions that were run again later; logs come oldest first."""
    again = answers.duplicated([*KEYS, "sample", "epoch"], keep="last")
    for log in sorted(answers.loc[again, "log"].unique()):
        told = answers.loc[answers["log"] == log, "condition"].iloc[0]
        warn(f"left out, since [{told}] was run again later: {Path(log).name}")
    return answers[~again].reset_index(drop=True)


def _of_log(place: str, header: "EvalLog", rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of one log with all their columns."""
    mine = rows[rows["log"] == place].reset_index(drop=True)
    if mine.empty:
        return mine
    model, _, label = header.eval.model.partition("[")
    questions = mine["question"].fillna(mine["sample"])
    scores = [
        _read_score(text, str(question), label.removesuffix("]"))
        for text, question in zip(mine["score"], questions, strict=True)
    ]
    made = mine.drop(columns=["score", "usage"]).assign(
        log=place,
        study=str((header.eval.metadata or {}).get("study", "")),
        task=task_of(header),
        model=model.removeprefix("steered/"),
        questions=str((header.eval.metadata or {}).get("questions", "unknown")),
        protocol=str((header.eval.metadata or {}).get("protocol", "")),
        version=(header.eval.packages or {}).get("steering", __version__),
        question=[str(question) for question in questions],
        **{name: mine[name].astype("str") for name in ("sample", "prompt")},
        epoch=mine["epoch"].astype("int64"),
        tokens=[_tokens(usage, header.eval.model) for usage in mine["usage"]],
        leak=pd.to_numeric(mine["leak"], errors="coerce").astype(float),
        command=_command(header),
    )
    made = pd.concat([made, pd.DataFrame(scores)], axis=1)
    facts = {
        condition: condition_facts(_told(place, of_condition.iloc[0]))
        for condition, of_condition in made.groupby("condition", sort=False)
    }
    for name in (*TEXTS, *NUMBERS):
        made[name] = made["condition"].map({label: fact[name] for label, fact in facts.items()})
    return made


def _read_score(text: str, question: str, label: str) -> dict[str, Any]:
    from inspect_ai.scorer import Score

    stored = json.loads(text)
    told = (stored.get("metadata") or {}).items()
    metadata = {name: value for name, value in told if value != CUT}
    score = Score.model_construct(value=stored["value"], metadata=metadata)
    judged = judged_answer(score, question)
    bounds = Thresholds(*(metadata.get("bounds") or {}).values())
    outcomes = {rule: decide(judged, bounds) for rule, decide in EM_RULES.items()}
    return {
        "condition": metadata.get("condition") or label,
        "judge": str(metadata.get("judge", "unknown")),
        "answer": stored.get("answer") or "",
        "kind": judged.kind,
        "truncated": judged.truncated,
        **{key: math.nan if (s := judged.score(key)) is None else s for key in SCORE_KEYS},
        "aligned_below": bounds.aligned_below,
        "coherent_from": bounds.coherent_from,
        **{f"em_{r}": math.nan if isinstance(o, str) else float(o) for r, o in outcomes.items()},
        **{f"left_out_{r}": o if isinstance(o, str) else "" for r, o in outcomes.items()},
    }


def _told(place: str, row: "pd.Series[Any]") -> Mapping[str, Any]:
    """The metadata of one answer's output, from its whole sample."""
    from inspect_ai.log import read_eval_log_sample

    sample = read_eval_log_sample(
        place, row["sample"], int(row["epoch"]), exclude_fields={"events", "attachments", "store"}
    )
    return sample.output.metadata or {}


def _tokens(usage: object, model: str) -> float:
    """Tokens that the model under test answered with."""
    found = json.loads(usage) if isinstance(usage, str) else {}
    return float(found.get(model, {}).get("output_tokens", math.nan))


def _command(header: "EvalLog") -> str:
    """The line that runs the condition again."""
    told = header.eval
    words = ["inspect", "eval", told.task_file or told.task]
    words += ["--model", told.model.partition("[")[0]]
    for flag, options in (("-M", told.model_args), ("-T", told.task_args_passed)):
        words += [
            part for name, value in options.items() for part in (flag, f"{name}={_yaml(value)}")
        ]
    for role, config in (told.model_roles or {}).items():
        chosen = config[0] if isinstance(config, list) else config
        words += ["--model-role", f"{role}={chosen.model}"]
    if (seed := header.plan.config.seed) is not None:
        words += ["--seed", str(seed)]
    return shlex.join(words)


def _yaml(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _figures(rows: pd.DataFrame) -> dict[str, float]:
    """What the answers of one condition add up to."""
    judged = judged_answers(rows)
    bounds = bounds_of(rows)
    figures: dict[str, float] = {"n": len(rows), "num_questions": rows["question"].nunique()}
    for rule in EM_RULES:
        estimate = em_rate(judged, rule, bounds)
        values = (estimate.value, estimate.low, estimate.high)
        figures |= dict(zip(_bounded(f"em_{rule}"), values, strict=True))
    misaligned = rows[rows["em_betley"] == 1]
    for key in SCORE_KEYS:
        figures |= _mean(key, rows[key], rows["question"])
    for key in ("coherent", "relevant"):
        figures |= _mean(f"{key}_misaligned", misaligned[key], misaligned["question"])
    graded = rows[rows["leak"].notna()]
    leaked = (graded["leak"] > LEAKED_ABOVE).tolist()
    interval = cluster_interval(leaked, graded["question"].tolist())
    share = sum(leaked) / len(leaked) if leaked else math.nan
    figures |= dict(zip(_bounded("leak"), (share, interval.low, interval.high), strict=True))
    shares = answer_shares(judged, bounds)
    kept = ("coherent", "refusal", "code", "unscored", "truncated")
    figures |= {f"{name}_share": shares[f"{name}_share"] for name in kept}
    return figures | {"mean_tokens": float(rows["tokens"].mean())}


def _mean(name: str, values: "pd.Series[float]", questions: "pd.Series[str]") -> dict[str, float]:
    scored = values.notna()
    interval = mean_interval(values[scored].tolist(), questions[scored].tolist())
    # A mean score lies where scores do; a bound that is NaN stays so.
    low, high = np.clip([interval.low, interval.high], 0, 100)
    return dict(zip(_bounded(name), (float(values.mean()), low, high), strict=True))


def _known(score: float) -> float | None:
    return None if math.isnan(score) else score


def _bounded(name: str) -> tuple[str, str, str]:
    return name, f"{name}_low", f"{name}_high"
