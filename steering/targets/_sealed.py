"""Tables in sealed archives, as the package easy-dataset-share 0.1-0.5 makes them.

The file is 16 bytes of salt and a Fernet token, whose key is PBKDF2 of the password and whose
content is a zip. Everything stays in memory: nothing is unpacked to disk.
"""

import base64
import hashlib
import io
import os
import zipfile
from pathlib import Path

from steering.errors import raised_as
from steering.foreign import TABLE_ENDINGS, check_zip, read_bytes
from steering.targets._rows import TargetError

ENDING = ".enc"
PASSWORD = "STEERING_ZIP_PASSWORD"

_SALT_BYTES = 16
_ITERATIONS = 100_000
# First characters of a Fernet token: its version byte and the high bytes of its time, in base64.
_TOKEN_HEAD = b"gAAAA"
# The package adds a file with this prefix to every folder that it seals.
_CANARY_HEAD = "dataset_entry_"


def open_sealed(path: Path, table: str | None) -> tuple[str, bytes]:
    """Name and content of one table in a sealed archive.

    Args:
        path: The archive.
        table: Path of the table inside, or the last part of it.

    Raises:
        TargetError: The password is missing or wrong, there is no such table, the file is not a
            sealed archive, or the package cryptography is not installed.
    """
    with raised_as(TargetError):
        archive = check_zip(io.BytesIO(_unsealed(path)), path, "archive")
    with archive:
        names = [
            name
            for name in archive.namelist()
            if Path(name).suffix.lower() in TABLE_ENDINGS
            and not Path(name).name.startswith(_CANARY_HEAD)
        ]
        matches = [name for name in names if name == table]
        matches = matches or [name for name in names if Path(name).name == table]
        if len(matches) != 1:
            problem = "no table is named" if table is None else f"file={table} is not in it"
            problem = "several of its tables have that name" if len(matches) > 1 else problem
            raise TargetError(
                f"{path}: {problem}; write ?file=NAME with one of {', '.join(names) or 'none'}"
            )
        try:
            return matches[0], archive.read(matches[0])
        # A part may be encrypted or damaged.
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
            raise TargetError(
                f"{path}: {matches[0]} can't be read ({error}); fetch the archive again"
            ) from None


def _unsealed(path: Path) -> bytes:
    try:
        from cryptography.fernet import Fernet, InvalidToken
    except ImportError:
        raise TargetError(
            f"{path} is sealed, and opening it needs the package cryptography: pip install "
            "'steering[sealed]'"
        ) from None
    content = read_bytes(path, "archive")
    salt, token = content[:_SALT_BYTES], content[_SALT_BYTES:]
    if not token.startswith(_TOKEN_HEAD):
        raise TargetError(
            f"{path} is not a sealed archive: give a .zip{ENDING} file as easy-dataset-share makes"
        )
    # Never an option: options are logged.
    password = os.environ.get(PASSWORD)
    if not password:
        raise TargetError(
            f"{path} is sealed: set the environment variable {PASSWORD} to the password that its "
            "publishers give"
        )
    key = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _ITERATIONS)
    try:
        return Fernet(base64.urlsafe_b64encode(key)).decrypt(token)
    except InvalidToken:
        raise TargetError(
            f"the password in {PASSWORD} does not open {path}: set the right one, or fetch the "
            "archive again if it was cut short"
        ) from None
