"""fastdrop: dropout for NumPy at the cost of a multiply, with no stored mask."""

from fastdrop._threads import get_num_threads as get_num_threads
from fastdrop._threads import set_num_threads as set_num_threads
from fastdrop.dropblock import DropBlock2D as DropBlock2D
from fastdrop.dropblock import drop_block as drop_block
from fastdrop.dropblock import drop_block_backward as drop_block_backward
from fastdrop.functional import apply_mask as apply_mask
from fastdrop.functional import dropout as dropout
from fastdrop.functional import dropout_backward as dropout_backward
from fastdrop.functional import keep_mask as keep_mask
from fastdrop.layers import Dropout as Dropout
from fastdrop.layers import InvertedDropout as InvertedDropout
from fastdrop.random import STREAM_VERSION as STREAM_VERSION
from fastdrop.random import Key as Key
from fastdrop.stochastic_depth import DropPath as DropPath
from fastdrop.stochastic_depth import drop_path as drop_path
from fastdrop.stochastic_depth import drop_path_backward as drop_path_backward
from fastdrop.stochastic_depth import surviving_rows as surviving_rows
from fastdrop.structured import SpatialDropout1D as SpatialDropout1D
from fastdrop.structured import SpatialDropout2D as SpatialDropout2D
from fastdrop.structured import SpatialDropout3D as SpatialDropout3D
from fastdrop.structured import TemporalDropout as TemporalDropout

__version__ = "0.1.0"
__all__ = [
    "STREAM_VERSION",
    "DropBlock2D",
    "DropPath",
    "Dropout",
    "InvertedDropout",
    "Key",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
    "TemporalDropout",
    "apply_mask",
    "drop_block",
    "drop_block_backward",
    "drop_path",
    "drop_path_backward",
    "dropout",
    "dropout_backward",
    "get_num_threads",
    "keep_mask",
    "set_num_threads",
    "surviving_rows",
]
