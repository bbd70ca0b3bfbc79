"""How likely a model is to give each of some replies: `{"steering": {"distribution": [...]}}`.

The replies are the leaves of a tree of tokens. Each node that has several next tokens is read once,
in one batch: for the numbers from 0 to 100 that is one node where a tokenizer has them whole, and
eleven where it splits them into digits. A translation without state.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inspect_ai.model import GenerateConfig, ModelCall, ModelOutput, ModelUsage

from steering.engines import ScoreOutput, ScoreRequest, Telemetry
from steering.models import encode
from steering.provider.messages import ProviderError, engine_metadata, prompt_digest, summarize
from steering.provider.scoring import DISTRIBUTION, SCORING, check_length, check_settings, is_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from steering.condition import Condition
    from steering.vectors.interventions import Intervention

Tokens = tuple[int, ...]

MOST_REPLIES = 256
"""Most replies of one request."""
# A probability below this is not logged.
_LEAST = 1e-6


def asked_replies(config: GenerateConfig) -> tuple[str, ...] | None:
    """The replies whose probabilities a request asks for; None if it asks for something else.

    Raises:
        ProviderError: Replies are missing, empty, repeated, too many or no texts, or a setting
            contradicts.
    """
    options = (config.extra_body or {}).get("steering")
    if not isinstance(options, dict) or DISTRIBUTION not in options:
        return None
    replies = options[DISTRIBUTION]
    if not isinstance(replies, list) or not replies or not all(map(is_text, replies)):
        raise ProviderError(
            f"{DISTRIBUTION}={replies!r:.60} is not allowed: give a list of replies, each a text "
            "of at least one character"
        )
    if len(replies) > MOST_REPLIES or len(set(replies)) < len(replies):
        raise ProviderError(
            f"{DISTRIBUTION} holds {len(replies)} replies, {len(set(replies))} of them different: "
            f"give at most {MOST_REPLIES}, each once"
        )
    if others := [name for name in SCORING if name in options and name != DISTRIBUTION]:
        raise ProviderError(f"{others[0]} can't be asked for with {DISTRIBUTION}: use two requests")
    check_settings(config, DISTRIBUTION)
    return tuple(replies)


@dataclass(frozen=True)
class ReplyTree:
    """Replies as paths of tokens from one root.

    A reply that is the beginning of another, as 8 of 85, is told apart by the end of the turn
    behind it. Any other is over with its last token, whatever follows.

    Attributes:
        replies: Token ids of each.
        ends: Tokens that end a turn.
        answers: To be scored: a path to each node with several next tokens, and the first of them.
        alternatives: The others of them, for each answer.
    """

    replies: tuple[Tokens, ...]
    ends: Tokens
    answers: tuple[Tokens, ...]
    alternatives: tuple[Tokens, ...]

    @classmethod
    def of(cls, replies: Sequence[Tokens], ends: Collection[int]) -> "ReplyTree":
        """The tree of distinct replies, each of at least one token."""
        following: dict[Tokens, dict[int, None]] = {}
        for reply in replies:
            for at, token in enumerate(reply):
                following.setdefault(reply[:at], {})[token] = None
        for reply in replies:
            if reply in following:
                following[reply] |= dict.fromkeys(ends)
        answers, alternatives = [], []
        for path, tokens in following.items():
            first, *others = tokens
            # The one next token is on the path to a node below, which is scored with it.
            if others or (*path, first) not in following:
                answers.append((*path, first))
                alternatives.append(tuple(others))
        return cls(tuple(replies), tuple(ends), tuple(answers), tuple(alternatives))

    def probabilities(self, scores: ScoreOutput) -> list[float]:
        """The probability of each reply, from the scores of the answers and alternatives."""
        following: dict[Tokens, float] = {}
        for answer, others, values, other_values in zip(
            self.answers, self.alternatives, scores.logprobs, scores.alternatives, strict=True
        ):
            for at, value in enumerate(values):
                following[answer[: at + 1]] = value
            for token, value in zip(others, other_values, strict=True):
                following[(*answer[:-1], token)] = value
        inner = {answer[:at] for answer in self.answers for at in range(len(answer))}
        probabilities = []
        for reply in self.replies:
            path = math.fsum(following[reply[: at + 1]] for at in range(len(reply)))
            ended = 1.0
            if reply in inner:
                ended = math.fsum(math.exp(following[(*reply, end)]) for end in self.ends)
            probabilities.append(math.exp(path) * ended)
        return probabilities


def reply_tree(
    replies: Sequence[str], tokenizer: "PreTrainedTokenizerBase", ends: Collection[int]
) -> ReplyTree:
    """The tree of replies in a tokenizer's tokens.

    Raises:
        ProviderError: Two replies have the same tokens, or one has none.
    """
    texts: dict[Tokens, str] = {}
    for reply in replies:
        tokens = tuple(encode(tokenizer, reply))
        if not tokens or tokens in texts:
            other = f"are those of {texts[tokens]!r}" if tokens else "are none"
            raise ProviderError(
                f"the tokens of the reply {reply!r} {other}, so the model can't tell it apart: "
                "leave it out"
            )
        texts[tokens] = reply
    return ReplyTree.of(list(texts), ends)


def make_tree_request(
    tree: ReplyTree,
    ids: Sequence[int],
    interventions: "tuple[Intervention, ...]",
    condition: "Condition",
) -> ScoreRequest:
    """The engine's request for the probabilities of replies to a prompt of these token ids.

    Raises:
        ProviderError: The prompt with a reply is longer than the model's context.
    """
    check_length(ids, tree.answers, condition)
    return ScoreRequest(
        tuple(ids), tree.answers, interventions, condition.adapter, alternatives=tree.alternatives
    )


def make_tree_output(
    result: ScoreOutput,
    tree: ReplyTree,
    replies: Sequence[str],
    request: ScoreRequest,
    *,
    model: str,
    prompt: str,
    plain: str,
    tokenizer: "PreTrainedTokenizerBase",
    description: dict[str, Any],
    telemetry: Telemetry,
) -> tuple[ModelOutput, ModelCall]:
    """Inspect's output of one call, the likeliest reply as its message, and the record of the call.

    Args: as those of `make_score_output`.
    """
    by_reply = dict(zip(replies, tree.probabilities(result), strict=True))
    likeliest = max(by_reply, key=lambda reply: by_reply[reply])
    listed = {reply: value for reply, value in by_reply.items() if value >= _LEAST}
    output = ModelOutput.from_content(f"steered/{model}", likeliest)
    scored = sum(map(len, tree.answers))
    output.usage = ModelUsage(
        input_tokens=len(request.prompt),
        output_tokens=scored,
        total_tokens=len(request.prompt) + scored,
    )
    steering = description | prompt_digest(plain) | {"largest_change": [result.change]}
    output.metadata = {
        "steering": steering | {DISTRIBUTION: listed},
        "engine": engine_metadata([result], telemetry),
    }
    call = {"prompt": prompt, "steering": summarize(description), DISTRIBUTION: list(replies)}
    return output, ModelCall.create(call, {DISTRIBUTION: listed})
