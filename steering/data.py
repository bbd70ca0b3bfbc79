"""Where the project's data files are: in a clone beside the package, in a wheel inside it."""

from pathlib import Path


def data_folder() -> Path:
    """The folder that holds `questions/` and `targets/`."""
    here = Path(__file__).parent
    inside = here / "_data"
    return inside if inside.is_dir() else here.parent / "datasets"
