"""Builders of losses that compare images with images, in pairs or triplets.

Reading their names and parameters imports no torch.
"""
# Annotations stay objects here (no `from __future__ import annotations`): `loss_parameters` hands them out.

from typing import TYPE_CHECKING, Literal

from whale_ray.learning.losses.parameters import Cosine, Distance, NonNegative, Positive

if TYPE_CHECKING:
    from torch import nn

Mining = Literal["semihard", "hard", "all", "batch_hard"]


def multi_similarity(
    *,
    num_classes: int,
    embedding_size: int,
    alpha: Positive = 2.0,
    beta: Positive = 50.0,
    base: Cosine = 0.5,
    epsilon: NonNegative = 0.1,
) -> "nn.Module":
    """Return the Multi-Similarity loss with its pair mining (Wang et al., CVPR 2019).

    Args:
        num_classes: Unused.
        embedding_size: Unused.
        alpha: Weight of positive pairs.
        beta: Weight of negative pairs.
        base: Offset of the similarity.
        epsilon: Margin of the pair mining.
    """
    from pytorch_metric_learning.losses import MultiSimilarityLoss
    from pytorch_metric_learning.miners import MultiSimilarityMiner

    from whale_ray.learning.losses.loss_modules import MinedPairs

    loss = MultiSimilarityLoss(alpha=alpha, beta=beta, base=base)
    return MinedPairs(loss, MultiSimilarityMiner(epsilon=epsilon), lone_anchors=False)


def triplet(
    *, num_classes: int, embedding_size: int, margin: Distance = 0.2, mining: Mining = "semihard"
) -> "nn.Module":
    """Return the triplet loss on distances of unit vectors (FaceNet: Schroff et al., CVPR 2015).

    Args:
        num_classes: Unused.
        embedding_size: Unused.
        margin: Margin on the distance.
        mining: Triplets inside the margin that are ordered correctly (`semihard`), wrongly (`hard`), or both (`all`);
            or per image its farthest positive and nearest negative (`batch_hard`, Hermans et al., 2017).
    """
    from pytorch_metric_learning.losses import TripletMarginLoss
    from pytorch_metric_learning.miners import BatchHardMiner, TripletMarginMiner

    from whale_ray.learning.losses.loss_modules import MinedPairs

    hardest = mining == "batch_hard"
    miner = BatchHardMiner() if hardest else TripletMarginMiner(margin=margin, type_of_triplets=mining)
    return MinedPairs(TripletMarginLoss(margin=margin), miner, lone_anchors=False)


def supcon(*, num_classes: int, embedding_size: int, temperature: Positive = 0.1) -> "nn.Module":
    """Return the supervised contrastive loss over images that have a positive (Khosla et al., NeurIPS 2020).

    Args:
        num_classes: Unused.
        embedding_size: Unused.
        temperature: Temperature of the softmax.
    """
    from pytorch_metric_learning.losses import SupConLoss

    from whale_ray.learning.losses.loss_modules import MinedPairs, all_pairs

    return MinedPairs(SupConLoss(temperature=temperature), all_pairs, lone_anchors=True)


def contrastive(
    *, num_classes: int, embedding_size: int, pos_margin: Distance = 0.0, neg_margin: Distance = 1.0
) -> "nn.Module":
    """Return the contrastive loss on distances of unit vectors, 0 to 2 (Hadsell et al., CVPR 2006).

    Args:
        num_classes: Unused.
        embedding_size: Unused.
        pos_margin: Distance below which positives cost nothing.
        neg_margin: Distance above which negatives cost nothing.
    """
    from pytorch_metric_learning.losses import ContrastiveLoss

    from whale_ray.learning.losses.loss_modules import MinedPairs, all_pairs

    loss = ContrastiveLoss(pos_margin=pos_margin, neg_margin=neg_margin)
    return MinedPairs(loss, all_pairs, lone_anchors=True)
