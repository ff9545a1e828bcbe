"""The operators that `mx.sym` and `mx.nd` offer: MXNet's names of their inputs and settings, in its order.

`_registration.py` makes the functions of both from this table. What the operators compute is in
`imgcls.layers`, `_extra_operators.py` and `_losses.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

# As MXNet 1.9.1 lists them: operator | inputs | settings | other names. A * marks a list of inputs, an
# indented line continues with the row above it.
_TABLE = """
_contrib_AdaptiveAvgPooling2D | data | output_size
_contrib_BatchNormWithReLU | data gamma beta moving_mean moving_var | eps momentum fix_gamma
    use_global_stats output_mean_var axis cudnn_off min_calib_range max_calib_range
_contrib_BilinearResize2D | data like | height width scale_height scale_width mode align_corners
_contrib_boolean_mask | data index | axis
_contrib_box_iou | lhs rhs | format
_contrib_box_nms | data | overlap_thresh valid_thresh topk coord_start score_index id_index background_id
    force_suppress in_format out_format | _contrib_box_non_maximum_suppression
_contrib_SyncBatchNorm | data gamma beta moving_mean moving_var | eps momentum fix_gamma
    use_global_stats output_mean_var ndev key
_copy | data | | identity
_div_scalar | data | scalar is_int | _DivScalar
_equal | lhs rhs | | _Equal
_equal_scalar | data | scalar is_int | _EqualScalar
_full | | shape ctx dtype value
_greater | lhs rhs | | _Greater
_greater_equal | lhs rhs | | _Greater_Equal
_greater_equal_scalar | data | scalar is_int | _GreaterEqualScalar
_greater_scalar | data | scalar is_int | _GreaterScalar
_lesser | lhs rhs | | _Lesser
_lesser_equal | lhs rhs | | _Lesser_Equal
_lesser_equal_scalar | data | scalar is_int | _LesserEqualScalar
_lesser_scalar | data | scalar is_int | _LesserScalar
_maximum | lhs rhs | | _Maximum
_maximum_scalar | data | scalar is_int | _MaximumScalar
_minimum | lhs rhs | | _Minimum
_minimum_scalar | data | scalar is_int | _MinimumScalar
_minus_scalar | data | scalar is_int | _MinusScalar
_mod | lhs rhs | | _Mod
_mod_scalar | data | scalar is_int | _ModScalar
_mul_scalar | data | scalar is_int | _MulScalar
_not_equal | lhs rhs | | _Not_Equal
_not_equal_scalar | data | scalar is_int | _NotEqualScalar
_ones | | shape ctx dtype
_plus_scalar | data | scalar is_int | _PlusScalar
_power | lhs rhs | | _Power
_power_scalar | data | scalar is_int | _PowerScalar
_rdiv_scalar | data | scalar is_int | _RDivScalar
_rminus_scalar | data | scalar is_int | _RMinusScalar
_rmod_scalar | data | scalar is_int | _RModScalar
_rpower_scalar | data | scalar is_int | _RPowerScalar
_split_v2 | data | indices axis squeeze_axis sections
_zeros | | shape ctx dtype
Activation | data | act_type
add_n | *args | | ElementWiseSum
amp_cast | data | dtype
argmax | data | axis keepdims
argmin | data | axis keepdims
argsort | data | axis is_ascend dtype
batch_dot | lhs rhs | transpose_a transpose_b forward_stype
batch_take | a indices
BatchNorm | data gamma beta moving_mean moving_var | eps momentum fix_gamma use_global_stats
    output_mean_var axis cudnn_off min_calib_range max_calib_range
BilinearSampler | data grid | cudnn_off
BlockGrad | data | | stop_gradient
broadcast_add | lhs rhs | | broadcast_plus
broadcast_axis | data | axis size | broadcast_axes
broadcast_div | lhs rhs
broadcast_equal | lhs rhs
broadcast_greater | lhs rhs
broadcast_greater_equal | lhs rhs
broadcast_lesser | lhs rhs
broadcast_lesser_equal | lhs rhs
broadcast_like | lhs rhs | lhs_axes rhs_axes
broadcast_logical_and | lhs rhs
broadcast_logical_or | lhs rhs
broadcast_maximum | lhs rhs
broadcast_minimum | lhs rhs
broadcast_mod | lhs rhs
broadcast_mul | lhs rhs
broadcast_not_equal | lhs rhs
broadcast_power | lhs rhs
broadcast_sub | lhs rhs | | broadcast_minus
broadcast_to | data | shape
Cast | data | dtype | cast
clip | data | a_min a_max
Concat | *data | num_args dim | concat
Convolution | data weight bias | kernel stride dilate pad num_filter num_group workspace no_bias
    cudnn_tune cudnn_off layout
Convolution_v1 | data weight bias | kernel stride dilate pad num_filter num_group workspace no_bias
    cudnn_tune cudnn_off layout
Crop | *data | num_args offset h_w center_crop
Deconvolution | data weight bias | kernel stride dilate pad adj target_shape num_filter num_group
    workspace no_bias cudnn_tune cudnn_off layout
depth_to_space | data | block_size
dot | lhs rhs | transpose_a transpose_b forward_stype
Dropout | data | p mode axes cudnn_off
elemwise_add | lhs rhs | | _Plus _add _plus
elemwise_div | lhs rhs | | _Div _div
elemwise_mul | lhs rhs | | _Mul _mul
elemwise_sub | lhs rhs | | _Minus _minus _sub
Embedding | data weight | input_dim output_dim dtype sparse_grad
expand_dims | data | axis
Flatten | data | | flatten
FullyConnected | data weight bias | num_hidden no_bias flatten
gather_nd | data indices
GridGenerator | data | transform_type target_shape
GroupNorm | data gamma beta | num_groups eps output_mean_var
hard_sigmoid | data | alpha beta
InstanceNorm | data gamma beta | eps
L2Normalization | data | eps mode
LayerNorm | data gamma beta | axis eps output_mean_var
LeakyReLU | data gamma | act_type slope lower_bound upper_bound
LinearRegressionOutput | data label | grad_scale
log_softmax | data | axis temperature dtype use_length
LogisticRegressionOutput | data label | grad_scale
LRN | data | alpha beta knorm nsize
MAERegressionOutput | data label | grad_scale
MakeLoss | data | grad_scale valid_thresh normalization
max | data | axis keepdims exclude | max_axis
mean | data | axis keepdims exclude
min | data | axis keepdims exclude | min_axis
norm | data | ord axis out_dtype keepdims
one_hot | indices | depth on_value off_value dtype
Pad | data | mode pad_width constant_value | pad
pick | data index | axis keepdims mode | choose_element_0index
Pooling | data | kernel pool_type global_pool cudnn_off pooling_convention stride pad p_value
    count_include_pad layout
Pooling_v1 | data | kernel pool_type global_pool pooling_convention stride pad
prod | data | axis keepdims exclude
repeat | data | repeats axis
Reshape | data | shape reverse target_shape keep_highest | reshape
reshape_like | lhs rhs | lhs_begin lhs_end rhs_begin rhs_end
reverse | data | axis | flip
slice | data | begin end step | crop
slice_axis | data | axis begin end
slice_like | data shape_like | axes
SliceChannel | data | num_outputs axis squeeze_axis | split
smooth_l1 | data | scalar
softmax | data length | axis temperature dtype use_length
softmax_cross_entropy | data label
SoftmaxActivation | data | mode
SoftmaxOutput | data label | grad_scale ignore_label multi_output use_ignore preserve_shape
    normalization out_grad smooth_alpha | Softmax
softmin | data | axis temperature dtype use_length
sort | data | axis is_ascend
space_to_depth | data | block_size
SpatialTransformer | data loc | target_shape transform_type sampler_type cudnn_off
squeeze | data | axis
stack | *data | axis num_args
sum | data | axis keepdims exclude | sum_axis
SVMOutput | data label | margin regularization_coefficient use_linear
SwapAxis | data | dim1 dim2 | swapaxes
take | a indices | axis mode
tile | data | reps
topk | data | axis k ret_typ is_ascend dtype
transpose | data | axes
UpSampling | *data | scale num_filter sample_type multi_input_mode num_args workspace
where | condition x y
cumsum | a | axis dtype
diag | data | k axis1 axis2
scatter_nd | data indices | shape
nansum | data | axis keepdims exclude
broadcast_logical_xor | lhs rhs
broadcast_hypot | lhs rhs
moments | data | axes keepdims
SequenceMask | data sequence_length | use_sequence_length value axis
linalg_gemm2 | A B | transpose_a transpose_b alpha axis
_contrib_arange_like | data | start step repeat axis
"""
#: those with one input, no settings and one name
_UNARY = """
    abs arccos arccosh arcsin arcsinh arctan arctanh argmax_channel cbrt ceil cos cosh degrees erf exp
    expm1 fix floor gamma gammaln log log10 log1p log2 logical_not make_loss negative ones_like radians
    rcbrt reciprocal relu rint round rsqrt shape_array sigmoid sign sin sinh size_array softsign sqrt
    square tan tanh trunc zeros_like
"""

#: inputs that an operator has only with some settings: (operator, input) -> setting, its default, the value
#: with which the input exists
_CONDITIONAL = {
    ("Convolution", "bias"): ("no_bias", "False", "False"),
    ("Convolution_v1", "bias"): ("no_bias", "False", "False"),
    # MXNet's default is the other way round here than for Convolution
    ("Deconvolution", "bias"): ("no_bias", "True", "False"),
    ("FullyConnected", "bias"): ("no_bias", "False", "False"),
    ("LeakyReLU", "gamma"): ("act_type", "leaky", "prelu"),
    ("softmax", "length"): ("use_length", "False", "True"),
    ("softmin", "length"): ("use_length", "False", "True"),
    ("log_softmax", "length"): ("use_length", "False", "True"),
    ("_contrib_BilinearResize2D", "like"): ("mode", "size", "like"),
}
#: the inputs that an operator writes to, which MXNet calls auxiliary states
AUXILIARY = ("moving_mean", "moving_var")
#: the `__init__` attribute of variables that MXNet makes itself: how they are initialized
INITIAL = {
    "moving_mean": '["zero", {}]', "moving_var": '["one", {}]',
    ("LeakyReLU", "gamma"): '["Constant", {"value": 0.25}]',
}
#: other ways to write a flag
_SWITCH = {"1": "True", "0": "False", "true": "True", "false": "False"}


class Signature(NamedTuple):
    """An operator: its own name, and the names of its inputs and settings in MXNet's order."""

    op: str
    inputs: tuple[str, ...]
    settings: tuple[str, ...]
    #: whether it takes a list of inputs, counted in `num_args`
    takes_list: bool

    def inputs_with(self, attrs: Mapping[str, str]) -> tuple[str, ...]:
        """Return the names of the inputs that the operator has with these settings."""
        if self.op == "UpSampling" and attrs.get("sample_type") == "bilinear":
            return ("data", "weight")  # the only operator with a list of inputs whose inputs have names
        names = []
        for name in self.inputs:
            setting, default, value = _CONDITIONAL.get((self.op, name), ("", "", ""))
            given = attrs.get(setting, default)
            if _SWITCH.get(given, given) == value:
                names.append(name)
        return tuple(names)


@functools.cache
# Parsed once, when the first operator is requested.
def signatures() -> dict[str, Signature]:
    """Return name -> signature, under each operator's own name and its other ones."""
    found = {op: Signature(op, ("data",), (), False) for op in _UNARY.split()}
    for row in _TABLE.strip().replace("\n    ", " ").splitlines():
        op, inputs, settings, aliases = [part.split() for part in f"{row} | | |".split("|")[:4]]
        # a star stands for any number of inputs, which `num_args` counts
        takes_list = bool(inputs) and inputs[0].startswith("*")
        names = tuple(name.lstrip("*") for name in inputs)
        # a symbol.json has the operator's own name, whichever alias the script used
        for name in (op[0], *aliases):
            found[name] = Signature(op[0], names, tuple(settings), takes_list)
    return found


# Files are compared by this text, so it is that of Python 3 and numpy 1.
def to_text(name: str, value: Any) -> str:
    """Return the value of a setting as MXNet keeps it, as Python prints it."""
    if name == "dtype" and value is not None and not isinstance(value, str):
        return np.dtype(value).name  # np.float32 and "float32" are the same text in a symbol.json
    return str(_plain(value))


def _plain(value: Any) -> Any:
    """Return numpy's numbers as Python's: numpy 2 prints them with their type."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (tuple, list)):
        return type(value)(_plain(item) for item in value)
    return value
