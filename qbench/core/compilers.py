"""The compilers that torch.compile starts: looked for on the path, as it looks for them."""

from __future__ import annotations

import os
import shutil
import sys


def why_not_compiled_for_cpu() -> str | None:
    """Why torch cannot compile for a CPU here; None if it can."""
    named = os.environ.get("CXX")
    wanted = named or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(wanted) is not None:
        return None
    set_to = " that the variable CXX names" if named else ""
    return (
        f"torch.compile needs a C++ compiler on a CPU, and there is no {wanted}{set_to} on the"
        f" path; {_remedy('g++', 'CXX')}"
    )


def why_not_compiled_for_gpu() -> str | None:
    """Why triton, by which torch compiles for a GPU, cannot build what it loads; None if it can."""
    named = os.environ.get("CC")
    if any(shutil.which(one) is not None for one in ([named] if named else ["gcc", "clang"])):
        return None
    wanted = f"no {named} that the variable CC names" if named else "neither gcc nor clang"
    return (
        "torch.compile needs a C compiler for triton's launchers on a GPU, and there is"
        f" {wanted} on the path; {_remedy('gcc', 'CC')}"
    )


def _remedy(package: str, variable: str) -> str:
    return f"install one (`apt-get install {package}`), or set {variable} to the path of one"
