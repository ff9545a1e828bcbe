"""What is written into a file: the network with or without its preprocessing, and what is known about it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from imgcls.config.version import __version__
from imgcls.errors import DataError, printable
from imgcls.formats import json_text
from imgcls.inference.export import checksum
from imgcls.inference.export.preprocessing import Preprocessing
from imgcls.pretrained.reference import Pretrained

#: what formats call the tensor that goes in and the one that comes out
INPUT, OUTPUT = "images", "probabilities"
#: the key of the description among a file's metadata
KEY = "imgcls"
_PURPOSE = "the description of an export"
#: sizes that a network is recorded with: no two alike, so that no exporter takes one for another
_RECORDED = (2, 67, 83)


class Servable(nn.Module):
    """The network as other programs run it: images -> probabilities (N, classes).

    With `preprocessing` the images are uint8 (N, H, W, C), without it float32 (N, C, H, W), normalised.
    """

    def __init__(self, network: nn.Module, preprocessing: Preprocessing | None) -> None:
        super().__init__()
        self.preprocessing = preprocessing
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        if self.preprocessing is not None:
            images = self.preprocessing(images)
        # Probabilities, as imgcls-predict prints them: their logarithms are logits, for a temperature or
        # another loss.
        return self.network(images).softmax(1)


@dataclass(frozen=True)
class Description:
    """The description in a file: JSON under the key `imgcls` of its metadata."""

    network: str
    class_names: Sequence[str]
    num_classes: int
    #: (C, H, W) that the network is given, after preprocessing
    image_shape: Sequence[int]
    #: whether preprocessing is part of the file: uint8 (N, H, W, C) in; else float32 (N, C, H, W)
    takes_pixels: bool
    #: mean, std, val_resize, interpolation as a checkpoint's meta.json has them
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    #: where the preprocessing comes from, in one line
    note: str = ""
    #: the --dataset of its training and what was held out there, as `PretrainedRef` has them
    dataset: str = ""
    held_out: Mapping[str, Any] = field(default_factory=dict)
    #: what the network computes in, and for int8 what that cost: see `int8.Drop`
    dtype: str = "float32"
    int8: Mapping[str, Any] = field(default_factory=dict)
    #: the checksum of the whole file (see `checksum`), "" in formats that have one of their own
    file_sha256: str = ""

    @property
    def input_shape(self) -> list[int | None]:
        """Return the shape of the input, None for sizes that may vary."""
        if not self.takes_pixels:
            return [None, *self.image_shape]
        return [None, None, None, 3 if self.image_shape[0] == 1 else self.image_shape[0]]

    def to_json(self) -> str:
        """Return the description as JSON in ASCII: names keep all characters, lone surrogates too."""
        layout = "uint8 NHWC, RGB, 0-255" if self.takes_pixels else "float32 NCHW, preprocessed"
        # the checksum before everything that users name: it is found by its place in the file
        return json.dumps({"imgcls": __version__, checksum.NAME: self.file_sha256,
                           **dataclasses.asdict(self), "input": layout, "input_name": INPUT,
                           "output_name": OUTPUT})

    @classmethod
    def from_json(cls, text: str, path: object) -> Description:
        """Return what `to_json` wrote; DataError for anything else."""
        content = json_text.loads_object(text, path, _PURPOSE)
        are_right = (json_text.is_list(content.get("class_names"), lambda value: isinstance(value, str))
                     and json_text.is_list(content.get("image_shape"), json_text.is_count)
                     # of flat rows no preprocessing can be part of a file
                     and len(content["image_shape"]) in ((3,) if content.get("takes_pixels") else (1, 3))
                     and json_text.is_count(content.get("num_classes"))
                     and isinstance(content.get("takes_pixels"), bool)
                     and isinstance(content.get("preprocessing"), dict)
                     and all(isinstance(content.get(name), str) for name in ("network", "note"))
                     and isinstance(content.get("dataset", ""), str)
                     and isinstance(content.get("dtype", ""), str)
                     and isinstance(content.get("file_sha256", ""), str)
                     and isinstance(content.get("int8", {}), dict)
                     and _is_held_out(content.get("held_out", {})))
        if not are_right:
            raise DataError(path, f"not {_PURPOSE}: members are missing, or of another kind")
        # Members that a later version adds are passed over, so that its files can still be run; those that an
        # earlier one did not write have defaults.
        return cls(**{each.name: content[each.name] for each in dataclasses.fields(cls)
                      if each.name in content})

    def metadata(self) -> dict[str, str]:
        """Return key -> text: everything as JSON, and the class names again as JSON and as lines."""
        # one name a line: a line break in a name is escaped, as in messages
        return {KEY: self.to_json(), "class_names": json.dumps(list(self.class_names)),
                "synset": "\n".join(printable(name) for name in self.class_names)}


def _is_held_out(value: object) -> bool:
    """Return whether `value` is what `data.holdout` records about images that were held out, or {}."""
    if not isinstance(value, dict):
        return False
    return not value or (json_text.is_number(value.get("ratio")) and 0 <= value["ratio"] < 1
                         and json_text.is_list(value.get("trained_on"), json_text.is_number))


@dataclass(frozen=True)
class Exported:
    """A network that is to be written: what is run, its description, and what it was read from."""

    servable: Servable
    description: Description
    pretrained: Pretrained
    #: the mean image's file, "" where there is none
    mean_image: str

    def example(self) -> Tensor:
        """Return an input that the network can be recorded with."""
        if not self.description.takes_pixels:
            return torch.zeros(2, *self.description.image_shape)
        num_channels = self.description.input_shape[3]
        assert num_channels
        return torch.zeros(*_RECORDED, num_channels, dtype=torch.uint8)

    def program(self, max_batch: int | None = None, max_side: int | None = None,
                servable: nn.Module | None = None) -> torch.export.ExportedProgram:
        """Return the network as torch.export records it, with the sizes that may vary left open.

        The largest sizes are for formats that plan their memory ahead; `servable` is for one that computes
        the same in another way.
        """
        # Named: an axis without one is fixed at the size of the example, and the file takes no other.
        axes: dict[int, Any] = {0: torch.export.Dim("batch", min=1, max=max_batch)}
        if self.description.takes_pixels:
            axes |= {1: torch.export.Dim("height", min=1, max=max_side),
                     2: torch.export.Dim("width", min=1, max=max_side)}
        with torch.no_grad():
            return torch.export.export(servable or self.servable, (self.example(),), dynamic_shapes=(axes,))
