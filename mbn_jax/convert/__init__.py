"""Conversion to and from batch normalization, folding, and re-estimation.

| function | from | to |
|---|---|---|
| `from_batch_norm` | a (pretrained) `nn.BatchNorm` network | an MBN network |
| `to_batch_norm` | an MBN network | one modality's `nn.BatchNorm` network |
| `fold` | an MBN network | one modality's network without normalizations |
| `find_convolutions` | a network | which convolution `fold` merges with which norm |
| `estimate_statistics` | an MBN network, images | the network with their statistics |

All except `fold` and `find_convolutions` also take an NNX model and return a copy of
it. For NNX models, the layers are replaced, and the rules on names below do not apply.

All take the variables of a whole Linen model, `{"params": …, "batch_stats": …}`, as a
dict or a FrozenDict, and return the same kind. The input does not change, and dtypes,
other parameters and other collections stay the same. A normalization is a node of
`batch_stats` that holds `mean` and `var`; its `scale` and `bias`, if any, are at the
same path in `params`. Names stay the same, so the two networks must use the same names
for their normalizations. Set the names explicitly (`name="norm1"`), since the automatic
names `BatchNorm_0` and `ModalityBatchNorm_0` differ. A path is written with slashes,
`backbone/norm1`. For a tree that does not fit, an error names the first wrong path.

The conversions are array operations only: `jax.eval_shape` applies them to shapes, and
`jax.vmap` to a part of a tree that `nn.scan` or `nn.vmap` has stacked along axis 0.
"""

from mbn_jax.convert.batch_norm import from_batch_norm, to_batch_norm
from mbn_jax.convert.estimation import estimate_statistics
from mbn_jax.convert.folding import find_convolutions, fold

__all__ = [
    "estimate_statistics",
    "find_convolutions",
    "fold",
    "from_batch_norm",
    "to_batch_norm",
]
