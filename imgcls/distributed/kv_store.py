"""What MXNet's names for `kv_store` mean here.

`topology` uses this before torch is loaded. MXNet looked for parts of words ("dist", "device", "nccl",
"_async") and took everything else, typos too, for `local` (src/kvstore/kvstore.cc). Here a name must be one
of those below, in upper or lower case; any other is an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from imgcls.errors import UsageError, unknown


@dataclass(frozen=True)
class Store:
    """How gradients are shared: all-reduced at every step (sync), or pushed to a server (async)."""

    name: str
    mode: Literal["sync", "async"] = "sync"
    #: whether `batch_size` is that of one worker (its devices share it), not of all of them together
    per_worker: bool = False
    #: what a user of MXNet should know, "" for nothing
    note: str = ""


_REDUCED = "gradients are all-reduced (there are no servers), which gives the numbers of dist_sync"
_STORES = {store.name: store for store in (
    # of one machine: on which device MXNet summed made no difference to the numbers
    Store("local"), Store("device"), Store("nccl"), Store("none"),
    Store("local_update_cpu"), Store("local_allreduce_cpu"), Store("local_allreduce_device"),
    # of several
    Store("dist_sync", per_worker=True), Store("dist_device_sync", per_worker=True),
    Store("dist_sync_device", per_worker=True), Store("horovod", per_worker=True),
    Store("byteps", per_worker=True, note=f"`kv_store` byteps: {_REDUCED}"),
    Store("p3", per_worker=True,
          note=f"`kv_store` p3: {_REDUCED}; sending while the rest is still computed, as p3 did, is what "
               "always happens"),
    Store("dist_async", "async", per_worker=True), Store("dist_async_device", "async", per_worker=True),
    Store("dist_device_async", "async", per_worker=True),
)}
#: every name, those of one machine first
NAMES = tuple(_STORES)


def parse(name: str) -> Store:
    """Return the Store of that name; UsageError, with the names that there are, for any other."""
    spelled = name.strip().lower()
    if spelled == "dist":
        raise UsageError(f"`kv_store` {name}: MXNet summed the workers' gradients there and did not average "
                         "them, so that the learning rate grew with the number of workers; take dist_sync, "
                         "with that many times the `lr` for the same steps")
    if spelled not in _STORES:
        raise unknown("`kv_store`", name, NAMES)
    return _STORES[spelled]
