"""UniverSeg version 1 computed plainly, block by block as published: the oracle for the factorised form."""

import torch
from torch.nn.functional import conv2d, interpolate, leaky_relu, max_pool2d


def plain_universeg(state, target_image, support_images, support_labels, depth=4):
    """Logits (b, 1, h, w); every support is concatenated with its own copy of the query, as the released code does."""
    query = target_image
    supports = torch.cat([support_images, support_labels], dim=2)
    skips = []
    for n in range(depth):
        query, supports = _cross_block(state, f"enc_blocks.{n}", query, supports)
        if n < depth - 1:
            skips.append((query, supports))
            query, supports = max_pool2d(query, 2), _per_support(lambda x: max_pool2d(x, 2), supports)
    for n in range(depth - 1):
        skip_query, skip_supports = skips.pop()
        query = torch.cat([_twice(query), skip_query], dim=1)
        supports = torch.cat([_per_support(_twice, supports), skip_supports], dim=2)
        query, supports = _cross_block(state, f"dec_blocks.{n}", query, supports)
    return conv2d(query, state["out_conv.conv.weight"], state["out_conv.conv.bias"])


def _cross_block(state, name, query, supports):
    def conv(part, images):
        return conv2d(images, state[f"{name}.{part}.weight"], state[f"{name}.{part}.bias"], padding=1)

    repeated = query[:, None].expand(-1, supports.shape[1], -1, -1, -1)
    mixed = _per_support(lambda x: conv("cross.cross_conv", x), torch.cat([repeated, supports], dim=2))
    new_query = leaky_relu(conv("target.vmapped.conv", mixed.mean(dim=1)), 0.01)
    new_supports = _per_support(lambda x: leaky_relu(conv("support.vmapped.conv", x), 0.01), mixed)
    return new_query, new_supports


def _per_support(function, supports):
    return function(supports.flatten(0, 1)).unflatten(0, supports.shape[:2])


def _twice(images):
    return interpolate(images, scale_factor=2, mode="bilinear", align_corners=True)
