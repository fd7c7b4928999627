"""Networks over sequences: recurrent cells, attention of the first kind, speech, and models of a world."""
import torch
from torch import nn
from torch.nn import functional as F

from common import ids, network, noise


class Last(nn.Module):
    """A recurrent body and a head on its sequence; the states come out as well."""

    def __init__(self, body, width, classes=10):
        super().__init__()
        self.body, self.out = body, nn.Linear(width, classes)

    def forward(self, x):
        y, state = self.body(x)
        return self.out(y), state


@network("elman", "Elman RNN")
def elman():
    return Last(nn.RNN(24, 48, batch_first=True), 48), [noise(2, 20, 24)]


@network("jordan", "Jordan RNN")
def jordan():
    class Jordan(nn.Module):
        """What was said last goes into the next step."""

        def __init__(self):
            super().__init__()
            self.inner, self.context, self.out = nn.Linear(16, 32), nn.Linear(8, 32, bias=False), nn.Linear(32, 8)

        def forward(self, x):
            said, all_said = torch.zeros_like(self.out(self.inner(x[:, 0]))), []
            for t in range(x.shape[1]):
                said = torch.softmax(self.out(torch.tanh(self.inner(x[:, t]) + self.context(said))), -1)
                all_said.append(said)
            return torch.stack(all_said, 1)
    return Jordan(), [noise(2, 12, 16)]


@network("lstm", "LSTM")
def lstm():
    return Last(nn.LSTM(64, 128, 2, batch_first=True), 128), [noise(1, 50, 64)]


@network("gru", "GRU")
def gru():
    return Last(nn.GRU(64, 128, 2, batch_first=True), 128), [noise(2, 40, 64)]


@network("bidirectional", "bidirectional LSTM and GRU")
def bidirectional():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.LSTM(32, 48, bidirectional=True), nn.GRU(96, 40, bidirectional=True)

        def forward(self, x):
            y, _ = self.one(x)
            z, h = self.two(y)
            return z, h
    return Both(), [noise(24, 3, 32)]


class Seq2Seq(nn.Module):
    """Encoder, and a decoder of cells that looks back at every step; `bahdanau` adds through tanh, else Luong's general product."""

    def __init__(self, bahdanau, width=48, words=50):
        super().__init__()
        self.embed, self.encoder, self.cell = nn.Embedding(words, width), nn.GRU(width, width, batch_first=True), nn.GRUCell(2 * width, width)
        self.query, self.key, self.score, self.out, self.bahdanau = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, 1), nn.Linear(2 * width, words), bahdanau

    def forward(self, source, target):
        memory, h = self.encoder(self.embed(source))
        h, keys, answers = h[0], self.key(memory), []
        for t in range(target.shape[1]):
            if self.bahdanau:
                scores = self.score(torch.tanh(self.query(h)[:, None] + keys))[..., 0]
            else:
                scores = torch.bmm(keys, h[:, :, None])[..., 0]
            context = torch.bmm(torch.softmax(scores, 1)[:, None], memory)[:, 0]
            h = self.cell(torch.cat([self.embed(target[:, t]), context], 1), h)
            answers.append(self.out(torch.cat([h, context], 1)))
        return torch.stack(answers, 1)


@network("seq2seq_bahdanau", "sequence to sequence, Bahdanau attention", gain=1.0)
def bahdanau():
    return Seq2Seq(True), [ids(50, 2, 9), ids(50, 2, 6)]


@network("seq2seq_luong", "sequence to sequence, Luong attention", gain=1.0)
def luong():
    return Seq2Seq(False), [ids(50, 2, 9), ids(50, 2, 6)]


@network("deepspeech", "CTC head (DeepSpeech)")
def deepspeech():
    class Speech(nn.Module):
        def __init__(self):
            super().__init__()
            self.front = nn.Sequential(nn.Conv2d(1, 8, (11, 5), (2, 1), (5, 2)), nn.BatchNorm2d(8), nn.Hardtanh(0, 20))
            self.body, self.out = nn.GRU(8 * 40, 64, 2, bidirectional=True, batch_first=True), nn.Linear(128, 29)

        def forward(self, x):
            y = self.front(x)
            y, _ = self.body(y.permute(0, 2, 1, 3).flatten(2))
            return F.log_softmax(self.out(y), -1)
    return Speech(), [noise(1, 1, 100, 40)]


@network("world_model", "world model (encoder, recurrent dynamics, decoder)")
def world():
    class World(nn.Module):
        """Encoder, latent with noise that comes in, mixture of the next latent, decoder."""

        def __init__(self):
            super().__init__()
            self.encode = nn.Sequential(nn.Conv2d(3, 16, 4, 2), nn.ReLU(), nn.Conv2d(16, 32, 4, 2), nn.ReLU(), nn.Flatten())
            self.mean, self.log, self.cell = nn.Linear(1152, 16), nn.Linear(1152, 16), nn.LSTMCell(16 + 3, 64)
            self.mixture, self.grow = nn.Linear(64, 5 * 16 * 3), nn.Linear(16, 1152)
            self.decode = nn.Sequential(nn.ConvTranspose2d(32, 16, 4, 2), nn.ReLU(), nn.ConvTranspose2d(16, 3, 6, 2), nn.Sigmoid())

        def forward(self, picture, action, drawn, h, c):
            y = self.encode(picture)
            z = self.mean(y) + torch.exp(0.5 * self.log(y)) * drawn
            h, c = self.cell(torch.cat([z, action], 1), (h, c))
            pi, mean, spread = self.mixture(h).reshape(-1, 16, 5, 3).unbind(-1)
            return self.decode(F.relu(self.grow(z)).reshape(-1, 32, 6, 6)), torch.softmax(pi, -1), mean, torch.exp(spread * 0.3), h, c
    return World(), [noise(1, 3, 30, 30), noise(1, 3), noise(1, 16), noise(1, 64), noise(1, 64)]


@network("tacotron", "Tacotron-2-style decoder", gain=1.0)
def tacotron():
    class Tacotron(nn.Module):
        """Prenet, location-sensitive attention, two LSTM cells, postnet of 1-D convolutions; the prenet's dropout comes in as masks."""

        def __init__(self, width=48, mels=20):
            super().__init__()
            self.prenet, self.attend, self.decode = nn.Linear(mels, 32), nn.LSTMCell(32 + width, width), nn.LSTMCell(2 * width, width)
            self.query, self.key, self.place, self.where, self.score = nn.Linear(width, 32), nn.Linear(width, 32), nn.Conv1d(2, 8, 7, padding=3), nn.Linear(8, 32), nn.Linear(32, 1)
            self.frame, self.stop = nn.Linear(2 * width, mels), nn.Linear(2 * width, 1)
            self.post = nn.Sequential(nn.Conv1d(mels, 32, 5, padding=2), nn.BatchNorm1d(32), nn.Tanh(), nn.Conv1d(32, mels, 5, padding=2))
            self.width = width

        def forward(self, memory, frames, keep):
            zero = memory[:, 0] * 0
            h, c, g, d, context = zero, zero, zero, zero, zero
            weights = total = memory[:, :, 0] * 0
            keys, made, stops = self.key(memory), [], []
            for t in range(frames.shape[1]):
                x = F.relu(self.prenet(frames[:, t])) * keep[:, t]
                h, c = self.attend(torch.cat([x, context], 1), (h, c))
                place = self.where(self.place(torch.stack([weights, total], 1)).transpose(1, 2))
                weights = torch.softmax(self.score(torch.tanh(self.query(h)[:, None] + keys + place))[..., 0], 1)
                total = total + weights
                context = torch.bmm(weights[:, None], memory)[:, 0]
                g, d = self.decode(torch.cat([h, context], 1), (g, d))
                both = torch.cat([g, context], 1)
                made.append(self.frame(both))
                stops.append(self.stop(both))
            mel = torch.stack(made, 2)
            return mel + self.post(mel), torch.cat(stops, 1)
    return Tacotron(), [noise(1, 15, 48), noise(1, 8, 20), (torch.rand(1, 8, 32) > 0.5).float() * 2]


class ConformerBlock(nn.Module):
    def __init__(self, c, heads):
        super().__init__()
        self.feed = nn.ModuleList(nn.Sequential(nn.LayerNorm(c), nn.Linear(c, 4 * c), nn.SiLU(), nn.Linear(4 * c, c)) for _ in range(2))
        self.norm, self.attend = nn.LayerNorm(c), nn.MultiheadAttention(c, heads, batch_first=True)
        self.before, self.wide, self.deep, self.bn, self.narrow, self.last = nn.LayerNorm(c), nn.Conv1d(c, 2 * c, 1), nn.Conv1d(c, c, 15, padding=7, groups=c), nn.BatchNorm1d(c), nn.Conv1d(c, c, 1), nn.LayerNorm(c)

    def forward(self, x):
        x = x + 0.5 * self.feed[0](x)
        y = self.norm(x)
        x = x + self.attend(y, y, y, need_weights=False)[0]
        y = F.glu(self.wide(self.before(x).transpose(1, 2)), 1)
        x = x + self.narrow(F.silu(self.bn(self.deep(y)))).transpose(1, 2)
        return self.last(x + 0.5 * self.feed[1](x))


@network("conformer", "Conformer", gain=1.0, exporter="dynamo")
def conformer():
    class Conformer(nn.Module):
        def __init__(self, c=64):
            super().__init__()
            self.front, self.flat = nn.Sequential(nn.Conv2d(1, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 16, 3, 2), nn.ReLU()), nn.Linear(16 * 9, c)
            self.blocks, self.out = nn.ModuleList(ConformerBlock(c, 4) for _ in range(2)), nn.Linear(c, 30)

        def forward(self, x):
            y = self.front(x[:, None])
            y = self.flat(y.transpose(1, 2).flatten(2))
            for b in self.blocks:
                y = b(y)
            return F.log_softmax(self.out(y), -1)
    return Conformer(), [noise(1, 96, 40)]


@network("word2vec", "Word2Vec (skip-gram scores)")
def word2vec():
    class SkipGram(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.outer = nn.Embedding(500, 32), nn.Embedding(500, 32)

        def forward(self, word, context):
            v = self.inner(word)
            return torch.sigmoid(torch.einsum("bd,bkd->bk", v, self.outer(context))), v
    return SkipGram(), [ids(500, 8), ids(500, 8, 5)]


@network("glove", "GloVe lookup and likeness")
def glove():
    class Glove(nn.Module):
        def __init__(self):
            super().__init__()
            self.word, self.context, self.bw, self.bc = nn.Embedding(400, 24), nn.Embedding(400, 24), nn.Embedding(400, 1), nn.Embedding(400, 1)

        def forward(self, i, j):
            v = self.word(i)
            return (v * self.context(j)).sum(-1) + self.bw(i)[..., 0] + self.bc(j)[..., 0], F.cosine_similarity(v, self.word(j), -1)
    return Glove(), [ids(400, 12), ids(400, 12)]


@network("text_cnn", "TextCNN")
def text_cnn():
    class TextCnn(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.convs, self.out = nn.Embedding(300, 32), nn.ModuleList(nn.Conv1d(32, 24, k) for k in (3, 4, 5)), nn.Linear(72, 5)

        def forward(self, x):
            y = self.embed(x).transpose(1, 2)
            return self.out(torch.cat([F.relu(c(y)).amax(2) for c in self.convs], 1))
    return TextCnn(), [ids(300, 3, 20)]
