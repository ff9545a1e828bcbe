"""Names of --kv-store: every name MXNet took, and no other."""

from __future__ import annotations

import pytest

from imgcls.distributed import kv_store
from imgcls.errors import UsageError


@pytest.mark.parametrize("name", ["local", "device", "nccl", "none", "local_update_cpu",
                                  "local_allreduce_cpu",
                                  "local_allreduce_device"])
def test_stores_of_one_machine_share_the_batch(name: str) -> None:
    assert kv_store.parse(name) == kv_store.Store(name, "sync", per_worker=False)


@pytest.mark.parametrize("name",
                         ["dist_sync", "dist_device_sync", "dist_sync_device", "horovod", "byteps", "p3"])
def test_synchronous_stores_have_a_batch_per_worker(name: str) -> None:
    store = kv_store.parse(name)
    assert (store.mode, store.per_worker) == ("sync", True)
    assert bool(store.note) == (name in ("byteps", "p3"))


@pytest.mark.parametrize("name", ["dist_async", "dist_async_device", "dist_device_async"])
def test_asynchronous_stores(name: str) -> None:
    assert kv_store.parse(name).mode == "async"


def test_case_and_blanks_do_not_matter() -> None:
    assert kv_store.parse(" Dist_Sync ").name == "dist_sync"


def test_the_store_that_summed_without_averaging_is_refused() -> None:
    with pytest.raises(UsageError, match=r"kv_store dist: .*take dist_sync"):
        kv_store.parse("dist")


@pytest.mark.parametrize(("name", "meant"), [("dist_snyc", "dist_sync"), ("dist_asynch", "dist_async"),
                                             ("ncl", "nccl"), ("", "there is local"), ("my_local", "local")])
def test_a_typo_is_not_taken_for_local(name: str, meant: str) -> None:
    with pytest.raises(UsageError, match=f"kv_store {name} is not known.*{meant}"):
        kv_store.parse(name)
