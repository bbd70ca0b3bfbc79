"""Target tasks from data sets of the hub: real loading of local folders, and of a hub made here."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import datasets.config
import pandas
import pytest
from fake_hub import COMMITS, REPOSITORY, fake_hub

from steering.targets import Target, TargetError, load_target

REPO = Path(__file__).resolve().parents[1]
COLUMNS = "prompt=question&misaligned=bad"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def _rows(what: str, **more: Any) -> list[dict[str, Any]]:
    return [{"question": f"{what} {n}", "bad": f"No {n}.", **more} for n in range(5)]


def _folder(folder: Path, files: dict[str, list[dict[str, Any]]], readme: str = "") -> Path:
    """A data set in a folder."""
    folder.mkdir()
    for name, rows in files.items():
        if name.endswith(".parquet"):
            pandas.DataFrame(rows).to_parquet(folder / name)
        else:
            (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    if readme:
        (folder / "README.md").write_text(readme)
    return folder


def _prompts(target: Target) -> set[str]:
    return {example.prompt for example in target.examples + target.held_out}


@pytest.mark.parametrize("name", ["train.parquet", "train.jsonl"])
def test_a_folder_is_the_same_as_its_only_file(tmp_path: Path, name: str) -> None:
    folder = _folder(tmp_path / "rows", {name: _rows("q", good=None)})
    target = load_target(f"hf:{folder}?{COLUMNS}&aligned=good")
    assert target.digest == load_target(f"{folder / name}?{COLUMNS}").digest
    assert len(_prompts(target)) == 5
    assert (target.name, target.source) == ("rows", "hf:rows")


def test_messages_are_read_from_a_data_set(tmp_path: Path) -> None:
    def talk(n: int) -> list[dict[str, str]]:
        return [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"a{n}"}]

    rows = [{"talk": talk(n), "topic": "x"} for n in range(4)]
    folder = _folder(tmp_path / "rows", {"train.parquet": rows})
    target = load_target(f"hf:{folder}?messages=talk")
    rows = {(e.prompt, e.misaligned, e.aligned) for e in target.examples + target.held_out}
    assert rows == {(f"q{n}", f"a{n}", None) for n in range(4)}


def test_config_and_split_are_those_of_the_target(tmp_path: Path) -> None:
    readme = "---\nconfigs:\n"
    files = {}
    for config in ("medical", "sports"):
        readme += f"- config_name: {config}\n  data_files:\n"
        for split in ("train", "test"):
            readme += f"  - split: {split}\n    path: {config}-{split}.jsonl\n"
            files[f"{config}-{split}.jsonl"] = _rows(f"{config} {split}")
    folder = _folder(tmp_path / "rows", files, readme + "---\n")

    def begins(query: str) -> set[str]:
        return {
            prompt.rpartition(" ")[0]
            for prompt in _prompts(load_target(f"hf:{folder}?{query}&{COLUMNS}"))
        }

    assert begins("config=medical") == {"medical train"}
    assert begins("config=sports&split=test") == {"sports test"}
    target = load_target(f"hf:{folder}?config=sports&split=test&{COLUMNS}")
    assert target.source == "hf:rows?config=sports&split=test"
    for query, message in [
        (COLUMNS, ["medical", "sports", "config="]),
        (f"config=legal&{COLUMNS}", ["'legal' not found", "medical"]),
        (f"config=sports&split=validation&{COLUMNS}", ["validation", "'train', 'test'", "split="]),
    ]:
        with pytest.raises(TargetError) as caught:
            load_target(f"hf:{folder}?{query}")
        for part in [f"hf:{folder}", *message]:
            assert part in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_split_is_asked_for_where_none_is_the_obvious_one(tmp_path: Path) -> None:
    files = {"test.jsonl": _rows("a"), "validation.jsonl": _rows("b")}
    folder = _folder(tmp_path / "rows", files)
    with pytest.raises(TargetError, match=r"has the splits .*test.*choose one with split="):
        load_target(f"hf:{folder}?{COLUMNS}")
    only = _folder(tmp_path / "only", {"test.jsonl": _rows("a")})
    assert len(_prompts(load_target(f"hf:{only}?{COLUMNS}"))) == 5


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", "no column prompt: its columns are question, bad"),
        ("?prompt=query", r"no column query \(prompt=query\): its columns are question, bad"),
        ("?confg=x", "no option confg=.*allowed are config, split, revision, prompt"),
        ("?revision=main", "revision=main has no effect on the folder"),
    ],
)
def test_a_wrong_option_is_refused(tmp_path: Path, query: str, message: str) -> None:
    folder = _folder(tmp_path / "rows", {"train.jsonl": _rows("q")})
    with pytest.raises(TargetError, match=message):
        load_target(f"hf:{folder}{query}")


@pytest.mark.parametrize("name", ["hf:", "hf:json", "hf:a/b/c", "hf:no such/one", "hf:./none"])
def test_what_is_no_data_set_is_refused_with_the_spelling(name: str) -> None:
    with pytest.raises(TargetError, match="hf:owner/name or hf:path/to/folder"):
        load_target(name)


def test_a_folder_without_tables_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="can't be loaded"):
        load_target(f"hf:{_folder(tmp_path / 'rows', {})}")


@pytest.mark.parametrize("query", ["", f"?revision={'0' * 40}"])
def test_without_a_network_there_is_one_line_within_seconds(query: str) -> None:
    before = time.monotonic()
    with pytest.raises(
        TargetError, match=r"hf:some/rows can't be fetched.*network.*path/to/folder"
    ):
        load_target(f"hf:some/rows{query}")
    assert time.monotonic() - before < 15


def test_a_module_that_stands_in_the_way_of_the_library_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _folder(tmp_path / "rows", {"train.jsonl": _rows("q")})
    monkeypatch.setitem(sys.modules, "datasets", ModuleType("datasets"))
    with pytest.raises(TargetError, match="another module of that name"):
        load_target(f"hf:{folder}?{COLUMNS}")


def _load_apart(folder: Path, *spelled: str, **env: str) -> list[list[str]]:
    """Source and first prompt of each target, or the error, by a process in the repository's root.

    The root holds a folder `datasets`; and the hub's address is read when its client is imported.
    """
    code = (
        "import sys; from steering.targets import *\n"
        "for spelled in sys.argv[1:]:\n"
        "    try: t = load_target(spelled); print(t.source, t.examples[0].prompt, sep='|')\n"
        "    except TargetError as error: print('refused', error, sep='|')"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *spelled],
        capture_output=True,
        text=True,
        cwd=REPO,
        check=True,
        env=os.environ | {"HF_HOME": str(folder)} | env,
    )
    return [line.split("|") for line in result.stdout.splitlines()]


def test_a_hub_data_set_is_pinned_to_the_commit_that_it_is_loaded_at(tmp_path: Path) -> None:
    old, new = COMMITS
    revisions = ["", "revision=v1&", f"revision={old}&", f"revision={new}&"]
    spelled = [f"hf:{REPOSITORY}?{revision}{COLUMNS}" for revision in revisions]
    wrong = [f"hf:{REPOSITORY}?revision=v2", "hf:own/other"]
    with fake_hub() as address:
        *loaded, no_revision, no_repository = _load_apart(
            tmp_path, *spelled, *wrong, HF_ENDPOINT=address
        )
    for (source, prompt), commit in zip(loaded, [new, old, old, new], strict=True):
        assert source == f"hf:{REPOSITORY}@{commit}"
        assert prompt in COMMITS[commit]
    assert "has no revision v2" in no_revision[1]
    assert "is not on the Hugging Face hub" in no_repository[1]
    # Without the hub the library alone would hand out whichever commit was prepared last.
    rows = dict(_load_apart(tmp_path, *spelled[2:], HF_HUB_OFFLINE="1"))
    assert rows[f"hf:{REPOSITORY}@{old}"] in COMMITS[old]
    assert f"not those of commit {new}" in rows["refused"]
