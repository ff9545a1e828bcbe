"""`mx.gluon.model_zoo.model_store`: where `pretrained=True` finds its files, `~/.mxnet/models`."""

from __future__ import annotations

import os
from pathlib import Path

from imgcls.compat.mxnet.base import MXNetError


def default_root() -> str:
    """Return MXNet's own folder: `models` in MXNET_HOME, or in `~/.mxnet`."""
    return os.path.join(os.environ.get("MXNET_HOME", os.path.join("~", ".mxnet")), "models")


# Nothing is downloaded: the store of MXNet's project is no longer served.
def get_model_file(name: str, root: str | os.PathLike[str] | None = None) -> str:
    """Return the file of a network in MXNet's folder, `NAME-HASH.params` or `NAME.params`."""
    folder = Path(os.path.expanduser(root or default_root()))
    found = [path for path in (*sorted(folder.glob(f"{name}-" + "[0-9a-f]" * 8 + ".params")),
                               folder / f"{name}.params") if path.is_file()]
    if not found:
        raise MXNetError(f"pretrained: there is no {name}-*.params in {folder}, and nothing is downloaded; "
                         "copy the file there from a machine that ran MXNet, or use pretrained=False and "
                         "net.load_parameters(FILE)")
    return str(found[0])


def purge(root: str | os.PathLike[str] | None = None) -> None:
    """Remove all parameter files of MXNet's folder."""
    for path in Path(os.path.expanduser(root or default_root())).glob("*.params"):
        path.unlink()
