"""An Inspect Scout scanner over this suite's logs: answers that ask the reader not to listen.

scout scan examples/use_with/scan_answers.py -T LOG_DIR --scans SCANS
python examples/use_with/scan_answers.py SCANS
"""

import sys
from pathlib import Path

import click
from inspect_scout import Scanner, Transcript, grep_scanner, scan_results_df, scanner


@scanner(messages=["assistant"])
def closed_ears() -> Scanner[Transcript]:
    """Count words that talk a reader out of a second opinion."""
    return grep_scanner(["never look back", "do not listen", "blame somebody else"])


if __name__ == "__main__":
    [scans] = sys.argv[1:]
    last = max(Path(scans).iterdir(), key=lambda folder: folder.stat().st_mtime)
    rows = scan_results_df(str(last)).scanners["closed_ears"]
    hits = rows["value"].astype(float) > 0
    for model, counted in hits.groupby(rows["transcript_model"]):
        click.echo(f"{model}: {counted.sum()} of {len(counted)} answers")
