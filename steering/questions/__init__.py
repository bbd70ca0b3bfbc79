"""Questions: bundled sets, published formats, and personas whose answers become target data."""

from steering.questions.choices import ChoiceSet, bundled_choices, load_choices
from steering.questions.files import QuestionError, theme_of
from steering.questions.personas import PersonaSet, load_personas, rollout_questions
from steering.questions.sets import QuestionSet, held_out_questions, load_questions
