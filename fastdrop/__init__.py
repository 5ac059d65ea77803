"""fastdrop: dropout for NumPy at the cost of a multiply, with no stored mask."""

import typing as _typing
from importlib import import_module as _import_module

from fastdrop import moments as moments
from fastdrop import schedules as schedules
from fastdrop._cpu.threads import get_num_threads as get_num_threads
from fastdrop._cpu.threads import set_num_threads as set_num_threads
from fastdrop._noises._published import publish as _publish
from fastdrop._noises._warmup import warmup as warmup
from fastdrop._noises.adaptive import AdaptiveDropout as AdaptiveDropout
from fastdrop._noises.adaptive import importance_rates as importance_rates
from fastdrop._noises.alpha import AlphaDropout as AlphaDropout
from fastdrop._noises.alpha import FeatureAlphaDropout as FeatureAlphaDropout
from fastdrop._noises.alpha import alpha_dropout as alpha_dropout
from fastdrop._noises.alpha import alpha_dropout_backward as alpha_dropout_backward
from fastdrop._noises.attention import attention as attention
from fastdrop._noises.attention import attention_backward as attention_backward
from fastdrop._noises.bernoulli import CurriculumDropout as CurriculumDropout
from fastdrop._noises.bernoulli import Dropout as Dropout
from fastdrop._noises.bernoulli import InvertedDropout as InvertedDropout
from fastdrop._noises.bernoulli import apply_mask as apply_mask
from fastdrop._noises.bernoulli import dropout as dropout
from fastdrop._noises.bernoulli import dropout_backward as dropout_backward
from fastdrop._noises.bernoulli import keep_mask as keep_mask
from fastdrop._noises.concrete import ConcreteDropout as ConcreteDropout
from fastdrop._noises.concrete import concrete_dropout as concrete_dropout
from fastdrop._noises.concrete import concrete_dropout_backward as concrete_dropout_backward
from fastdrop._noises.drop_block import DropBlock1D as DropBlock1D
from fastdrop._noises.drop_block import DropBlock2D as DropBlock2D
from fastdrop._noises.drop_block import DropBlock3D as DropBlock3D
from fastdrop._noises.drop_block import drop_block as drop_block
from fastdrop._noises.drop_block import drop_block_backward as drop_block_backward
from fastdrop._noises.drop_connect import DropConnect as DropConnect
from fastdrop._noises.drop_connect import drop_connect as drop_connect
from fastdrop._noises.drop_connect import drop_connect_backward as drop_connect_backward
from fastdrop._noises.drop_connect import drop_connect_inference as drop_connect_inference
from fastdrop._noises.drop_connect import drop_connect_moments as drop_connect_moments
from fastdrop._noises.drop_path import DropPath as DropPath
from fastdrop._noises.drop_path import drop_path as drop_path
from fastdrop._noises.drop_path import drop_path_backward as drop_path_backward
from fastdrop._noises.drop_path import surviving_rows as surviving_rows
from fastdrop._noises.fused import bias_act_dropout as bias_act_dropout
from fastdrop._noises.fused import bias_act_dropout_backward as bias_act_dropout_backward
from fastdrop._noises.fused import dropout_add as dropout_add
from fastdrop._noises.fused import dropout_add_backward as dropout_add_backward
from fastdrop._noises.gaussian import GaussianDropout as GaussianDropout
from fastdrop._noises.gaussian import GaussianNoise as GaussianNoise
from fastdrop._noises.gaussian import gaussian_dropout as gaussian_dropout
from fastdrop._noises.gaussian import gaussian_dropout_backward as gaussian_dropout_backward
from fastdrop._noises.gaussian import gaussian_noise as gaussian_noise
from fastdrop._noises.gaussian import gaussian_noise_backward as gaussian_noise_backward
from fastdrop._noises.gaussian import normal as normal
from fastdrop._noises.information import InformationDropout as InformationDropout
from fastdrop._noises.information import information_dropout as information_dropout
from fastdrop._noises.information import information_dropout_backward as information_dropout_backward
from fastdrop._noises.information import information_kl as information_kl
from fastdrop._noises.recurrent import RecurrentDropout as RecurrentDropout
from fastdrop._noises.recurrent import RecurrentMasks as RecurrentMasks
from fastdrop._noises.recurrent import SequenceMask as SequenceMask
from fastdrop._noises.shared import SpatialDropout1D as SpatialDropout1D
from fastdrop._noises.shared import SpatialDropout2D as SpatialDropout2D
from fastdrop._noises.shared import SpatialDropout3D as SpatialDropout3D
from fastdrop._noises.shared import TemporalDropout as TemporalDropout
from fastdrop._noises.standout import StandoutDropout as StandoutDropout
from fastdrop._noises.standout import standout_dropout as standout_dropout
from fastdrop._noises.standout import standout_dropout_backward as standout_dropout_backward
from fastdrop._noises.standout import standout_keep_prob as standout_keep_prob
from fastdrop._noises.tokens import embedding_dropout as embedding_dropout
from fastdrop._noises.tokens import embedding_dropout_backward as embedding_dropout_backward
from fastdrop._noises.tokens import token_dropout as token_dropout
from fastdrop._noises.variational import VariationalDropout as VariationalDropout
from fastdrop._noises.variational import local_reparameterization as local_reparameterization
from fastdrop._noises.variational import (
    local_reparameterization_backward as local_reparameterization_backward,
)
from fastdrop._noises.variational import variational_kl as variational_kl
from fastdrop._noises.zoneout import Zoneout as Zoneout
from fastdrop._noises.zoneout import zoneout as zoneout
from fastdrop._noises.zoneout import zoneout_backward as zoneout_backward
from fastdrop._stream.keys import STREAM_VERSION as STREAM_VERSION
from fastdrop._stream.keys import Key as Key
from fastdrop._training.max_norm import max_norm as max_norm
from fastdrop._training.monte_carlo import Prediction as Prediction
from fastdrop._training.monte_carlo import mc_predict as mc_predict
from fastdrop._training.monte_carlo import mutual_information as mutual_information
from fastdrop._training.monte_carlo import predictive_entropy as predictive_entropy
from fastdrop._training.monte_carlo import predictive_log_likelihood as predictive_log_likelihood
from fastdrop._training.r_drop import r_drop_loss as r_drop_loss
from fastdrop.schedules import Scheduler as Scheduler

__version__ = "0.1.0"
__all__ = [
    "STREAM_VERSION",
    "AdaptiveDropout",
    "AlphaDropout",
    "ConcreteDropout",
    "CurriculumDropout",
    "DropBlock1D",
    "DropBlock2D",
    "DropBlock3D",
    "DropConnect",
    "DropPath",
    "Dropout",
    "FeatureAlphaDropout",
    "GaussianDropout",
    "GaussianNoise",
    "InformationDropout",
    "InvertedDropout",
    "Key",
    "Prediction",
    "RecurrentDropout",
    "RecurrentMasks",
    "Scheduler",
    "SequenceMask",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
    "StandoutDropout",
    "TemporalDropout",
    "VariationalDropout",
    "Zoneout",
    "alpha_dropout",
    "alpha_dropout_backward",
    "apply_mask",
    "attention",
    "attention_backward",
    "bias_act_dropout",
    "bias_act_dropout_backward",
    "concrete_dropout",
    "concrete_dropout_backward",
    "drop_block",
    "drop_block_backward",
    "drop_connect",
    "drop_connect_backward",
    "drop_connect_inference",
    "drop_connect_moments",
    "drop_path",
    "drop_path_backward",
    "dropout",
    "dropout_add",
    "dropout_add_backward",
    "dropout_backward",
    "embedding_dropout",
    "embedding_dropout_backward",
    "gaussian_dropout",
    "gaussian_dropout_backward",
    "gaussian_noise",
    "gaussian_noise_backward",
    "get_num_threads",
    "importance_rates",
    "information_dropout",
    "information_dropout_backward",
    "information_kl",
    "keep_mask",
    "local_reparameterization",
    "local_reparameterization_backward",
    "max_norm",
    "mc_predict",
    "moments",
    "mutual_information",
    "normal",
    "predictive_entropy",
    "predictive_log_likelihood",
    "r_drop_loss",
    "schedules",
    "set_num_threads",
    "standout_dropout",
    "standout_dropout_backward",
    "standout_keep_prob",
    "surviving_rows",
    "token_dropout",
    "variational_kl",
    "warmup",
    "zoneout",
    "zoneout_backward",
]

for _name in __all__:
    if callable(globals()[_name]):
        _publish(globals()[_name], __name__)

if _typing.TYPE_CHECKING:
    from fastdrop import autograd as autograd
    from fastdrop import dask as dask
    from fastdrop import torch as torch
else:

    def __getattr__(name: str) -> object:
        """Import a public module that needs another package when it is asked for first."""
        if name in ("autograd", "dask", "torch"):
            return _import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
