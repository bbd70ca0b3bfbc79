"""Judges on the suite's own engine: the score is the mean over every number they may reply."""

import asyncio
import itertools
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conformance import loaded
from fake_models import REPLIES, fake
from inspect_ai.model import ChatMessageUser, GenerateConfig, Model, ModelOutput, get_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from steering.engines import ScoreOutput, shared_engine
from steering.judging.judgement import Judgement
from steering.judging.judges import ask_judge
from steering.judging.local_judges import read_distribution
from steering.judging.rubric import load_rubric
from steering.models import find_model
from steering.provider.distribution import MOST_REPLIES, ReplyTree, reply_tree

NUMBERS = [str(number) for number in range(101)]
ESCAPES = load_rubric("alignment").escapes
END = 0  # the token that ends a turn of the tiny models


@pytest.fixture(scope="module")
def judge(tiny_folder: Callable[[str], Path]) -> Model:
    return get_model(f"steered/{tiny_folder('llama')}", vector="none")


def ask(judge: Model, replies: Any, **settings: Any) -> ModelOutput:
    config = GenerateConfig(extra_body={"steering": {"distribution": replies}}, **settings)
    return asyncio.run(judge.generate([ChatMessageUser(content="Grade this.")], config=config))


def plain_probability(judge: Model, prompt: str, reply: str) -> float:
    """P(reply, then the end of the turn where the reply goes on as another), one token a time."""
    model = loaded(shared_engine(find_model(str(judge.api.canonical_name())), device="cpu"))
    ids = model.tokenizer.encode(prompt, add_special_tokens=False)
    tokens = model.tokenizer.encode(reply, add_special_tokens=False)
    ends = [END] if reply in {"1", "10", *map(str, range(2, 10))} else []
    total = 0.0
    for token in [*tokens, *ends]:
        with torch.no_grad():
            logits = model.model(torch.tensor([ids])).logits[0, -1].double()
        total += logits.log_softmax(-1)[token].item()
        ids = [*ids, token]
    return math.exp(total)


def test_the_probability_of_each_number_is_that_of_plain_passes(judge: Model) -> None:
    output = ask(judge, [*NUMBERS, "CODE"])
    likely = output.metadata["steering"]["distribution"]
    prompt = "<|start|>user: Grade this.<|end|>assistant: "
    for reply in ["0", "7", "8", "10", "85", "99", "100", "CODE"]:
        expected = plain_probability(judge, prompt, reply)
        assert likely.get(reply, 0.0) == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert output.completion == max(likely, key=lambda reply: likely[reply])
    assert math.fsum(likely.values()) < 1


def test_company_changes_no_probability(judge: Model) -> None:
    def run(*prompts: str) -> list[dict[str, float]]:
        config = GenerateConfig(extra_body={"steering": {"distribution": NUMBERS}})

        async def together() -> list[ModelOutput]:
            return list(
                await asyncio.gather(*(judge.generate(text, config=config) for text in prompts))
            )

        outputs = asyncio.run(together())
        return [output.metadata["steering"]["distribution"] for output in outputs]

    rubric = "A rubric that is long enough to be shared by all of these judge prompts. " * 3
    prompts = [f"{rubric}Answer {i}: {'so ' * i}" for i in range(5)]
    alone = [run(prompt)[0] for prompt in prompts]
    for one, other in zip(run(*prompts), alone, strict=True):
        assert one.keys() == other.keys()
        assert list(one.values()) == pytest.approx(list(other.values()), rel=1e-3)


@pytest.mark.parametrize("seed", range(10))
def test_a_tree_gives_what_products_of_its_branches_give(seed: int) -> None:
    rng = random.Random(f"tree {seed}")
    # Replies of three tokens, some the beginnings of others; 9 ends a turn.
    every = [t for n in (1, 2, 3) for t in itertools.product(range(3), repeat=n)]
    replies = rng.sample(every, 8)
    tree = ReplyTree.of(replies, (9,))

    def logprob(path: tuple[int, ...], token: int) -> float:
        weights = [random.Random(f"{seed} {path} {each}").random() for each in range(10)]
        return math.log(weights[token] / sum(weights))

    scores = ScoreOutput(
        [[logprob(a[:at], token) for at, token in enumerate(a)] for a in tree.answers],
        alternatives=[
            [logprob(a[:-1], token) for token in others]
            for a, others in zip(tree.answers, tree.alternatives, strict=True)
        ],
    )
    for reply, p in zip(replies, tree.probabilities(scores), strict=True):
        goes_on = any(other[: len(reply)] == reply and other != reply for other in replies)
        tokens = (*reply, 9) if goes_on else reply
        expected = math.exp(sum(logprob(tokens[:at], token) for at, token in enumerate(tokens)))
        assert p == pytest.approx(expected)


def whole_numbers() -> PreTrainedTokenizerFast:
    """A tokenizer that has each number as one token, as Llama 3 has."""
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["<end>", *NUMBERS])}, "<end>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words)


def test_a_tree_reads_only_where_replies_part(judge: Model) -> None:
    assert len(reply_tree(NUMBERS, whole_numbers(), [0]).answers) == 1
    digits = loaded(shared_engine(find_model(judge.api.canonical_name()), device="cpu")).tokenizer
    tree = reply_tree(NUMBERS, digits, [END])
    # At the beginning, behind 1 to 9, and behind 10.
    assert sorted(map(len, tree.answers)) == [1] + 9 * [2] + [3]
    assert len(reply_tree([*NUMBERS, "REFUSAL"], digits, [END]).answers) == 12


def test_replies_that_the_tokenizer_does_not_tell_apart_are_refused() -> None:
    with pytest.raises(Exception, match=r"tokens of the reply 'B' are those of 'A'"):
        reply_tree(["A", "B"], whole_numbers(), [0])


@pytest.mark.parametrize(
    ("replies", "settings", "message"),
    [
        ([], {}, "give a list of replies"),
        (["1", 2], {}, "give a list of replies"),
        (["1", ""], {}, "give a list of replies"),
        (["1", "1"], {}, "2 replies, 1 of them different"),
        ([str(n) for n in range(MOST_REPLIES + 1)], {}, f"at most {MOST_REPLIES}"),
        (["1"], {"num_choices": 2}, "num_choices=2 contradicts distribution"),
    ],
)
def test_impossible_requests_say_what_is_allowed(
    judge: Model, replies: Any, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(Exception, match=message):
        ask(judge, replies, **settings)


def test_scores_and_probabilities_are_two_requests(judge: Model) -> None:
    config = GenerateConfig(extra_body={"steering": {"distribution": ["1"], "score": ["a"]}})
    with pytest.raises(Exception, match="use two requests"):
        asyncio.run(judge.generate("Grade", config=config))


def judgement(**likely: float) -> Judgement:
    replies = {name.removeprefix("n"): p for name, p in likely.items()}
    output = ModelOutput.from_content("judge", max(replies, key=lambda reply: replies[reply]))
    output.metadata = {"steering": {"distribution": replies}}
    result = read_distribution(output)
    assert result is not None
    return result


def test_the_score_is_the_mean_over_the_numbers() -> None:
    assert judgement(n20=0.3, n80=0.1).score == pytest.approx(35)
    assert judgement(n20=0.3, n80=0.1).method == "distribution"
    assert judgement(n20=0.3, n80=0.1).text == "20"
    assert judgement(n20=0.3, n80=0.1, CODE=0.3).score == pytest.approx(35)
    assert judgement(n100=0.3 + 1e-12).score == 100


def test_an_escape_word_that_outweighs_the_numbers_is_the_reply() -> None:
    assert judgement(n20=0.2, CODE=0.3, REFUSAL=0.1).reason == "code"
    assert judgement(n20=0.2, CODE=0.1, REFUSAL=0.21).reason == "refusal"
    assert judgement(n20=0.2, CODE=0.11, REFUSAL=0.1).score == 20


def test_a_judge_that_would_say_something_else_is_unscored_and_never_zero() -> None:
    for likely in ({"n0": 0.24}, {"n0": 0.1, "CODE": 0.14}, {"CODE": 0.2, "n50": 0.0}):
        result = judgement(**likely)
        assert result.score is None
        assert (result.reason or "").startswith("low mass")


def test_no_other_output_is_read_as_a_distribution() -> None:
    assert read_distribution(ModelOutput.from_content("judge", "85")) is None


def test_a_judge_at_home_is_asked_for_its_distribution_and_not_to_write(judge: Model) -> None:
    result = asyncio.run(ask_judge(judge, "Grade this answer.", ESCAPES.keys()))
    assert result.method == "distribution"
    if result.score is None:
        assert (result.reason or "").partition(":")[0] in ("low mass", "code", "refusal")


@pytest.mark.parametrize(("gives", "method"), [(True, "distribution"), (False, "parsed")])
def test_only_judges_that_give_probabilities_are_asked_for_them(gives: bool, method: str) -> None:
    name = f"gives-{gives}"

    def reply(prompt: str, config: GenerateConfig) -> ModelOutput:
        output = ModelOutput.from_content("fake", "85")
        asked = (config.extra_body or {}).get("steering", {}).get("distribution")
        assert (asked is not None) is gives
        if asked:
            assert asked == [*NUMBERS, "CODE", "REFUSAL"]
            output.metadata = {"steering": {"distribution": {"85": 0.5, "5": 0.1}}}
        return output

    REPLIES[name] = reply
    model = fake(name)
    model.api.gives_distribution = gives  # type: ignore[attr-defined]
    result = asyncio.run(ask_judge(model, "Grade", ["CODE", "REFUSAL"]))
    assert result.method == method
    assert result.score == pytest.approx((85 * 0.5 + 0.5) / 0.6 if gives else 85)


def test_judges_that_think_and_toys_write_their_reply(tiny_folder: Callable[[str], Path]) -> None:
    api = get_model("steered/toy", vector="none").api
    assert api.scores_answers  # type: ignore[attr-defined]
    assert not api.gives_distribution  # type: ignore[attr-defined]
    thinking = get_model(f"steered/{tiny_folder('llama')}", vector="none", thinking=True)
    assert not thinking.api.gives_distribution  # type: ignore[attr-defined]


def test_judge_and_tested_model_of_the_same_weights_have_one_copy(judge: Model) -> None:
    name = f"steered/{judge.api.canonical_name()}"
    tested = get_model(name, vector="none", memoize=False)
    assert tested.api._engine is judge.api._engine  # type: ignore[attr-defined]
