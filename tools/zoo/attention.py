"""Networks of attention: the original Transformer and its families, most of them as the library transformers has them, small."""
import torch
import transformers
from torch import nn
from torch.nn import functional as F

from common import ids, network, noise


class Call(nn.Module):
    """A model of transformers called by keywords; `take` picks what is compared."""

    def __init__(self, model, names, take):
        super().__init__()
        self.model, self.names, self.take = model, names, take

    def forward(self, *x):
        y = self.model(**dict(zip(self.names, x)), **({"use_cache": False} if getattr(self.model.config, "use_cache", False) else {}))
        return tuple(getattr(y, t) for t in self.take)


def call(kind, config, names, take, attention="eager"):
    config._attn_implementation = attention
    return Call(kind(config), names, take)


SMALL = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128)


@network("transformer", "original encoder-decoder Transformer", gain=1.0, exporter="dynamo")
def transformer():
    class Original(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.out = nn.Embedding(100, 64), nn.Linear(64, 100)
            self.body = nn.Transformer(64, 4, 2, 2, 128, batch_first=True)
            at, div = torch.arange(40)[:, None], torch.exp(torch.arange(0, 64, 2) * (-9.21 / 64))
            self.register_buffer("places", torch.stack([torch.sin(at * div), torch.cos(at * div)], -1).flatten(1))
            self.register_buffer("mask", torch.triu(torch.full((40, 40), float("-inf")), 1))

        def forward(self, source, target):
            s, t = source.shape[1], target.shape[1]
            return self.out(self.body(self.embed(source) * 8 + self.places[:s], self.embed(target) * 8 + self.places[:t], tgt_mask=self.mask[:t, :t], tgt_is_causal=False))
    return Original(), [ids(100, 2, 11), ids(100, 2, 7)]


def masked(rows, length, short):
    mask = torch.ones(rows, length, dtype=torch.int64)
    mask[0, short:] = 0
    return mask


@network("bert", "BERT", gain=1.0, exporter="script")
def bert():
    c = transformers.BertConfig(vocab_size=200, max_position_embeddings=64, **SMALL)
    return call(transformers.BertModel, c, ["input_ids", "attention_mask", "token_type_ids"], ["last_hidden_state", "pooler_output"]), [ids(200, 2, 24), masked(2, 24, 17), ids(2, 2, 24)]


@network("bert_sdpa", "BERT (fused attention), classification", gain=1.0, exporter="dynamo")
def bert_sdpa():
    c = transformers.BertConfig(vocab_size=200, max_position_embeddings=64, num_labels=3, **SMALL)
    return call(transformers.BertForSequenceClassification, c, ["input_ids"], ["logits"], "sdpa"), [ids(200, 1, 32)]


@network("roberta", "RoBERTa", gain=1.0)
def roberta():
    c = transformers.RobertaConfig(vocab_size=200, max_position_embeddings=66, pad_token_id=1, **SMALL)
    return call(transformers.RobertaForTokenClassification, c, ["input_ids", "attention_mask"], ["logits"]), [ids(195, 2, 20) + 4, masked(2, 20, 13)]


@network("distilbert", "DistilBERT", gain=1.0)
def distilbert():
    c = transformers.DistilBertConfig(vocab_size=200, max_position_embeddings=64, dim=64, n_layers=2, n_heads=4, hidden_dim=128)
    return call(transformers.DistilBertForQuestionAnswering, c, ["input_ids", "attention_mask"], ["start_logits", "end_logits"]), [ids(200, 2, 20), masked(2, 20, 13)]


@network("albert", "ALBERT", gain=1.0)
def albert():
    c = transformers.AlbertConfig(vocab_size=200, embedding_size=32, max_position_embeddings=64, **SMALL)
    return call(transformers.AlbertModel, c, ["input_ids"], ["last_hidden_state"]), [ids(200, 2, 20)]


@network("gpt2", "GPT-2", gain=1.0, exporter="dynamo")
def gpt2():
    c = transformers.GPT2Config(vocab_size=200, n_positions=64, n_embd=64, n_layer=2, n_head=4, use_cache=False)
    return call(transformers.GPT2LMHeadModel, c, ["input_ids"], ["logits"]), [ids(200, 2, 16)]


@network("llama", "Llama (grouped queries, rotary positions, SwiGLU)", gain=1.0, exporter="dynamo")
def llama():
    c = transformers.LlamaConfig(vocab_size=200, num_key_value_heads=2, max_position_embeddings=64, use_cache=False, **SMALL)
    return call(transformers.LlamaForCausalLM, c, ["input_ids"], ["logits"]), [ids(200, 2, 16)]


@network("t5", "T5", gain=1.0)
def t5():
    c = transformers.T5Config(vocab_size=200, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, use_cache=False, decoder_start_token_id=0)
    return call(transformers.T5ForConditionalGeneration, c, ["input_ids", "decoder_input_ids"], ["logits"]), [ids(200, 2, 14), ids(200, 2, 6)]


@network("switch_moe", "Switch-style mixture of experts", gain=1.0)
def switch():
    class Experts(nn.Module):
        """Top one of four experts for each token, written densely as exporters want it: every expert's answer, and a mask."""

        def __init__(self, c=48, experts=4):
            super().__init__()
            self.norm, self.router = nn.LayerNorm(c), nn.Linear(c, experts, bias=False)
            self.up, self.down = nn.Parameter(torch.empty(experts, c, 2 * c)), nn.Parameter(torch.empty(experts, 2 * c, c))

        def forward(self, x):
            y = self.norm(x)
            p = torch.softmax(self.router(y) * 4, -1)
            best, which = p.max(-1)
            each = torch.einsum("btef,efc->btec", F.relu(torch.einsum("btc,ecf->btef", y, self.up * 8)), self.down * 6)
            return x + torch.gather(each, 2, which[..., None, None].expand(-1, -1, 1, x.shape[-1]))[:, :, 0] * best[..., None], which
    return Experts(), [noise(2, 10, 48)]


@network("moe_top2", "mixture of experts, two of eight by TopK and scatter", gain=1.0)
def moe():
    class Top2(nn.Module):
        def __init__(self, c=32):
            super().__init__()
            self.router, self.up, self.gate, self.down = nn.Linear(c, 8), nn.Parameter(torch.empty(8, c, 64)), nn.Parameter(torch.empty(8, c, 64)), nn.Parameter(torch.empty(8, 64, c))

        def forward(self, x):
            weight, which = torch.topk(self.router(x) * 3, 2, -1)
            share = torch.zeros_like(self.router(x)).scatter(-1, which, torch.softmax(weight, -1))
            y = torch.matmul(F.silu(torch.matmul(x[:, None], self.gate * 6)) * torch.matmul(x[:, None], self.up * 6), self.down * 8)
            return (y * share.transpose(1, 2)[..., None]).sum(1), which
    return Top2(), [noise(2, 9, 32)]


@network("vit", "ViT", gain=1.0)
def vit():
    c = transformers.ViTConfig(image_size=64, patch_size=8, num_labels=10, **SMALL)
    return call(transformers.ViTForImageClassification, c, ["pixel_values"], ["logits"], "sdpa"), [noise(1, 3, 64, 64)]


@network("swin", "Swin (shifted windows)", gain=1.0)
def swin():
    c = transformers.SwinConfig(image_size=64, patch_size=4, embed_dim=24, depths=[2, 2], num_heads=[2, 4], window_size=4, num_labels=10)
    return call(transformers.SwinForImageClassification, c, ["pixel_values"], ["logits"]), [noise(1, 3, 64, 64)]


@network("mobilevit", "MobileViT", gain=1.1)
def mobilevit():
    c = transformers.MobileViTConfig(image_size=64, patch_size=2, hidden_sizes=[24, 32, 40], neck_hidden_sizes=[8, 16, 16, 24, 32, 40, 64], num_attention_heads=4, num_labels=10)
    return call(transformers.MobileViTForImageClassification, c, ["pixel_values"], ["logits"]), [noise(1, 3, 64, 64)]


def clip_config():
    return transformers.CLIPConfig(text_config=dict(vocab_size=200, max_position_embeddings=24, eos_token_id=199, bos_token_id=198, pad_token_id=1, **SMALL), vision_config=dict(image_size=64, patch_size=16, **SMALL), projection_dim=32)


@network("clip", "CLIP (both encoders)", gain=1.0)
def clip():
    words = ids(190, 3, 12)
    words[:, -1] = 199
    return call(transformers.CLIPModel, clip_config(), ["input_ids", "pixel_values"], ["logits_per_image", "text_embeds", "image_embeds"]), [words, noise(2, 3, 64, 64)]


@network("whisper", "Whisper encoder-decoder", gain=1.0, exporter="dynamo")
def whisper():
    c = transformers.WhisperConfig(vocab_size=200, num_mel_bins=40, d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=128,
                                   decoder_ffn_dim=128, max_source_positions=50, max_target_positions=32, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=3, use_cache=False)
    return call(transformers.WhisperForConditionalGeneration, c, ["input_features", "decoder_input_ids"], ["logits"]), [noise(1, 40, 100), ids(190, 1, 6)]


@network("wav2vec2", "wav2vec 2.0 with its CTC head", gain=1.0)
def wav2vec():
    c = transformers.Wav2Vec2Config(vocab_size=32, conv_dim=(32, 32, 32), conv_stride=(5, 4, 4), conv_kernel=(10, 8, 4), num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, **SMALL)
    return call(transformers.Wav2Vec2ForCTC, c, ["input_values"], ["logits"]), [noise(1, 3200)]


class Performer(nn.Module):
    """Linear attention through positive random features: softmax(q k') is never made."""

    def __init__(self, c=64, heads=4, features=32):
        super().__init__()
        self.qkv, self.out, self.heads = nn.Linear(c, 3 * c), nn.Linear(c, c), heads
        self.norm, self.mlp = nn.LayerNorm(c), nn.Sequential(nn.LayerNorm(c), nn.Linear(c, 2 * c), nn.GELU(approximate="tanh"), nn.Linear(2 * c, c))
        self.register_buffer("project", torch.randn(c // heads, features))

    def feature(self, x):
        x = x * x.shape[-1] ** -0.25
        y = x @ self.project
        return torch.exp(y - 0.5 * (x * x).sum(-1, keepdim=True) - y.amax((-1, -2), keepdim=True)) + 1e-4

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = self.feature(q), self.feature(k)
        y = torch.einsum("bhtf,bhfd->bhtd", q, torch.einsum("bhtf,bhtd->bhfd", k, v)) / torch.einsum("bhtf,bhf->bht", q, k.sum(2))[..., None]
        x = x + self.out(y.transpose(1, 2).reshape(b, t, c))
        return x + self.mlp(x)


@network("performer", "Performer (linear attention)", gain=1.0)
def performer():
    return nn.Sequential(Performer(), Performer()), [noise(1, 100, 64)]


class Evoformer(nn.Module):
    """A block over an alignment [b, sequences, residues, c] and pairs [b, residues, residues, d]: gated row attention with a bias of pairs, outer product mean, triangle update."""

    def __init__(self, c=32, d=16, heads=4):
        super().__init__()
        self.norm, self.qkv, self.gate, self.bias, self.out, self.heads = nn.LayerNorm(c), nn.Linear(c, 3 * c, bias=False), nn.Linear(c, c), nn.Linear(d, heads, bias=False), nn.Linear(c, c), heads
        self.move, self.a, self.b, self.outer = nn.Sequential(nn.LayerNorm(c), nn.Linear(c, 2 * c), nn.ReLU(), nn.Linear(2 * c, c)), nn.Linear(c, 8), nn.Linear(c, 8), nn.Linear(64, d)
        self.pair, self.left, self.right, self.lg, self.rg, self.g, self.done, self.end = nn.LayerNorm(d), nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d), nn.LayerNorm(d), nn.Linear(d, d)

    def forward(self, m, z):
        b, s, r, c = m.shape
        y = self.norm(m)
        q, k, v = self.qkv(y).reshape(b, s, r, 3, self.heads, -1).permute(3, 0, 1, 4, 2, 5)
        scores = torch.einsum("bshqd,bshkd->bshqk", q, k) * (c // self.heads) ** -0.5 + self.bias(z).permute(0, 3, 1, 2)[:, None]
        y = torch.einsum("bshqk,bshkd->bsqhd", torch.softmax(scores, -1), v).reshape(b, s, r, c)
        m = m + self.out(y * torch.sigmoid(self.gate(self.norm(m))))
        m = m + self.move(m)
        z = z + self.outer(torch.einsum("bsic,bsjd->bijcd", self.a(m), self.b(m)).flatten(3) / s)
        p = self.pair(z)
        left, right = torch.sigmoid(self.lg(p)) * self.left(p), torch.sigmoid(self.rg(p)) * self.right(p)
        return m, z + torch.sigmoid(self.g(p)) * self.end(self.done(torch.einsum("bikc,bjkc->bijc", left, right)))


@network("evoformer", "Evoformer block", gain=1.0)
def evoformer():
    return Evoformer(), [noise(1, 6, 16, 32), noise(1, 16, 16, 16)]
