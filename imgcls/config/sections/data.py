"""What is read: the data set, its files, and how samples become batches."""

from __future__ import annotations

from dataclasses import dataclass

from imgcls.config.flags import flag
from imgcls.config.sections.bounds import MAX_NUMBER, MAX_THREADS


@dataclass(frozen=True)
class DataConfig:
    """Data"""

    dataset: str = flag("mnist", "the data set, a file of imgcls/datasets", metavar="NAME")
    # MXNet's first scripts took a folder and names in it, the later ones (common/data.py) the files
    data_dir: str = flag("", "folder of the data set's files (default: ~/.cache/imgcls/NAME; downloaded if "
                         "missing)", since="g1", metavar="DIR")
    data_train: str = flag("", "training data: .rec files, a folder (of .rec files, or one folder of images "
                           "per class), a .lst or .csv, tar shards, an LMDB, .parquet; several as a;b, a "
                           "pattern or x-{000..127}.tar", since="g2", metavar="PATH")
    data_val: str = flag("", "validation data, like --data-train", since="g2", metavar="PATH")
    # by content and not by position: images that are added or renamed later move no other to the other part
    val_ratio: float | None = flag(None, "fraction of the training images to hold out for validation if no "
                                   "validation data is given, chosen by their content; 0: none (if not "
                                   "given: 0.1 of a folder of images, 0 of records)", metavar="PART",
                                   minimum=0, maximum=0.9)
    data_train_idx: str = flag("", ".idx of the training .rec, where it is not beside it (none is needed)",
                               since="g2", metavar="FILE")
    data_val_idx: str = flag("", ".idx of the validation .rec", since="g2", metavar="FILE")
    train_dataset: str = flag("train.rec", "name of the training file in --data-dir (imagenet)", since="g1",
                              metavar="FILE")
    val_dataset: str = flag("val.rec", "name of the validation file in --data-dir (imagenet)", since="g1",
                            metavar="FILE")
    data_root: str = flag("", "folder that the paths in a .lst or .csv start from (if not given: the "
                          "list's own)",
                          metavar="DIR")
    # a list may come from anybody, and the files that it names are read
    outside_root: bool = flag(False, "allow a .lst or .csv to name files outside that folder (../x, /y)")
    # the limit of 1 % distinguishes a few bad images from a wrong file
    on_bad: str = flag("skip", "skip damaged records and images, named and counted (up to 1 % of them), or "
                       "stop the run", choices=("skip", "stop"))
    # reading at random from a remote file costs a request per image: a local copy pays off in the first epoch
    cache_gb: float = flag(100.0, "size of the disk cache for remote files (s3://... and the like), in 10^9 "
                           "bytes; larger record files are read in chunks",
                           metavar="GB", minimum=0, maximum=MAX_NUMBER)
    # a setting, and not chosen by what the machine has: the pixels differ in the last bits
    jpeg_decoder: str = flag("cpu", "decoder of the training JPEGs; gpu: nvJPEG, in torchvision's package "
                             "(of use where the CPU is the limit and the images do not fit into "
                             "--decoded-cache-gb)", choices=("cpu", "gpu"))
    # pixels are several times larger than JPEGs: half leaves memory for the network and for other programs
    decoded_cache_gb: float | None = flag(None, "memory for the cache of decoded images, in 10^9 bytes, one "
                                          "cache per machine; 0: none (if not given: half of the free "
                                          "memory)", metavar="GB", minimum=0, maximum=MAX_NUMBER)
    decoded_cache_dir: str = flag("", "folder on a fast disk for the cache of decoded images, in place of "
                                  "memory and for later runs as well; --decoded-cache-gb limits its total "
                                  "size (if not given: half of the free disk)", metavar="DIR")
    # in MXNet the user set the size of an epoch, and schedules depended on it; we count the records
    num_examples: int = flag(0, "samples per epoch of --benchmark; otherwise the real number is used",
                             since="g2", minimum=0, maximum=10**10)
    batch_size: int = flag(128, "samples per step and worker", since="g2", minimum=1, maximum=10**7)
    # None, and not 0, is "as many as there are cores": 0 is the main thread, where a debugger stops
    data_nthreads: int | None = flag(None, "threads that prepare batches (if not given: one per core, at "
                                     "most 16); 0: in the main thread, for debugging", since="g2",
                                     minimum=0, maximum=MAX_THREADS)
    benchmark: bool = flag(False, "train on one random batch repeatedly, to measure speed", since="g2")
