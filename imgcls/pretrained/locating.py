"""Find the files of a pretrained network: by prefix, file, URL, or a name of MXNet's zoo or torchvision's."""

from __future__ import annotations

import os
import urllib.parse
import urllib.request

import imgcls.pretrained.checkpoint_files as checkpoint_files
import imgcls.pretrained.fetch as fetch
import imgcls.pretrained.torchvision_weights as torchvision_weights
import imgcls.pretrained.zoo as zoo
from imgcls.errors import UsageError, nearest, verbatim
from imgcls.formats import caffe
from imgcls.pretrained.reference import PretrainedRef

#: suffixes of the files that imgcls-export writes
_EXPORTS = (".onnx", ".pt2", ".pte", ".safetensors")


def locate(name: str | os.PathLike[str], epoch: int | str = "auto", *,
           setting: str = "model") -> PretrainedRef:
    """Return the reference to `name`, its files downloaded (but for torchvision's, which `read` downloads).

    `name` is one of: a prefix or .params file, which wins over a name of the zoo; a network of the zoo, also
    without its imagenet1k-; the http, https or file URL of a prefix; torchvision:NAME[:WEIGHTS]. `epoch` is a
    number or "auto" (the newest; of a URL, 0). `setting` is what errors call the name. Raises UsageError
    where there is no such network, DataError for damaged files, RunError where it cannot be downloaded.
    """
    name = os.fspath(name)
    epoch = str(epoch).strip()
    caffe.refuse_model(setting, name)  # by its ending, with advice of its own
    package, colon, rest = name.partition(":")
    if colon and package.lower() == "torchvision":
        return torchvision_weights.describe(name, rest, setting)
    if colon and package.lower() == "timm":
        raise UsageError(f"`{setting}` {verbatim(name)}: pretrained are MXNet's zoo and torchvision's; "
                         f"timm's come untrained, as `network` {verbatim(name)} of imgcls-train")
    if name.lower().startswith(("http://", "https://")):
        return fetch.download_url(name, epoch, setting)
    if name.lower().startswith("file:"):
        name = urllib.request.url2pathname(urllib.parse.urlsplit(name).path)
    # Before the zoo: files called resnext-101 in the working folder are what is meant.
    if checkpoint_files.any_exist(name):
        return checkpoint_files.describe(name, epoch)
    model = zoo.find_model(name)
    if model is None:
        raise _not_found(name, setting)
    return zoo.download_model(model, epoch)


def _not_found(name: str, setting: str) -> UsageError:
    if name.lower().endswith(_EXPORTS):
        return UsageError(f"`{setting}` {verbatim(name)}: an export can be used by imgcls-predict, "
                          "imgcls-score and imgcls-serve, not trained or exported: give the checkpoint")
    line = f"`{setting}` {verbatim(name)}: there is no {verbatim(name)}-0001.params or any other epoch"
    # A name of the zoo that was misspelt gets the nearest ones.
    if "/" in name or os.sep in name:  # a path: no one meant the zoo
        return UsageError(line)
    close = nearest(name, [*zoo.ZOO, *zoo.short_names()])
    offer = f"near it: {', '.join(close)}" if close else f"it has {', '.join(zoo.ZOO)}"
    return UsageError(f"{line}, and the zoo has no network of this name; {offer}")
