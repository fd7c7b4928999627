"""Networks that find things in pictures and draw their borders: detection and segmentation."""
import torch
import torchvision
import transformers
from torch import nn
from torch.nn import functional as F

from attention import call
from common import network, noise
from pictures import conv


class Csp(nn.Module):
    """YOLO's split block: half of the channels pass a bottleneck."""

    def __init__(self, c):
        super().__init__()
        self.inn, self.body, self.out = conv(c, c, 1, act=nn.SiLU), nn.Sequential(conv(c // 2, c // 2, act=nn.SiLU), conv(c // 2, c // 2, act=nn.SiLU)), conv(c + c // 2, c, 1, act=nn.SiLU)

    def forward(self, x):
        a, b = self.inn(x).chunk(2, 1)
        return self.out(torch.cat([a, b, b + self.body(b)], 1))


class Yolo(nn.Module):
    """Two scales, boxes decoded on a grid; classes by sigmoid."""

    def __init__(self, classes=4, anchors=3):
        super().__init__()
        self.stem = nn.Sequential(conv(3, 16, stride=2, act=nn.SiLU), conv(16, 32, stride=2, act=nn.SiLU), Csp(32), conv(32, 64, stride=2, act=nn.SiLU), Csp(64))
        self.deep, self.up, self.join = nn.Sequential(conv(64, 96, stride=2, act=nn.SiLU), Csp(96)), conv(96, 64, 1, act=nn.SiLU), Csp(128)
        self.heads, self.anchors = nn.ModuleList([nn.Conv2d(128, anchors * (5 + classes), 1), nn.Conv2d(96, anchors * (5 + classes), 1)]), anchors
        self.register_buffer("sizes", torch.tensor([[10., 13, 16, 30, 33, 23], [30, 61, 62, 45, 59, 119]]).reshape(2, 1, 3, 1, 1, 2))

    def forward(self, x):
        a = self.stem(x)
        pool = self.deep(a)
        b = torch.cat([pool, F.max_pool2d(pool, 5, 1, 2)], 1)[:, :96] + pool
        a = self.join(torch.cat([a, F.interpolate(self.up(b), scale_factor=2.0, mode="nearest")], 1))
        found = []
        for i, y in enumerate((a, b)):
            y, stride = self.heads[i](y), 8 * 2 ** i
            n, _, h, w = y.shape
            y = y.reshape(n, self.anchors, -1, h, w).permute(0, 1, 3, 4, 2).sigmoid()
            rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
            grid = torch.stack([columns, rows], -1).to(y.dtype)
            centre, size = (y[..., :2] * 2 - 0.5 + grid) * stride, (y[..., 2:4] * 2) ** 2 * self.sizes[i]
            found.append(torch.cat([centre, size, y[..., 4:]], -1).flatten(1, 3))
        return torch.cat(found, 1)


@network("yolo", "YOLO")
def yolo():
    return Yolo(), [noise(1, 3, 96, 96)]


@network("yolo_nms", "YOLO with NonMaxSuppression", exporter="script")
def yolo_nms():
    class Picked(nn.Module):
        """Boxes of the best class of one picture, suppressed; scores are spread by rank so that no two of them are near."""

        def __init__(self):
            super().__init__()
            self.body = Yolo()

        def forward(self, x):
            y = self.body(x)[0]
            score = y[:, 4] * y[:, 5:].amax(1)
            corners = torch.cat([y[:, :2] - y[:, 2:4] / 2, y[:, :2] + y[:, 2:4] / 2], 1)
            rank = score.argsort(descending=True)[:40]
            score = score[rank] - torch.arange(40) * 0.002
            kept = torchvision.ops.nms(corners[rank], score, 0.5)
            return corners[rank][kept], score[kept]
    return Picked(), [noise(1, 3, 96, 96)]


@network("faster_rcnn", "Faster R-CNN with NMS", exporter="script", draw=False)
def faster_rcnn():
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.rpn import AnchorGenerator

    body = nn.Sequential(conv(3, 16, stride=2), conv(16, 32, stride=2), conv(32, 48, stride=2), conv(48, 64, stride=2))
    body.out_channels = 64
    from common import draw_parameters
    m = FasterRCNN(body, num_classes=4, rpn_anchor_generator=AnchorGenerator(((16, 32, 64),), ((0.5, 1.0, 2.0),)), min_size=96, max_size=96, rpn_pre_nms_top_n_test=60, rpn_post_nms_top_n_test=20,
                   box_detections_per_img=12, box_score_thresh=0.1, box_roi_pool=torchvision.ops.MultiScaleRoIAlign(["0"], 5, 2))
    m.roi_heads.box_head = nn.Sequential(nn.Flatten(), nn.Linear(64 * 25, 64), nn.ReLU())
    m.roi_heads.box_predictor = torchvision.models.detection.faster_rcnn.FastRCNNPredictor(64, 4)
    draw_parameters(m, 1.2)

    class Picture(nn.Module):
        def __init__(self):
            super().__init__()
            self.m = m

        def forward(self, x):
            y = self.m([x[0]])[0]
            return y["boxes"], y["scores"], y["labels"]
    return Picture(), [torch.rand(1, 3, 96, 96)]


@network("ssd", "SSD head (anchors, softmax)")
def ssd():
    class Ssd(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.three = nn.Sequential(conv(3, 24, stride=2), conv(24, 48, stride=2)), conv(48, 64, stride=2), conv(64, 64, stride=2)
            self.where, self.what = nn.ModuleList(nn.Conv2d(c, 4 * 4, 3, padding=1) for c in (48, 64, 64)), nn.ModuleList(nn.Conv2d(c, 4 * 6, 3, padding=1) for c in (48, 64, 64))

        def forward(self, x):
            a = self.one(x)
            b = self.two(a)
            maps = (a, b, self.three(b))
            where = torch.cat([m(y).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 4) for m, y in zip(self.where, maps)], 1)
            what = torch.cat([m(y).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 6) for m, y in zip(self.what, maps)], 1)
            return where, torch.softmax(what, -1)
    return Ssd(), [noise(1, 3, 64, 64)]


@network("detr", "DETR", gain=1.0)
def detr():
    class Detr(nn.Module):
        def __init__(self, c=64):
            super().__init__()
            self.body = nn.Sequential(conv(3, 32, stride=2), conv(32, 64, stride=2), conv(64, c, stride=2), nn.Conv2d(c, c, 1))
            self.transformer, self.queries = nn.Transformer(c, 4, 1, 2, 128, batch_first=True), nn.Parameter(torch.empty(10, c))
            self.row, self.column, self.what, self.where = nn.Parameter(torch.empty(20, c // 2)), nn.Parameter(torch.empty(20, c // 2)), nn.Linear(c, 6), nn.Sequential(nn.Linear(c, c), nn.ReLU(), nn.Linear(c, 4))

        def forward(self, x):
            y = self.body(x)
            n, c, h, w = y.shape
            place = torch.cat([self.column[:w][None].expand(h, -1, -1), self.row[:h][:, None].expand(-1, w, -1)], -1).flatten(0, 1)
            y = self.transformer(place[None] + 0.5 * y.flatten(2).transpose(1, 2), self.queries[None].expand(n, -1, -1))
            return self.what(y), torch.sigmoid(self.where(y))
    return Detr(), [noise(1, 3, 96, 96)]


class Unet(nn.Module):
    """Any number of dimensions; growing by transposed convolution or by interpolation."""

    def __init__(self, dims=2, cin=3, width=16, depth=3, classes=4, instance=False, transposed=True):
        super().__init__()
        self.dims, self.transposed = dims, transposed
        Conv, Up = (nn.Conv2d, nn.ConvTranspose2d) if dims == 2 else (nn.Conv3d, nn.ConvTranspose3d)
        Norm = (nn.InstanceNorm2d if dims == 2 else nn.InstanceNorm3d) if instance else (nn.BatchNorm2d if dims == 2 else nn.BatchNorm3d)
        act = (lambda: nn.LeakyReLU(0.01)) if instance else nn.ReLU

        def double(a, b):
            return nn.Sequential(Conv(a, b, 3, padding=1), Norm(b, affine=True), act(), Conv(b, b, 3, padding=1), Norm(b, affine=True), act())
        widths = [width << i for i in range(depth + 1)]
        self.down = nn.ModuleList(double(a, b) for a, b in zip([cin] + widths[:-1], widths))
        self.up = nn.ModuleList(Up(b, a, 2, 2) if transposed else Conv(b, a, 3, padding=1) for a, b in zip(widths[:-1], widths[1:]))
        self.join = nn.ModuleList(double(2 * a, a) for a in widths[:-1])
        self.out = Conv(width, classes, 1)

    def forward(self, x):
        kept = []
        for i, d in enumerate(self.down):
            x = d(x)
            if i + 1 < len(self.down):
                kept.append(x)
                x = F.max_pool2d(x, 2) if self.dims == 2 else F.max_pool3d(x, 2)
        for i in reversed(range(len(self.up))):
            y = self.up[i](x if self.transposed else F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False))
            x = self.join[i](torch.cat([kept[i], y], 1))
        return self.out(x)


@network("unet", "U-Net")
def unet():
    return Unet(), [noise(1, 3, 64, 64)]


@network("unet_bilinear", "U-Net growing by bilinear resizing")
def unet_bilinear():
    return Unet(transposed=False), [noise(1, 3, 48, 64)]


@network("nnunet", "nnU-Net (3-D, instance norm)")
def nnunet():
    return Unet(dims=3, cin=1, width=12, depth=2, instance=True), [noise(1, 1, 16, 16, 16)]


@network("deeplab", "DeepLab v3 (dilated pyramid)")
def deeplab():
    class Deeplab(nn.Module):
        def __init__(self, c=48):
            super().__init__()
            self.body = nn.Sequential(conv(3, 24, stride=2), conv(24, c, stride=2), conv(c, c, stride=2))
            self.pyramid = nn.ModuleList([nn.Conv2d(c, c, 1)] + [nn.Conv2d(c, c, 3, padding=d, dilation=d) for d in (2, 4, 6)])
            self.whole, self.join, self.out = nn.Conv2d(c, c, 1), conv(5 * c, c, 1), nn.Conv2d(c, 6, 1)

        def forward(self, x):
            y = self.body(x)
            whole = F.interpolate(F.relu(self.whole(y.mean((2, 3), keepdim=True))), size=y.shape[2:], mode="bilinear", align_corners=False)
            y = self.join(torch.cat([F.relu(p(y)) for p in self.pyramid] + [whole], 1))
            return F.interpolate(self.out(y), size=x.shape[2:], mode="bilinear", align_corners=True)
    return Deeplab(), [noise(1, 3, 64, 64)]


@network("segformer", "SegFormer", gain=1.0)
def segformer():
    c = transformers.SegformerConfig(num_encoder_blocks=2, depths=[1, 1], sr_ratios=[4, 2], hidden_sizes=[16, 32], patch_sizes=[7, 3], strides=[4, 2], num_attention_heads=[1, 2], mlp_ratios=[2, 2], decoder_hidden_size=32, num_labels=5)
    return call(transformers.SegformerForSemanticSegmentation, c, ["pixel_values"], ["logits"]), [noise(1, 3, 64, 64)]


@network("fpn", "feature pyramid")
def fpn():
    class Pyramid(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.ModuleList([conv(3, 16, stride=2), conv(16, 32, stride=2), conv(32, 64, stride=2)])
            self.fpn = torchvision.ops.FeaturePyramidNetwork([16, 32, 64], 24)

        def forward(self, x):
            found = {}
            for i, b in enumerate(self.body):
                x = found[str(i)] = b(x)
            return self.fpn(found)
    return Pyramid(), [noise(1, 3, 64, 64)]
