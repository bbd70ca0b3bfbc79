"""Run in a copy of the project: judges a claim that was added there, on made answers.

Prints as JSON the verdict by name of the claim.
"""

import json
import sys

from made_answers import condition, frame

from steering.studies.claims import judge_claims

if __name__ == "__main__":
    answers = frame(
        condition("baseline", 0.0),
        condition("all", 0.5, positions="all"),
        condition("prompt", 0.4, positions="prompt"),
    )
    json.dump({each.name: each.verdict for each in judge_claims(answers)}, sys.stdout)
