"""The blocks of a model as nnsight wraps them: where both engines find the sites."""

from operator import attrgetter
from typing import Any

from torch import nn

from steering.models import find_mlp
from steering.vocabulary import Site


class Blocks:
    """The transformer blocks, each as an nnsight envoy with `input` and `output`."""

    def __init__(self, model: nn.Module, path: str, envoy: Any, mlp: str | None = None) -> None:
        """Find the blocks under a path of the model, whose wrapper by nnsight is `envoy`.

        `mlp` is the path of the MLP in a block, if the user names it.
        """
        self._modules = list(model.get_submodule(path).children())
        self._mlp = mlp
        self._mlps: dict[int, str] = {}
        self._envoys = attrgetter(path)(envoy)

    def __getitem__(self, layer: int) -> Any:
        return self._envoys[layer]

    def mlp(self, layer: int) -> Any:
        """The MLP of a layer's block.

        Raises:
            ModelError: It has none, or several parts that could be it.
        """
        return attrgetter(self._mlp_path(layer))(self[layer])

    def module(self, layer: int, site: Site) -> nn.Module:
        """The module itself at whose input or output a site is.

        Raises:
            ModelError: As of `mlp`.
        """
        block = self._modules[layer]
        return block.get_submodule(self._mlp_path(layer)) if site == "mlp_out" else block

    def _mlp_path(self, layer: int) -> str:
        # Cached, since every pass needs it.
        if layer not in self._mlps:
            self._mlps[layer] = find_mlp(self._modules[layer], self._mlp)
        return self._mlps[layer]
