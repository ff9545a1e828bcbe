"""The blocks that `inception-bn` and `inception-bn-full` have in common.

Ioffe, Szegedy 2015, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
Shift", figure 5. The two networks differ in widths, in the attributes of batch normalisation and convolution,
and in how a pooling rounds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from imgcls.networks._builder import NetworkBuilder, Value

#: entries of a row in a block table whose block keeps the map's size; one that halves it has fewer
_NUM_SAME_SIZE = 7


@dataclass(frozen=True)
class InceptionBN:
    """Adds units and blocks to `net`, each convolution and normalisation with the attributes given here."""

    net: NetworkBuilder
    #: of every convolution, beside its size
    convolution: dict[str, Any] = field(default_factory=dict)
    #: of every normalisation
    batch_norm: dict[str, Any] = field(default_factory=dict)
    #: of the pooling in a block that halves the map
    halving_pool: dict[str, Any] = field(default_factory=dict)

    def unit(self, data: Value, name: str, filters: int, kernel: int, *, stride: int = 1,
             pad: int = 0) -> Value:
        """Convolution with bias, batch normalisation, relu."""
        body = self.net.convolution(data, filters, kernel, stride=stride, pad=pad, name=f"conv_{name}",
                                    **self.convolution)
        body = self.net.batch_norm(body, name=f"bn_{name}", **self.batch_norm)
        return self.net.relu(body, name=f"relu_{name}")

    def stages(self, data: Value, blocks: dict[str, tuple[Any, ...]]) -> Value:
        """Add all blocks of a table in turn: a row of seven keeps the map's size, one of four halves it."""
        for name, row in blocks.items():
            add = self._mixed if len(row) == _NUM_SAME_SIZE else self._halved
            data = add(data, name, *row)
        return data

    def _mixed(self, data: Value, name: str, n1: int, r3: int, n3: int, rd: int, nd: int, pool: str,
               proj: int) -> Value:
        """1x1, 3x3, double 3x3 and pooling side by side; (C, H, W) -> (n1 + n3 + nd + proj, H, W)."""
        # Two 3x3 in place of GoogLeNet's 5x5, which see as far: the paper's own change.
        point = self.unit(data, f"{name}_1x1", n1, 1)
        single = self.unit(data, f"{name}_3x3_reduce", r3, 1)
        single = self.unit(single, f"{name}_3x3", n3, 3, pad=1)
        double = self.unit(data, f"{name}_double_3x3_reduce", rd, 1)
        double = self.unit(double, f"{name}_double_3x3_0", nd, 3, pad=1)
        double = self.unit(double, f"{name}_double_3x3_1", nd, 3, pad=1)
        pooled = self.net.pooling(data, 3, pool, stride=1, pad=1, name=f"{pool}_pool_{name}_pool")
        return self.net.concat(point, single, double, self.unit(pooled, f"{name}_proj", proj, 1),
                               name=f"ch_concat_{name}_chconcat")

    def _halved(self, data: Value, name: str, r3: int, n3: int, rd: int, nd: int) -> Value:
        """3x3, double 3x3 and pooling with stride 2; (C, H, W) -> (n3 + nd + C, H / 2, W / 2)."""
        single = self.unit(data, f"{name}_3x3_reduce", r3, 1)
        single = self.unit(single, f"{name}_3x3", n3, 3, stride=2, pad=1)
        double = self.unit(data, f"{name}_double_3x3_reduce", rd, 1)
        double = self.unit(double, f"{name}_double_3x3_0", nd, 3, pad=1)
        double = self.unit(double, f"{name}_double_3x3_1", nd, 3, stride=2, pad=1)
        # The pooled maps continue as they are: the table's "pass through".
        pooled = self.net.pooling(data, 3, "max", stride=2, name=f"max_pool_{name}_pool", **self.halving_pool)
        return self.net.concat(single, double, pooled, name=f"ch_concat_{name}_chconcat")
