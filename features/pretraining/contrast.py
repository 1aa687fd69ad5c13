"""InfoNCE over pairs that several processes have encoded, each its own."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .losses import contrastive_loss

Gather = Callable[[Tensor], Tensor]  # rows of this process, zeros elsewhere -> the rows of all processes


def shared_contrast(
    mine: tuple[Tensor, Tensor], places: Tensor, same: Tensor, scale: Tensor, gather: Gather
) -> tuple[Tensor, Tensor, Tensor]:
    """This process's share of `contrastive_loss` over all pairs, (), and the images and texts of all, (n, d),
    as constants.

    `mine` are unit rows (m, d) of its images and texts, which have the places (m,) among all n pairs. Over
    all processes the shares sum up to the loss, and so do their gradients.
    """
    sides = []
    for rows in mine:
        # The others' rows are constants here: their gradients are their own processes' to find.
        held = rows.new_zeros(len(same), rows.shape[1]).index_copy(0, places, rows.detach())
        sides.append(gather(held).index_copy(0, places, rows))
    share = len(places) / len(same)
    scale = share * scale + (1 - share) * scale.detach()  # every process computes the whole loss
    images, texts = sides
    loss = contrastive_loss(images, texts, scale, same)
    loss = loss - (1 - share) * loss.detach()  # the value of the share with all of its gradient
    return loss, images.detach(), texts.detach()
