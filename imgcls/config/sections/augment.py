"""What is done to an image before it is part of a batch."""

from __future__ import annotations

from dataclasses import dataclass

from imgcls.config.flags import flag
from imgcls.config.sections.bounds import MAX_NUMBER, MAX_SIDE


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation and normalisation, in the order applied"""

    resize: int = flag(0, "resize the short edge to this many pixels first; 0: as stored", metavar="PIXELS",
                       minimum=0, maximum=MAX_SIDE)
    val_resize: int | None = flag(None, "the same for validation, which crops the centre; 0: as stored (if "
                                  "not given: --resize, or the crop's height / 0.875 where the images are "
                                  "much larger than the crop)", metavar="PIXELS", minimum=0, maximum=MAX_SIDE)
    # what MXNet's default augmenter does in one affine warp (image_aug_default.cc)
    max_random_rotate_angle: int = flag(0, "maximum rotation, degrees", since="g2",
                                        minimum=0, maximum=360)
    max_random_shear_ratio: float = flag(0.0, "maximum shear", since="g2", minimum=0, maximum=100)
    max_random_scale: float = flag(1.0, "largest scale of the image before the crop", since="g2",
                                   minimum=0, maximum=100)
    min_random_scale: float = flag(1.0, "smallest scale of the image before the crop", since="g2",
                                   minimum=0, maximum=100)
    pad_size: int = flag(0, "border on all four sides before the crop, pixels", since="g2",
                         minimum=0, maximum=MAX_SIDE)
    fill_value: int = flag(127, "value of the border, 0-255", since="g3", minimum=0, maximum=255)
    pad_mode: str = flag("constant", "what that border shows: --fill-value, the edge repeated, or "
                                     "the image mirrored without or with its edge",
                         choices=("constant", "edge", "reflect", "symmetric"))
    # the crop: of fixed size, of random area, or a square of random size; `data.crops` refuses two at once
    random_crop: bool = flag(False, "crop at a random place, not the centre", since="g2")
    random_resized_crop: bool = flag(False, "crop of random area and aspect, resized", since="g3")
    max_random_area: float = flag(1.0, "largest area of that crop, as a fraction of the image", since="g3",
                                  minimum=0, maximum=1)
    min_random_area: float = flag(1.0, "smallest area of that crop", since="g3", minimum=0, maximum=1)
    max_random_aspect_ratio: float = flag(0.0, "largest aspect ratio of that crop; without "
                                          "--min-random-aspect-ratio: its change to either side of 1; "
                                          "without that crop the image is warped by as much", since="g2",
                                          minimum=0, maximum=100)
    min_random_aspect_ratio: float | None = flag(None, "smallest aspect ratio of that crop", since="g3",
                                                 minimum=0, maximum=100)
    max_crop_size: int = flag(-1, "largest side of a square crop of random size, resized; -1: off",
                              since="g3", minimum=-1, maximum=MAX_SIDE)
    min_crop_size: int = flag(-1, "smallest side of that crop; -1: off", since="g3",
                              minimum=-1, maximum=MAX_SIDE)
    interpolation: str = flag("bilinear", "how images are resized: bilinear (MXNet's), antialias (bilinear "
                              "as Pillow and torchvision do it), ...; auto: cubic or area by direction",
                              choices=("bilinear", "antialias", "nearest", "cubic", "area", "lanczos", "auto",
                                       "random"))
    # colour: the jitter of MXNet 1.3, then the HSL shifts of 0.8; both may be given
    brightness: float = flag(0.0, "maximum relative change of brightness", since="g3", minimum=0, maximum=100)
    contrast: float = flag(0.0, "maximum relative change of contrast", since="g3", minimum=0, maximum=100)
    saturation: float = flag(0.0, "maximum relative change of saturation", since="g3", minimum=0, maximum=100)
    max_random_h: int = flag(0, "maximum change of hue, 0-180", since="g2", minimum=0, maximum=180)
    max_random_s: int = flag(0, "maximum change of saturation, 0-255", since="g2", minimum=0, maximum=255)
    max_random_l: int = flag(0, "maximum change of lightness, 0-255", since="g2", minimum=0, maximum=255)
    pca_noise: float = flag(0.0, "standard deviation of AlexNet's lighting noise, such as 0.1", since="g3",
                            minimum=0, maximum=100)
    random_mirror: bool = flag(False, "mirror left to right with probability 1/2", since="g2")
    alternating_mirror: bool = flag(False, "mirror half of the images in one epoch and the other half in the "
                                    "next, in turns (in place of --random-mirror)")
    # torchvision's names and values; the operations are applied to the crop
    auto_augment: str = flag("none", "policy of operations drawn for each image: ra (RandAugment), ta_wide "
                             "(TrivialAugment) or augmix", choices=("none", "ra", "ta_wide", "augmix"))
    ra_num_ops: int = flag(2, "number of operations of RandAugment", metavar="N", minimum=1, maximum=20)
    ra_magnitude: int = flag(9, "magnitude of those operations, 0-30", metavar="M", minimum=0, maximum=30)
    augmix_severity: int = flag(3, "severity of AugMix's operations, 1-10", metavar="S",
                                minimum=1, maximum=10)
    random_erase: float = flag(0.0, "erase a box of 2 to 33 % of the image with this probability, such as "
                               "0.25", metavar="P", minimum=0, maximum=1)
    # normalisation; the meta.json of a checkpoint holds a copy of what it was trained with
    rgb_mean: tuple[float, ...] = flag((0.0,), "subtracted per channel, on the scale 0-255", since="g2",
                                       metavar="R,G,B", minimum=-MAX_NUMBER, maximum=MAX_NUMBER)
    rgb_std: tuple[float, ...] = flag((1.0,), "divided by per channel, after the mean", since="g3",
                                      metavar="R,G,B", minimum=0, maximum=MAX_NUMBER)
    mean_image: str = flag("", "subtract this image in place of --rgb-mean: an MXNet .bin or .params file, "
                           "a Caffe .binaryproto or a numpy .npy (3, H, W)", metavar="FILE")
    use_imagenet_data_augmentation: bool = flag(False, "the recipe of MXNet 1.3: random resized crop, "
                                                "mirror, colour jitter, lighting noise", since="g3")
