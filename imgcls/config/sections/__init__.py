"""Everything a user may set, section by section; flags, help, YAML keys and `IMGCLS_*` names follow from it.

A section is a small frozen dataclass that belongs to one part of a run: the part is given its section, never
the whole configuration. `resolve` fills them in. They are in files of their own, one each, which import no
torch: the command line is read before torch is loaded.

A field is a flag: `lr_factor` is `--lr-factor`, `lr_factor:` in a file and `IMGCLS_LR_FACTOR`. `since` says
which of MXNet's scripts had it first (see `flags.flag`); an abbreviated flag means what it meant in MXNet
before it can mean a flag of ours. The docstring of a section is its title on the help screen.
"""

from __future__ import annotations

from imgcls.config.sections.augment import AugmentConfig
from imgcls.config.sections.bounds import (
    MAX_EPOCHS,
    MAX_NUMBER,
    MAX_PROCESSES,
    MAX_SIDE,
    MAX_THREADS,
    MAX_TIMEOUT_S,
)
from imgcls.config.sections.checkpoint import CheckpointConfig
from imgcls.config.sections.data import DataConfig
from imgcls.config.sections.device import DeviceConfig
from imgcls.config.sections.distillation import DistillationConfig
from imgcls.config.sections.distributed import DistributedConfig
from imgcls.config.sections.early_stopping import EarlyStoppingConfig
from imgcls.config.sections.find import FindConfig
from imgcls.config.sections.finetune import FinetuneConfig
from imgcls.config.sections.inference import PREPROCESSING, InferenceConfig
from imgcls.config.sections.network import NetworkConfig
from imgcls.config.sections.optimizer import OPTIMIZERS, OptimizerConfig
from imgcls.config.sections.regularization import RegularizationConfig
from imgcls.config.sections.report import ReportConfig
from imgcls.config.sections.schedule import Decay, ScheduleConfig
from imgcls.config.sections.train import TrainConfig

#: attribute of `resolve.Config` -> section, in the order of the help screen and of MXNet's Namespace line
SECTIONS = {
    "data": DataConfig, "augment": AugmentConfig, "network": NetworkConfig,
    "regularization": RegularizationConfig, "distillation": DistillationConfig, "train": TrainConfig,
    "schedule": ScheduleConfig, "optimizer": OptimizerConfig, "device": DeviceConfig,
    "distributed": DistributedConfig, "checkpoint": CheckpointConfig,
    "early_stopping": EarlyStoppingConfig, "find": FindConfig, "report": ReportConfig,
}

__all__ = [
    "MAX_EPOCHS",
    "MAX_NUMBER",
    "MAX_PROCESSES",
    "MAX_SIDE",
    "MAX_THREADS",
    "MAX_TIMEOUT_S",
    "OPTIMIZERS",
    "PREPROCESSING",
    "AugmentConfig",
    "CheckpointConfig",
    "DataConfig",
    "Decay",
    "DeviceConfig",
    "DistillationConfig",
    "DistributedConfig",
    "EarlyStoppingConfig",
    "FindConfig",
    "FinetuneConfig",
    "InferenceConfig",
    "NetworkConfig",
    "OptimizerConfig",
    "RegularizationConfig",
    "ReportConfig",
    "ScheduleConfig",
    "TrainConfig",
]
