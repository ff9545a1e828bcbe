"""Everything a user may set, section by section; flags, help, YAML keys and `IMGCLS_*` names follow from it.

A section is a small frozen dataclass that belongs to one part of a run: the part is given its section, never
the whole configuration. `resolve` fills them in. They stand in one file, on a low floor, because the command
line must be readable without importing torch.

A field is a flag: `lr_factor` is `--lr-factor`, `lr_factor:` in a file and `IMGCLS_LR_FACTOR`. `since` says
which of MXNet's scripts had it first (see `flags.flag`); a beginning of a flag means what it meant to MXNet
before it can mean a flag of ours. The docstring of a section is its title on the help screen.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from imgcls.config.flags import flag

# Bounds that several settings share. They are far beyond what anybody trains with, and near enough that
# nothing behind them overflows or takes hours: what a run really needs is checked where it is known.
MAX_NUMBER = 10**6        # of rates, factors and the like: their product with a weight stays a float32
MAX_EPOCHS = 10**6
MAX_SIDE = 65500          # pixels: JPEG has no larger images
MAX_THREADS = 1024
MAX_PROCESSES = 1024      # on one machine
MAX_TIMEOUT_S = 1e7       # four months: torch counts in smaller units, which must not overflow


@dataclass(frozen=True)
class DataConfig:
    """Data"""

    dataset: str = flag("mnist", "the data set, a file of imgcls/datasets", metavar="NAME")
    # MXNet's first scripts took a folder and names in it, the later ones (common/data.py) the files
    data_dir: str = flag("", "folder of the data set's files (default: ~/.cache/imgcls/NAME; downloaded if "
                         "missing)", since="g1", metavar="DIR")
    data_train: str = flag("", "training data: a .rec file, a;b, a pattern, a folder (of .rec files, or one "
                           "folder of images per class) or a .lst", since="g2", metavar="PATH")
    data_val: str = flag("", "validation data, like --data-train", since="g2", metavar="PATH")
    # by content and not by place: what is added or renamed later moves no image to the other side
    val_ratio: float | None = flag(None, "part of the training images that is held out for validation where "
                                   "none is named, by the content of each; 0: none (if not given: 0.1 of a "
                                   "folder of images, 0 of records)", metavar="PART", minimum=0, maximum=0.9)
    data_train_idx: str = flag("", ".idx of the training .rec, where it is not beside it (none is needed)",
                               since="g2", metavar="FILE")
    data_val_idx: str = flag("", ".idx of the validation .rec", since="g2", metavar="FILE")
    train_dataset: str = flag("train.rec", "name of the training file in --data-dir (imagenet)", since="g1",
                              metavar="FILE")
    val_dataset: str = flag("val.rec", "name of the validation file in --data-dir (imagenet)", since="g1",
                            metavar="FILE")
    data_root: str = flag("", "folder that the paths in a .lst start from (if not given: the list's own)",
                          metavar="DIR")
    # a list is read like any file from a stranger, and what it names is read
    outside_root: bool = flag(False, "let a .lst name files outside of that folder (../x, /y)")
    # the bound on what is left out tells a few bad images from a wrong file
    on_bad: str = flag("skip", "a damaged record or image is left out, named and counted (up to 1 % of "
                       "them), or ends the run", choices=("skip", "stop"))
    # reading at random from a remote file costs a request per image: a local copy pays from the first epoch
    cache_gb: float = flag(100.0, "copies of remote files (s3://... and the like) that are kept on this "
                           "machine, in 10^9 bytes; record files that are more are read in chunks",
                           metavar="GB", minimum=0, maximum=MAX_NUMBER)
    # MXNet had to be told the size of an epoch, and schedules went by it; we count the records
    num_examples: int = flag(0, "samples of an epoch of --benchmark; otherwise the real number counts",
                             since="g2", minimum=0, maximum=10**10)
    batch_size: int = flag(128, "samples per step and worker", since="g2", minimum=1, maximum=10**7)
    # None, and not 0, is "as many as there are cores": 0 is the main thread, where a debugger stops
    data_nthreads: int | None = flag(None, "threads that prepare batches (if not given: one per core, at "
                                     "most 16); 0: in the main thread, for debugging", since="g2",
                                     minimum=0, maximum=MAX_THREADS)
    benchmark: bool = flag(False, "train on one random batch again and again, to measure speed", since="g2")


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation and normalisation, in the order applied"""

    resize: int = flag(0, "short edge of the images before all else, pixels; 0: as stored", metavar="PIXELS",
                       minimum=0, maximum=MAX_SIDE)
    val_resize: int | None = flag(None, "the same for validation, where the centre is cut; 0: as stored (if "
                                  "not given: --resize, or the crop's height / 0.875 where the images are "
                                  "much larger than the crop)", metavar="PIXELS", minimum=0, maximum=MAX_SIDE)
    # what MXNet's default augmenter does in one affine warp (image_aug_default.cc)
    max_random_rotate_angle: int = flag(0, "rotate by up to this, degrees", since="g2",
                                        minimum=0, maximum=360)
    max_random_shear_ratio: float = flag(0.0, "shear by up to this", since="g2", minimum=0, maximum=100)
    max_random_scale: float = flag(1.0, "largest scale of the image before the crop", since="g2",
                                   minimum=0, maximum=100)
    min_random_scale: float = flag(1.0, "smallest scale of the image before the crop", since="g2",
                                   minimum=0, maximum=100)
    pad_size: int = flag(0, "border on all four sides before the crop, pixels", since="g2",
                         minimum=0, maximum=MAX_SIDE)
    fill_value: int = flag(127, "value of the border, 0-255", since="g3", minimum=0, maximum=255)
    # the crop: of fixed size, of random area, or a square of random size; `data.crops` refuses two at once
    random_crop: bool = flag(False, "crop at a random place, not the centre", since="g2")
    random_resized_crop: bool = flag(False, "crop of random area and aspect, resized", since="g3")
    max_random_area: float = flag(1.0, "largest area of that crop, as a part of the image", since="g3",
                                  minimum=0, maximum=1)
    min_random_area: float = flag(1.0, "smallest area of that crop", since="g3", minimum=0, maximum=1)
    max_random_aspect_ratio: float = flag(0.0, "largest aspect ratio of that crop; without "
                                          "--min-random-aspect-ratio: its change to either side of 1; "
                                          "without that crop the image is warped so", since="g2",
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
    brightness: float = flag(0.0, "change brightness by up to this part", since="g3", minimum=0, maximum=100)
    contrast: float = flag(0.0, "change contrast by up to this part", since="g3", minimum=0, maximum=100)
    saturation: float = flag(0.0, "change saturation by up to this part", since="g3", minimum=0, maximum=100)
    max_random_h: int = flag(0, "change hue by up to this, 0-180", since="g2", minimum=0, maximum=180)
    max_random_s: int = flag(0, "change saturation by up to this, 0-255", since="g2", minimum=0, maximum=255)
    max_random_l: int = flag(0, "change lightness by up to this, 0-255", since="g2", minimum=0, maximum=255)
    pca_noise: float = flag(0.0, "strength of lighting noise (AlexNet's), such as 0.1", since="g3",
                            minimum=0, maximum=100)
    random_mirror: bool = flag(False, "mirror left to right with probability 1/2", since="g2")
    # normalisation; a copy of what a checkpoint was trained with stands in its meta.json
    rgb_mean: tuple[float, ...] = flag((0.0,), "subtracted per channel, on the scale 0-255", since="g2",
                                       metavar="R,G,B", minimum=-MAX_NUMBER, maximum=MAX_NUMBER)
    rgb_std: tuple[float, ...] = flag((1.0,), "divided by per channel, after the mean", since="g3",
                                      metavar="R,G,B", minimum=0, maximum=MAX_NUMBER)
    mean_image: str = flag("", "subtract this image in place of --rgb-mean: an MXNet .bin or .params file, "
                           "or a Caffe .binaryproto", metavar="FILE")
    use_imagenet_data_augmentation: bool = flag(False, "the recipe of MXNet 1.3: random resized crop, "
                                                "mirror, colour jitter, lighting noise", since="g3")


@dataclass(frozen=True)
class NetworkConfig:
    """Network"""

    network: str = flag("mlp", "the network, a file of imgcls/networks", since="g2", metavar="NAME")
    # options of single networks stand beside those of all; each reads its own (OPTIONS in its file)
    num_layers: int | None = flag(None, "depth, for networks that come in several (if not given: vgg 11, "
                                  "resnet-28-small 20, other residual ones 50, or 110 for small images)",
                                  since="g2", metavar="N", minimum=1, maximum=2000)
    num_classes: int = flag(10, "classes", since="g2", minimum=2, maximum=10**7)
    image_shape: tuple[int, ...] = flag((1, 28, 28), "channels,height,width that the network is given",
                                        since="g2", metavar="C,H,W",
                                        minimum=1, maximum=MAX_SIDE, counts=(1, 3))
    # the first scripts' square, three channels; `resolve` turns it into image_shape
    data_shape: int = flag(0, "S for --image-shape 3,S,S", since="g1", metavar="S",
                           minimum=0, maximum=MAX_SIDE)
    add_stn: bool = flag(False, "spatial transformer in front (lenet)", since="g2")
    batch_norm: bool = flag(False, "normalise after every convolution (vgg)")
    num_group: int = flag(32, "groups of a bottleneck's 3x3 convolution (resnext)", metavar="N",
                          minimum=1, maximum=4096)
    multiplier: float = flag(1.0, "width of every layer: 0.25, 0.5, 0.75 or 1 (mobilenet), any (mobilenetv2)",
                             metavar="X", minimum=0, maximum=100)
    variant: str = flag("", "form: fast or accurate (overfeat), torch or theano (alexnet-towers); the first "
                        "if not given", metavar="NAME")
    model_parallel: int = flag(1, "GPUs that each copy of the network is spread over (alexnet-towers: 2)",
                               metavar="N", minimum=1, maximum=MAX_PROCESSES)
    # MXNet's names; default is its rule by the network's name (common/fit.py)
    initializer: str = flag("default", "of the weights", since="g3", choices=(
        "default", "xavier", "msra", "orthogonal", "normal", "uniform", "one", "zero"))


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimizer"""

    optimizer: str = flag("sgd", "optimizer by MXNet's name", since="g2", metavar="NAME")
    # MXNet's names for momentum and weight decay, in its scripts as in its optimizers
    mom: float = flag(0.9, "momentum of sgd and nag", since="g2", minimum=0, maximum=1)
    wd: float = flag(1e-4, "weight decay, on weights and gammas only", since="g2",
                     minimum=0, maximum=MAX_NUMBER)
    clip_gradient: float = flag(0.0, "clip each element of the gradient to [-C, C]; 0: off", since="g1",
                                metavar="C", minimum=0, maximum=1e30)


@dataclass(frozen=True)
class Decay:
    """How the learning rate falls: no flag, but what the flags come to (see `rules.resolve_decay`).

    `kind` is constant, steps (times `lr_factor` after each of `step_epochs`), every (times `lr_factor` each
    `every_epochs` epochs, fractions too), power ((1 - progress)^power) or cosine; `reason` is the rule that
    chose it.
    """

    kind: str = "constant"
    step_epochs: tuple[int, ...] = ()
    #: set for every kind where the flags mean such steps: it decides which flag a file is written with
    every_epochs: float = 0.0
    power: float = 2.0
    #: for people, in the line that is printed at the start; names settings between backquotes
    reason: str = ""


@dataclass(frozen=True)
class ScheduleConfig:
    """Learning rate"""

    lr: float = flag(0.05, "learning rate at the start", since="g2", minimum=0, maximum=MAX_NUMBER)
    # what these three mean together depends on which the user set: `rules.resolve_decay`
    lr_factor: float = flag(0.1, "multiplies the learning rate at each step; 1: constant", since="g2",
                            minimum=0, maximum=MAX_NUMBER)
    lr_step_epochs: str = flag("10", "epochs to step at (30,60), or powP for (1 - progress)^P", since="g2",
                               metavar="E,E")
    lr_factor_epoch: float = flag(0.0, "step every E epochs for ever, fractions too", since="g1", metavar="E",
                                  minimum=0, maximum=MAX_NUMBER)
    lr_schedule: str = flag("auto", "auto: as the flags above say; cosine: down to --final-lr at the last "
                            "update", choices=("auto", "cosine"))
    final_lr: float = flag(0.0, "where powP and cosine end", minimum=0, maximum=MAX_NUMBER)
    # MXNet warmed up with lbsgd only; here it goes with every optimizer
    warmup_epochs: float = flag(0.0, "epochs of warm-up, fractions too", since="g3",
                                minimum=0, maximum=MAX_NUMBER)
    warmup_begin_lr: float = flag(0.0, "learning rate the warm-up starts from", minimum=0, maximum=MAX_NUMBER)
    warmup_strategy: str = flag("linear", "shape of the warm-up", since="g3",
                                choices=("linear", "constant", "power2", "sqrt"))
    #: no flag: filled in by `resolve`
    decay: Decay = Decay()


@dataclass(frozen=True)
class TrainConfig:
    """Training"""

    num_epochs: int = flag(20, "epochs in all, those of a run that is resumed included", since="g2",
                           minimum=0, maximum=MAX_EPOCHS)
    # a run is a function of its seed: order and augmentation of an epoch depend on nothing that came before
    seed: int = flag(0, "of weights, sample order, augmentation and dropout", minimum=0, maximum=2**63 - 1)
    disp_batches: int = flag(20, "batches between progress lines", since="g2", minimum=1, maximum=10**9)
    top_k: int = flag(0, "also report top-K accuracy", since="g2", metavar="K", minimum=0, maximum=10**7)
    loss: str = flag("", "also report these: ce, nll", since="g3", metavar="LIST")
    monitor: int = flag(0, "every N batches log the size of all tensors", since="g2", metavar="N",
                        minimum=0, maximum=10**9)
    dry_run: bool = flag(False, "write nothing: tell what would be done, measure a few batches, and say how "
                         "long the run takes and what it waits for", takes="none")
    test_io: bool = flag(False, "only read the training data once and show the speed", since="g2")


@dataclass(frozen=True)
class DeviceConfig:
    """Devices"""

    gpus: str = flag("", "GPUs to use (0 or 0,1,3); none: the CPU", since="g2", metavar="LIST")
    dtype: str = flag("auto", "auto: bfloat16 where a GPU has it, else float32; weights stay float32",
                      since="g2", choices=("auto", "float32", "bfloat16", "float16"))
    compile: bool = flag(False, "torch.compile the network: a minute first, faster steps after (GPU)")
    # flags that MXNet had and we refuse, each with a way to go: a flag is never ignored in silence
    macrobatch_size: int = flag(0, "batch size of lbsgd", since="g3",
                                later="lbsgd is not offered; use `batch_size` with `warmup_epochs`",
                                minimum=0, maximum=10**9)
    profile_worker_suffix: str = flag("", "profile file", since="g3",
                                      later="profiling is not offered; run under torch.profiler or py-spy")
    profile_server_suffix: str = flag("", "profile file of servers", since="g3",
                                      later="profiling is not offered; run under torch.profiler or py-spy")


@dataclass(frozen=True)
class DistributedConfig:
    """Several devices and machines"""

    # MXNet's word for how gradients are shared; the names that torch has no use for mean the nearest it has
    kv_store: str = flag("device", "how devices share gradients: device, local, nccl, dist_sync, dist_async, "
                         "...", since="g2", metavar="NAME")
    workers_per_host: int = flag(1, "processes on the CPU of this machine that share --batch-size, as the "
                                 "GPUs of --gpus do", metavar="N", minimum=1, maximum=MAX_PROCESSES)
    micro_batches: int = flag(1, "micro-batches that a batch is computed in, one after the other: less "
                              "memory, and the same bits as that many devices", metavar="N",
                              minimum=1, maximum=10**7)
    sync_bn: bool = flag(False, "batch normalisation over the batches of all devices")
    gc_type: str = flag("none", "gradient compression", since="g2",
                        choices=("none", "2bit", "fp16", "bf16", "powersgd"))
    gc_threshold: float = flag(0.5, "threshold of 2bit compression, for a gradient summed over the batch",
                               since="g2", minimum=0, maximum=MAX_NUMBER)
    # torchrun's names where torchrun has one: nnodes, rdzv_endpoint, rdzv_id, max_restarts
    max_restarts: int = flag(0, "how often the processes are started again, from the last position saved, "
                             "when one of them dies", metavar="N", minimum=0, maximum=MAX_EPOCHS)
    nnodes: str = flag("1", "machines, each started with the same command: N, or MIN:MAX to go on with fewer",
                       metavar="N")
    rdzv_endpoint: str = flag("", "rendezvous of those machines: HOST:PORT, HOST being one of them",
                              metavar="HOST:PORT")
    rdzv_id: str = flag("", "name of the job, the same on all of them", metavar="NAME")
    dist_timeout: float = flag(300.0, "seconds after which a device or machine that does not answer counts "
                               "as lost", metavar="SECONDS", minimum=1, maximum=MAX_TIMEOUT_S)


@dataclass(frozen=True)
class CheckpointConfig:
    """Checkpoints"""

    model_prefix: str = flag("", "save to PREFIX-symbol.json, PREFIX-0001.params, ...; resume from there",
                             since="g2", metavar="PREFIX")
    # text: a number as MXNet wrote it into file names (0008), or auto
    load_epoch: str = flag("", "resume after this epoch (8 or 0008), or auto: the newest state there is",
                           since="g2", metavar="EPOCH")
    save_model_prefix: str = flag("", "save here instead, still loading from --model-prefix", since="g1",
                                  metavar="PREFIX")
    save_period: int = flag(1, "epochs between checkpoints; the last is always saved", since="g3",
                            minimum=1, maximum=MAX_EPOCHS)
    # on top of save_period: a long epoch that is killed loses minutes, not hours
    save_every: float = flag(10.0, "minutes between savings inside an epoch; 0: none", metavar="MINUTES",
                             minimum=0, maximum=MAX_NUMBER)
    # without them an epoch can be gone back to, but not gone on from as if nothing had been
    keep_states: int | None = flag(None, "how many epochs' optimizer states to keep; weights are all kept "
                                   "(if not given: the last 10^9 bytes of states, 2 at least)", metavar="N",
                                   minimum=1, maximum=MAX_EPOCHS)

    @property
    def save_prefix(self) -> str:
        """The prefix that a run saves under, "" where nothing is saved."""
        return self.save_model_prefix or self.model_prefix


@dataclass(frozen=True)
class ReportConfig:
    """Reporting"""

    log_file: str = flag("", "also write the log lines to this file", since="g1", metavar="FILE")
    log_dir: str = flag("", "folder of --log-file", since="g1", metavar="DIR")
    report_page: bool = flag(True, "no PREFIX-report.html, the page with the charts of the run",
                             negation="--no-report", takes="none")
    tensorboard: bool = flag(False, "also write event files for TensorBoard, to PREFIX-tensorboard")


@dataclass(frozen=True)
class FinetuneConfig:
    """Fine-tuning"""

    pretrained_model: str = flag("", "the network to begin with: the prefix of a checkpoint, a network of "
                                 "MXNet's zoo (resnext-101, imagenet11k-resnet-152, ...), the URL of a "
                                 "prefix, or torchvision:NAME[:WEIGHTS]", since="g2", metavar="NAME")
    load_epoch: str = flag("", "epoch of the pretrained weights (0126 or 126; the newest if not given); "
                           "training begins at epoch 0 whatever it is. auto: as --resume", since="g2",
                           metavar="EPOCH")
    layer_before_fullc: str = flag("", "the layer whose output goes into the new head (if not given: the "
                                   "one before the last fully connected layer)", since="g2", metavar="LAYER")
    freeze: str = flag("nothing", "what does not learn: nothing, body (all but the new head), or a layer: "
                       "everything up to and including it. Frozen normalisations keep their statistics",
                       metavar="WHAT")
    head_lr_mult: float = flag(1.0, "multiplies --lr for the new head", minimum=0, maximum=MAX_NUMBER)
    body_lr_mult: float = flag(1.0, "multiplies --lr for everything else that learns",
                               minimum=0, maximum=MAX_NUMBER)
    resume: bool = flag(False, "go on with the run at --model-prefix from its newest state, inside an epoch "
                        "too; begin, where there is none")


def _as_trained(section: type, setting: str, help: str) -> Any:
    """Return a flag of `section` without its default: the checkpoint's holds where nobody gives it."""
    metadata = section.__dataclass_fields__[setting].metadata  # type: ignore[attr-defined]
    return dataclasses.field(default=None, metadata={**metadata, "help": help})


@dataclass(frozen=True)
class InferenceConfig:
    """Trained network, and the preprocessing of its images (if not given: what its checkpoint says)"""

    model: str = flag("", "the prefix of a checkpoint, a network of MXNet's zoo (imagenet1k-resnet-50), the "
                      "URL of a prefix, or torchvision:NAME[:WEIGHTS]", since="g2", metavar="NAME")
    load_epoch: str = flag("auto", "epoch of its weights: 8, 0008 or auto, the newest", since="g2",
                           metavar="EPOCH")
    # of score this is the data as well; without a default, so that nobody takes one for what was noted
    dataset: str | None = flag(None, "the data set that imgcls-score measures on (mnist, or files that are "
                               "named), and whose way of preparing images holds where none was noted",
                               metavar="NAME")
    # as MXNet's predict-cpp and everybody's synset.txt
    synset: str = flag("", "class names, one a line in the order of the classes, for a network that has "
                       "none; imagenet: the 1000 of ImageNet, from torchvision", metavar="FILE")
    image_shape: tuple[int, ...] | None = _as_trained(NetworkConfig, "image_shape", (
        "channels,height,width that the network is given"))
    rgb_mean: tuple[float, ...] | None = _as_trained(AugmentConfig, "rgb_mean", (
        "subtracted per channel, on the scale 0-255"))
    rgb_std: tuple[float, ...] | None = _as_trained(AugmentConfig, "rgb_std", (
        "divided by per channel, after the mean"))
    mean_image: str | None = _as_trained(AugmentConfig, "mean_image", (
        "subtract this image in place of --rgb-mean"))
    val_resize: int | None = _as_trained(AugmentConfig, "val_resize", (
        "short edge of the images before the centre is cut; 0: as stored, which MXNet's networks are given"))
    resize: int | None = _as_trained(AugmentConfig, "resize", "another word for --val-resize")
    interpolation: str | None = _as_trained(AugmentConfig, "interpolation", "how images are resized")


#: the settings of `InferenceConfig` that say what becomes of an image
PREPROCESSING = ("image_shape", "rgb_mean", "rgb_std", "mean_image", "val_resize", "resize", "interpolation")

#: attribute of `resolve.Config` -> section, in the order of the help screen and of MXNet's Namespace line
SECTIONS = {
    "data": DataConfig, "augment": AugmentConfig, "network": NetworkConfig, "train": TrainConfig,
    "schedule": ScheduleConfig, "optimizer": OptimizerConfig, "device": DeviceConfig,
    "distributed": DistributedConfig, "checkpoint": CheckpointConfig, "report": ReportConfig,
}
