"""fastdrop: dropout for NumPy at the cost of a multiply, with no stored mask."""

from fastdrop import moments as moments
from fastdrop import schedules as schedules
from fastdrop._threads import get_num_threads as get_num_threads
from fastdrop._threads import set_num_threads as set_num_threads
from fastdrop.adaptive import AdaptiveDropout as AdaptiveDropout
from fastdrop.adaptive import importance_rates as importance_rates
from fastdrop.alpha import AlphaDropout as AlphaDropout
from fastdrop.alpha import FeatureAlphaDropout as FeatureAlphaDropout
from fastdrop.alpha import alpha_dropout as alpha_dropout
from fastdrop.alpha import alpha_dropout_backward as alpha_dropout_backward
from fastdrop.concrete import ConcreteDropout as ConcreteDropout
from fastdrop.concrete import concrete_dropout as concrete_dropout
from fastdrop.concrete import concrete_dropout_backward as concrete_dropout_backward
from fastdrop.constraints import max_norm as max_norm
from fastdrop.dropblock import DropBlock2D as DropBlock2D
from fastdrop.dropblock import drop_block as drop_block
from fastdrop.dropblock import drop_block_backward as drop_block_backward
from fastdrop.dropconnect import drop_connect as drop_connect
from fastdrop.dropconnect import drop_connect_backward as drop_connect_backward
from fastdrop.dropconnect_inference import drop_connect_inference as drop_connect_inference
from fastdrop.dropconnect_inference import drop_connect_moments as drop_connect_moments
from fastdrop.dropconnect_layer import DropConnect as DropConnect
from fastdrop.functional import apply_mask as apply_mask
from fastdrop.functional import dropout as dropout
from fastdrop.functional import dropout_backward as dropout_backward
from fastdrop.functional import keep_mask as keep_mask
from fastdrop.fused import bias_act_dropout as bias_act_dropout
from fastdrop.fused import bias_act_dropout_backward as bias_act_dropout_backward
from fastdrop.fused import dropout_add as dropout_add
from fastdrop.fused import dropout_add_backward as dropout_add_backward
from fastdrop.gaussian import gaussian_dropout as gaussian_dropout
from fastdrop.gaussian import gaussian_dropout_backward as gaussian_dropout_backward
from fastdrop.gaussian import gaussian_noise as gaussian_noise
from fastdrop.gaussian import gaussian_noise_backward as gaussian_noise_backward
from fastdrop.gaussian import normal as normal
from fastdrop.gaussian_layers import GaussianDropout as GaussianDropout
from fastdrop.gaussian_layers import GaussianNoise as GaussianNoise
from fastdrop.layers import CurriculumDropout as CurriculumDropout
from fastdrop.layers import Dropout as Dropout
from fastdrop.layers import InvertedDropout as InvertedDropout
from fastdrop.monte_carlo import Prediction as Prediction
from fastdrop.monte_carlo import mc_predict as mc_predict
from fastdrop.monte_carlo import predictive_log_likelihood as predictive_log_likelihood
from fastdrop.r_drop import r_drop_loss as r_drop_loss
from fastdrop.random import STREAM_VERSION as STREAM_VERSION
from fastdrop.random import Key as Key
from fastdrop.recurrent import RecurrentDropout as RecurrentDropout
from fastdrop.recurrent import RecurrentMasks as RecurrentMasks
from fastdrop.recurrent import SequenceMask as SequenceMask
from fastdrop.recurrent_zoneout import Zoneout as Zoneout
from fastdrop.recurrent_zoneout import zoneout as zoneout
from fastdrop.recurrent_zoneout import zoneout_backward as zoneout_backward
from fastdrop.schedules import Scheduler as Scheduler
from fastdrop.standout import StandoutDropout as StandoutDropout
from fastdrop.standout import standout_dropout as standout_dropout
from fastdrop.standout import standout_dropout_backward as standout_dropout_backward
from fastdrop.standout import standout_keep_prob as standout_keep_prob
from fastdrop.stochastic_depth import DropPath as DropPath
from fastdrop.stochastic_depth import drop_path as drop_path
from fastdrop.stochastic_depth import drop_path_backward as drop_path_backward
from fastdrop.stochastic_depth import surviving_rows as surviving_rows
from fastdrop.structured import SpatialDropout1D as SpatialDropout1D
from fastdrop.structured import SpatialDropout2D as SpatialDropout2D
from fastdrop.structured import SpatialDropout3D as SpatialDropout3D
from fastdrop.structured import TemporalDropout as TemporalDropout
from fastdrop.tokens import embedding_dropout as embedding_dropout
from fastdrop.tokens import embedding_dropout_backward as embedding_dropout_backward
from fastdrop.tokens import token_dropout as token_dropout
from fastdrop.variational import VariationalDropout as VariationalDropout
from fastdrop.variational import local_reparameterization as local_reparameterization
from fastdrop.variational import local_reparameterization_backward as local_reparameterization_backward
from fastdrop.variational import variational_kl as variational_kl

__version__ = "0.1.0"
__all__ = [
    "STREAM_VERSION",
    "AdaptiveDropout",
    "AlphaDropout",
    "ConcreteDropout",
    "CurriculumDropout",
    "DropBlock2D",
    "DropConnect",
    "DropPath",
    "Dropout",
    "FeatureAlphaDropout",
    "GaussianDropout",
    "GaussianNoise",
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
    "keep_mask",
    "local_reparameterization",
    "local_reparameterization_backward",
    "max_norm",
    "mc_predict",
    "moments",
    "normal",
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
    "zoneout",
    "zoneout_backward",
]
