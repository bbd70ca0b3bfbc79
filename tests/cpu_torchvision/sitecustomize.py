"""Put first on a process's path: lets a CUDA build of torchvision be imported beside a CPU torch.

The build declares operators on import that it has no code for here. vLLM's Qwen3.5 imports it and,
without pictures, never calls one.
"""

import importlib.abc
import sys
from typing import Any

_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


class _BeforeTorchvision(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            self.library = torch.library.Library("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                self.library.define(operator + _SIGNATURE)
            _kept.append(self)


_kept: list[_BeforeTorchvision] = []
sys.meta_path.insert(0, _BeforeTorchvision())
