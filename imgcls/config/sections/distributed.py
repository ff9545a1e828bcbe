"""Several devices and machines."""

from __future__ import annotations

from dataclasses import dataclass

from imgcls.config.flags import flag
from imgcls.config.sections.bounds import MAX_EPOCHS, MAX_NUMBER, MAX_PROCESSES, MAX_TIMEOUT_S


@dataclass(frozen=True)
class DistributedConfig:
    """Several devices and machines"""

    # MXNet's word for how gradients are shared; names without a counterpart in torch mean the nearest one
    kv_store: str = flag("device", "how devices share gradients: device, local, nccl, dist_sync, dist_async, "
                         "...", since="g2", metavar="NAME")
    workers_per_host: int = flag(1, "CPU processes on this machine that share --batch-size, as the GPUs of "
                                 "--gpus do", metavar="N", minimum=1, maximum=MAX_PROCESSES)
    micro_batches: int = flag(1, "micro-batches per batch, computed one after the other: less memory, "
                              "bit-identical to that many devices", metavar="N",
                              minimum=1, maximum=10**7)
    sync_bn: bool = flag(False, "synchronise batch normalisation over all devices")
    gc_type: str = flag("none", "gradient compression", since="g2",
                        choices=("none", "2bit", "fp16", "bf16", "powersgd"))
    gc_threshold: float = flag(0.5, "threshold of 2bit compression, for a gradient summed over the batch",
                               since="g2", minimum=0, maximum=MAX_NUMBER)
    # torchrun's names where torchrun has one: nnodes, rdzv_endpoint, rdzv_id, max_restarts
    max_restarts: int = flag(0, "how often the processes are restarted, from the last saved position, when "
                             "one of them dies", metavar="N", minimum=0, maximum=MAX_EPOCHS)
    nnodes: str = flag("1", "machines, each started with the same command: N, or MIN:MAX to continue with "
                       "fewer", metavar="N")
    rdzv_endpoint: str = flag("", "rendezvous of those machines: HOST:PORT, HOST being one of them",
                              metavar="HOST:PORT")
    rdzv_id: str = flag("", "name of the job, the same on all of them", metavar="NAME")
    dist_timeout: float = flag(300.0, "seconds without an answer after which a device or machine counts as "
                               "lost", metavar="SECONDS", minimum=1, maximum=MAX_TIMEOUT_S)
