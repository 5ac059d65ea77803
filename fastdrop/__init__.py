"""fastdrop: dropout for NumPy at the cost of a multiply, with no stored mask."""

from fastdrop._threads import get_num_threads as get_num_threads
from fastdrop._threads import set_num_threads as set_num_threads
from fastdrop.functional import apply_mask as apply_mask
from fastdrop.functional import dropout as dropout
from fastdrop.functional import dropout_backward as dropout_backward
from fastdrop.functional import keep_mask as keep_mask
from fastdrop.layers import Dropout as Dropout
from fastdrop.layers import InvertedDropout as InvertedDropout
from fastdrop.random import STREAM_VERSION as STREAM_VERSION
from fastdrop.random import Key as Key

__version__ = "0.1.0"
__all__ = [
    "STREAM_VERSION",
    "Dropout",
    "InvertedDropout",
    "Key",
    "apply_mask",
    "dropout",
    "dropout_backward",
    "get_num_threads",
    "keep_mask",
    "set_num_threads",
]
