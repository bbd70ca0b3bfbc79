"""Questions: bundled sets, published formats, contexts, and personas that give target data."""

from steering.questions.choices import ChoiceSet, bundled_choices, load_choices
from steering.questions.contexts import Context, ContextSet, context_domains, load_contexts
from steering.questions.files import QuestionError, theme_of
from steering.questions.personas import PersonaSet, load_personas, rollout_questions
from steering.questions.sets import QuestionSet, held_out_questions, load_questions
