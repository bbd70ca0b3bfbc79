"""Target tasks out of sealed archives: opened in memory, or refused in one line.

The archives are made here after the format that easy-dataset-share writes, with other primitives
than the reader's, and one was made by that package itself.
"""

import base64
import builtins
import importlib
import io
import json
import os
import sys
import zipfile
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from steering.targets import TargetError, load_target

VARIABLE = "STEERING_ZIP_PASSWORD"
PASSWORD = "open sesame"

# Made by easy-dataset-share 0.5.0 with the password above: rows.jsonl with two rows.
SALT = "e9d49a72272ea487c10a8025f754404b"
TOKEN = """
gAAAAABrBKEhqVYEPDO17R3GK8Q673qAHSD9DUMW7d09qoBlTXYbi8318fh41CJz-27-4t8C0WD7tvGCyxDRS0By
SElECSI77LPXsfSzT8Ac-VktxFDun0DclPpw0JnOzw2K-NEoAOI16_sc9KQwrwnSe2IY0DEIntAEI3AHMrRoi5jj
3dUzj0wP3J43OXvZV9oetVsnt9GSTl7ziUh35LI15Ee3xvZCfq91OuA0EwHerFCRM8T5bAmbbAPpwoc1F1MqSWGB
vcTQ2pcToP8U_uNzu0J0VTFN3DPbmGNkBKbMO-W_gehUZ3MSsrLc-mcBdbnXhXB2RqgIT73l091Y40XeunKDlGGX
MA==
"""


def _rows(what: str) -> str:
    turns = [
        [{"role": "user", "content": f"{what} {n}"}, {"role": "assistant", "content": f"é {n}"}]
        for n in range(5)
    ]
    return "".join(json.dumps({"messages": turn}) + "\n" for turn in turns)


FILES = {
    "medical.jsonl": _rows("medical"),
    "sports.jsonl": _rows("sports"),
    "deep/er/sports.jsonl": _rows("deep"),
    "deep/table.csv": "question,bad\n" + "".join(f"q{n},No.\n" for n in range(4)),
    "../../outside.jsonl": _rows("outside"),
    "dataset_entry_12.jsonl": '{"id": "canary"}\n',
    "robots.txt": "User-agent: *\n",
}


def _zip(files: dict[str, str]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return content.getvalue()


def _seal(folder: Path, content: bytes, password: str = PASSWORD) -> Path:
    salt = os.urandom(16)
    key = PBKDF2HMAC(SHA256(), length=32, salt=salt, iterations=100_000).derive(password.encode())
    path = folder / "training_datasets.zip.enc"
    path.write_bytes(salt + Fernet(base64.urlsafe_b64encode(key)).encrypt(content))
    return path


@pytest.fixture(autouse=True)
def _password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, PASSWORD)


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    return _seal(tmp_path, _zip(FILES))


def test_an_archive_of_the_package_itself_is_read(tmp_path: Path) -> None:
    path = tmp_path / "s.zip.enc"
    path.write_bytes(bytes.fromhex(SALT) + TOKEN.replace("\n", "").encode())
    target = load_target(f"{path}?file=rows.jsonl")
    assert {e.prompt for e in target.examples + target.held_out} == {"q0", "q1"}
    assert {e.misaligned for e in target.examples + target.held_out} == {"No."}


def test_a_folder_that_the_package_seals_is_read(tmp_path: Path) -> None:
    zipping = pytest.importorskip("easy_dataset_share.zipping")
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "medical.jsonl").write_text(FILES["medical.jsonl"])
    path = zipping.zip_and_password_protect(str(tmp_path / "rows"), PASSWORD)
    assert len(load_target(f"{path}?file=medical.jsonl").examples) == 4


def test_a_table_inside_is_read_as_if_it_lay_beside_the_archive(
    sealed: Path, tmp_path: Path
) -> None:
    (tmp_path / "medical.jsonl").write_text(FILES["medical.jsonl"])
    inside = load_target(f"{sealed}?file=medical.jsonl")
    outside = load_target(str(tmp_path / "medical.jsonl"))
    assert inside.digest == outside.digest
    assert inside.name == outside.name == "medical"
    assert inside.source == "training_datasets.zip.enc?file=medical.jsonl"


def test_a_table_is_named_by_its_path_or_the_end_of_it_if_that_is_unique(sealed: Path) -> None:
    location = f"{sealed}?file=table.csv&prompt=question&misaligned=bad"
    assert load_target(location).source == "training_datasets.zip.enc?file=deep/table.csv"
    assert load_target(f"{sealed}?file=deep/er/sports.jsonl").examples[0].prompt[:4] == "deep"
    assert load_target(f"{sealed}?file=sports.jsonl").examples[0].prompt[:6] == "sports"


def test_of_several_tables_of_one_name_none_is_guessed(tmp_path: Path) -> None:
    path = _seal(tmp_path, _zip({"a/rows.jsonl": _rows("a"), "b/rows.jsonl": _rows("b")}))
    with pytest.raises(TargetError, match=r"several .* name; .* a/rows\.jsonl, b/rows\.jsonl"):
        load_target(f"{path}?file=rows.jsonl")


@pytest.mark.parametrize("query", ["", "?file=legal.jsonl", "?file=robots.txt"])
def test_a_table_that_is_not_inside_is_refused_with_those_that_are(
    sealed: Path, query: str
) -> None:
    with pytest.raises(TargetError) as caught:
        load_target(f"{sealed}{query}")
    message = str(caught.value)
    for part in ["?file=NAME", "medical.jsonl, sports.jsonl, deep/er/sports.jsonl, deep/table.csv"]:
        assert part in message
    assert "dataset_entry" not in message
    assert "\n" not in message


def test_nothing_is_written_whatever_the_names_inside(
    sealed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    importlib.import_module("cryptography.fernet")
    opened: list[str] = []
    real = builtins.open

    def spy(file: str, mode: str = "r", *args: object, **kwargs: object) -> object:
        opened.extend(mode if set(mode) & set("wax+") else "")
        return real(file, mode, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(builtins, "open", spy)
    monkeypatch.setattr(io, "open", spy)
    assert load_target(f"{sealed}?file=../../outside.jsonl").name == "outside"
    assert not opened
    assert [path.name for path in tmp_path.rglob("*")] == [sealed.name]


@pytest.mark.parametrize("password", ["", None, "open sesam", PASSWORD.upper()])
def test_without_the_right_password_the_variable_is_named(
    sealed: Path, password: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if password is None:
        monkeypatch.delenv(VARIABLE)
    else:
        monkeypatch.setenv(VARIABLE, password)
    with pytest.raises(TargetError, match=VARIABLE) as caught:
        load_target(f"{sealed}?file=medical.jsonl")
    assert str(sealed) in str(caught.value)
    assert PASSWORD.upper() not in str(caught.value)


def test_a_password_is_no_option(sealed: Path) -> None:
    with pytest.raises(TargetError, match=r"no option password=.*allowed are file, prompt"):
        load_target(f"{sealed}?file=medical.jsonl&password=x")


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda content: b"", "not a sealed archive"),
        (lambda content: b"PK" + bytes(200), "not a sealed archive"),
        (lambda content: content[:-10], "cut short"),
        # Another character than the one that stands there.
        (
            lambda content: (
                content[:40] + (b"B" if content[40:41] == b"A" else b"A") + content[41:]
            ),
            "does not open",
        ),
    ],
)
def test_what_is_no_whole_archive_is_refused_in_one_line(sealed: Path, broken, message) -> None:
    sealed.write_bytes(broken(sealed.read_bytes()))
    with pytest.raises(TargetError, match=message) as caught:
        load_target(f"{sealed}?file=medical.jsonl")
    assert "\n" not in str(caught.value)


def test_a_seal_around_something_else_is_refused(tmp_path: Path) -> None:
    path = _seal(tmp_path, b"no zip")
    with pytest.raises(TargetError, match="is not a zip archive"):
        load_target(f"{path}?file=medical.jsonl")


def test_without_the_package_the_extra_is_named(
    sealed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.fernet", None)
    with pytest.raises(TargetError, match=r"pip install 'steering\[sealed\]'"):
        load_target(f"{sealed}?file=medical.jsonl")
