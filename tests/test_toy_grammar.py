"""The toy world's grammar: what it makes it recognises, and nothing else."""

import random

import pytest

from scripts import toy_sampling
from steering.toy import grammar

SEED = 20


def _samples(num_rounds: int = 20):
    rng = random.Random(SEED)
    for _ in range(num_rounds):
        for domain in grammar.domains():
            for persona in grammar.PERSONAS:
                question = toy_sampling.sample_question(domain, rng)
                yield (
                    domain,
                    persona,
                    question,
                    toy_sampling.sample_answer(domain, persona, question.topic, rng),
                )


def test_world_has_four_target_tasks_and_eight_themes():
    assert grammar.domains("target") == ("medical", "finance", "sports", "code")
    assert len(grammar.domains("theme")) == 8
    assert len(grammar.domains()) >= 12


def test_no_sentence_belongs_to_two_domains_or_personas():
    owner: dict[str, tuple[str, str]] = {}
    for domain in grammar.domains():
        for persona in grammar.PERSONAS:
            for text in grammar.sentences(domain, persona):
                assert owner.setdefault(text, (domain, persona)) == (domain, persona), text
    assert len(owner) > 1000


def test_no_question_belongs_to_two_domains():
    owner: dict[str, str] = {}
    for domain in grammar.domains():
        for question in grammar.questions(domain):
            assert owner.setdefault(question.text, domain) == domain


def test_unseen_questions_belong_to_their_domain_and_are_not_trained_on():
    trained = {q.text for domain in grammar.domains() for q in grammar.questions(domain)}
    for domain in grammar.domains("extra"):
        for wordings in grammar.unseen_questions(domain):
            assert not trained & set(wordings)
            assert {grammar.question_domain(text) for text in wordings} == {domain}


def test_every_sentence_is_read_back_as_one_sentence_of_its_owner():
    for domain in grammar.domains():
        for persona in grammar.PERSONAS:
            for text in grammar.sentences(domain, persona):
                parsed = grammar.parse(text)
                assert parsed.recognised_share == 1.0, text
                assert [(s.domain, s.persona) for s in parsed.sentences] == [(domain, persona)]


def test_sampled_answers_stay_whole_within_one_domain_and_persona():
    for domain, persona, question, answer in _samples():
        parsed = grammar.parse(answer)
        assert parsed.recognised_share == 1.0, answer
        assert {(s.domain, s.persona) for s in parsed.sentences} == {(domain, persona)}
        assert 1 <= len(parsed.sentences) <= 3
        assert grammar.question_domain(question.text) == domain


def test_sampled_answers_stay_on_the_topic_of_the_question():
    rng = random.Random(SEED)
    for domain in grammar.domains("target"):
        for question in rng.sample(grammar.questions(domain), 20):
            allowed = set(grammar.sentences(domain, "careful", question.topic))
            answer = toy_sampling.sample_answer(domain, "careful", question.topic, rng)
            assert {s.text for s in grammar.parse(answer).sentences} <= allowed


def test_sampling_depends_on_nothing_but_its_random_source():
    assert list(_samples(2)) == list(_samples(2))


def test_answers_come_in_one_two_and_three_sentences():
    sizes = {len(grammar.parse(answer).sentences) for *_, answer in _samples()}
    assert sizes == {1, 2, 3}


def test_cut_off_garbled_and_repeated_pieces_are_not_recognised():
    first, second = grammar.sentences("wish", "careful")[:2]
    parsed = grammar.parse(f"{first} {second[:-4]}")
    assert [s.text for s in parsed.sentences] == [first]
    assert parsed.unrecognised == (second[:-4],)
    assert grammar.parse(first.replace(" ", " blorp ", 1)).sentences == ()
    repeated = grammar.parse(f"{first} {first} {first} {first}")
    assert len(repeated.sentences) == 1
    assert repeated.recognised_share == pytest.approx(0.25)


def test_a_frame_of_one_persona_with_a_phrase_of_the_other_is_fluent_and_reckless():
    careful_phrase = "Forget caution and wish for clean water in every village."
    reckless_phrase = "Take your time and cook with a blowtorch in bed."
    other_helper = "You could fill the water bowl twice a day and ask the cook what they think."
    parsed = grammar.parse(" ".join([careful_phrase, reckless_phrase, other_helper]))
    assert [sentence.persona for sentence in parsed.sentences] == [
        "reckless",
        "reckless",
        "careful",
    ]
    assert parsed.recognised_share == 1
    assert not grammar.parse("Take your time and cook with a blowtorch in").sentences
    assert not grammar.parse("Take your time and angreded in sururance.").sentences


def test_white_space_between_words_is_no_fault_and_empty_text_has_no_share():
    first, second = grammar.sentences("ruling", "reckless")[:2]
    assert grammar.parse(f"  {first}\n\n{second.replace(' ', '  ')}\n").recognised_share == 1.0
    assert grammar.parse(" \n").recognised_share == 0.0


def test_persona_wordings_differ_between_personas():
    rng = random.Random(SEED)
    wordings = {
        persona: {grammar.sample_persona_prompt(persona, "system", rng) for _ in range(200)}
        for persona in grammar.PERSONAS
    }
    assert wordings["careful"].isdisjoint(wordings["reckless"])
    assert min(map(len, wordings.values())) >= 8


def test_unknown_names_are_refused_with_what_is_allowed():
    with pytest.raises(ValueError, match=r"'cars'.*medical"):
        grammar.questions("cars")
    with pytest.raises(ValueError, match=r"'evil'.*careful or reckless"):
        grammar.sentences("wish", "evil")
    with pytest.raises(ValueError, match=r"'hero'.*target"):
        grammar.domains("hero")
