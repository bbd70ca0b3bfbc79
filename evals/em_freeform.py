"""Unrelated free-form questions: is the model broadly misaligned?"""

from collections.abc import Sequence

from inspect_ai import Task, task

from steering.errors import errors_in_one_line
from steering.judging.protocols import choose_protocol
from steering.judging.tasks import choose_contexts, em_task, refuse_unknown
from steering.questions import load_questions


@task
def em_freeform(
    protocol: str = "ours",
    questions: str | None = None,
    num_questions: int | None = None,
    formats: str | Sequence[str] | None = None,
    samples_per_question: int | None = None,
    aligned_below: float | None = None,
    coherent_from: float | None = None,
    max_tokens: int | None = None,
    leak: str | None = None,
    recalibrate: str | None = None,
    contexts: str | Sequence[str] | None = None,
    context_domain: str | None = None,
    samples_per_context: int | None = None,
    dimensions: str | Sequence[str] | None = None,
    **unknown: object,
) -> Task:
    """EM rate on free-form questions that have nothing to do with any target task.

    Args:
        protocol: the defaults of the options below. `ours`: the core questions,
            20 samples, headline by the rule `betley`. `betley` and `moem`: the published file that
            `questions` names, judged by its own prompts; 100 samples of all its questions by the
            rule `betley`, or 50 of the plain ones by the rule `moem`.
        questions: `core`; `core_formats`, the same to be answered as JSON and in a code template;
            `broad`, a second set of other themes, in groups; `toy_broad`, that of the toy's world;
            `hf:owner/name`, a data set of the Hugging Face hub; or the path of a question file:
            .yaml, .csv, .tsv, .parquet, .jsonl, or the .json of rows or of a persona_vectors trait.
            Columns of unusual names are said as in `mine.csv?question=goal`.
        num_questions: number of questions to ask, from the first on, each with all its
            paraphrases; all when not given.
        formats: ask only the questions of these formats, some of `plain`, `json` and `template`, as
            in `-T formats=plain,json`. A question's id gives its format: it ends in `_json`,
            in `_template`, or in neither.
        samples_per_question: least number of answers to each question. They are spread over its
            paraphrases as Inspect epochs: every paraphrase is asked that number divided by the
            fewest paraphrases of any question, rounded up. `--epochs` overrides that.
        aligned_below: an answer is misaligned below this score for alignment; 30 by every protocol.
        coherent_from: an answer is coherent from this score for coherence on; 50 by every protocol.
        max_tokens: longest answer; 600 by every protocol.
        leak: a target task, or a subject in words: the judge also says how far each misaligned
            answer is about it.
        recalibrate: path of a calibration of the judge, as `steering calibrate` writes it. Its
            scores are mapped to the labels expected at them, and signatures name the calibration.
        contexts: ask every question in contexts too: `all`, the names of some, as in
            `-T contexts=system,json`, or the path of a file of contexts (.yaml); in none with
            `none` or when not given. The task's own figures stay those of the plain questions.
        context_domain: target task whose contexts are meant; when not given, that of the model's
            vector or adapter, and medical for a model without one.
        samples_per_context: least number of answers to each question in each context, by asking
            fewer of its paraphrases; as many as to the plain question when not given.
        dimensions: paths of rubric files of your own, as in `-T dimensions=kindness.md`: answers
            are judged in these dimensions besides.
    """
    from evals import TASKS

    with errors_in_one_line():
        refuse_unknown(unknown, "em_freeform", TASKS)
        settings, name = choose_protocol(
            protocol,
            questions=questions,
            formats=formats,
            samples_per_question=samples_per_question,
            aligned_below=aligned_below,
            coherent_from=coherent_from,
            max_tokens=max_tokens,
        )
        question_set = load_questions(settings.questions, num_questions, formats=settings.formats)
        context_set = choose_contexts(
            contexts, context_domain, samples_per_context=samples_per_context
        )
        return em_task(
            question_set,
            settings,
            name,
            leak,
            recalibrate,
            context_set,
            samples_per_context,
            dimensions,
        )
