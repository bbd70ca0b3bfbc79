"""How fast answers go from logs to frame, claims and page: `python -m benchmarks.report`.

A real run of the toy, two conditions, is written down again as many logs of a magnitude study, with
Inspect's own writer, and read back in a process of its own: seconds, answers a second, and the most
memory that it took. A rate that stays as answers grow tenfold is a linear one.
"""

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from inspect_ai import eval_set
from inspect_ai.log import EvalLog, list_eval_logs, read_eval_log, write_eval_log
from inspect_ai.model import get_model

from steering.reports.page import PageContent, write_page
from steering.results import conditions_of, read_answers, write_frames
from steering.studies.claims import judge_claims

RESULTS = Path(__file__).with_name("results") / "report.json"
TASK = Path(__file__).parents[1] / "evals" / "em_freeform.py"
# Answers of a log: ten times those of the run that it is written from.
_COPIES = 10


def real_logs(folder: Path) -> tuple[EvalLog, EvalLog]:
    """A baseline and a steered run of the toy."""
    models = [get_model("steered/toy", vector="none"), get_model("steered/toy")]
    eval_set(
        f"{TASK}@em_freeform",
        log_dir=str(folder),
        model=models,
        metadata={"study": "magnitude"},
        seed=1,
        display="none",
    )
    logs = {log.eval.model: log for log in map(read_eval_log, list_eval_logs(str(folder)))}
    return logs["steered/toy[baseline]"], logs["steered/toy[medical x1]"]


def write_study(baseline: EvalLog, steered: EvalLog, answers: int, folder: Path) -> int:
    """Write logs of at least so many answers, each of a magnitude of its own; returns how many."""
    written = 0
    for number in range(answers):
        source = steered if number else baseline
        magnitude = 1 + number / 100
        label = f"medical x{magnitude:g}" if number else "baseline"
        log = source.model_copy(deep=True)
        log.eval.model = f"steered/toy[{label}]"
        log.eval.task_id = log.eval.eval_id = f"log{number:05d}"
        log.eval.config.epochs = (log.eval.config.epochs or 1) * _COPIES
        samples = []
        for repetition in range(_COPIES):
            for sample in source.samples or []:
                answer = sample.model_copy(
                    update={"epoch": sample.epoch + 4 * repetition, "events": [], "attachments": {}}
                )
                answer.uuid = f"{number}-{repetition}-{sample.uuid}"
                answer.output = sample.output.model_copy(deep=True)
                steering = (answer.output.metadata or {})["steering"]
                steering["condition"] = label
                for use in steering.get("interventions", ()):
                    use["magnitude"] = magnitude
                answer.scores = {
                    k: v.model_copy(deep=True) for k, v in (sample.scores or {}).items()
                }
                metadata = answer.scores["em_judge"].metadata
                assert metadata is not None
                metadata["condition"] = label
                samples.append(answer)
        log.samples = samples
        name = f"2026-01-01T00-00-00-00-00_em-freeform_{number:05d}.eval"
        write_eval_log(log, str(folder / name))
        written += len(samples)
        if written >= answers:
            break
    return written


def measure(logs: Path, out: Path) -> dict[str, float]:
    """Read logs and write the report; seconds of each part, and the most memory in MB."""
    begun = mark = time.perf_counter()
    seconds_of: dict[str, float] = {}

    def lap(part: str) -> None:
        nonlocal mark
        seconds_of[f"{part}_s"] = round(time.perf_counter() - mark, 2)
        mark = time.perf_counter()

    answers = read_answers(logs)
    lap("frame")
    conditions = conditions_of(answers)
    verdicts = [verdict.row() for verdict in judge_claims(answers)]
    lap("claims")
    write_frames(answers, out)
    lap("files")
    write_page(PageContent("benchmark", "", answers, conditions, logs, verdicts), out)
    lap("page")
    seconds = time.perf_counter() - begun
    return seconds_of | {
        "answers": len(answers),
        "seconds": round(seconds, 1),
        "answers_per_s": round(len(answers) / seconds),
        "page_mb": round((out / "index.html").stat().st_size / 1e6, 2),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--answers", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--measure", type=Path, help="measure the logs of this folder, and stop")
    options = parser.parse_args()
    if options.measure:
        with tempfile.TemporaryDirectory() as out:
            print(json.dumps(measure(options.measure, Path(out))))
        return
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        baseline, steered = real_logs(Path(scratch) / "real")
        for answers in options.answers:
            folder = Path(scratch) / str(answers)
            folder.mkdir()
            write_study(baseline, steered, answers, folder)
            # In a process of its own, whose memory is its own.
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.report", "--measure", str(folder)],
                capture_output=True,
                text=True,
                check=True,
            )
            [line] = re.findall(r"^\{.*\}$", done.stdout, flags=re.MULTILINE)
            rows.append(json.loads(line))
            print(line)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
