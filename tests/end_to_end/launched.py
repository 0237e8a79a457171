"""The command `autoseg`, as `torchrun` starts it in `test_torchrun.py`: in float32; its second process may be killed.

python -m tests.end_to_end.launched STEP ARGUMENTS     # kill it after so many steps; 0 for never
"""

import os
import signal
import sys
from unittest.mock import patch

from torch import Tensor

from autoseg.cli import main
from autoseg.train import trainer
from autoseg.train.sampling import Batch
from autoseg.train.trainer import Trainer

TAKE_STEP = Trainer.step


def _die_or_step(trainer: Trainer, batch: Batch, rate: float, step: int) -> Tensor:
    if trainer.team.rank == 1 and step == KILLED_AFTER > 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return TAKE_STEP(trainer, batch, rate, step)


if __name__ == "__main__":
    KILLED_AFTER = int(sys.argv[1])
    sys.argv = ["autoseg", *sys.argv[2:]]
    with patch.object(trainer, "best_precision", lambda device: "float32"), patch.object(Trainer, "step", _die_or_step):
        main()
