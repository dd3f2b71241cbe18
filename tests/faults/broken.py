"""`python broken.py FAULT=STEP train.py ...`: train.py, with a fault within it at an optimizer step.

allocation: there is no memory left. gradients: they are NaN. clock: it is set back by a year. `file_size=BYTES` breaks the
whole run: no file may be larger.
"""

import resource
import runpy
import signal
import sys
import time
from itertools import count
from pathlib import Path

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

fault, _, when = sys.argv[1].partition("=")
steps, now = count(1), time.time


def strike(optimizer: Optimizer, _args: tuple, _options: dict) -> None:
    if next(steps) != int(when):
        return
    if fault == "allocation":
        torch.empty(2**60)
    if fault == "gradients":
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad.fill_(torch.nan)
    if fault == "clock":
        time.time = lambda: now() - 365 * 24 * 3600


if fault == "file_size":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(when), int(when)))
else:
    register_optimizer_step_pre_hook(strike)
sys.argv = sys.argv[2:]
sys.path[0] = str(Path(sys.argv[0]).parent)
runpy.run_path(sys.argv[0], run_name="__main__")
