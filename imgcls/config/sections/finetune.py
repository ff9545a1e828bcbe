"""The settings that only imgcls-finetune has."""

from __future__ import annotations

from dataclasses import dataclass

from imgcls.config.flags import flag
from imgcls.config.sections.bounds import MAX_NUMBER


@dataclass(frozen=True)
class FinetuneConfig:
    """Fine-tuning"""

    pretrained_model: str = flag("", "the pretrained network: the prefix of a checkpoint, a network of "
                                 "MXNet's zoo (resnext-101, imagenet11k-resnet-152, ...), the URL of a "
                                 "prefix, or torchvision:NAME[:WEIGHTS] (if not given: one in the caches or "
                                 "the working folder; nothing is downloaded)", since="g2",
                                 metavar="NAME")
    load_epoch: str = flag("", "epoch of the pretrained weights (0126 or 126; the newest if not given); "
                           "training begins at epoch 0 regardless. auto: as --resume", since="g2",
                           metavar="EPOCH")
    layer_before_fullc: str = flag("", "layer whose output is the input of the new head (if not given: the "
                                   "one before the last fully connected layer)", since="g2", metavar="LAYER")
    freeze: str = flag("nothing", "what to freeze: nothing, body (all but the new head), or a layer "
                       "(everything up to and including it). Frozen normalisations keep their statistics",
                       metavar="WHAT")
    head_lr_mult: float = flag(1.0, "multiplies --lr for the new head", minimum=0, maximum=MAX_NUMBER)
    body_lr_mult: float = flag(1.0, "multiplies --lr for all other trainable parameters",
                               minimum=0, maximum=MAX_NUMBER)
    resume: bool = flag(False, "resume the run at --model-prefix from its newest state, also within an "
                        "epoch; start a new run if there is none")
