"""The folder that a data set is downloaded into: its own in the cache, or one that holds nothing else.

A folder that holds something else has data of the user's in it: to download other files beside them and train
on those would not be what the command was meant to do.
"""

from __future__ import annotations

import re

from imgcls.config.sections import DataConfig
from imgcls.errors import UsageError, verbatim
from imgcls.storage import folders
from imgcls.storage.paths import AnyPath

#: files of all data sets that are downloaded, since one folder may hold several; what file systems and people
#: leave beside them; and hidden files
_KNOWN = re.compile(
    r"(train|t10k)-(images|labels)[-.]idx[13]-ubyte.*|mnist(\.zip)?|"
    r"cifar-10-.*|cifar10(\.zip|_(train|val)\..*)?|data_batch_\d(\.bin)?|test_batch(\.bin)?|"
    r"batches\.meta(\.txt)?|(readme|license|sha256sums)(\..*)?|lost\+found|\..*", re.IGNORECASE)
#: names of folders of photographs and of record files
_PHOTOS = re.compile(r"train|val|test|.*\.(rec|lst|idx)", re.IGNORECASE)
#: names that an error lists
_MAX_NAMED = 3


def download_folder(config: DataConfig, name: str, title: str, missing: str) -> AnyPath:
    """Return the folder that `missing` files of a data set may be downloaded into.

    To be called only where files are missing. UsageError where `data_dir` holds something else. `name` is the
    data set's folder in the cache, `title` its name in messages.
    """
    folder = folders.data_folder(config.data_dir, name)
    if not config.data_dir or not folder.is_dir():
        return folder
    others = sorted(path.name for path in folder.iterdir() if not _KNOWN.fullmatch(path.name))
    if not others:
        return folder
    named = ", ".join(others[:_MAX_NAMED]) + (", ..." if len(others) > _MAX_NAMED else "")
    instead = "`dataset` imagenet reads images and records in train and val"
    if not any(_PHOTOS.fullmatch(other) for other in others):
        instead = f"`data_train` {verbatim(config.data_dir)} reads a folder of images per class"
    raise UsageError(
        f"`data_dir` {verbatim(config.data_dir)}: holds {verbatim(named)}, and not {missing}: nothing is "
        f"downloaded into a folder that holds something else; {instead}, and for {title} name a new folder, "
        "or none")


def refuse_files(config: DataConfig, *settings: str) -> None:
    """Raise UsageError where the user names data that this data set would not train on."""
    for setting in settings:
        if value := getattr(config, setting):
            raise UsageError(f"`{setting}` {verbatim(value)}: `dataset` {config.dataset} reads its own "
                             "files; leave `dataset` out, or give imagenet, to read these")
