"""Networks that look at pictures and name them, and everything built of convolutions alone."""
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from common import network, noise

models = torchvision.models


def conv(cin, cout, k=3, stride=1, groups=1, pad=None, act=nn.ReLU):
    parts = [nn.Conv2d(cin, cout, k, stride, (k - 1) // 2 if pad is None else pad, groups=groups, bias=False), nn.BatchNorm2d(cout)]
    return nn.Sequential(*parts, *([act()] if act else []))


class Head(nn.Module):
    def __init__(self, body, width, classes=10):
        super().__init__()
        self.body, self.out = body, nn.Linear(width, classes)

    def forward(self, x):
        return self.out(self.body(x).mean((2, 3)))


@network("perceptron", "perceptron")
def perceptron():
    return nn.Sequential(nn.Linear(16, 1), nn.Sigmoid()), [noise(4, 16)]


@network("mlp", "multi-layer perceptron")
def mlp():
    return nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.Tanh(), nn.Linear(128, 10), nn.Softmax(-1)), [noise(8, 784)]


@network("lenet5", "LeNet-5")
def lenet():
    return nn.Sequential(nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(400, 120),
                         nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10)), [noise(2, 1, 28, 28)]


@network("alexnet", "AlexNet")
def alexnet():
    m = models.alexnet(num_classes=10)
    m.classifier = nn.Sequential(nn.Dropout(), nn.Linear(9216, 256), nn.ReLU(), nn.Linear(256, 10))
    return m, [noise(1, 3, 224, 224)]


def vgg(make):
    m = make(num_classes=10)
    m.avgpool, m.classifier = nn.Identity(), nn.Sequential(nn.Linear(512, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 10))
    return m, [noise(1, 3, 32, 32)]


@network("vgg16", "VGG-16")
def vgg16():
    return vgg(models.vgg16)


@network("vgg19", "VGG-19 with batch norm")
def vgg19():
    return vgg(models.vgg19_bn)


@network("googlenet", "GoogLeNet")
def googlenet():
    return models.googlenet(num_classes=10, aux_logits=False, init_weights=False), [noise(1, 3, 96, 96)]


@network("inception_v3", "Inception v3", exporter="script")
def inception():
    return models.inception_v3(num_classes=10, aux_logits=False, init_weights=False), [noise(1, 3, 107, 107)]


@network("resnet18", "ResNet-18", gain=1.0)
def resnet18():
    return models.resnet18(num_classes=10), [noise(1, 3, 64, 64)]


@network("resnet50", "ResNet-50", gain=0.8)
def resnet50():
    return models.resnet50(num_classes=10), [noise(1, 3, 64, 64)]


@network("resnet152", "ResNet-152", gain=0.5)
def resnet152():
    return models.ResNet(models.resnet.Bottleneck, [3, 8, 36, 3], num_classes=10, width_per_group=16, groups=1), [noise(1, 3, 64, 64)]


@network("resnext", "ResNeXt (grouped convolution)", gain=0.8)
def resnext():
    return models.ResNet(models.resnet.Bottleneck, [2, 2, 2, 2], num_classes=10, groups=8, width_per_group=4), [noise(1, 3, 64, 64)]


@network("densenet", "DenseNet")
def densenet():
    return models.DenseNet(growth_rate=8, block_config=(3, 4, 4, 3), num_init_features=16, num_classes=10), [noise(1, 3, 64, 64)]


@network("squeezenet", "SqueezeNet")
def squeezenet():
    return models.squeezenet1_1(num_classes=10), [noise(1, 3, 96, 96)]


@network("shufflenet", "ShuffleNet v2")
def shufflenet():
    return models.shufflenet_v2_x0_5(num_classes=10), [noise(1, 3, 96, 96)]


@network("mobilenet_v1", "MobileNet")
def mobilenet_v1():
    parts, cin = [conv(3, 16, stride=2)], 16
    for cout, stride in [(32, 1), (64, 2), (64, 1), (128, 2), (128, 1)]:
        parts += [conv(cin, cin, stride=stride, groups=cin), conv(cin, cout, 1)]
        cin = cout
    return Head(nn.Sequential(*parts), cin), [noise(2, 3, 64, 64)]


@network("mobilenet_v2", "MobileNetV2")
def mobilenet_v2():
    return models.mobilenet_v2(num_classes=10, width_mult=0.5), [noise(1, 3, 96, 96)]


@network("mobilenet_v3", "MobileNetV3")
def mobilenet_v3():
    return models.mobilenet_v3_small(num_classes=10), [noise(1, 3, 96, 96)]


@network("efficientnet", "EfficientNet-B0", gain=1.1)
def efficientnet():
    return models.efficientnet_b0(num_classes=10), [noise(1, 3, 96, 96)]


@network("mnasnet", "MNASNet", gain=1.1)
def mnasnet():
    return models.mnasnet0_5(num_classes=10), [noise(1, 3, 96, 96)]


@network("regnet", "RegNet", gain=0.8)
def regnet():
    return models.regnet_y_400mf(num_classes=10), [noise(1, 3, 64, 64)]


@network("convnext", "ConvNeXt", gain=1.0)
def convnext():
    setting = models.convnext.CNBlockConfig
    return models.ConvNeXt([setting(24, 48, 1), setting(48, 96, 1), setting(96, None, 2)], num_classes=10), [noise(1, 3, 64, 64)]


class Separable(nn.Module):
    """Xception's and NASNet's depthwise, then pointwise convolution."""

    def __init__(self, cin, cout, k=3, stride=1):
        super().__init__()
        self.body = nn.Sequential(nn.ReLU(), nn.Conv2d(cin, cin, k, stride, k // 2, groups=cin, bias=False), nn.Conv2d(cin, cout, 1, bias=False), nn.BatchNorm2d(cout))

    def forward(self, x):
        return self.body(x)


class NasCell(nn.Module):
    """NASNet's normal cell: sums of separable convolutions, poolings and identities of the last two results, concatenated."""

    def __init__(self, prev, cin, width):
        super().__init__()
        self.left, self.right = nn.Sequential(nn.ReLU(), conv(prev, width, 1, act=None)), nn.Sequential(nn.ReLU(), conv(cin, width, 1, act=None))
        self.a, self.b, self.c = Separable(width, width, 5), Separable(width, width, 3), Separable(width, width, 7)
        self.pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)

    def forward(self, prev, x):
        p, h = self.left(prev), self.right(x)
        return torch.cat([p, self.a(h) + self.b(p), self.c(p) + self.b(p), self.pool(h) + p, self.pool(p) + F.max_pool2d(p, 3, 1, 1), self.b(h) + h], 1)


class Nasnet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.one, self.two = conv(3, 16, stride=2, act=None), NasCell(16, 16, 12), NasCell(16, 72, 12)
        self.out = nn.Linear(72, 10)

    def forward(self, x):
        s = self.stem(x)
        a = self.one(s, s)
        return self.out(F.relu(self.two(s, a)).mean((2, 3)))


@network("nasnet", "NASNet")
def nasnet():
    return Nasnet(), [noise(1, 3, 48, 48)]


class XceptionBlock(nn.Module):
    def __init__(self, cin, cout):
        super().__init__()
        self.body = nn.Sequential(Separable(cin, cout), Separable(cout, cout), nn.MaxPool2d(3, 2, 1))
        self.short = conv(cin, cout, 1, 2, act=None)

    def forward(self, x):
        return self.body(x) + self.short(x)


@network("xception", "Xception")
def xception():
    return Head(nn.Sequential(conv(3, 16, stride=2), XceptionBlock(16, 32), XceptionBlock(32, 64), Separable(64, 96)), 96), [noise(1, 3, 64, 64)]


class SqueezeExcite(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv1, self.conv2, self.down, self.up = conv(c, c), conv(c, c, act=None), nn.Linear(c, c // 4), nn.Linear(c // 4, c)

    def forward(self, x):
        y = self.conv2(self.conv1(x))
        gate = torch.sigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(y, 1).flatten(1)))))
        return F.relu(x + y * gate[:, :, None, None])


@network("senet", "SENet")
def senet():
    return Head(nn.Sequential(conv(3, 32, stride=2), SqueezeExcite(32), conv(32, 64, stride=2), SqueezeExcite(64)), 64), [noise(2, 3, 48, 48)]


class Capsules(nn.Module):
    """Primary capsules, then three rounds of routing by agreement."""

    def __init__(self):
        super().__init__()
        self.first, self.primary = nn.Conv2d(1, 32, 9), nn.Conv2d(32, 8 * 8, 9, 2)
        self.weight = nn.Parameter(torch.empty(10, 288, 8, 8))

    @staticmethod
    def squash(v):
        square = (v * v).sum(-1, keepdim=True)
        return square / (1 + square) * v / torch.sqrt(square + 1e-8)

    def forward(self, x):
        u = self.primary(F.relu(self.first(x)))
        u = self.squash(u.reshape(x.shape[0], 288, 8))
        votes = torch.einsum("jiod,bid->bjio", self.weight, u)
        logits = torch.zeros_like(votes[..., 0])
        for _ in range(3):
            v = self.squash((torch.softmax(logits, 1)[..., None] * votes).sum(2))
            logits = logits + (votes * v[:, :, None]).sum(-1)
        return v.norm(dim=-1), v


@network("capsule", "capsule network")
def capsule():
    return Capsules(), [noise(2, 1, 28, 28)]


class Spiking(nn.Module):
    """Leaky integrate-and-fire, unrolled over its steps; a spike is the step function of the membrane."""

    def __init__(self, steps=8):
        super().__init__()
        self.one, self.two, self.steps = nn.Linear(64, 128), nn.Linear(128, 10), steps

    def forward(self, x):
        a, b, spikes = torch.zeros_like(self.one(x)), torch.zeros_like(self.two(self.one(x))), 0
        for _ in range(self.steps):
            a = 0.9 * a + self.one(x)
            fired = (a > 1.0).to(x.dtype)
            a = a - fired
            b = 0.9 * b + self.two(fired)
            out = (b > 1.0).to(x.dtype)
            b = b - out
            spikes = spikes + out
        return spikes, b


@network("spiking", "spiking network (leaky integrate-and-fire)")
def spiking():
    return Spiking(), [noise(4, 64)]


@network("conv1d", "1-D convolution")
def conv1d():
    return nn.Sequential(nn.Conv1d(8, 32, 9, 2, 4), nn.BatchNorm1d(32), nn.ReLU(), nn.Conv1d(32, 64, 5, groups=4), nn.GELU(), nn.AdaptiveAvgPool1d(4), nn.Flatten(), nn.Linear(256, 10)), [noise(2, 8, 512)]


class Wavenet(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.start = nn.Conv1d(1, width, 1)
        self.layers = nn.ModuleList(nn.ModuleList([nn.Conv1d(width, 2 * width, 2, dilation=d), nn.Conv1d(width, width, 1), nn.Conv1d(width, width, 1)]) for d in (1, 2, 4, 8, 16, 32))
        self.end = nn.Sequential(nn.ReLU(), nn.Conv1d(width, width, 1), nn.ReLU(), nn.Conv1d(width, 64, 1))

    def forward(self, x):
        x, skip = self.start(x), 0
        for wide, res, out in self.layers:
            a, b = wide(F.pad(x, (wide.dilation[0], 0))).chunk(2, 1)
            y = torch.tanh(a) * torch.sigmoid(b)
            skip, x = skip + out(y), x + res(y)
        return self.end(skip)


@network("wavenet", "WaveNet (dilated convolution)")
def wavenet():
    return Wavenet(), [noise(1, 1, 1024)]


@network("conv3d", "3-D convolution (C3D)")
def conv3d():
    return nn.Sequential(nn.Conv3d(3, 16, 3, padding=1), nn.BatchNorm3d(16), nn.ReLU(), nn.MaxPool3d((1, 2, 2)), nn.Conv3d(16, 32, 3, 2, 1), nn.ReLU(), nn.MaxPool3d(2), nn.Flatten(),
                         nn.Linear(32 * 2 * 4 * 4, 10)), [noise(1, 3, 8, 32, 32)]


@network("simclr", "SimCLR encoder")
def simclr():
    class Projected(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = models.resnet18(num_classes=64)
            self.head = nn.Sequential(nn.ReLU(), nn.Linear(64, 32))

        def forward(self, x):
            return F.normalize(self.head(self.body(x)), dim=1)
    return Projected(), [noise(2, 3, 48, 48)]


@network("moco", "MoCo encoder with its queue")
def moco():
    class Momentum(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.queue = Head(nn.Sequential(conv(3, 16, stride=2), conv(16, 32, stride=2)), 32, 32), nn.Parameter(torch.empty(32, 64))

        def forward(self, q, k):
            q, k = F.normalize(self.body(q), dim=1), F.normalize(self.body(k), dim=1)
            return torch.cat([(q * k).sum(1, keepdim=True), q @ F.normalize(self.queue, dim=0)], 1) / 0.07
    return Momentum(), [noise(2, 3, 48, 48), noise(2, 3, 48, 48)]


@network("facenet", "Siamese network / FaceNet with its triplet distances")
def facenet():
    class Triplet(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = Head(nn.Sequential(conv(3, 24, 5, 2), nn.LocalResponseNorm(5), conv(24, 48, stride=2), nn.MaxPool2d(2)), 48, 32)

        def forward(self, a, p, n):
            a, p, n = (F.normalize(self.body(x), dim=1) for x in (a, p, n))
            return F.relu((a - p).pow(2).sum(1) - (a - n).pow(2).sum(1) + 0.2), F.pairwise_distance(a, p), a
    return Triplet(), [noise(2, 3, 64, 64), noise(2, 3, 64, 64), noise(2, 3, 64, 64)]
