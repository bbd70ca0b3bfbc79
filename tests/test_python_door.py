"""The public names of the package: light to import, and each defined where the package says."""

import json
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest
from shell import REPO

import steering

PROGRAM = """
import json, sys, time
start = time.process_time()
import steering
dir(steering)
seconds = time.process_time() - start
heavy = sorted({"torch", "transformers", "inspect_ai", "pydantic"} & set(sys.modules))
print(json.dumps({"seconds": seconds, "heavy": heavy}))
"""


def test_importing_the_package_is_light() -> None:
    output = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True).stdout
    measured = json.loads(output)
    assert measured["heavy"] == []
    assert measured["seconds"] < 0.1


@pytest.mark.parametrize("name", sorted(set(steering.__all__) - {"__version__"}))
def test_a_public_name_can_be_used(name: str) -> None:
    assert name in dir(steering)
    assert callable(getattr(steering, name))
    assert getattr(steering, name).__name__ == name


def test_no_room_has_the_name_of_a_public_function() -> None:
    """An import of the room would replace the function."""
    assert not [name for name in steering._MODULES if find_spec(f"steering.{name}")]


def test_the_reference_shows_every_public_name() -> None:
    """That each name on the page can be imported is tested with the other pages."""
    page = (REPO / "docs" / "reference" / "python.md").read_text()
    names = re.findall(r"^::: steering\.[\w.]*?(\w+)$", page, flags=re.MULTILINE)
    assert set(steering.__all__) - {"__version__"} <= set(names)


def test_an_unknown_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="'steering' has no attribute 'steer'"):
        steering.steer  # noqa: B018
