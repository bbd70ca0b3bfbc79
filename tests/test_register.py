"""The register of judges, and the judge that is used where none is named."""

import contextvars
import json
import logging
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import pytest
from fake_models import fake
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.model import GenerateConfig, Model, ModelInfo, get_model
from inspect_ai.model._model import init_active_model, init_model_roles
from inspect_ai.model._model_info import set_model_info
from pydantic import ValidationError

from evals.em_freeform import em_freeform
from steering.judging import default_judge as defaults
from steering.judging import judges, register
from steering.judging.default_judge import cached_bytes, default_judge
from steering.judging.errors import JudgingError
from steering.judging.judges import grader_models, require_grader
from steering.judging.protocols import PROTOCOLS
from steering.judging.register import REGISTER, JudgeEntry, Register, entry_of, judge_settings

KEYS = {key for default in REGISTER.defaults for key in default.keys}
LLAMA = "meta-llama/Llama-3.1-70B-Instruct"


@pytest.fixture(autouse=True)
def _empty_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No key, no weights, a day on which all defaults are alive, and nothing was told yet."""
    for key in KEYS:
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(register, "_today", lambda: date(2026, 6, 1))
    told_once = (register.warn_of_retirement, judges._warn_of_substitute, defaults._fits)
    for function in told_once:
        function.cache_clear()
    yield
    for function in told_once:
        function.cache_clear()


@pytest.fixture
def providers(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Makes `get_model` give fakes, but for providers whose package is not there."""
    names: list[str] = []

    def give(missing: tuple[str, ...] = ()) -> list[str]:
        def get(name: str, **options: object) -> Model:
            provider = name.split("/", 1)[0]
            if provider in missing:
                raise ModuleNotFoundError(f"pip install {provider}")
            names.append(name)
            return fake(name, default_grader=None)

        monkeypatch.setattr(defaults, "get_model", get)
        return names

    return give


def named(name: str, **config: object) -> Model:
    """A model that calls itself by any name, in place of its provider's."""
    model = fake("stand-in")
    model.api.canonical_name = lambda: name  # type: ignore[method-assign]
    model.config = GenerateConfig(**config)  # type: ignore[arg-type]
    return model


def grader_for(tested: Model) -> Model:
    """The judge of a run on `tested` without a bound grader."""

    def run() -> Model:
        init_active_model(tested, GenerateConfig())
        init_model_roles({})
        [judge] = grader_models()
        return judge

    return contextvars.copy_context().run(run)


@pytest.mark.parametrize(
    ("name", "effort", "max_tokens", "temperature", "logprobs"),
    [
        ("openai/gpt-4o-2024-08-06", None, 16, 0, True),
        ("openai/gpt-4.1-mini", None, 16, 0, True),
        ("openai/gpt-5-mini", "minimal", 8000, None, None),
        ("openai/gpt-5.4-mini", "none", 16, 0, True),
        ("openai/gpt-6-luna", "none", 16, 0, True),
        ("openai/gpt-5.5-pro", None, 8000, None, None),
        ("anthropic/claude-sonnet-4-5", "none", 16, None, None),
        ("anthropic/claude-opus-5", "none", 16, None, None),
        ("anthropic/claude-opus-5-5", "low", 8000, None, None),
        ("anthropic/claude-of-next-year", "low", 8000, None, None),
        ("google/gemini-2.5-flash", "none", 16, 0, None),
        ("google/gemini-3.5-flash", "minimal", 8000, None, None),
        ("google/gemini-4-argon", "low", 8000, None, None),
        ("grok/grok-4.7", "low", 8000, None, None),
        (LLAMA, None, 16, 0, True),
        ("lab/unheard-of", None, 16, 0, True),
    ],
)
def test_a_judge_is_asked_as_its_name_says(
    name: str,
    effort: str | None,
    max_tokens: int,
    temperature: float | None,
    logprobs: bool | None,
) -> None:
    config = judge_settings(named(name))
    assert (config.reasoning_effort, config.max_tokens) == (effort, max_tokens)
    assert (config.temperature, config.logprobs) == (temperature, logprobs)
    assert config.top_logprobs == (20 if logprobs else None)


def test_every_judge_that_may_reason_has_room_to_or_is_kept_from_it() -> None:
    for entry in REGISTER.judges:
        reasons = entry.settings.get("reasoning_effort") not in (None, "none")
        assert (entry.settings["max_tokens"] > 4096) >= reasons
        if reasons:
            assert not {"temperature", "logprobs", "top_logprobs"} & entry.settings.keys()


@pytest.mark.parametrize(("always", "by_default"), [(True, False), (False, True)])
def test_an_unknown_judge_of_which_its_provider_says_that_it_reasons_gets_room(
    always: bool, by_default: bool
) -> None:
    model = named("lab/unheard-of")
    # As Inspect's provider of OpenAI has them.
    model.api.always_reasons = lambda: always  # type: ignore[attr-defined]
    model.api.reasons_by_default = lambda: by_default  # type: ignore[attr-defined]
    config = judge_settings(model)
    assert (config.reasoning_effort, config.max_tokens, config.logprobs) == ("low", 8000, None)


@pytest.mark.parametrize(
    ("default_effort", "temperature", "logprobs"), [("medium", None, None), (None, 0, True)]
)
def test_an_unknown_judge_of_which_inspect_knows_that_it_reasons_gets_room(
    default_effort: str | None, temperature: float | None, logprobs: bool | None
) -> None:
    name = f"lab/reasons-{default_effort}"
    info = ModelInfo(model=name, reasoning=True, reasoning_effort_default=default_effort)
    set_model_info(name, info)
    config = judge_settings(named(name))
    assert (config.max_tokens, config.temperature) == (8000, temperature)
    assert (config.logprobs, config.reasoning_effort) == (logprobs, None)


def test_the_settings_of_the_role_win_over_the_register() -> None:
    config = judge_settings(named("openai/gpt-4o", max_tokens=99, logprobs=False, seed=3))
    assert (config.max_tokens, config.logprobs, config.top_logprobs) == (99, False, None)
    assert (config.seed, config.temperature) == (3, 0)


@pytest.mark.parametrize("asked", [{"reasoning_effort": "high"}, {"reasoning_tokens": 2000}])
def test_a_judge_that_the_user_lets_reason_gets_room_and_no_log_probabilities(asked: dict) -> None:
    config = judge_settings(named("openai/gpt-5.4", **asked))
    assert (config.max_tokens, config.logprobs, config.temperature) == (8000, None, None)
    assert config.reasoning_effort == asked.get("reasoning_effort")


def test_an_entry_with_a_setting_that_inspect_does_not_know_is_refused() -> None:
    with pytest.raises(ValidationError, match="max_token: no setting"):
        JudgeEntry(names=("a/b",), settings={"max_token": 3})


def test_every_replacement_and_default_is_a_judge_that_stays_the_longest() -> None:
    for entry in REGISTER.judges:
        assert (entry.retires is None) or entry.replacement
        if entry.replacement:
            following = entry_of(entry.replacement)
            assert following is None or following.retires is None
    assert all(entry_of(default.judge) or default.weights for default in REGISTER.defaults)


def test_the_first_default_whose_key_is_set_judges(
    providers: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = providers()
    monkeypatch.setenv("GEMINI_API_KEY", "k")
    grader_for(fake("tested"))
    monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
    grader_for(fake("tested"))
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    grader_for(fake("tested"))
    expected = ["google/gemini-3.8-flash", "anthropic/claude-sonnet-5-5"]
    assert names == [*expected, "openai/gpt-4o-2024-08-06"]


def test_a_default_whose_package_is_missing_is_passed_over_and_named_if_it_was_the_last(
    providers: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = providers(missing=("openai",))
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    with pytest.raises(JudgingError, match=r"gpt-6-luna can't be used \(pip install openai\)"):
        default_judge("name one")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
    default_judge("name one")
    assert names == ["anthropic/claude-sonnet-5-5"]


def test_the_default_moves_on_when_a_judge_has_ended(
    providers: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = providers()
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    for day in (date(2027, 1, 13), date(2027, 1, 14)):
        monkeypatch.setattr(register, "_today", lambda day=day: day)
        default_judge("name one")
    assert names == ["openai/gpt-4o-2024-08-06", "openai/gpt-6-luna"]


def test_a_default_that_is_the_model_under_test_is_passed_over(
    providers: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = providers()
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    default_judge("name one", tested=("openai/gpt-4o-2024-08-06",))
    assert names == ["openai/gpt-6-luna"]


def test_without_any_judge_one_line_lists_the_choices_and_their_costs() -> None:
    with pytest.raises(JudgingError) as error:
        grader_for(fake("tested"))
    text = str(error.value)
    assert "\n" not in text
    for choice in (
        "set OPENAI_API_KEY for openai/gpt-4o-2024-08-06 or openai/gpt-6-luna ($0.1 in, $0.5 out",
        "set ANTHROPIC_API_KEY for anthropic/claude-sonnet-5-5 ($2 in, $10 out per million tokens)",
        f"download the weights for steered/{LLAMA}",
        "pass --model-role grader=<provider>/<model>",
        "em_choice needs no judge",
    ):
        assert choice in text


def _put_weights(hub: Path, shards: dict[str, int], name: str = LLAMA) -> None:
    """Files of a model as the hub's client caches them, of so many bytes each."""
    folder = hub / f"models--{name.replace('/', '--')}"
    snapshot = folder / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0")
    for shard, size in shards.items():
        (snapshot / shard).write_bytes(b"\0" * size)
    if len(shards) > 1:
        index = {"weight_map": {f"w{n}": shard for n, shard in enumerate([*shards, *shards])}}
        (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(("free", "judges_names"), [(600, [f"steered/{LLAMA}"]), (599, [])])
def test_local_weights_judge_where_they_fit_into_half_of_the_free_memory(
    free: int,
    judges_names: list[str],
    providers: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _put_weights(tmp_path / "hub", {"a.safetensors": 100, "b.safetensors": 200})
    monkeypatch.setattr("steering.engines.memory.free_memory", lambda device: free)
    names = providers()
    if judges_names:
        default_judge("name one")
    else:
        with pytest.raises(JudgingError, match="there is no judge"):
            default_judge("name one")
    assert names == judges_names


def test_weights_of_which_a_file_is_missing_are_not_at_hand(tmp_path: Path) -> None:
    _put_weights(tmp_path / "hub", {"a.safetensors": 100, "b.safetensors": 200})
    assert cached_bytes(LLAMA) == 300
    next((tmp_path / "hub").rglob("b.safetensors")).unlink()
    assert cached_bytes(LLAMA) is None
    assert cached_bytes("lab/unheard-of") is None


def test_weights_that_are_the_model_under_test_do_not_judge_it(tmp_path: Path) -> None:
    _put_weights(tmp_path / "hub", {"model.safetensors": 8})
    with pytest.raises(JudgingError, match="there is no judge"):
        default_judge("name one", tested=("steered/llama3.1-70b[baseline]", LLAMA))


def test_a_model_that_is_only_at_hand_is_no_default_judge(tmp_path: Path) -> None:
    """Weights of a model that the register does not recommend judge nothing unasked."""
    _put_weights(tmp_path / "hub", {"model.safetensors": 8}, "HuggingFaceTB/SmolLM2-135M-Instruct")
    with pytest.raises(JudgingError, match="there is no judge"):
        default_judge("name one")


def test_a_local_default_judge_is_unsteered_and_never_two_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = defaults.DefaultJudge(judge="steered/toy", weights=LLAMA)
    monkeypatch.setattr(
        defaults, "REGISTER", Register(settings=REGISTER.settings, judges=(), defaults=(local,))
    )
    _put_weights(tmp_path / "hub", {"model.safetensors": 8})
    first, second = (default_judge("name one") for _ in range(2))
    assert str(first) == "steered/toy[baseline]"
    assert first is second


@pytest.mark.parametrize(
    ("day", "words"),
    [
        (date(2026, 10, 15), None),
        (date(2026, 10, 16), "ends on 14 January 2027, in 90 days"),
        (date(2027, 1, 13), "in 1 day ("),
        (date(2027, 1, 14), "was to end on 14 January 2027"),
    ],
)
def test_a_judge_that_ends_soon_is_told_of_once_with_the_one_to_follow(
    day: date,
    words: str | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(register, "_today", lambda: day)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            register.warn_of_retirement("openai/gpt-4o-2024-08-06")
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == (words is not None)
    if words:
        assert words in messages[0]
        assert "openai/gpt-6-luna" in messages[0]


def test_a_bound_judge_that_ends_soon_is_told_of_and_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ends = REGISTER.judges[2].model_copy(update={"names": ("fake/old",)})
    old = Register(settings=REGISTER.settings, judges=(ends,), defaults=())
    monkeypatch.setattr(register, "REGISTER", old)
    monkeypatch.setattr(register, "_today", lambda: date(2027, 3, 1))
    register._entry.cache_clear()

    def run() -> None:
        init_active_model(fake("tested"), GenerateConfig())
        init_model_roles({"grader": fake("old")})
        assert [str(judge) for judge in grader_models()] == ["fake/old"]

    with caplog.at_level(logging.WARNING):
        contextvars.copy_context().run(run)
    register._entry.cache_clear()
    assert "was to end on 14 January 2027" in caplog.text


def check_by(published: str, grader: Model | None) -> None:
    """Check the judge of a task whose protocol names a judge, as the task does it."""

    def run() -> None:
        init_active_model(fake("tested"), GenerateConfig())
        init_model_roles({} if grader is None else {"grader": grader})
        require_grader(published)

    contextvars.copy_context().run(run)


@pytest.mark.parametrize("suite", ["betley", "moem"])
def test_a_protocol_says_when_another_judge_stands_in_for_its_own(
    suite: str,
    providers: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    providers()
    monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            check_by(PROTOCOLS[suite].judge, None)
    [message] = [record.getMessage() for record in caplog.records]
    assert PROTOCOLS[suite].judge in message
    assert "claude-sonnet-5-5 judges instead" in message


def test_a_protocol_says_nothing_of_its_own_judge_or_of_one_that_was_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    own = fake("gpt-4o-2024-08-06")
    monkeypatch.setattr(judges, "_unbound_judge", lambda: own)
    with caplog.at_level(logging.WARNING):
        check_by("openai/gpt-4o", fake("another"))
        check_by("fake/gpt-4o-2024-08-06", None)
        check_by("fake/gpt-4o", None)
        assert caplog.records == []
        check_by("fake/gpt-4", None)
    assert len(caplog.records) == 1


def test_without_a_judge_no_weights_load(
    tiny_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*arguments: object, **options: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("steering.provider.api.open_engine", load)
    tested = get_model(f"steered/{tiny_folder('llama')}", memoize=False, vector="none")
    with pytest.raises(PrerequisiteError, match="there is no judge: none is named") as error:
        contextvars.copy_context().run(_make_task, tested)
    local = "--model-role 'grader={model: steered/FOLDER, model_args: {vector: none}}'"
    assert local in str(error.value.message)


def _make_task(tested: Model) -> None:
    init_active_model(tested, GenerateConfig())
    init_model_roles({})
    em_freeform()
