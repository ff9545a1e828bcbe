"""Settings that do nothing in a combination: one table, so that none of them is ignored in silence.

A row names settings, says when they have an effect, and in words what that requires. Settings without a row
always have one, or are refused where they have none (the options of single networks). `unused_settings` is
called before a run or a measurement begins; nothing here touches a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from imgcls.config import lookup
from imgcls.config.flags import convert, show
from imgcls.config.sections import OPTIMIZERS, AugmentConfig, DataConfig
from imgcls.errors import verbatim

if TYPE_CHECKING:
    from imgcls.config.resolve import Config


@dataclass(frozen=True)
class Row:
    """`settings` have an effect where `holds` is true; `needs` says it in words, behind "it is for"."""

    settings: tuple[str, ...]
    holds: Callable[[Config], bool]
    needs: str


#: the settings about files of data; a data set names in its `SETTINGS` those of them that it reads
_DATA_FILES = ("data_dir", "data_train", "data_val", "val_ratio", "data_train_idx", "data_val_idx",
               "train_dataset", "val_dataset", "data_root", "outside_root", "on_bad", "cache_gb")
#: what is done to images: all settings of the section
_AUGMENTATION = ("resize", "val_resize", "max_random_rotate_angle", "max_random_shear_ratio",
                 "max_random_scale", "min_random_scale", "pad_size", "fill_value", "pad_mode",
                 "random_crop",
                 "random_resized_crop", "max_random_area", "min_random_area", "max_random_aspect_ratio",
                 "min_random_aspect_ratio", "max_crop_size", "min_crop_size", "interpolation", "brightness",
                 "contrast", "saturation", "max_random_h", "max_random_s", "max_random_l", "pca_noise",
                 "random_mirror", "alternating_mirror", "auto_augment", "ra_num_ops", "ra_magnitude",
                 "augmix_severity", "random_erase", "rgb_mean", "rgb_std", "mean_image",
                 "use_imagenet_data_augmentation")


#: schedules that are curves by name
_CURVES = ("cosine", "one-cycle", "restarts")


def _train_path(data: DataConfig) -> str:
    """Return the path of the training data where a setting names it, else ""."""
    return data.data_train or (data.train_dataset if data.data_dir else "")


def _val_path(data: DataConfig) -> str:
    return data.data_val or (data.val_dataset if data.data_dir else "")


def _is_list(path: str) -> bool:
    return path.endswith(".lst")


def _is_remote(config: Config) -> bool:
    data = config.data
    return any("://" in path for path in (data.data_dir, data.data_train, data.data_val, data.data_train_idx,
                                          data.data_val_idx, config.augment.mean_image))


def _has_border(augment: AugmentConfig) -> bool:
    """Whether `fill_value` may show: in a border, or in the corners of a warp."""
    has_constant = augment.pad_size > 0 and augment.pad_mode == "constant"
    return bool(has_constant or augment.max_random_rotate_angle or augment.max_random_shear_ratio
                or (augment.min_random_scale, augment.max_random_scale) != (1, 1)
                or augment.max_random_aspect_ratio or augment.min_random_aspect_ratio)


def _has_areas(augment: AugmentConfig) -> bool:
    """Whether the crop of random area is another than the whole image."""
    return ((augment.min_random_area, augment.max_random_area) != (1, 1)
            or augment.min_random_aspect_ratio is not None or augment.max_random_aspect_ratio > 0)


def _learns_labels(config: Config) -> bool:
    return not config.distillation.teacher or config.distillation.distillation_alpha < 1


def _decays(config: Config) -> bool:
    """Whether any weight decays; with lars gammas never do."""
    regime = config.schedule.decay.regime
    own = config.optimizer.wd
    decays = [own if wd is None else wd for _epoch, _lr, wd in regime] or [own]
    return any(decays) and config.optimizer.name != "lars"


def _knows_only_signs(config: Config) -> bool:
    """Whether the step is the same for a gradient of another size."""
    name = config.optimizer.name
    return name == "signsgd" or (name == "signum" and not config.optimizer.mom)


def _reads(setting: str) -> Callable[[Config], bool]:
    """Return the condition that the data set reads a setting: one of its `SETTINGS`; without these, any."""
    def holds(config: Config) -> bool:
        module = lookup.module("datasets", config.data.dataset, "`dataset`")
        return setting in getattr(module, "SETTINGS", _DATA_FILES)
    return holds


def _uses(setting: str) -> Callable[[Config], bool]:
    """Return the condition that the rule of the optimizer has a setting."""
    # an unknown name is refused later, with a list of the known ones
    return lambda config: setting in OPTIMIZERS.get(config.optimizer.name, (setting,))


#: a setting is reported once, by the first of its rows that does not hold
ROWS: tuple[Row, ...] = (
    Row((*_DATA_FILES, *_AUGMENTATION, "data_nthreads", "decoded_cache_gb", "decoded_cache_dir",
         "jpeg_decoder"),
        lambda config: not config.data.benchmark,
        "data, and `benchmark` trains on noise"),
    *(Row((setting,), _reads(setting), "other data sets than `dataset` {dataset}")
      for setting in _DATA_FILES),
    # data
    Row(("data_dir",), lambda config: not (config.data.data_train and config.data.data_val),
        "data that `data_train` and `data_val` do not name"),
    Row(("train_dataset",), lambda config: bool(config.data.data_dir) and not config.data.data_train,
        "a `data_dir` without `data_train`"),
    Row(("val_dataset",), lambda config: bool(config.data.data_dir) and not config.data.data_val,
        "a `data_dir` without `data_val`"),
    # of imgcls-score it is a setting of its own, for the data that are scored
    Row(("val_ratio",), lambda config: not config.data.data_val or hasattr(config.own, "val_ratio"),
        "data without `data_val`"),
    # those of a data set that trains on nothing but its files are in two parts already
    Row(("val_ratio",), lambda config: bool(config.data.data_train) or _reads("train_dataset")(config)
        or hasattr(config.own, "val_ratio"),
        "`data_train`, and `dataset` {dataset} brings its own test images"),
    Row(("data_train_idx",), lambda config: bool(_train_path(config.data))
        and not _is_list(_train_path(config.data)), "a training .rec"),
    Row(("data_val_idx",), lambda config: bool(_val_path(config.data))
        and not _is_list(_val_path(config.data)), "a validation .rec"),
    Row(("data_root", "outside_root"),
        lambda config: _is_list(_train_path(config.data)) or _is_list(_val_path(config.data)),
        "a .lst"),
    Row(("cache_gb",), _is_remote, "data at a URL"),
    Row(("decoded_cache_gb",), lambda config: config.train.num_epochs > 1 or bool(
        config.data.decoded_cache_dir), "`num_epochs` above 1"),
    Row(("decoded_cache_gb", "decoded_cache_dir"), lambda config: config.data.jpeg_decoder == "cpu",
        "`jpeg_decoder` cpu"),
    Row(("decoded_cache_dir",), lambda config: config.data.decoded_cache_gb != 0,
        "a `decoded_cache_gb` above 0"),
    Row(("decoded_cache_dir",), lambda config: not (config.train.test_io or config.train.dry_run),
        "training, and `test_io` and `dry_run` read the data once"),
    # images
    Row(tuple(name for name in _AUGMENTATION if name not in ("rgb_mean", "rgb_std", "mean_image")),
        lambda config: len(config.network.image_shape) == 3,
        "images, and `image_shape` {image_shape} is of flat rows"),
    Row(("pad_mode",), lambda config: config.augment.pad_size > 0, "`pad_size`"),
    Row(("fill_value",), lambda config: _has_border(config.augment),
        "`pad_size` with `pad_mode` constant, rotation, shear and scale"),
    Row(("random_mirror",), lambda config: not config.augment.alternating_mirror,
        "runs without `alternating_mirror`"),
    Row(("min_random_area", "max_random_area"), lambda config: config.augment.random_resized_crop,
        "`random_resized_crop` 1"),
    # as in MXNet, whose default area is the whole image
    Row(("random_resized_crop",), lambda config: not config.augment.random_resized_crop
        or _has_areas(config.augment), "a `min_random_area` below 1, or random aspect ratios"),
    Row(("ra_num_ops", "ra_magnitude"), lambda config: config.augment.auto_augment == "ra",
        "`auto_augment` ra"),
    Row(("augmix_severity",), lambda config: config.augment.auto_augment == "augmix",
        "`auto_augment` augmix"),
    Row(("rgb_mean",), lambda config: not config.augment.mean_image, "runs without `mean_image`"),
    Row(("data_shape",), lambda config: not config.is_explicit("image_shape"), "runs without `image_shape`"),
    # regularisation
    Row(("teacher",), lambda config: not config.data.benchmark, "data, and `benchmark` trains on noise"),
    Row(("label_smoothing", "class_weights"), _learns_labels,
        "labels, and with `distillation_alpha` 1 the teacher alone counts"),
    Row(("teacher", "distillation_temperature"), lambda config: not config.distillation.teacher
        or config.distillation.distillation_alpha > 0, "a `distillation_alpha` above 0"),
    Row(("distillation_alpha", "distillation_temperature"), lambda config: bool(config.distillation.teacher),
        "runs with a `teacher`"),
    Row(("mixup", "cutmix", "class_weights", "balanced_order", "aug_repeats"),
        lambda config: not config.data.benchmark, "data, and `benchmark` trains on noise"),
    # of imgcls-finetune it would undo what the network has learned
    Row(("whiten", "zero_init_residual"), lambda config: not hasattr(config.own, "pretrained_model"),
        "networks trained from scratch"),
    # training
    Row(("progressive_scale",), lambda config: not config.data.benchmark,
        "data, and `benchmark` trains on noise"),
    Row(("progressive_epochs",), lambda config: config.train.progressive_scale < 1,
        "runs with a `progressive_scale` below 1"),
    *(Row((setting,), _uses(setting),
          "`optimizer` " + ", ".join(name for name, settings in OPTIMIZERS.items() if setting in settings))
      for setting in ("mom", "beta1", "beta2", "epsilon")),
    Row(("lr",), lambda config: config.optimizer.name != "adadelta", "optimizers other than adadelta"),
    Row(("lr",), lambda config: config.schedule.decay.kind != "regime", "runs without `lr_regime`"),
    Row(("lr_factor",), lambda config: config.schedule.decay.kind in ("constant", "steps", "every"),
        "rates that fall in steps"),
    Row(("lr_step_epochs", "lr_factor_epoch"),
        lambda config: config.schedule.lr_schedule == "auto" and not config.schedule.lr_regime,
        "`lr_schedule` auto"),
    Row(("final_lr",), lambda config: config.schedule.decay.kind in ("power", *_CURVES),
        "`lr_schedule` cosine, one-cycle and restarts, and `lr_step_epochs` powP"),
    Row(("restart_epochs", "restart_factor"), lambda config: config.schedule.decay.kind == "restarts",
        "`lr_schedule` restarts"),
    Row(("warmup_strategy",), lambda config: config.schedule.decay.kind != "one-cycle",
        "other schedules than one-cycle"),
    Row(("warmup_begin_lr",), lambda config: config.schedule.warmup_epochs > 0
        or config.schedule.decay.kind == "one-cycle", "`warmup_epochs` above 0"),
    Row(("warmup_strategy",), lambda config: config.schedule.warmup_epochs > 0
        or config.schedule.warmup_strategy == "lars", "`warmup_epochs` above 0"),
    Row(("warmup_epochs",), lambda config: config.schedule.warmup_strategy != "lars",
        "other values of `warmup_strategy` than lars"),
    Row(("warmup_begin_lr",), lambda config: config.optimizer.name != "lbsgd",
        "optimizers other than lbsgd, whose warm-up begins at `lr`"),
    Row(("norm_wd",), _decays, "a `wd` above 0, and optimizers other than lars, which leaves gammas alone"),
    Row(("clip_gradient", "clip_norm"), lambda config: not _knows_only_signs(config),
        "optimizers that look at more than the signs of the gradient"),
    Row(("macrobatch_size",), lambda config: config.optimizer.name == "lbsgd", "`optimizer` lbsgd"),
    Row(("accumulate",), lambda config: config.optimizer.name != "lbsgd",
        "optimizers other than lbsgd, which has `macrobatch_size`"),
    Row(("num_threads",), lambda config: not config.device.gpus, "the CPU"),
    # several processes
    Row(("gc_threshold",), lambda config: config.distributed.gc_type == "2bit", "`gc_type` 2bit"),
    Row(("rdzv_endpoint", "rdzv_id"), lambda config: config.distributed.nnodes != "1",
        "several machines (`nnodes`)"),
    # files
    Row(("val_period",), lambda config: config.train.num_epochs > 1 or config.find.time_budget > 0,
        "`num_epochs` above 1"),
    Row(("save_period", "save_every", "keep_states", "report_page", "tensorboard"),
        lambda config: bool(config.checkpoint.save_prefix),
        "runs that save (`model_prefix`)"),
    Row(("save_period", "save_every", "keep_states", "save_model_prefix", "num_epochs", "load_epoch"),
        lambda config: not config.train.test_io, "training, and `test_io` only reads the data"),
    # fine-tuning
    Row(("body_lr_mult",), lambda config: getattr(config.own, "freeze", "") != "body",
        "a body that learns (`freeze`)"),
)

#: settings of the shared sections that have an effect in every combination, or are refused or reported
#: elsewhere
ALWAYS = frozenset((
    "model_ema_decay", "dropout", "drop_path",
    "dataset", "num_examples", "batch_size", "benchmark", "network", "num_layers", "num_classes",
    "image_shape", "add_stn", "batch_norm", "num_group", "multiplier", "variant", "model_parallel",
    "initializer", "optimizer", "wd", "lr_schedule",
    "lr_regime", "seed",
    "disp_batches", "top_k", "loss", "monitor", "dry_run", "test_io", "gpus", "dtype", "compile",
    "cuda_graphs",
    "recompute_activations", "deterministic", "patience", "keep_best", "find_lr", "find_batch_size",
    "time_budget", "bias_lr_mult",
    "profile_worker_suffix", "profile_server_suffix", "kv_store", "workers_per_host",
    "micro_batches", "sync_bn", "gc_type", "max_restarts", "nnodes", "dist_timeout", "model_prefix",
    "log_file", "log_dir"))


def unused_settings(config: Config) -> Iterator[str]:
    """Yield a sentence for every setting of the user's that does nothing here, in the order of the table."""
    told = set()
    module = lookup.module("datasets", config.data.dataset, "`dataset`")
    words = {"dataset": config.data.dataset, "image_shape": show(config.network.image_shape)}
    for row in ROWS:
        names = [name for name in row.settings if name not in told and _is_set(config, name, module.DEFAULTS)]
        if names and not row.holds(config):
            told.update(names)
            given = ", ".join(f"`{name}` {verbatim(show(_value(config, name)))}" for name in names)
            has, it_is = ("has", "it is") if len(names) == 1 else ("have", "they are")
            yield f"{given}: {has} no effect here, {it_is} for {row.needs.format_map(words)}"


def _is_set(config: Config, name: str, defaults: dict[str, Any]) -> bool:
    """Return whether the user set it to something else than its default: files hold defaults as well."""
    field = config.fields.get(name)
    if field is None or not config.is_explicit(name):
        return False
    # Converted first: a data set's default may be text where the field is a tuple of numbers.
    return bool(_value(config, name) != convert(field, defaults.get(name, field.default)))


def _value(config: Config, name: str) -> Any:
    return getattr(config.own, name) if hasattr(config.own, name) else config.values()[name]
