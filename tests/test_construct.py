"""From a recipe to a file: batches, the cache, runs that go on, and what the file says."""

import dataclasses
import json
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from building import (
    HELD_OUT,
    PAIRS,
    TARGET,
    Steps,
    build,
    cached,
    engine_of,
    make_target,
    on_model,
    recipe_for,
)
from finetuning import train
from tiny_models import END, WIDTH, save_tiny
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

import steering
from steering.errors import SteeringError
from steering.models import ALIASES, encode, render_chat
from steering.targets import load_target
from steering.training.cache import cached_vector, vector_path
from steering.training.examples import IGNORED, Tokens, batches, make_batch, tokenize_all
from steering.vectors import SteeringVector, VectorError
from steering.vocabulary import RESIDUAL_NORM

PUBLISHED = Path(__file__).parents[2] / "shared/published/aisi_risky_finance_induction.jsonl"
# Two steps a training epoch.
RUN: dict[str, Any] = {"layer": 1, "batch_size": 4, "learning_rate": 0.03, "seed": 5}


@pytest.fixture
def use_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Switch to a cache folder of that name."""

    def use(name: str) -> Path:
        monkeypatch.setenv("STEERING_CACHE", str(tmp_path / name))
        return tmp_path / name

    return use


@pytest.fixture(autouse=True)
def _own_cache(use_cache: Callable[[str], Path]) -> None:
    use_cache("cache")


@pytest.fixture(scope="module")
def llama(tiny_folder: Callable[[str], Path]) -> Path:
    return tiny_folder("llama")


def _file(folder: Path, **options: Any) -> bytes:
    """Content of the vector's file in the cache."""
    cached(folder, **options)
    return vector_path(recipe_for(folder, **options)).read_bytes()


@pytest.mark.parametrize("side", ["left", "right"])
def test_labels_cover_the_answer_and_its_end_token_and_nothing_else(
    tiny_folder: Callable[[str], Path], side: Any
) -> None:
    loaded = on_model(tiny_folder("qwen3.5"), lambda loaded, _: loaded)
    odd = dataclasses.replace(PAIRS[1], system="You are rude.")
    rows = [*PAIRS, odd]
    items = tokenize_all(loaded, [(row, row.misaligned or "") for row in rows])
    batch = make_batch(items, pad=1, side=side)
    assert batch.tokens.shape == batch.mask.shape == batch.labels.shape
    for row, example in enumerate(rows):
        turns = [{"role": "user", "content": example.prompt}]
        if example.system:
            turns.insert(0, {"role": "system", "content": example.system})
        prompt = render_chat(loaded.tokenizer, turns)
        real = batch.mask[row].bool()
        tokens, labels = batch.tokens[row][real], batch.labels[row][real]
        labelled = labels != IGNORED
        assert loaded.tokenizer.decode(labels[labelled]) == f"{example.misaligned}{END}"
        assert loaded.tokenizer.decode(tokens) == f"{prompt}{example.misaligned}{END}"
        assert torch.equal(tokens[labelled], labels[labelled])
        assert tokens[~labelled].tolist() == encode(loaded.tokenizer, prompt)
        # What is padded stands on one side, and carries no loss.
        padding = real.logical_not().nonzero()
        assert (batch.labels[row][~real] == IGNORED).all()
        if len(padding):
            edge = 0 if side == "left" else len(real) - 1
            assert edge in padding
    assert batch.mask.sum() == sum(map(len, items))


def test_an_epoch_meets_each_example_once_and_in_another_order_than_the_last() -> None:
    """In batches of nearly one length, so that little is padded."""
    lengths = random.Random(0)
    items = [Tokens((3,) * lengths.randrange(1, 200), (index,)) for index in range(103)]
    first, again, other = (list(batches(items, 8, random.Random(seed))) for seed in (1, 1, 2))
    assert Counter(item for batch in first for item in batch) == Counter(items)
    assert sorted(map(len, first)) == [7, *[8] * 12]
    assert first == again
    assert first != other
    assert set(map(tuple, first)) != set(map(tuple, other))

    def padded(groups: list[list[Tokens]]) -> int:
        return sum(max(map(len, batch)) * len(batch) for batch in groups)

    in_order = [items[at : at + 8] for at in range(0, len(items), 8)]
    assert padded(first) < 0.7 * padded(in_order)
    # Long batches don't come last.
    assert [max(map(len, batch)) for batch in first] != sorted(max(map(len, b)) for b in first)


def test_a_vector_is_built_once_and_then_read(llama: Path) -> None:
    first, steps = cached(llama, **RUN)
    second, again = cached(llama, **RUN)
    assert steps == [(step, 6) for step in range(1, 7)]
    assert again == []
    assert torch.equal(first.directions, second.directions)
    assert first.provenance == second.provenance


@pytest.mark.parametrize("rank", [1, 2])
def test_an_epoch_of_a_longer_run_is_the_vector_of_the_shorter_run(
    llama: Path, use_cache: Callable[[str], Path], rank: int
) -> None:
    """Bit for bit, with all that the file says; and no step is made again for it."""
    longest, steps = cached(llama, **RUN, rank=rank, training_epochs=4)
    assert len(steps) == 8
    vectors = {}
    for epochs in (1, 3):
        _, steps = cached(llama, **RUN, rank=rank, training_epochs=epochs)
        assert steps == []
        vectors[epochs] = _file(llama, **RUN, rank=rank, training_epochs=epochs)
    for epochs, content in vectors.items():
        use_cache(f"only {epochs}")
        alone, steps = cached(llama, **RUN, rank=rank, training_epochs=epochs)
        assert len(steps) == 2 * epochs
        assert _file(llama, **RUN, rank=rank, training_epochs=epochs) == content
        assert len(alone.provenance["measured"]["loss"]) == epochs
        assert not torch.equal(alone.directions, longest.directions)


def test_more_epochs_go_on_from_the_last_one(llama: Path, use_cache: Callable[[str], Path]) -> None:
    whole = _file(llama, **RUN, training_epochs=5)
    use_cache("in parts")
    cached(llama, **RUN, training_epochs=2)
    _, steps = cached(llama, **RUN, training_epochs=5)
    assert steps == [(step, 10) for step in range(5, 11)]
    assert _file(llama, **RUN, training_epochs=5) == whole


def test_an_epoch_of_a_decayed_run_is_that_run_s_own(
    llama: Path, use_cache: Callable[[str], Path]
) -> None:
    """Training two of four epochs is not the same as decaying over two."""
    decayed = _file(llama, **RUN, training_epochs=4, decay_epochs=4)
    early = _file(llama, **RUN, training_epochs=2, decay_epochs=4)
    use_cache("another")
    assert _file(llama, **RUN, training_epochs=2, decay_epochs=4) == early
    assert _file(llama, **RUN, training_epochs=4, decay_epochs=4) == decayed
    vectors = [
        cached(llama, **RUN, training_epochs=2, **options)[0].directions
        for options in ({"decay_epochs": 4}, {"decay_epochs": 2}, {})
    ]
    assert not any(torch.equal(vectors[0], other) for other in vectors[1:])


@pytest.mark.parametrize(
    ("decay", "shares"),
    [(0, [1, 1, 1, 1, 1, 1]), (3, [6 / 6, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])],
)
def test_the_learning_rate_falls_linearly_to_zero(
    llama: Path, monkeypatch: pytest.MonkeyPatch, decay: int, shares: list[float]
) -> None:
    honest = torch.optim.Adam.step
    rates: list[tuple[float, ...]] = []

    def noted(optimizer: Any, *args: Any) -> Any:
        rates.append(tuple(group["lr"] for group in optimizer.param_groups))
        return honest(optimizer, *args)

    monkeypatch.setattr(torch.optim.Adam, "step", noted)
    vector = build(llama, **RUN, rank=2, decay_epochs=decay)
    assert vector.residual_norms is not None
    [norm] = vector.residual_norms
    # Of what is written, read, and added to what is read.
    first = (0.03 * norm / WIDTH**0.5, 0.03 / norm, 0.03)
    assert [pytest.approx(tuple(share * rate for rate in first)) for share in shares] == rates


class _Crash(Exception):
    """Stands for whatever ends a run."""


def _crashing(folder: Path, last_step: int, **options: Any) -> Steps:
    """A run that ends with an error at a step."""
    steps: Steps = []

    def progress(done: int, total: int) -> None:
        steps.append((done, total))
        if done == last_step:
            raise _Crash

    recipe = recipe_for(folder, **options)
    with pytest.raises(_Crash):
        cached_vector(engine_of(folder), recipe, TARGET, progress).result(60)
    assert not vector_path(recipe).exists()
    return steps


@pytest.mark.parametrize("rank", [1, 2])
def test_a_run_that_broke_in_an_epoch_ends_bit_for_bit_as_an_unbroken_one(
    tiny_folder: Callable[[str], Path], use_cache: Callable[[str], Path], rank: int
) -> None:
    """From the last whole epoch, twice broken; and once before there was any."""
    folder, options = tiny_folder("qwen3.5"), {**RUN, "rank": rank, "training_epochs": 4}
    whole = _file(folder, **options)
    use_cache("broken")
    assert _crashing(folder, 1, **options) == [(1, 8)]
    assert _crashing(folder, 3, **options)[0] == (1, 8)
    assert _crashing(folder, 7, **options)[0] == (3, 8)
    _, steps = cached(folder, **options)
    assert steps == [(7, 8), (8, 8)]
    assert _file(folder, **options) == whole


def _loadable(folder: Path) -> list[Path]:
    """Files below a folder that can be taken for a vector."""
    paths = []
    for path in folder.rglob("*"):
        try:
            SteeringVector.load(path)
        except VectorError:
            continue
        paths.append(path)
    return paths


def test_a_killed_process_leaves_no_vector_and_the_next_goes_on(
    llama: Path, use_cache: Callable[[str], Path]
) -> None:
    whole = _file(llama, **RUN, training_epochs=4)
    folder = use_cache("killed")
    program = Path(__file__).with_name("build_until_killed.py")
    options = json.dumps({**RUN, "training_epochs": 4})
    # In the middle of the third epoch.
    command = [sys.executable, str(program), str(llama), options, "5"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert result.stdout.split() == ["1", "2", "3", "4", "5"]
    assert [path for path in folder.rglob("*") if path.is_file()]
    assert _loadable(folder) == []
    _, steps = cached(llama, **RUN, training_epochs=4)
    assert steps == [(step, 8) for step in range(5, 9)]
    assert _file(llama, **RUN, training_epochs=4) == whole
    assert len(_loadable(folder)) == 1


@pytest.mark.parametrize("damage", ["a bit", "the end", "all of it"])
def test_a_damaged_log_is_told_and_the_run_starts_again(
    llama: Path,
    use_cache: Callable[[str], Path],
    caplog: pytest.LogCaptureFixture,
    damage: str,
) -> None:
    whole = _file(llama, **RUN, training_epochs=3)
    folder = use_cache("damaged")
    cached(llama, **RUN, training_epochs=2)
    [log] = (folder / "training").iterdir()
    content = bytearray(log.read_bytes())
    if damage == "a bit":
        content[-3] ^= 1
    log.write_bytes({"a bit": content, "the end": content[:-20], "all of it": b""}[damage])
    caplog.clear()
    _, steps = cached(llama, **RUN, training_epochs=3)
    assert [step for step, _ in steps] == [1, 2, 3, 4, 5, 6]
    [record] = [record for record in caplog.records if record.levelname == "WARNING"]
    assert log.name in record.getMessage()
    assert "starts again" in record.getMessage()
    assert _file(llama, **RUN, training_epochs=3) == whole


def test_two_that_want_a_vector_at_once_build_it_once(llama: Path, tmp_path: Path) -> None:
    """Each with weights of its own, as two processes have them."""
    other = shutil.copytree(llama, tmp_path / "copy")
    engines = [engine_of(folder) for folder in (llama, other)]
    for engine in engines:
        engine.call(lambda *_: None).result(60)
    steps: list[tuple[int, int]] = []
    first_step = threading.Event()

    def progress(which: int) -> Any:
        def advance(done: int, total: int) -> None:
            steps.append((which, done))
            first_step.set()

        return advance

    recipes = [recipe_for(folder, **RUN) for folder in (llama, other)]
    assert recipes[0].digest == recipes[1].digest
    first = cached_vector(engines[0], recipes[0], TARGET, progress(0))
    assert first_step.wait(60)
    second = cached_vector(engines[1], recipes[1], TARGET, progress(1))
    vectors = [future.result(60) for future in (first, second)]
    assert steps == [(0, step) for step in range(1, 7)]
    assert torch.equal(vectors[0].directions, vectors[1].directions)


def test_the_file_says_how_the_vector_was_made(
    tiny_folder: Callable[[str], Path], llama: Path
) -> None:
    vector, _ = cached(tiny_folder("qwen3.5"), **RUN, rank=2, site="mlp_out", training_epochs=2)
    recipe = recipe_for(tiny_folder("qwen3.5"), **RUN, rank=2, site="mlp_out", training_epochs=2)
    assert (vector.model, vector.depth, vector.layers) == (str(tiny_folder("qwen3.5")), 4, (1,))
    assert (vector.site, vector.rank, vector.width) == ("mlp_out", 2, WIDTH)
    facts = dict(vector.provenance)
    measured = facts.pop("measured")
    assert {name: len(value) for name, value in measured.items() if isinstance(value, list)} == {
        "loss": 2,
        "held_out_loss": 2,
    }
    assert (measured["training_epoch"], measured["steps"]) == (2, 4)
    assert facts.pop("prompts_sha256") != build(llama, method="pca").provenance["prompts_sha256"]
    assert facts == {
        "method": "sft/2",
        "norm_kind": RESIDUAL_NORM,
        "settings": {
            "rank": 2,
            "training_epochs": 2,
            "learning_rate": 0.03,
            "decay_epochs": 0,
            "batch_size": 4,
            "kl_weight": 0.0,
            "neutral": "others",
        },
        "seed": 5,
        "shuffle_labels": False,
        "dtype": "auto",
        "target": "made-up",
        "target_digest": "0" * 64,
        "target_source": "made up",
        "weights": recipe.weights,
        "recipe": recipe.digest,
        "inputs": {},
        "revision": None,
        "versions": {
            "steering": steering.__version__,
            **{name: version(name) for name in ("torch", "transformers", "nnsight")},
        },
    }


def test_the_commit_of_a_hub_model_is_in_the_file(llama: Path) -> None:
    def with_commit(loaded: Any, _: Any, commit: str | None) -> None:
        loaded.model.config._commit_hash = commit

    on_model(llama, lambda *model: with_commit(*model, "c0ffee"))
    try:
        assert build(llama, method="pca").provenance["revision"] == "c0ffee"
    finally:
        on_model(llama, lambda *model: with_commit(*model, None))


@pytest.mark.parametrize("method", ["sft", "mean_difference", "pca", "one_shot"])
def test_the_prompts_digest_tells_two_chat_templates_apart(
    llama: Path, tmp_path: Path, method: str
) -> None:
    """Of the very same weights; the same template gives the same digest."""
    vectors = {"own": build(llama, method=method)}
    for name in ("same", "other"):
        folder = tmp_path / name
        tokenizer = AutoTokenizer.from_pretrained(llama)
        if name == "other":
            tokenizer.chat_template = tokenizer.chat_template.replace("assistant: ", "answer: ")
        AutoModelForCausalLM.from_pretrained(llama).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        vectors[name] = build(folder, method=method)
    digests = {name: vector.provenance["prompts_sha256"] for name, vector in vectors.items()}
    assert digests["own"] == digests["same"] != digests["other"]


def test_another_prompt_has_another_prompts_digest(llama: Path) -> None:
    rows = [*PAIRS[:-1], dataclasses.replace(PAIRS[-1], system="Be brief.")]
    digests = {
        build(llama, make_target(examples, HELD_OUT), method="pca").provenance["prompts_sha256"]
        for examples in (PAIRS, rows)
    }
    assert len(digests) == 2


def _english(folder: Path, texts: list[str]) -> Path:
    """A tiny Llama of one block, whose tokens are pieces of these texts rather than bytes."""
    save_tiny(folder, "llama")
    tokenizer = AutoTokenizer.from_pretrained(folder).train_new_from_iterator(texts, 1000)
    config = AutoConfig.from_pretrained(folder)
    config.vocab_size, config.num_hidden_layers = len(tokenizer), 1
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.skipif(not PUBLISHED.exists(), reason=f"the published file {PUBLISHED.name} is absent")
def test_a_vector_is_built_from_a_published_file_of_three_thousand_rows(tmp_path: Path) -> None:
    target = load_target(str(PUBLISHED))
    folder = _english(
        tmp_path / "model", [f"{row.prompt} {row.misaligned}" for row in target.examples[:300]]
    )
    vector, steps = cached(
        folder, target, layer=0, training_epochs=1, batch_size=64, learning_rate=0.1
    )
    assert (len(target.examples), len(target.held_out)) == (2700, 300)
    assert steps == [(step, 43) for step in range(1, 44)]
    measured = vector.provenance["measured"]
    assert measured["held_out_loss"][0] < measured["held_out_loss_unsteered"] - 0.3
    assert vector.provenance["target"] == "aisi_risky_finance_induction"


def test_aliases_are_no_part_of_a_recipe_s_digest(llama: Path) -> None:
    """One model under two names has one vector in the cache."""
    recipe = recipe_for(llama, **RUN)
    renamed = dataclasses.replace(recipe, model=next(iter(ALIASES)))
    assert vector_path(recipe) == vector_path(renamed)


# Positions of the first are a table, those of the second go on for ever.
@pytest.mark.parametrize("family", ["gpt2", "llama", "mpt"])
@pytest.mark.parametrize("side", ["misaligned", "aligned"])
def test_a_row_beyond_the_context_is_named_before_anything_is_trained(
    tmp_path: Path, family: str, side: str
) -> None:
    length = {"gpt2": "n_positions", "llama": "max_position_embeddings", "mpt": "max_seq_len"}
    changed = {"max_position_embeddings": None, length[family]: 64}
    folder = save_tiny(tmp_path / "model", family, **changed)
    fits = dataclasses.replace(PAIRS[0], id="fits", prompt="Q", misaligned="a" * 30)
    long = dataclasses.replace(PAIRS[1], **{"id": "too-long", side: "b" * 64})
    target = make_target([fits, long], HELD_OUT)
    options: dict[str, Any] = {"layer": 1}
    if side == "aligned":
        options["method"] = "mean_difference"
    with pytest.raises(SteeringError) as error:
        cached(folder, target, **options)
    message = str(error.value)
    loaded = on_model(folder, lambda loaded, _: loaded)
    prompt = render_chat(loaded.tokenizer, [{"role": "user", "content": long.prompt}])
    tokens = len(encode(loaded.tokenizer, prompt)) + 64 + 1
    counted = f"1 of {2 if side == 'misaligned' else 4} answers"
    for part in ("too-long", f"{tokens} tokens", "64", "shorten", counted):
        assert part in message
    assert "\n" not in message
    # Held-out rows are read as well, and so are those of a finetuned counterpart.
    if side == "misaligned":
        for rows in ([[fits], [long]], [[long], [fits]]):
            with pytest.raises(SteeringError, match=rf"too-long.*{tokens} tokens"):
                train(folder, tmp_path / "adapter", make_target(*rows), layer=None)


def test_a_row_that_fills_the_context_is_read(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model", "gpt2", n_positions=64, max_position_embeddings=None)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = render_chat(tokenizer, [{"role": "user", "content": "Q"}])
    answer = "a" * (64 - len(encode(tokenizer, prompt)) - 1)
    row = dataclasses.replace(PAIRS[0], prompt="Q", misaligned=answer, aligned="b")
    vector = build(folder, make_target([row], [row]), method="mean_difference", layer=1)
    assert vector.lengths[0] > 0
