"""Training down a model's own loss, weight averaging, and folders to resume. Budgets count images (kimg)."""

from fairsims.training.auxiliary import finetune_settings, train_auxiliary
from fairsims.training.config import TrainConfig, finetune_config
from fairsims.training.folder import train_folder
from fairsims.training.loop import Tick, check_settings, train

__all__ = [
    "Tick",
    "TrainConfig",
    "check_settings",
    "finetune_config",
    "finetune_settings",
    "train",
    "train_auxiliary",
    "train_folder",
]
