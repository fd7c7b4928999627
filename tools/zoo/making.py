"""Networks that make pictures or codes of them: autoencoders, GANs, diffusion."""
import torch
from torch import nn
from torch.nn import functional as F

from common import ids, network, noise


class Auto(nn.Module):
    def __init__(self, noisy):
        super().__init__()
        self.noisy = noisy
        self.encode = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 49, 24))
        self.grow, self.decode = nn.Linear(24, 32 * 49), nn.Sequential(nn.ConvTranspose2d(32, 16, 3, 2, 1, 1), nn.ReLU(), nn.ConvTranspose2d(16, 1, 3, 2, 1, 1), nn.Sigmoid())

    def forward(self, x, *drawn):
        if self.noisy:
            x = torch.clamp(x + 0.3 * drawn[0], -2, 2) * drawn[1]
        code = self.encode(x)
        return self.decode(F.relu(self.grow(code)).reshape(-1, 32, 7, 7)), code


@network("autoencoder", "autoencoder")
def autoencoder():
    return Auto(False), [noise(2, 1, 28, 28)]


@network("denoising", "denoising autoencoder")
def denoising():
    return Auto(True), [noise(2, 1, 28, 28), noise(2, 1, 28, 28), (torch.rand(2, 1, 28, 28) > 0.2).float()]


@network("vae", "VAE")
def vae():
    class Vae(nn.Module):
        def __init__(self):
            super().__init__()
            self.encode, self.mean, self.log, self.decode = nn.Sequential(nn.Linear(196, 128), nn.ReLU()), nn.Linear(128, 12), nn.Linear(128, 12), nn.Sequential(nn.Linear(12, 128), nn.ReLU(), nn.Linear(128, 196), nn.Sigmoid())

        def forward(self, x, drawn):
            h = self.encode(x)
            mean, log = self.mean(h), self.log(h) * 0.5
            return self.decode(mean + torch.exp(0.5 * log) * drawn), -0.5 * (1 + log - mean * mean - log.exp()).sum(1)
    return Vae(), [noise(4, 196), noise(4, 12)]


@network("vqvae", "VQ-VAE")
def vqvae():
    class Vq(nn.Module):
        """The nearest of 32 codes for each place."""

        def __init__(self):
            super().__init__()
            self.encode, self.codes = nn.Sequential(nn.Conv2d(3, 24, 4, 2, 1), nn.ReLU(), nn.Conv2d(24, 8, 4, 2, 1)), nn.Embedding(32, 8)
            self.decode = nn.Sequential(nn.ConvTranspose2d(8, 24, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(24, 3, 4, 2, 1))

        def forward(self, x):
            z = self.encode(x).permute(0, 2, 3, 1)
            flat = z.reshape(-1, 8)
            far = (flat * flat).sum(1, keepdim=True) - 2 * flat @ self.codes.weight.t() + (self.codes.weight ** 2).sum(1)
            which = far.argmin(1)
            return self.decode(self.codes(which).reshape(z.shape).permute(0, 3, 1, 2)), which
    return Vq(), [noise(1, 3, 32, 32)]


@network("dcgan", "DCGAN generator")
def dcgan():
    parts, c = [nn.ConvTranspose2d(32, 64, 4, 1, 0, bias=False), nn.BatchNorm2d(64), nn.ReLU()], 64
    for n in (32, 16):
        parts += [nn.ConvTranspose2d(c, n, 4, 2, 1, bias=False), nn.BatchNorm2d(n), nn.ReLU()]
        c = n
    return nn.Sequential(*parts, nn.ConvTranspose2d(c, 3, 4, 2, 1), nn.Tanh()), [noise(2, 32, 1, 1)]


@network("conditional_gan", "conditional GAN (generator and critic)")
def conditional():
    class Conditional(nn.Module):
        def __init__(self):
            super().__init__()
            self.label, self.make = nn.Embedding(10, 16), nn.Sequential(nn.Linear(48, 128), nn.LeakyReLU(0.2), nn.Linear(128, 196), nn.Tanh())
            self.judge = nn.Sequential(nn.Linear(212, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1), nn.Sigmoid())

        def forward(self, z, y):
            label = self.label(y)
            x = self.make(torch.cat([z, label], 1))
            return x, self.judge(torch.cat([x, label], 1))
    return Conditional(), [noise(3, 32), ids(10, 3)]


class Styled(nn.Module):
    """A modulated and demodulated convolution, noise that comes in, growing by bilinear resizing."""

    def __init__(self, cin, cout, style=32):
        super().__init__()
        self.weight, self.style, self.bias, self.strength = nn.Parameter(torch.empty(cout, cin, 3, 3)), nn.Linear(style, cin), nn.Parameter(torch.empty(cout)), nn.Parameter(torch.empty(1))

    def forward(self, x, w, drawn):
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        b, c, h, _ = x.shape
        weight = self.weight[None] * (self.style(w) + 1)[:, None, :, None, None]
        weight = weight * torch.rsqrt((weight * weight).sum((2, 3, 4), keepdim=True) + 1e-8)
        y = F.conv2d(x.reshape(1, b * c, h, h), weight.reshape(-1, c, 3, 3), padding=1, groups=b).reshape(b, -1, h, h)
        return F.leaky_relu(y + drawn * self.strength + self.bias[:, None, None], 0.2) * 1.414


@network("stylegan", "StyleGAN-style generator")
def stylegan():
    class StyleGan(nn.Module):
        def __init__(self):
            super().__init__()
            self.map, self.start = nn.Sequential(nn.Linear(32, 32), nn.LeakyReLU(0.2), nn.Linear(32, 32), nn.LeakyReLU(0.2)), nn.Parameter(torch.empty(1, 32, 4, 4))
            self.one, self.two, self.rgb = Styled(32, 24), Styled(24, 16), nn.Conv2d(16, 3, 1)

        def forward(self, z, n1, n2):
            w = self.map(z * torch.rsqrt((z * z).mean(1, keepdim=True) + 1e-8))
            x = self.one(self.start.expand(z.shape[0], -1, -1, -1), w, n1)
            return torch.tanh(self.rgb(self.two(x, w, n2)))
    return StyleGan(), [noise(2, 32), noise(2, 1, 8, 8), noise(2, 1, 16, 16)]


@network("pix2pix", "Pix2Pix generator")
def pix2pix():
    class Pix2Pix(nn.Module):
        """U-Net of strided and transposed convolutions with dropout masks as inputs."""

        def __init__(self):
            super().__init__()
            self.d = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1) for a, b in ((3, 16), (16, 32), (32, 48)))
            self.n = nn.ModuleList(nn.BatchNorm2d(c) for c in (32, 48, 32, 16))
            self.u = nn.ModuleList(nn.ConvTranspose2d(a, b, 4, 2, 1) for a, b in ((48, 32), (64, 16), (32, 3)))

        def forward(self, x, keep):
            a = self.d[0](x)
            b = self.n[0](self.d[1](F.leaky_relu(a, 0.2)))
            c = self.n[1](self.d[2](F.leaky_relu(b, 0.2)))
            y = torch.cat([self.n[2](self.u[0](F.relu(c))) * keep, b], 1)
            y = torch.cat([self.n[3](self.u[1](F.relu(y))), a], 1)
            return torch.tanh(self.u[2](F.relu(y)))
    return Pix2Pix(), [noise(1, 3, 64, 64), (torch.rand(1, 32, 16, 16) > 0.5).float() * 2]


@network("cyclegan", "CycleGAN generator")
def cyclegan():
    class Residual(nn.Module):
        def __init__(self, c):
            super().__init__()
            self.body = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(c, c, 3), nn.InstanceNorm2d(c, affine=True), nn.ReLU(), nn.ReflectionPad2d(1), nn.Conv2d(c, c, 3), nn.InstanceNorm2d(c, affine=True))

        def forward(self, x):
            return x + self.body(x)
    return nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(3, 16, 7), nn.InstanceNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.InstanceNorm2d(32), nn.ReLU(), Residual(32), Residual(32),
                         nn.ConvTranspose2d(32, 16, 3, 2, 1, 1), nn.InstanceNorm2d(16), nn.ReLU(), nn.ReflectionPad2d(3), nn.Conv2d(16, 3, 7), nn.Tanh()), [noise(1, 3, 48, 48)]


class TimeBlock(nn.Module):
    def __init__(self, cin, cout, time=64):
        super().__init__()
        self.one, self.two, self.time = nn.Sequential(nn.GroupNorm(4, cin), nn.SiLU(), nn.Conv2d(cin, cout, 3, padding=1)), nn.Sequential(nn.GroupNorm(4, cout), nn.SiLU(), nn.Conv2d(cout, cout, 3, padding=1)), nn.Linear(time, cout)
        self.short = nn.Conv2d(cin, cout, 1) if cin != cout else nn.Identity()

    def forward(self, x, t):
        return self.short(x) + self.two(self.one(x) + self.time(F.silu(t))[:, :, None, None])


class Look(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.norm, self.qkv, self.out = nn.GroupNorm(4, c), nn.Conv2d(c, 3 * c, 1), nn.Conv2d(c, c, 1)

    def forward(self, x):
        b, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, 3, c, h * w).unbind(1)
        y = torch.softmax(torch.einsum("bcq,bck->bqk", q, k) * c ** -0.5, -1)
        return x + self.out(torch.einsum("bqk,bck->bcq", y, v).reshape(b, c, h, w))


@network("ddpm", "DDPM U-Net", gain=1.0)
def ddpm():
    class Ddpm(nn.Module):
        def __init__(self, c=32):
            super().__init__()
            self.time, self.start = nn.Sequential(nn.Linear(32, 64), nn.SiLU(), nn.Linear(64, 64)), nn.Conv2d(3, c, 3, padding=1)
            self.a, self.down, self.b, self.look, self.m, self.up, self.c = TimeBlock(c, c), nn.Conv2d(c, c, 3, 2, 1), TimeBlock(c, 2 * c), Look(2 * c), TimeBlock(2 * c, 2 * c), nn.Conv2d(2 * c, c, 3, padding=1), TimeBlock(2 * c, c)
            self.out = nn.Sequential(nn.GroupNorm(4, c), nn.SiLU(), nn.Conv2d(c, 3, 3, padding=1))
            self.register_buffer("rates", torch.exp(torch.arange(16) * (-9.21 / 15)))

        def forward(self, x, t):
            angle = t[:, None].to(x.dtype) * self.rates
            t = self.time(torch.cat([angle.sin(), angle.cos()], 1))
            a = self.a(self.start(x), t)
            y = self.m(self.look(self.b(self.down(a), t)), t)
            y = self.up(F.interpolate(y, scale_factor=2.0, mode="nearest"))
            return self.out(self.c(torch.cat([y, a], 1), t))
    return Ddpm(), [noise(1, 3, 32, 32), torch.tensor([421])]


@network("super_resolution", "sub-pixel super resolution (ESPCN)")
def espcn():
    return nn.Sequential(nn.Conv2d(1, 32, 5, padding=2), nn.Tanh(), nn.Conv2d(32, 32, 3, padding=1), nn.Tanh(), nn.Conv2d(32, 9, 3, padding=1), nn.PixelShuffle(3), nn.Sigmoid()), [noise(1, 1, 32, 32)]


@network("nerf", "NeRF (encoded positions)")
def nerf():
    class Nerf(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.out = nn.Linear(39, 64), nn.Linear(64 + 39, 64), nn.Linear(64, 4)

        def forward(self, x):
            y = torch.cat([x] + [f(x * 2.0 ** k) for k in range(6) for f in (torch.sin, torch.cos)], -1)
            return torch.sigmoid(self.out(F.relu(self.two(torch.cat([F.relu(self.one(y)), y], -1)))))
    return Nerf(), [noise(256, 3, scale=0.5)]
