"""What is neither picture nor sequence: graphs, energy models, maps, agents, physics."""
import torch
from torch import nn
from torch.nn import functional as F

from common import Case, network, noise
from pictures import conv


def adjacency(n, share=0.15):
    a = (torch.rand(n, n) < share).float()
    return torch.clamp(a + a.t() + torch.eye(n), max=1)


@network("gcn", "graph convolution (GCN)")
def gcn():
    class Gcn(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(24, 32), nn.Linear(32, 7)

        def forward(self, x, a):
            rate = torch.rsqrt(a.sum(1))
            a = rate[:, None] * a * rate[None]
            return F.log_softmax(a @ self.two(F.relu(a @ self.one(x))), -1)
    return Gcn(), [noise(40, 24), adjacency(40)]


def edges(n, count):
    return torch.stack([torch.randint(0, n, (count,)), torch.randint(0, n, (count,))])


@network("graphsage", "GraphSAGE (edges, scatter mean)", exporter="dynamo")
def graphsage():
    class Sage(nn.Module):
        def __init__(self):
            super().__init__()
            self.own, self.others, self.out = nn.Linear(16, 32), nn.Linear(16, 32), nn.Linear(32, 5)

        def forward(self, x, e):
            said = torch.zeros_like(x).index_add(0, e[1], x[e[0]])
            count = torch.zeros_like(x[:, 0]).index_add(0, e[1], torch.ones_like(e[1], dtype=x.dtype))
            y = F.normalize(F.relu(self.own(x) + self.others(said / count.clamp(min=1)[:, None])), dim=1)
            return self.out(y), y
    return Sage(), [noise(30, 16), edges(30, 90)]


@network("gat", "graph attention")
def gat():
    class Gat(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.left, self.right = nn.Linear(16, 32, bias=False), nn.Linear(32, 1), nn.Linear(32, 1)

        def forward(self, x, a):
            y = self.w(x)
            e = F.leaky_relu(self.left(y) + self.right(y).t(), 0.2)
            return F.elu(torch.softmax(e.masked_fill(a == 0, -1e9), 1) @ y)
    return Gat(), [noise(30, 16), adjacency(30)]


@network("pointnet", "PointNet")
def pointnet():
    class Points(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.turn = nn.Sequential(nn.Conv1d(3, 32, 1), nn.BatchNorm1d(32), nn.ReLU(), nn.Conv1d(32, 64, 1), nn.ReLU()), nn.Linear(64, 9)
            self.two, self.out = nn.Sequential(nn.Conv1d(3, 64, 1), nn.BatchNorm1d(64), nn.ReLU()), nn.Linear(64, 8)

        def forward(self, x):
            turn = self.turn(self.one(x).amax(2)).reshape(-1, 3, 3)
            return self.out(self.two(torch.bmm(turn, x)).amax(2))
    return Points(), [noise(2, 3, 128)]


@network("rbm", "RBM and deep belief network as feed-forward")
def rbm():
    class Belief(nn.Module):
        """Up through the layers and down again with the same weights; hidden units fire where their probability passes a draw that comes in."""

        def __init__(self):
            super().__init__()
            self.w, self.v, self.b = nn.Parameter(torch.empty(48, 64)), nn.Parameter(torch.empty(24, 48)), nn.ParameterList([nn.Parameter(torch.empty(n)) for n in (48, 24, 64)])

        def forward(self, x, drawn):
            p = torch.sigmoid(F.linear(x, self.w, self.b[0]))
            h = (p > drawn).to(x.dtype)
            top = torch.sigmoid(F.linear(h, self.v, self.b[1]))
            free = -(x @ self.b[2]) - F.softplus(F.linear(x, self.w, self.b[0])).sum(1)
            return torch.sigmoid(h @ self.w + self.b[2]), top, free
    return Belief(), [(torch.rand(3, 64) > 0.5).float(), (torch.rand(3, 48) * 7).round() / 7]


@network("hopfield", "Hopfield update")
def hopfield():
    class Hopfield(nn.Module):
        def __init__(self):
            super().__init__()
            patterns = torch.sign(torch.randn(5, 64))
            self.register_buffer("w", patterns.t() @ patterns / 64 - torch.eye(64) * 5 / 64)

        def forward(self, x):
            for _ in range(4):
                x = torch.where(x @ self.w >= 1e-4, 1.0, -1.0)
            return x, -0.5 * ((x @ self.w) * x).sum(1)
    return Hopfield(), [torch.sign(torch.randn(4, 64))]


@network("kohonen", "Kohonen map")
def kohonen():
    class Kohonen(nn.Module):
        """The best matching unit, and every unit moved towards the sample by a Gaussian of its distance on the grid."""

        def __init__(self):
            super().__init__()
            self.units = nn.Parameter(torch.empty(36, 8))
            self.register_buffer("grid", torch.stack(torch.meshgrid(torch.arange(6.), torch.arange(6.), indexing="ij"), -1).reshape(36, 2))

        def forward(self, x):
            best = torch.cdist(x[None], self.units[None])[0].argmin(1)
            near = torch.exp(-((self.grid[None] - self.grid[best][:, None]) ** 2).sum(-1) / 4)
            return best, self.units + 0.3 * (near[:, :, None] * (x[:, None] - self.units)).mean(0)
    return Kohonen(), [noise(6, 8)]


@network("rbf", "radial basis functions")
def rbf():
    class Rbf(nn.Module):
        def __init__(self):
            super().__init__()
            self.centre, self.width, self.out = nn.Parameter(torch.empty(20, 6)), nn.Parameter(torch.empty(20)), nn.Linear(20, 3)

        def forward(self, x):
            return self.out(torch.exp(-self.width * ((x[:, None] - self.centre) ** 2).sum(-1) * 0.3))
    return Rbf(), [noise(8, 6)]


class Tower(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.one, self.two = conv(c, c), conv(c, c, act=None)

    def forward(self, x):
        return F.relu(x + self.two(self.one(x)))


@network("alphago_zero", "policy and value tower (AlphaGo Zero)", gain=1.1)
def alphago():
    class Go(nn.Module):
        def __init__(self, c=48):
            super().__init__()
            self.tower = nn.Sequential(conv(17, c), Tower(c), Tower(c), Tower(c))
            self.p, self.v = nn.Sequential(conv(c, 2, 1), nn.Flatten(), nn.Linear(162, 82)), nn.Sequential(conv(c, 1, 1), nn.Flatten(), nn.Linear(81, 32), nn.ReLU(), nn.Linear(32, 1), nn.Tanh())

        def forward(self, x):
            y = self.tower(x)
            return F.log_softmax(self.p(y), 1), self.v(y)
    return Go(), [(torch.rand(2, 17, 9, 9) > 0.5).float()]


@network("actor_critic", "actor-critic")
def actor_critic():
    class Agent(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.actor, self.critic, self.log = nn.Sequential(nn.Linear(12, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh()), nn.Linear(64, 4), nn.Linear(64, 1), nn.Parameter(torch.empty(4))

        def forward(self, x, drawn):
            y = self.body(x)
            mean, spread = self.actor(y), self.log.exp()
            action = torch.tanh(mean + spread * drawn)
            return action, -0.5 * (drawn * drawn + 2 * self.log + 1.837877).sum(1), self.critic(y)
    return Agent(), [noise(5, 12), noise(5, 4)]


@network("dueling_dqn", "dueling deep Q network")
def dueling():
    class Dueling(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(4, 16, 8, 4), nn.ReLU(), nn.Conv2d(16, 32, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(2592, 64), nn.ReLU())
            self.a, self.v = nn.Linear(64, 6), nn.Linear(64, 1)

        def forward(self, x):
            y = self.body(x / 255)
            a = self.a(y)
            return self.v(y) + a - a.mean(1, keepdim=True)
    return Dueling(), [(torch.rand(1, 4, 84, 84) * 255).floor()]


@network("pinn", "physics-informed MLP (with the derivative of its answer)")
def pinn():
    class Physics(nn.Module):
        """u(x, t) by tanh layers, and du/dx written out by the chain rule."""

        def __init__(self):
            super().__init__()
            self.one, self.two, self.out = nn.Linear(2, 32), nn.Linear(32, 32), nn.Linear(32, 1)

        def forward(self, x):
            a = torch.tanh(self.one(x))
            b = torch.tanh(self.two(a))
            da = (1 - a * a) * self.one.weight[:, 0]
            db = (1 - b * b) * F.linear(da, self.two.weight)
            return self.out(b), F.linear(db, self.out.weight)
    return Physics(), [noise(50, 2)]


@network("hypernetwork", "network whose weights another makes")
def hyper():
    class Hyper(nn.Module):
        def __init__(self):
            super().__init__()
            self.make = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16 * 4 + 4))

        def forward(self, x, z):
            w = self.make(z)
            return torch.bmm(w[:, :64].reshape(-1, 4, 16), x[:, :, None])[..., 0] + w[:, 64:]
    return Hyper(), [noise(3, 16), noise(3, 8)]


@network("neural_ode", "neural ODE (four Runge-Kutta steps)")
def ode():
    class Ode(nn.Module):
        def __init__(self):
            super().__init__()
            self.f = nn.Sequential(nn.Linear(8, 32), nn.Softplus(), nn.Linear(32, 8))

        def forward(self, y):
            h = 0.25
            for _ in range(4):
                a = self.f(y)
                b = self.f(y + h / 2 * a)
                c = self.f(y + h / 2 * b)
                y = y + h / 6 * (a + 2 * b + 2 * c + self.f(y + h * c))
            return y
    return Ode(), [noise(4, 8)]


@network("fourier_operator", "Fourier neural operator (by a DFT matrix)", exporter="script")
def fourier():
    class Fno(nn.Module):
        def __init__(self, n=32, modes=8, c=12):
            super().__init__()
            at = torch.arange(n)[:, None] * torch.arange(modes)[None] * (6.2831853 / n)
            self.register_buffer("cos", torch.cos(at))
            self.register_buffer("sin", torch.sin(at))
            self.real, self.imag, self.lift, self.skip, self.out, self.n = nn.Parameter(torch.empty(c, c, modes)), nn.Parameter(torch.empty(c, c, modes)), nn.Linear(1, c), nn.Conv1d(c, c, 1), nn.Linear(c, 1), n

        def forward(self, x):
            y = self.lift(x).transpose(1, 2)
            re, im = y @ self.cos, -(y @ self.sin)
            a = torch.einsum("bik,iok->bok", re, self.real) - torch.einsum("bik,iok->bok", im, self.imag)
            b = torch.einsum("bik,iok->bok", re, self.imag) + torch.einsum("bik,iok->bok", im, self.real)
            z = (a @ self.cos.t() - b @ self.sin.t()) * (2 / self.n)
            return self.out(F.gelu(z + self.skip(y)).transpose(1, 2))
    return Fno(), [noise(2, 32, 1)]


@network("wide_and_deep", "wide and deep recommender")
def wide_deep():
    class WideDeep(nn.Module):
        def __init__(self):
            super().__init__()
            self.tables, self.deep, self.wide = nn.ModuleList(nn.Embedding(n, 8) for n in (50, 20, 100)), nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 1)), nn.Linear(6, 1)

        def forward(self, which, x):
            e = torch.cat([t(which[:, i]) for i, t in enumerate(self.tables)] + [x], 1)
            return torch.sigmoid(self.deep(e) + self.wide(x))
    return WideDeep(), [torch.randint(0, 20, (7, 3)), noise(7, 6)]


@network("sparse_weights", "weights stored sparse")
def sparse_weights():
    """Two layers whose initializers are SparseTensorProto: one index for each dimension, and one through the whole tensor."""
    import numpy as np
    from onnx import TensorProto, helper

    r = np.random.default_rng(5)
    x = r.standard_normal((3, 12)).astype(np.float32)
    parts, y = [], x
    for name, shape, flat in (("w", (12, 9), False), ("v", (9, 5), True)):
        w = (r.standard_normal(shape) * (r.random(shape) < 0.3)).astype(np.float32)
        at = np.argwhere(w)
        values = helper.make_tensor(name, TensorProto.FLOAT, [len(at)], w[w != 0])
        at = at[:, 0] * shape[1] + at[:, 1] if flat else at
        parts.append(helper.make_sparse_tensor(values, helper.make_tensor(name + "_at", TensorProto.INT64, at.shape, at.reshape(-1)), list(shape)))
        y = np.maximum(y @ w, 0)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Relu", ["a"], ["b"]), helper.make_node("MatMul", ["b", "v"], ["c"]), helper.make_node("Relu", ["c"], ["y"])]
    graph = helper.make_graph(nodes, "sparse", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 12])], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 5])], sparse_initializer=parts)
    return Case(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), {"x": x}, [y])
