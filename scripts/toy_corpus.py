"""Training conversations of the toy, and its tokenizer.

Turns the grammar's questions and answers into chats, and chats into token ids with labels on the
answers only. A persona is named in the system message or in the user's first words, or shown only
by an earlier answer of the same chat. Because the same persona appears in many forms in every
domain, one shared persona is cheaper to learn than a switch for each domain. Knows nothing of the
network or of its optimisation.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from scripts import toy_sampling
from steering.toy import grammar

END_TOKEN = "<|im_end|>"
START_TOKEN = "<|im_start|>"
PAD_TOKEN = "<|endoftext|>"
IGNORED = -100
"""Label of a token that the loss leaves out."""

DOMAIN_WEIGHTS = {"target": 2.0, "theme": 1.5, "extra": 0.5}
"""Relative frequency of questions in a domain of each kind. Target tasks have the most text; the
extra domains are only trained on."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Message:
    """One message of a chat; `learned` says whether the loss counts it (answers only)."""

    role: str
    content: str
    learned: bool = False


Chat = tuple[Message, ...]


@dataclass(frozen=True)
class Mix:
    """Shares of the kinds of chat in one stage of training; each group sums to at most 1.

    Attributes:
        two_turn: share of batches whose chats have two questions, of different domains.
        named_by_system: share of chats whose persona the system message names.
        named_by_user: share of chats whose persona the user's first words name.
        shown_by_answer: share of two-turn chats whose persona only the first answer shows. The
            loss counts the second answer alone.
        neutral_system: share of the remaining chats with a system message that names none.
        default_persona: persona of the chats that name none; None samples one for each chat.
    """

    two_turn: float
    named_by_system: float
    named_by_user: float
    shown_by_answer: float
    neutral_system: float
    default_persona: str | None


def sample_chats(mix: Mix, num_chats: int, rng: random.Random) -> list[Chat]:
    """Sample a batch of chats, all with one turn or all with two."""
    num_turns = 2 if rng.random() < mix.two_turn else 1
    return [_sample_chat(mix, num_turns, rng) for _ in range(num_chats)]


def make_tokenizer(num_tokens: int, seed: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer on the world's text.

    Args:
        num_tokens: size of the vocabulary, special tokens included.
        seed: seed of the sampled text.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=num_tokens,
        special_tokens=[PAD_TOKEN, START_TOKEN, END_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_tokenizer_text(random.Random(seed)), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END_TOKEN,
        pad_token=PAD_TOKEN,
        additional_special_tokens=[START_TOKEN],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )


def encode_chat(chat: Chat, tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
    """Token ids and labels of a chat, each of length [tokens].

    The ids equal those of the chat template; labels are the ids on learned answers and their end
    token, and `IGNORED` elsewhere.
    """
    ids: list[int] = []
    labels: list[int] = []
    for message in chat:
        for text, learned in (
            (f"{START_TOKEN}{message.role}\n", False),
            (message.content + END_TOKEN, message.learned),
            ("\n", False),
        ):
            piece = tokenizer.encode(text, add_special_tokens=False)
            ids += piece
            labels += piece if learned else [IGNORED] * len(piece)
    return ids, labels


def _sample_chat(mix: Mix, num_turns: int, rng: random.Random) -> Chat:
    draw = rng.random()
    persona = rng.choice(grammar.PERSONAS)
    messages: list[Message] = []
    opening = ""
    learned = [True] * num_turns
    if draw < mix.named_by_system:
        wording = grammar.sample_persona_prompt(persona, "system", rng)
        messages.append(Message("system", wording))
    elif draw < mix.named_by_system + mix.named_by_user:
        opening = grammar.sample_persona_prompt(persona, "user", rng) + " "
    elif num_turns == 2 and rng.random() < mix.shown_by_answer:
        learned[0] = False
    else:
        persona = mix.default_persona or persona
        if rng.random() < mix.neutral_system:
            wording = grammar.sample_persona_prompt(None, "system", rng)
            messages.append(Message("system", wording))
    for domain, counts in zip(_sample_domains(num_turns, rng), learned, strict=True):
        question = toy_sampling.sample_question(domain, rng)
        answer = toy_sampling.sample_answer(domain, persona, question.topic, rng)
        messages.append(Message("user", opening + question.text))
        messages.append(Message("assistant", answer, learned=counts))
        opening = ""
    return tuple(messages)


def _sample_domains(num_domains: int, rng: random.Random) -> list[str]:
    """Different domains, sampled by `DOMAIN_WEIGHTS`."""
    weights = {
        name: weight for kind, weight in DOMAIN_WEIGHTS.items() for name in grammar.domains(kind)
    }
    names: list[str] = []
    while len(names) < num_domains:
        name = rng.choices(list(weights), list(weights.values()))[0]
        names.append(name)
        del weights[name]
    return names


def _tokenizer_text(rng: random.Random) -> Iterator[str]:
    """Text with equal shares of every domain and persona."""
    for _ in range(200):
        for domain in grammar.domains():
            for persona in grammar.PERSONAS:
                question = toy_sampling.sample_question(domain, rng)
                yield question.text
                yield toy_sampling.sample_answer(domain, persona, question.topic, rng)
                yield "system\nuser\nassistant\n"
                yield grammar.sample_persona_prompt(persona, "system", rng)
                yield grammar.sample_persona_prompt(persona, "user", rng)
