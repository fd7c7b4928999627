#!/usr/bin/env python3
"""Writes tests/text/tokenizer_vectors.json: small tokenizers of every kind, random Unicode texts, and the ids that the `tokenizers` and
`sentencepiece` packages give them. needs: tokenizers sentencepiece"""
import io, json, random, sys, unicodedata
import sentencepiece as spm
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

rng = random.Random(7)
WORDS = ("the quick brown fox jumps over lazy dog Hello world it's don't we'll I've 123 4567 89 3.14 naïve café Ünïcödé İstanbul ΣΊΣΥΦΟΣ straße "
         "Привет мир 你好世界 我想在apple工作 こんにちは カタカナ 안녕하세요 नमस्ते ﬁne ①②③ ½ x² e\u0301 A\u030a ﷺ 🦙 👨‍👩‍👧 🚀✅ — … “quoted” (paren) [x] {y} a_b "
         "foo.bar user@example.com http://x.org #tag $9.99 50% A/B C++ ☃ ").split()
SPACES = [" ", " ", " ", " ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", "\u00a0", "\u3000", "", " \n "]
CORPUS = [" ".join(rng.choice(WORDS) for _ in range(12)) for _ in range(400)]


def character():
    """One whose category has not changed since Unicode 3.2: libraries carry tables of different ages."""
    while True:
        low, high = rng.choice([(32, 126), (0xA0, 0x24F), (0x370, 0x5FF), (0x900, 0xDFF), (0x2000, 0x27BF), (0x4E00, 0x4FFF), (0xAC00, 0xACFF), (0x1D400, 0x1D6FF)])
        c = chr(rng.randint(low, high))
        if unicodedata.category(c) == unicodedata.ucd_3_2_0.category(c) != "Cn":
            return c


def text():
    out = "".join(rng.choice(WORDS) + rng.choice(SPACES) for _ in range(rng.randint(0, 9)))
    if rng.random() < 0.3:
        out = rng.choice(SPACES) + out
    if rng.random() < 0.4:
        at = rng.randint(0, len(out))
        out = out[:at] + "".join(character() for _ in range(rng.randint(1, 6))) + out[at:]
    return out


TEXTS = ["", " ", "a", "  two  spaces ", "<s>x</s>", "[CLS] y [SEP]", "<|end|> <extra> <extra>z q<word>q <word> Mixed<norm>case", "aaaaaaaaaaaaaaaaaaaaaaaa"] + [text() for _ in range(52)]
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def byte_bpe(split=None, prefix=False, **more):
    t = Tokenizer(models.BPE(**more))
    level = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=split is None)
    t.pre_tokenizer = level if split is None else pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(split), "isolated"), level])
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=380, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return t


def added(t):
    t.add_special_tokens([AddedToken("<|end|>", lstrip=True), AddedToken("<s>"), AddedToken("</s>", rstrip=True)])
    t.add_tokens([AddedToken("<extra>", rstrip=True, normalized=False), AddedToken("<word>", single_word=True), AddedToken("<norm>", normalized=True)])
    return t


def make():
    yield "byte-level, GPT-2's pattern", added(byte_bpe())
    t = byte_bpe(LLAMA3, ignore_merges=True)
    t.normalizer = normalizers.NFC()
    t = added(t)
    t.post_processor = processors.Sequence([processors.ByteLevel(), processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", t.token_to_id("<s>"))])])
    yield "byte-level, Llama 3's pattern, whole words first, NFC", t
    t = added(byte_bpe(prefix=True))
    t.post_processor = processors.RobertaProcessing(("</s>", t.token_to_id("</s>")), ("<s>", t.token_to_id("<s>")))
    yield "byte-level with a space before, Roberta", t

    t = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    t.train_from_iterator(CORPUS[:60], trainers.BpeTrainer(vocab_size=340, limit_alphabet=60, special_tokens=["<unk>"] + ["<0x%02X>" % i for i in range(256)], show_progress=False))
    data = json.loads(t.to_str())
    data["added_tokens"] = data["added_tokens"][:1]
    yield "BPE with byte tokens, marked spaces by normaliser", added(Tokenizer.from_str(json.dumps(data)))
    for scheme in ("first", "always", "never"):
        t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=scheme == "first"))
        t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=scheme != "always")
        t.decoder = decoders.Metaspace(prepend_scheme=scheme)
        t.train_from_iterator(CORPUS[:60], trainers.BpeTrainer(vocab_size=160, limit_alphabet=60, special_tokens=["<unk>"], show_progress=False))
        yield "BPE, metaspace " + scheme, added(t)

    t = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    t.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"), "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    t.train_from_iterator(CORPUS[:60], trainers.BpeTrainer(vocab_size=300, end_of_word_suffix="</w>", special_tokens=["<unk>"], show_progress=False))
    yield "CLIP's kind: lower case, end of word marked", added(t)

    t = Tokenizer(models.Unigram())
    t.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    t.decoder = decoders.Metaspace()
    t.train_from_iterator(CORPUS[:80], trainers.UnigramTrainer(vocab_size=300, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False))
    t = added(t)
    t.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", t.token_to_id("</s>"))])
    yield "Unigram, NFKC", t

    t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    t.normalizer = normalizers.BertNormalizer()
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.decoder = decoders.WordPiece()
    t.train_from_iterator(CORPUS[:80], trainers.WordPieceTrainer(vocab_size=260, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], show_progress=False))
    t.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    yield "WordPiece, uncased", t
    data = json.loads(t.to_str())
    data["normalizer"].update(lowercase=False, strip_accents=None, handle_chinese_chars=False)
    yield "WordPiece, cased", Tokenizer.from_str(json.dumps(data))

    for name, split in (("whitespace, digits alone", pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True)])),
                        ("spaces, punctuation with what follows", pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("merged_with_next"), pre_tokenizers.Digits()])),
                        ("punctuation with what precedes", pre_tokenizers.Punctuation("merged_with_previous")), ("punctuation runs", pre_tokenizers.Punctuation("contiguous")), ("at a letter", pre_tokenizers.CharDelimiterSplit("o"))):
        t = Tokenizer(models.WordLevel(unk_token="<unk>"))
        t.pre_tokenizer = split
        t.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Strip(), normalizers.NFKC()])
        t.train_from_iterator(CORPUS[:80] + TEXTS[:12], trainers.WordLevelTrainer(vocab_size=120, special_tokens=["<unk>"], show_progress=False))
        yield "words, " + name, added(t)


def pieces():
    rules = "/tmp/rules.tsv"
    with open(rules, "w", encoding="utf-8") as f:      # a small charsmap: ligatures, full-width, squares, curly quotes
        for a, b in (("ﬁ", "fi"), ("①", "1"), ("②", "2"), ("½", "1/2"), ("²", "2"), ("“", '"'), ("”", '"'), ("…", "..."), ("e\u0301", "é"), ("\u3000", " "), ("\u00a0", " "), ("\t", " "), ("\n", " ")):
            f.write(" ".join("%X" % ord(c) for c in a) + "\t" + " ".join("%X" % ord(c) for c in b) + "\n")
    for name, options in (("SentencePiece BPE, bytes, nothing normalised", dict(model_type="bpe", byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, vocab_size=420)),
                          ("SentencePiece Unigram with rules", dict(model_type="unigram", normalization_rule_tsv=rules, vocab_size=200)),
                          ("SentencePiece Unigram, bytes, no space before", dict(model_type="unigram", byte_fallback=True, add_dummy_prefix=False, normalization_rule_name="identity", vocab_size=480))):
        model = io.BytesIO()
        spm.SentencePieceTrainer.train(sentence_iterator=iter(CORPUS[:120]), model_writer=model, character_coverage=0.98, user_defined_symbols=["<extra>"], minloglevel=2, hard_vocab_limit=False, **options)
        yield name, model.getvalue()


def main():
    out = {"texts": TEXTS, "json": [], "models": []}
    for name, t in make():
        out["json"].append({"name": name, "tokenizer": json.loads(t.to_str()), "ids": [t.encode(x).ids for x in TEXTS], "plain": [t.encode(x, add_special_tokens=False).ids for x in TEXTS[:12]]})
    for name, data in pieces():
        t = spm.SentencePieceProcessor(model_proto=data)
        out["models"].append({"name": name, "hex": data.hex(), "ids": [t.encode(x) for x in TEXTS]})
    with open(sys.argv[1] if len(sys.argv) > 1 else "tests/text/tokenizer_vectors.json", "w", encoding="utf-8") as f:
        json.dump(out, f, ensure_ascii=False, separators=(",", ":"))


main()
