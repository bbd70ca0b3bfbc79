"""Run by a test in a process of its own: makes a recipe and says whether that imported torch."""

import sys

from steering.models import find_model, read_shape, weights_digest
from steering.targets import load_target
from steering.training.recipe import make_construction_recipe

source = find_model(sys.argv[1])
target = load_target("toy/medical")
recipe = make_construction_recipe(
    source, read_shape(source), target, weights=weights_digest(source)
)
sys.stdout.write(f"{recipe.method.name} {'torch' in sys.modules}\n")
