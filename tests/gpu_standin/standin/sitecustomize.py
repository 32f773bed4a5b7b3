"""Python runs this file first: it puts the stand-in in place as torch is imported."""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any


def _driver(extension: Any) -> None:
    import gpu_driver

    gpu_driver.install(extension)


def _version(module: Any) -> None:
    """A torch that was built with CUDA."""
    module.cuda = "13.0"
    module.__version__ = module.__version__.partition("+")[0]


def _nvml(module: Any) -> None:
    """What torch asks NVML for by itself."""
    import gpu_driver

    gpu_driver.answer_for_nvml(module)


def _tensors(_: Any) -> None:
    import gpu_int4
    import gpu_tensors

    gpu_int4.install()
    gpu_tensors.start()


def _library(module: Any) -> None:
    """bitsandbytes' library for CPUs: its operators find their tensors there."""
    module.get_cuda_specs = lambda: None


def _rates(module: Any) -> None:
    """A product of a GPU's size takes minutes on a CPU."""
    module.MATRIX_SIDE = dict.fromkeys(module.MATRIX_SIDE, 128)
    module.COPY_BYTES = 2**20


_AFTER = {
    "torch._C": _driver,
    "torch.version": _version,
    "torch.cuda": _nvml,
    "torch": _tensors,
    "bitsandbytes.cuda_specs": _library,
    "qbench.measures.roofline.rates": _rates,
}


class _Finder(MetaPathFinder):
    """Changes a module right after it was run."""

    def __init__(self) -> None:
        self._under_way: set[str] = set()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name not in _AFTER or name in self._under_way:
            return None
        self._under_way.add(name)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._under_way.discard(name)
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def run_and_change(module: Any) -> None:
            run(module)
            _AFTER[name](module)

        spec.loader.exec_module = run_and_change  # type: ignore[method-assign]
        return spec


# Where this process is to see no GPU (qbench hides them from some), torch stays as it is.
if os.environ.get("GPU_STANDIN") and os.environ.get("CUDA_VISIBLE_DEVICES") != "":
    sys.meta_path.insert(0, _Finder())
    sys.modules["bitsandbytes.backends.cuda.ops"] = ModuleType("bitsandbytes.backends.cuda.ops")
    os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"  # torch's modes are of one thread
