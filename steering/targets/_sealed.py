"""One table out of a sealed archive, as the package easy-dataset-share 0.1-0.5 makes them.

The file is 16 bytes of salt and a Fernet token; the token's key is PBKDF2 of the password, and what
it holds is a zip. Everything stays in memory: nothing is ever unpacked to disk.
"""

import base64
import hashlib
import io
import os
import zipfile
from pathlib import Path

from steering.targets._files import ENDINGS
from steering.targets._rows import TargetError

ENDING = ".enc"
PASSWORD = "STEERING_ZIP_PASSWORD"

_SALT_BYTES = 16
_ITERATIONS = 100_000
# What a Fernet token begins with: its version byte and the high bytes of its time, in base64.
_TOKEN_HEAD = b"gAAAA"
# The tool adds such a file to every folder that it seals.
_CANARY_HEAD = "dataset_entry_"


def open_sealed(path: Path, wanted: str | None) -> tuple[str, bytes]:
    """Name and content of one table in a sealed archive.

    Args:
        path: The archive.
        wanted: Path of the table inside, or the last part of it.

    Raises:
        TargetError: There is no password or a wrong one, no such table, or it is no such archive.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(_unsealed(path)))
    except zipfile.BadZipFile:
        raise TargetError(f"{path} was opened but holds no zip: fetch the archive again") from None
    with archive:
        names = [name for name in archive.namelist() if Path(name).suffix.lower() in ENDINGS]
        names = [name for name in names if not Path(name).name.startswith(_CANARY_HEAD)]
        found = [name for name in names if name == wanted]
        found = found or [name for name in names if Path(name).name == wanted]
        if len(found) != 1:
            said = "say which table is meant" if wanted is None else f"file={wanted} is not in it"
            said = "several of its tables have that name" if len(found) > 1 else said
            raise TargetError(
                f"{path}: {said}; write ?file=NAME with one of {', '.join(names) or 'none'}"
            )
        return found[0], archive.read(found[0])


def _unsealed(path: Path) -> bytes:
    from cryptography.fernet import Fernet, InvalidToken

    content = path.read_bytes()
    salt, token = content[:_SALT_BYTES], content[_SALT_BYTES:]
    if not token.startswith(_TOKEN_HEAD):
        raise TargetError(
            f"{path} is not a sealed archive: give a .zip{ENDING} file as easy-dataset-share makes"
        )
    # Never an option: options stand in logs.
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
