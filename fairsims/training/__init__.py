"""Training: the EDM loss, weight averaging, and folders that a killed run goes on in. Budgets count images (kimg)."""

from fairsims.training.config import TrainConfig, finetune_config
from fairsims.training.folder import train_folder
from fairsims.training.loop import Tick, check_settings, edm_loss, train

__all__ = ["Tick", "TrainConfig", "check_settings", "edm_loss", "finetune_config", "train", "train_folder"]
