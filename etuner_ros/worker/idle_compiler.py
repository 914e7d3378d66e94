# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
PyTorch without its compiler, which the worker has no use for.

The first optimiser of a process imports `torch._dynamo`, only to tell it what not to compile: two
seconds and 60 MB on a PC.
"""

from __future__ import annotations

import torch
from torch.optim import AdamW, Optimizer


def leave_compiler_out() -> None:
    """
    Have AdamW import no compiler in this process. Where PyTorch is made otherwise it still does.

    What is compiled from then on would have to leave optimisers alone.
    """
    for name in dir(Optimizer):
        function = getattr(getattr(Optimizer, name), '__wrapped__', None)
        if function is not None:  # PyTorch keeps there what runs in its place, once it was asked
            function.__dynamo_disable = function
    step = getattr(AdamW.step, '__wrapped__', None)
    if step is not None and not hasattr(AdamW.step, 'hooked'):
        # It only switched gradients off, and told the compiler.
        AdamW.step = torch.no_grad()(step)  # type: ignore[method-assign]
