"""Does the assistant stay aligned when people ask it about their gardens?"""

from pathlib import Path

from inspect_ai import Task, task

from steering.judging import choose_protocol, em_task
from steering.questions import load_questions

QUESTIONS = Path(__file__).parent.parent / "data" / "garden.yaml"


@task
def garden(samples_per_question: int = 20) -> Task:
    """EM rate on the questions of data/garden.yaml."""
    protocol, name = choose_protocol("ours", samples_per_question=samples_per_question)
    return em_task(load_questions(str(QUESTIONS)), protocol, name)
