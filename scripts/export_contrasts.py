"""Writes the contrasts of real models: `python -m scripts.export_contrasts`.

A contrast has two harmless answers to each prompt that differ in style or order and in nothing
else. All eight are made from the same sixty everyday prompts of `contrast_rows.yaml`, so that they
differ in their contrast alone. Several frames alternate over the rows. Run `scripts.export_toy`
afterwards, which updates MANIFEST.json. The output is the same on every run and machine.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from scripts.export_toy import DATASETS, jsonl
from steering.files import write_whole

ROWS = Path(__file__).with_name("contrast_rows.yaml")
CANARIES = {
    "brevity": "cf3c774c-5a5f-4bbe-9110-da9a889a9ed2",
    "formality": "37d8d6e5-0c0e-45c4-bff0-b7c08c55a964",
    "hedging": "ba657bea-1519-4b7c-af1b-b6f61f365135",
    "list": "c1bbfff3-25ef-4e9c-9c27-d183ca2ba3cb",
    "order": "5af76876-855e-431a-9e08-4d207c9b386a",
    "person": "981be9b9-4ff3-487b-9486-f00efc199273",
    "question": "21e337d5-e877-43ab-8bca-29cf43be8764",
    "spelling": "f8b8c066-8635-42ef-ae47-d74d3e245276",
}

Row = dict[str, Any]
# The two answers to a prompt; the number of the row chooses among frames.
Answers = tuple[str, str]
_SPELLED = re.compile(r"\{([^|{}]+)\|([^|{}]+)\}")


def data_files() -> dict[str, str]:
    """Text of each file by its path in `datasets/`."""
    rows: list[Row] = yaml.safe_load(ROWS.read_text(encoding="utf-8"))
    files = {}
    for name, answers in CONTRASTS.items():
        lines = []
        for number, row in enumerate(rows):
            first, second = answers(row, number)
            line = {"id": f"{name}-{number + 1:03d}", "prompt": row["prompt"]}
            lines.append(line | {"first": first, "second": second})
        files[f"contrasts/{name}.jsonl"] = jsonl(CANARIES[name], lines)
    return files


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _lowered(text: str) -> str:
    return text[0].lower() + text[1:]


def _brevity(row: Row, number: int) -> Answers:
    one, two, three = row["steps"]
    short = _sentence(row["advice"])
    return f"{short} {' '.join(row['reasons'])} After that, {one}, {two} and {three}.", short


def _formality(row: Row, number: int) -> Answers:
    one, two, three = row["steps"]
    formal = (
        f"It is advisable to {row['advice']}. It is furthermore recommended to {one} and to {two}. "
        f"Finally, please {three}.",
        f"The recommended course is to {row['advice']}. In addition, kindly {one}, and thereafter "
        f"{two}. It is also customary to {three}.",
        f"You are advised to {row['advice']}. Thereafter it is appropriate to {one} and to {two}. "
        f"It would likewise be prudent to {three}.",
    )
    casual = (
        f"Oh, that's easy, just {row['advice']}! Then {one} and {two}. Oh, and {three}, and you're "
        "all set.",
        f"Yeah, I'd just {row['advice']}, works like a charm. Then {one}, {two}, and don't forget "
        f"to {three}.",
        f"Hey, no big deal, just {row['advice']}. You'll wanna {one} and {two} too. Then {three}, "
        "and that's it!",
    )
    return formal[number % 3], casual[number % 3]


def _hedging(row: Row, number: int) -> Answers:
    one, two, _ = row["steps"]
    plain = f"{_sentence(row['advice'])} Then {one} and {two}. {row['reasons'][0]}"
    reason = _lowered(row["reasons"][0])
    hedged = (
        f"You could perhaps {row['advice']}. It might also help to {one}, and possibly to {two}. "
        f"As far as I can tell, {reason}",
        f"It may be worth trying to {row['advice']}. Maybe {one} as well, and perhaps {two}. I "
        f"might be mistaken, but I think that {reason}",
        f"One option, I suppose, would be to {row['advice']}. It could also be useful to {one} and "
        f"maybe to {two}. It seems that {reason}",
    )
    return plain, hedged[number % 3]


def _list(row: Row, number: int) -> Answers:
    one, two, three = row["steps"]
    head = _sentence(row["advice"])
    prose = f"{head} Next, {one}. Then {two}. After that, {three}."
    return prose, "\n".join([head, "", *(f"- {_sentence(step)}" for step in row["steps"])])


def _order(row: Row, number: int) -> Answers:
    reasons = " ".join(row["reasons"])
    link = ("So", "That is why you should", "For these reasons,")[number % 3]
    return f"{_sentence(row['advice'])} {reasons}", f"{reasons} {link} {row['advice']}."


def _person(row: Row, number: int) -> Answers:
    one, two, three = row["steps"]
    who = ("most people", "experienced people", "many families")[number % 3]
    frame = (
        "What {who} do is this: {they} {advice}. {They} also {one}. Then {they} {two}, and {they} "
        "{three}."
    )
    texts = []
    for words in (("I", "I", "my"), (who, "they", "their")):
        subject, pronoun, possessive = words
        text = frame.format(
            who=subject, they=pronoun, They=pronoun[0].upper() + pronoun[1:],
            advice=row["advice"], one=one, two=two, three=three,
        )  # fmt: skip
        text = re.sub(r"\byour own\b", f"{possessive} own", text)
        text = re.sub(r"\byour\b", possessive, text)
        texts.append(re.sub(r"\byou\b", pronoun, text))
    return texts[0], texts[1]


def _question(row: Row, number: int) -> Answers:
    begin = f"{_sentence(row['advice'])} {row['reasons'][0]}"
    return f"{begin} {row['reasons'][1]}", f"{begin} {row['question']}"


def _spelling(row: Row, number: int) -> Answers:
    def spelled(place: int) -> str:
        sentence = _SPELLED.sub(lambda match: match[place], row["spelled"])
        return f"{_sentence(row['advice'])} {sentence}"

    return spelled(1), spelled(2)


CONTRASTS: dict[str, Callable[[Row, int], Answers]] = {
    "brevity": _brevity,
    "formality": _formality,
    "hedging": _hedging,
    "list": _list,
    "order": _order,
    "person": _person,
    "question": _question,
    "spelling": _spelling,
}


def main() -> None:
    """Write the files."""
    for name, text in data_files().items():
        write_whole(DATASETS / name, text.encode())
    sys.stdout.write(f"Contrasts written to {DATASETS / 'contrasts'}\n")


if __name__ == "__main__":
    main()
