"""Noises of PyTorch tensors by fastdrop's kernels: functions, modules, and what swaps them into a model.

A function takes a key, as fastdrop's own functions do. A module takes its keys from torch's generator, so
that `torch.manual_seed` and `torch.utils.checkpoint` work as with torch.nn's dropout. With `rng` it counts
the draws of a key of its own. Then checkpoint needs `checkpoint_contexts`, and since all workers of a
DataLoader begin with the same count, each should give its modules other keys:
``module.reseed(module.key.fold_in(worker))``.

CPU tensors are taken, and with the extra cuda CUDA tensors. Autograd keeps the key and no mask. On the CPU
element-wise dropout runs in PyTorch's own threads, as many as `torch.set_num_threads` and
`fastdrop.set_num_threads` both allow.

A graph of `torch.compile` holds operators, such as ``fastdrop::noise``. Compiled modules with `rng` give the
masks that they give in eager mode. Those without give them with the backends "eager" and "aot_eager"; other
backends may draw otherwise from torch's generator.
"""

from fastdrop._extras import missing as _missing

try:
    import ml_dtypes as _ml_dtypes  # noqa: F401
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    raise _missing(__name__, error) from None

from fastdrop._noises._published import publish as _publish
from fastdrop.torch._attention import scaled_dot_product_attention as scaled_dot_product_attention
from fastdrop.torch._concrete import ConcreteDropout as ConcreteDropout
from fastdrop.torch._concrete import concrete_dropout as concrete_dropout
from fastdrop.torch._functions import alpha_dropout as alpha_dropout
from fastdrop.torch._functions import bias_act_dropout as bias_act_dropout
from fastdrop.torch._functions import drop_block as drop_block
from fastdrop.torch._functions import drop_path as drop_path
from fastdrop.torch._functions import dropout as dropout
from fastdrop.torch._functions import dropout_add as dropout_add
from fastdrop.torch._functions import embedding_dropout as embedding_dropout
from fastdrop.torch._functions import gaussian_dropout as gaussian_dropout
from fastdrop.torch._functions import gaussian_noise as gaussian_noise
from fastdrop.torch._functions import local_reparameterization as local_reparameterization
from fastdrop.torch._functions import standout_dropout as standout_dropout
from fastdrop.torch._functions import token_dropout as token_dropout
from fastdrop.torch._functions import zoneout as zoneout
from fastdrop.torch._information import InformationDropout as InformationDropout
from fastdrop.torch._information import information_dropout as information_dropout
from fastdrop.torch._install import Installation as Installation
from fastdrop.torch._install import install as install
from fastdrop.torch._install import installed as installed
from fastdrop.torch._keys import key_tensor as key_tensor
from fastdrop.torch._modules import AlphaDropout as AlphaDropout
from fastdrop.torch._modules import DropBlock1d as DropBlock1d
from fastdrop.torch._modules import DropBlock2d as DropBlock2d
from fastdrop.torch._modules import DropBlock3d as DropBlock3d
from fastdrop.torch._modules import Dropout as Dropout
from fastdrop.torch._modules import Dropout1d as Dropout1d
from fastdrop.torch._modules import Dropout2d as Dropout2d
from fastdrop.torch._modules import Dropout3d as Dropout3d
from fastdrop.torch._modules import DropPath as DropPath
from fastdrop.torch._modules import EmbeddingDropout as EmbeddingDropout
from fastdrop.torch._modules import FeatureAlphaDropout as FeatureAlphaDropout
from fastdrop.torch._modules import GaussianDropout as GaussianDropout
from fastdrop.torch._modules import GaussianNoise as GaussianNoise
from fastdrop.torch._modules import StandoutDropout as StandoutDropout
from fastdrop.torch._modules import TokenDropout as TokenDropout
from fastdrop.torch._modules import Zoneout as Zoneout
from fastdrop.torch._swap import Swapped as Swapped
from fastdrop.torch._swap import checkpoint_contexts as checkpoint_contexts
from fastdrop.torch._swap import replace_dropout as replace_dropout
from fastdrop.torch._swap import restore_dropout as restore_dropout

__all__ = [
    "AlphaDropout",
    "ConcreteDropout",
    "DropBlock1d",
    "DropBlock2d",
    "DropBlock3d",
    "DropPath",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "EmbeddingDropout",
    "FeatureAlphaDropout",
    "GaussianDropout",
    "GaussianNoise",
    "InformationDropout",
    "Installation",
    "StandoutDropout",
    "Swapped",
    "TokenDropout",
    "Zoneout",
    "alpha_dropout",
    "bias_act_dropout",
    "checkpoint_contexts",
    "concrete_dropout",
    "drop_block",
    "drop_path",
    "dropout",
    "dropout_add",
    "embedding_dropout",
    "gaussian_dropout",
    "gaussian_noise",
    "information_dropout",
    "install",
    "installed",
    "key_tensor",
    "local_reparameterization",
    "replace_dropout",
    "restore_dropout",
    "scaled_dot_product_attention",
    "standout_dropout",
    "token_dropout",
    "zoneout",
]

for _name in __all__:
    _publish(globals()[_name], __name__)
