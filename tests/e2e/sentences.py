"""Sentences for tests and timings of encoders: the same on every machine, from one word to about a hundred, with accents, other scripts and odd signs."""
import random

WORDS = """the a of and to in is that for it was on with as be by at from this have or not are but had his they she which you one we all were her would there their
harbour winter engine letter quiet silver river mountain teacher window garden orange electric council basket thunder copper village morning question answer camera
bridge doctor shadow market pocket island ticket winter's re-entry co-operate 3.14 1984 42nd e-mail naïve café Zürich Øresund über façade señor 你好 世界 東京 привет мир γειά don't
unbelievably internationalisation hyperparameters antidisestablishmentarianism xylophone qwertz http://example.org/a?b=c user@example.org C++ #tag 50% $20 (maybe) "quoted" ... — ; :""".split()


def sentences(count, longest=100, seed=7):
    r = random.Random(seed)
    out = []
    for i in range(count):
        n = 1 + int(longest * (i % 20) / 19 * r.random()) if longest > 20 else r.randint(longest // 2, longest)
        text = " ".join(WORDS[int(r.random() * len(WORDS))] for _ in range(n))
        out.append(text[:1].upper() + text[1:] + (".", "?", "!", "")[i % 4])
    return out
