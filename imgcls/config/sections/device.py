"""Devices, and the number types that they compute with."""

from __future__ import annotations

from dataclasses import dataclass

from imgcls.config.flags import flag


@dataclass(frozen=True)
class DeviceConfig:
    """Devices"""

    gpus: str = flag("", "GPUs to use (0 or 0,1,3); none: the CPU", since="g2", metavar="LIST")
    dtype: str = flag("auto", "auto: that of the checkpoint; else bfloat16 on a GPU that has it, and on a "
                      "CPU with AMX for networks with convolutions; else float32. Weights stay float32",
                      since="g2", choices=("auto", "float32", "bfloat16", "float16"))
    num_threads: int = flag(0, "CPU threads of the network; 0: as many as cores are free, or as the "
                            "checkpoint has", minimum=0, maximum=1024)
    compile: bool = flag(False, "torch.compile the network: a minute first, faster steps after (GPU)")
    # never tried on a GPU yet (benchmarks/gpu.py does): not the default before that
    cuda_graphs: bool = flag(False, "launch each training pass as one CUDA graph: for small networks, whose "
                             "steps are limited by the launch time of kernels (one GPU)")
    # MXNet's name was mirroring, and its switch MXNET_BACKWARD_DO_MIRROR, which counts here as well
    recompute_activations: bool = flag(False, "activation checkpointing: recompute most activations in the "
                                       "backward pass; less memory, the same bits, slower steps")
    deterministic: bool = flag(False, "use deterministic operations only, on a GPU too: slower there")
    # flags that MXNet had and we refuse, each with an alternative: a flag is never ignored in silence
    profile_worker_suffix: str = flag("", "profile file", since="g3",
                                      later="profiling is not offered; run under torch.profiler or py-spy")
    profile_server_suffix: str = flag("", "profile file of servers", since="g3",
                                      later="profiling is not offered; run under torch.profiler or py-spy")
