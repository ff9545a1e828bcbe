"""Networks and MXNet's files: a module becomes a symbol and named arrays, a foreign symbol becomes a module.

Checkpoints, fine-tuning, scoring and exports use it. Names follow one rule: a layer's path with dots as
underscores is the node's name, and MXNet's suffix names a parameter (`stage1.conv` -> `stage1_conv_weight`).
Modules that MXNet cannot express keep torch's own names, and have arrays but no symbol. Files are read and
written by `formats`, not here (`load` excepted, which only opens two of them).
"""

from imgcls.graph.head import TRANSPARENT, GraphHead, end_with_softmax, find_logits
from imgcls.graph.names import node_name, parameter_names, without_prefix
from imgcls.graph.parameters import ParameterMatch, arrays, load_arrays, multipliers
from imgcls.graph.read import from_symbol, load
from imgcls.graph.write import to_symbol

__all__ = ["TRANSPARENT", "GraphHead", "ParameterMatch", "arrays", "end_with_softmax", "find_logits",
           "from_symbol", "load", "load_arrays", "multipliers", "node_name", "parameter_names", "to_symbol",
           "without_prefix"]
