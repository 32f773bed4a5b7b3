"""The compilers that torch.compile starts: looked for on the path, as it looks for them."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path

_SWITCHES = ("TORCH_COMPILE_DISABLE", "TORCHDYNAMO_DISABLE")
"""Variables with which torch.compile returns what it is given, as it is."""


def why_not_compiled_for_cpu() -> str | None:
    """Why torch cannot compile for a CPU here; None if it can."""
    if (switched_off := _why_switched_off()) is not None:
        return switched_off
    named = os.environ.get("CXX")
    if named == "":
        # torch takes it as the name of a compiler.
        return (
            "torch.compile takes the C++ compiler that the variable CXX names, and CXX is set to"
            " nothing; unset it, or set it to the path of a compiler"
        )
    wanted = named or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(wanted) is not None:
        return _why_no_headers()
    set_to = " that the variable CXX names" if named else ""
    return (
        f"torch.compile needs a C++ compiler on a CPU, and there is no {wanted}{set_to} on the"
        f" path; {_remedy('g++', 'CXX')}"
    )


def why_not_compiled_for_gpu() -> str | None:
    """Why triton, by which torch compiles for a GPU, cannot build what it loads; None if it can."""
    if (switched_off := _why_switched_off()) is not None:
        return switched_off
    named = os.environ.get("CC")
    if any(shutil.which(one) is not None for one in ([named] if named else ["gcc", "clang"])):
        return _why_no_headers()
    wanted = f"no {named} that the variable CC names" if named else "neither gcc nor clang"
    return (
        "torch.compile needs a C compiler for triton's launchers on a GPU, and there is"
        f" {wanted} on the path; {_remedy('gcc', 'CC')}"
    )


def _why_switched_off() -> str | None:
    """The forward would run as the eager one does, under the name of a compiled one."""
    name = next((name for name in _SWITCHES if os.environ.get(name) == "1"), None)
    return None if name is None else f"{name}=1 tells torch to compile nothing; unset it"


def _why_no_headers() -> str | None:
    """What is compiled is loaded as a module of Python, for which its headers are read."""
    header = Path(sysconfig.get_path("include"), "Python.h")
    # A framework's Python has them elsewhere, where torch looks too.
    if header.is_file() or (sys.platform == "darwin" and not header.parent.exists()):
        return None
    return (
        f"torch.compile needs Python's headers, and there is no {header}; install them"
        " (`apt-get install python3-dev`)"
    )


def _remedy(package: str, variable: str) -> str:
    return f"install one (`apt-get install {package}`), or set {variable} to the path of one"
