"""The `random` method: a Gaussian direction exactly as long as another vector.

The control that every effect of a vector is to be compared with. Its cosine to the vector that it
is matched with is recorded: random directions are not always far away (arXiv 2608.24335).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from steering.files import file_digest
from steering.models import Shape
from steering.targets import Target
from steering.training.methods import ConstructionMethod, TrainingError

if TYPE_CHECKING:
    from steering.training.probe import ModelProbe
    from steering.training.progress import Progress
    from steering.training.recipe import ConstructionRecipe
    from steering.vectors import SteeringVector

DEFAULT = "default"


class Random(ConstructionMethod):
    """A random direction of matched length."""

    name = "random"
    summary = "a Gaussian direction as long as another vector: a control"
    compares_labels = False

    match: str = Field(
        default=DEFAULT,
        description="vector whose length is matched and whose cosine is recorded: a .safetensors "
        "file; `default` is the target's default vector at the same place",
    )

    def check(self, recipe: "ConstructionRecipe", target: Target, shape: Shape) -> None:
        """Needs what the matched vector needs, if that is built too."""
        super().check(recipe, target, shape)
        if self.match == DEFAULT:
            default = recipe.default()
            default.method.check(default, target, shape)

    def inputs(self, recipe: "ConstructionRecipe", shape: Shape) -> dict[str, str]:
        """Digest of the default vector's recipe, or of the file.

        Raises:
            TrainingError: The file is no vector, of another width or at another place, or a map.
        """
        if self.match == DEFAULT:
            return {"match": recipe.default().digest}
        from steering.vectors import SteeringVector, VectorError

        path = Path(self.match)
        if not path.is_file():
            raise TrainingError(f"match={path} is not a file: give a .safetensors steering vector")
        try:
            vector = SteeringVector.load(path)
            vector.check_fits(width=shape.width, num_layers=shape.num_layers, model=recipe.model)
        except VectorError as error:
            raise TrainingError(f"match={path}: {error}") from None
        if vector.map is not None:
            raise TrainingError(
                f"match={path} holds a low-rank map, which has no single direction: give a plain "
                "vector"
            )
        if (vector.layers, vector.site) != ((recipe.layer,), recipe.site):
            layers = ", ".join(map(str, vector.layers))
            raise TrainingError(
                f"match={path} was built at layer {layers} {vector.site}, but the control is at "
                f"layer {recipe.layer} {recipe.site}: give layer= and site= of the vector"
            )
        return {"match": file_digest(path)}

    def build(
        self,
        probe: "ModelProbe",
        recipe: "ConstructionRecipe",
        target: Target,
        progress: "Progress",
    ) -> "tuple[SteeringVector, dict[str, Any]]":
        """A vector of rank 1 with the length and residual norm of the matched one, and its cosine.

        The recipe's seed decides the direction.
        """
        import torch

        from steering.training.cache import cached_here
        from steering.vectors import SteeringVector

        if self.match == DEFAULT:
            matched = cached_here(probe.loaded, probe.session, recipe.default(), target, progress)
        else:
            matched = SteeringVector.load(Path(self.match))
        direction = torch.randn(
            probe.width, generator=torch.Generator().manual_seed(recipe.seed), dtype=torch.float64
        )
        [length] = matched.lengths
        direction *= length / direction.norm()
        vector = SteeringVector(
            directions=direction.float()[None, None],
            layers=matched.layers,
            site=matched.site,
            residual_norms=matched.residual_norms,
        )
        reference = matched.directions.sum(1)[0].double()
        cosine = torch.nn.functional.cosine_similarity(direction, reference, dim=0)
        progress(1, 1)
        return vector, {"cosine": float(cosine), "matched_length": length}
