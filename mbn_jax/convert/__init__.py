"""From batch to modality batch normalisation and back, folding, re-estimation.

| function | from | to |
|---|---|---|
| `from_batch_norm` | a (pretrained) `nn.BatchNorm` network | an MBN network |
| `to_batch_norm` | an MBN network | one modality's `nn.BatchNorm` network |
| `fold` | an MBN network | one modality's network without normalisations |
| `find_convolutions` | a network | which convolution `fold` merges with what |
| `estimate_statistics` | an MBN network and images | the same with their statistics |

All but `fold` and `find_convolutions` take an NNX model as well and give back a copy of
it; there, the layers are exchanged and nothing below on names applies.

All take the variables of a whole Linen model, `{"params": …, "batch_stats": …}`, as a
dict or a FrozenDict, and give back the same kind; the input stays as it is, and so do
types, other parameters and other collections. A normalisation is a node of
`batch_stats` that holds `mean` and `var`; its `scale` and `bias`, where it has them,
lie at the same path in `params`. Names stay, so the two networks must name their
normalisations alike: explicitly (`name="norm1"`), since the automatic names
`BatchNorm_0` and `ModalityBatchNorm_0` differ. A path is written with slashes,
`backbone/norm1`. A tree that does not fit is refused with the path of the first misfit.

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
