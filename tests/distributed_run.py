"""One process of several: runs what test_distributed.py asks for, a JSON list of runs, one after the other.

Each run is {"name", settings...}; pictures carry their own number in their first pixels, so that what was
trained on is seen in the batches themselves. Rank 0 writes NAME.npz with the weights, every rank
NAME-RANK.json with what it saw and how it ended.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imgcls import layers
from imgcls.config import resolve as configuration
from imgcls.data.loaders.batch import Batch
from imgcls.data.sources import ArraySource, Splits
from imgcls.errors import ImgclsError
from imgcls.training import run as training_run
from imgcls.training import trainer

COUNT, VALIDATION = 501, 101


class Tiny(torch.nn.Module):
    """Convolution, batch normalisation, dropout, classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = layers.Convolution(1, 4, (3, 3))
        self.bn = layers.BatchNorm(4, fix_gamma=False)
        self.relu = layers.Activation("relu")
        self.pool = layers.Pooling((2, 2), stride=(2, 2), pool_type="max")
        self.flat = layers.Flatten()
        self.drop = layers.Dropout(0.3)
        self.fc = layers.FullyConnected(4 * 3 * 3, 10)

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        return self.fc(self.drop(self.flat(self.pool(self.relu(self.bn(self.conv(data)))))))


def make_tiny(config: Any, saved: Any, reporter: Any) -> torch.nn.Module:
    torch.manual_seed(config.train.seed)
    model = Tiny()
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, 1.0 if name == "bn.gamma" else 0.0, 0.1)
    if saved:
        from imgcls import graph

        graph.load_arrays(model, dict(saved.arrays), path=saved.path)
    return model


def pictures(count: int, seed: int) -> ArraySource:
    """8x8 noise; the first two pixels are the number of the picture."""
    chance = np.random.default_rng(seed)
    images = chance.integers(0, 256, (count, 1, 8, 8), dtype=np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.arange(count) // 256, np.arange(count) % 256
    return ArraySource(images, chance.integers(0, 10, count), tuple("0123456789"), "pictures")


def run(job: dict[str, Any], folder: Path, rank: int, world: int) -> None:
    name, stop_at = job.pop("name"), job.pop("stop_at", 0)
    stopper = job.pop("stopper", 0)
    if world > 1:  # they meet at a file, as under mpirun: a port may be taken by then
        os.environ |= {"OMPI_COMM_WORLD_RANK": str(rank), "OMPI_COMM_WORLD_SIZE": str(world),
                       "OMPI_COMM_WORLD_LOCAL_RANK": str(rank), "OMPI_COMM_WORLD_LOCAL_SIZE": str(world),
                       "PMIX_NAMESPACE": f"{folder.parent.name}-{name}-{world}"}
    seen: list[list[int]] = []
    step = trainer.Trainer.train_step

    def watched(self: trainer.Trainer, batch: Batch, update: int) -> None:
        numbers = (batch.images[:batch.num_valid, 0, 0, :2] * 255).round().long()
        seen.append([self.position.epoch, *(numbers[:, 0] * 256 + numbers[:, 1]).tolist()])
        step(self, batch, update)
        if stop_at and len(seen) == stop_at and rank == stopper:
            os.kill(os.getpid(), signal.SIGTERM)

    trainer.Trainer.train_step = watched  # type: ignore[method-assign]
    settings: dict[str, Any] = {"network": "mlp", "image_shape": (1, 8, 8), "num_classes": 10,
                                "batch_size": 32,
                                "num_epochs": 1, "dist_timeout": 60, "disp_batches": 3,
                                "model_prefix": str(folder / job.pop("prefix", name))} | job
    config = configuration.build({"dataset": "digits", "rgb_std": (255.0,)}, settings)
    ended: dict[str, Any] = {"status": 0, "error": "", "seen": seen, "result": {}}
    try:
        splits = Splits(pictures(COUNT, 0), pictures(VALIDATION, 1))
        model, ended["result"] = training_run.run(config, splits=lambda: splits, quiet=True,
                                                  make_network=make_tiny)
        if rank == 0:
            np.savez(folder / f"{name}.npz",
                     **{k: v.numpy() for k, v in model.state_dict().items()})  # type: ignore
    except ImgclsError as error:
        ended |= {"status": error.exit_status, "error": str(error)}
    finally:
        trainer.Trainer.train_step = step  # type: ignore[method-assign]
    (folder / f"{name}-{rank}.json").write_text(json.dumps(ended))


if __name__ == "__main__":
    process_rank, world_size, base = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    for job in json.loads((base / f"jobs-{world_size}.json").read_text()):
        run(dict(job), base, process_rank, world_size)
    sys.stdout.flush()
    os._exit(0)  # threads of gloo may outlive the interpreter, which then aborts
