# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
PyTorch without its compiler, which the worker has no use for.

The first optimiser of a process imports `torch._dynamo`, only to tell it what not to compile: two
seconds and 70 MB on a PC. What stands in for it here says the same, and makes way for the real one
as soon as somebody asks for anything else.
"""

from __future__ import annotations

from collections.abc import Callable
import importlib
import sys
from types import ModuleType
from typing import Any

NAME = 'torch._dynamo'


class _Idle(ModuleType):
    """What optimisers ask of `torch._dynamo` while nothing is compiled."""

    @staticmethod
    def graph_break(*_: Any, **__: Any) -> None:
        """End a compiled graph here; there is none."""

    @staticmethod
    def disable(fn: Callable[..., Any] | None = None, *_: Any, **__: Any) -> Any:
        """Return a function, or a decorator of it, that is not compiled, as none is."""
        return fn if fn is not None else lambda function: function

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__') and name != '__path__':  # `inspect` asks all modules
            raise AttributeError(name)
        if sys.modules.get(NAME) is self:
            del sys.modules[NAME]
        return getattr(importlib.import_module(NAME), name)


def leave_compiler_out() -> None:
    """Have optimisers import no compiler; does nothing where it is loaded already."""
    sys.modules.setdefault(NAME, _Idle(NAME))
