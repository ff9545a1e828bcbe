"""What keeps a network from overfitting, and from neglecting rare classes."""

from __future__ import annotations

from dataclasses import dataclass

from imgcls.config.flags import flag


@dataclass(frozen=True)
class RegularizationConfig:
    """Regularisation and balance of classes"""

    label_smoothing: float = flag(0.0, "label smoothing: the part of each label that is spread evenly over "
                                  "all classes, such as 0.1", metavar="PART", minimum=0, maximum=0.99)
    # the names of timm; torchvision's train.py calls them --mixup-alpha and --cutmix-alpha
    mixup: float = flag(0.0, "blend pairs of images: the part of each is from a beta distribution with this "
                        "alpha, such as 0.2; 0: off", metavar="ALPHA", minimum=0, maximum=1000)
    cutmix: float = flag(0.0, "paste a box of one image into another, its area from a beta distribution with "
                         "this alpha, such as 1; with --mixup each is for half of the batches; 0: off",
                         metavar="ALPHA", minimum=0, maximum=1000)
    class_weights: str = flag("", "weights of the classes in the loss: balanced (the inverse class "
                              "frequency) or a number for each class, such as 1,1,5", metavar="WEIGHTS")
    balanced_order: bool = flag(False, "equally many images of each class in an epoch: those of rare classes "
                                "several times, each time augmented anew")
    aug_repeats: int = flag(1, "repeated augmentation: number of times each image is in its batch, each "
                            "time augmented anew; the length of an epoch is unchanged", metavar="N",
                            minimum=1, maximum=1000)
    # the name that timm and torchvision's train.py have for it
    model_ema_decay: float = flag(0.0, "score and save an exponential moving average of the weights, with "
                                  "this decay per update, such as 0.999; 0: off", metavar="D",
                                  minimum=0, maximum=0.999999)
    dropout: float | None = flag(None, "probability of all dropout layers (if not given: the network's own)",
                                 metavar="P", minimum=0, maximum=0.99)
    drop_path: float = flag(0.0, "stochastic depth: leave out the last residual branch of a sample with this "
                            "probability, those before it in proportion to their depth", metavar="P",
                            minimum=0, maximum=0.99)
