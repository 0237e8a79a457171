import torch

from autoseg.train.trainer import Trainer
from tests.train.plans import cube_configuration, training


def test_both_moments_of_adamw_are_those_of_the_recipe() -> None:
    trainer = Trainer(training(momentum=0.8, second_momentum=0.95), cube_configuration(), "cpu", seed=0)
    assert isinstance(trainer.optimizer, torch.optim.AdamW)
    assert trainer.optimizer.param_groups[0]["betas"] == (0.8, 0.95)
