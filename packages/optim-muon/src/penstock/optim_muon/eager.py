"""`torch.optim.Optimizer` without `torch.compile`.

torch keeps several methods of an optimizer out of compiled code by a decorator that imports `torch._dynamo` at the
first call. The import takes longer than that of torch itself, in every process that trains, compiles or not. What it
decorates is the same method.
"""

from __future__ import annotations

import inspect

import torch


class EagerOptimizer(torch.optim.Optimizer):
    """The base of optimizers whose methods nobody compiles."""

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)
