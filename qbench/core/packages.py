"""The packages that qbench needs: their versions, which extra brings them, what to do without them.

No torch.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import PackageNotFoundError, requires, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qbench.core.record import Environment

DISTRIBUTION = "qbench-llm"
"""What pip installs qbench as; `qbench` on PyPI is another program."""
NUMERICS_PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "bitsandbytes",
    "tokenizers",
    "safetensors",
    "peft",
    "torchao",
    "lm-eval",
    "datasets",
    "numpy",
)
"""Packages whose versions decide the numbers."""
LAYER_PACKAGES = ("gptqmodel", "optimum", "compressed-tensors")
"""Packages that hold the layers of some checkpoints which are already quantized: named in the
environment where they are installed."""
EXTRAS = {
    "hqq": "hqq",
    "optimum-quanto": "quanto",
    "gguf": "gguf",
    "compressed-tensors": "compressed-tensors",
    "gptqmodel": "gptq",
    "optimum": "gptq",
    "auto-round": "auto-round",
    "aqlm": "aqlm",
    "fbgemm-gpu-genai": "fbgemm",
    "guidellm": "serving",
    "tenacity": "serving",
    "wonderwords": "longcontext",
    "nltk": "longcontext",
    "jieba": "longcontext",
    "fuzzywuzzy": "longcontext",
    "rouge": "longcontext",
    "ray": "ray",
    "submitit": "slurm",
    "mlflow-skinny": "trackers",
    "wandb": "trackers",
    "trackio": "trackers",
}
"""The extra of qbench that installs a package, in a version that goes with the others."""
ALWAYS_NEEDED = ("torch", "transformers", "accelerate", "safetensors")
"""Packages without which nothing is measured; planning, reporting and gating need none of them."""
_PACKAGES_OF_MODULES = {"mlflow": "mlflow-skinny", "pynvml": "nvidia-ml-py", "yaml": "pyyaml"}
"""Packages by what they are imported as, where it is not their own name."""


def qbench_version() -> str:
    """The installed version of qbench; `0+unknown` where it is not installed."""
    return package_version(DISTRIBUTION) or "0+unknown"


def missing_packages(needs: tuple[str, ...], environment: Environment | None = None) -> str | None:
    """Which of the packages are not installed, with the remedy; None if all are.

    They are looked up where no environment is given.
    """
    missing = [
        package
        for package in dict.fromkeys(needs)
        if (version_in(package, environment) if environment else package_version(package)) is None
    ]
    if not missing:
        return None
    return f"needs {', '.join(missing)}: {install_command(missing)}"


def install_command(packages: Iterable[str]) -> str:
    """How packages are installed, in versions that go with the others.

    Those that every installation of qbench brings, and those of its extras, come with it; others by
    their names.
    """
    names = list(packages)
    extras = dict.fromkeys(EXTRAS[name] for name in names if name in EXTRAS)
    wanted = [f"'{DISTRIBUTION}[{','.join(extras)}]'"] if extras else []
    others = [name for name in names if name not in EXTRAS]
    if not extras and not required_packages().isdisjoint(others):
        wanted = [DISTRIBUTION]
    wanted += [name for name in others if name not in required_packages()]
    return f"pip install {' '.join(dict.fromkeys(wanted))}"


def remedy_of_import(error: ModuleNotFoundError) -> str | None:
    """Which package could not be imported, with the remedy; None for one that qbench never has."""
    module = (error.name or "").partition(".")[0]
    package = _PACKAGES_OF_MODULES.get(module, module.replace("_", "-"))
    if package not in EXTRAS and package not in required_packages():
        return None
    return f"needs {package}, which is not installed: {install_command([package])}"


@cache
def required_packages() -> frozenset[str]:
    """The packages that every installation of qbench brings; empty where it is not installed."""
    try:
        lines = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        return frozenset()
    names = (re.match(r"[\w.-]+", line) for line in lines if "extra ==" not in line)
    return frozenset(name[0] for name in names if name)


def version_in(package: str, environment: Environment) -> str | None:
    """The version of a package that is in use; None without it.

    The environment names those that qbench's own code needs; of others it is looked up.
    """
    if package in environment.versions or package in (*NUMERICS_PACKAGES, *LAYER_PACKAGES):
        return environment.versions.get(package)
    return package_version(package)


def versions_in_use() -> dict[str, str | None]:
    """The versions of the packages that a record names; None for one that is not installed."""
    found = {package: package_version(package) for package in NUMERICS_PACKAGES}
    layers = {package: package_version(package) for package in LAYER_PACKAGES}
    return found | {package: version for package, version in layers.items() if version is not None}


def package_version(package: str) -> str | None:
    """The installed version of a package; None without it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
