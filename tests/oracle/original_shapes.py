"""Names and shapes of the heads in checkpoints of the original."""

Shapes = dict[str, tuple[int, ...]]


def conv(name: str, *shape: int, norm: bool = False) -> Shapes:
    """A convolution of the original's library, with a bias or followed by a batch norm."""
    if not norm:
        return {f"{name}.conv.weight": shape, f"{name}.conv.bias": shape[:1]}
    statistics = ("weight", "bias", "running_mean", "running_var")
    return {
        f"{name}.conv.weight": shape,
        **{f"{name}.bn.{statistic}": shape[:1] for statistic in statistics},
        f"{name}.bn.num_batches_tracked": (),
    }


def layer(name: str, *shape: int) -> Shapes:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def fpn(width: int, norm: bool = False) -> Shapes:
    shapes = {}
    for i in range(4):
        shapes |= conv(f"neck.lateral_convs.{i}", 256, width, 1, 1, norm=norm)
        shapes |= conv(f"neck.fpn_convs.{i}", 256, 256, 3, 3, norm=norm)
    return shapes


def mask_branch(norm: bool = False) -> Shapes:
    shapes = layer("roi_head.mask_head.upsample", 256, 256, 2, 2)
    for i in range(4):
        shapes |= conv(f"roi_head.mask_head.convs.{i}", 256, 256, 3, 3, norm=norm)
    return shapes | layer("roi_head.mask_head.conv_logits", 80, 256, 1, 1)


def predictions() -> Shapes:
    return {
        **layer("rpn_head.rpn_cls", 3, 256, 1, 1),
        **layer("rpn_head.rpn_reg", 12, 256, 1, 1),
        **layer("roi_head.bbox_head.fc_cls", 81, 1024),
        **layer("roi_head.bbox_head.fc_reg", 320, 1024),
    }


def mask_rcnn(width: int) -> Shapes:
    """Neck and heads of the original's Mask R-CNN."""
    return {
        **fpn(width),
        **layer("rpn_head.rpn_conv", 256, 256, 3, 3),
        **predictions(),
        **layer("roi_head.bbox_head.shared_fcs.0", 1024, 256 * 7 * 7),
        **layer("roi_head.bbox_head.shared_fcs.1", 1024, 1024),
        **mask_branch(),
    }


def upgraded_mask_rcnn(width: int) -> Shapes:
    """The same of its detectors trained from MAE."""
    shapes = fpn(width, norm=True)
    for i in range(2):
        shapes |= conv(f"rpn_head.rpn_conv.{i}", 256, 256, 3, 3)
    for i in range(4):
        shapes |= conv(f"roi_head.bbox_head.shared_convs.{i}", 256, 256, 3, 3, norm=True)
    shapes |= layer("roi_head.bbox_head.shared_fcs.0", 1024, 256 * 7 * 7)
    return {**shapes, **predictions(), **mask_branch(norm=True)}


def upernet(width: int, channels: int, classes: int = 150) -> Shapes:
    """The original's UPerNet head and its auxiliary head."""
    shapes = conv("decode_head.bottleneck", channels, width + 4 * channels, 3, 3, norm=True)
    shapes |= conv("decode_head.fpn_bottleneck", channels, 4 * channels, 3, 3, norm=True)
    for i in range(4):
        shapes |= conv(f"decode_head.psp_modules.{i}.1", channels, width, 1, 1, norm=True)
    for i in range(3):
        shapes |= conv(f"decode_head.lateral_convs.{i}", channels, width, 1, 1, norm=True)
        shapes |= conv(f"decode_head.fpn_convs.{i}", channels, channels, 3, 3, norm=True)
    shapes |= conv("auxiliary_head.convs.0", 256, width, 3, 3, norm=True)
    shapes |= layer("decode_head.conv_seg", classes, channels, 1, 1)
    return shapes | layer("auxiliary_head.conv_seg", classes, 256, 1, 1)


def feed_forward(name: str, width: int, hidden: int, norms: int) -> Shapes:
    shapes = layer(f"{name}.ffns.0.layers.0.0", hidden, width)
    shapes |= layer(f"{name}.ffns.0.layers.1", width, hidden)
    for i in range(norms):
        shapes |= layer(f"{name}.norms.{i}", width)
    return shapes


def pixel_decoder(head: str, width: int, dim: int, hidden: int) -> Shapes:
    """Mask2Former's pixel decoder; its attention heads are 32 wide, with 3 levels of 4 points."""
    name, heads = f"{head}.pixel_decoder", dim // 32
    shapes = layer(f"{name}.mask_feature", dim, dim, 1, 1)
    shapes |= {f"{name}.level_encoding.weight": (3, dim)}
    for i in range(3):
        shapes |= conv(f"{name}.input_convs.{i}", dim, width, 1, 1)
        shapes |= layer(f"{name}.input_convs.{i}.gn", dim)
    for part, *shape in (("lateral_convs", dim, width, 1, 1), ("output_convs", dim, dim, 3, 3)):
        shapes |= {f"{name}.{part}.0.conv.weight": tuple(shape)} | layer(f"{name}.{part}.0.gn", dim)
    for i in range(6):
        encoder = f"{name}.encoder.layers.{i}"
        shapes |= layer(f"{encoder}.attentions.0.sampling_offsets", heads * 12 * 2, dim)
        shapes |= layer(f"{encoder}.attentions.0.attention_weights", heads * 12, dim)
        shapes |= layer(f"{encoder}.attentions.0.value_proj", dim, dim)
        shapes |= layer(f"{encoder}.attentions.0.output_proj", dim, dim)
        shapes |= feed_forward(encoder, dim, hidden, norms=2)
    return shapes


def mask2former(
    width: int,
    dim: int,
    hidden: tuple[int, int],
    classes: int = 150,
    head: str = "decode_head",
    queries: int = 100,
) -> Shapes:
    """The original's Mask2Former head; ``hidden`` of encoder and decoder."""
    shapes = pixel_decoder(head, width, dim, hidden[0])
    for i in range(9):
        decoder = f"{head}.transformer_decoder.layers.{i}"
        for attention in (f"{decoder}.attentions.{j}.attn" for j in range(2)):
            shapes |= {f"{attention}.in_proj_weight": (3 * dim, dim)}
            shapes |= {f"{attention}.in_proj_bias": (3 * dim,)}
            shapes |= layer(f"{attention}.out_proj", dim, dim)
        shapes |= feed_forward(decoder, dim, hidden[1], norms=3)
    shapes |= layer(f"{head}.transformer_decoder.post_norm", dim)
    for embedding, rows in (("query_embed", queries), ("query_feat", queries), ("level_embed", 3)):
        shapes |= {f"{head}.{embedding}.weight": (rows, dim)}
    for i in (0, 2, 4):
        shapes |= layer(f"{head}.mask_embed.{i}", dim, dim)
    return shapes | layer(f"{head}.cls_embed", classes + 1, dim)
