/* Any of the three kinds of file; what is taken must tokenise a text of everything with every flag, and its ids must be in range and come back as text. */
#include <stdlib.h>
#include <string.h>

#include "engine/formats/gguf.h"
#include "engine/text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char text[] = "Hello  w\xC3\xB6rld 123\n\n<s> <|end|>\xE4\xBD\xA0\xE5\xA5\xBD \xF0\x9F\xA6\x99 \xFF aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa e\xCC\x81 [CLS]";

static void use(const struct tokenizer *t)
{
    for (unsigned flags = 0; flags < 4; flags++) {
        struct token_list l = { 0 };
        struct detokenizer d;
        struct buf b;
        struct err err;
        buf_init(&b, 1 << 20);
        detokenizer_init(&d, t, true, flags & 1);
        if (!tokenizer_encode(t, text, sizeof text - 1, flags, &l, &err))
            for (size_t i = 0; i < l.count; i++) {
                if (l.ids[i] < 0 || l.ids[i] >= tokenizer_count(t)) abort();
                if (!(flags & TOKENIZE_SPECIAL_PARSE) && !(flags & TOKENIZE_SPECIAL_ADD) && tokenizer_is_control(t, l.ids[i]) && l.ids[i] != tokenizer_ids(t)->unk) abort();
                detokenizer_feed(&d, l.ids[i], &b);
            }
        detokenizer_finish(&d, &b);
        buf_free(&b);
        token_list_free(&l);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tokenizer *t = NULL;
    struct gguf *g;
    struct err err;
    if (size > 4 && !memcmp(data, "GGUF", 4)) {
        if (gguf_open_bytes(&g, data, size, &err)) return 0;
        if (tokenizer_open_gguf(&t, g, &err)) t = NULL;
        gguf_close(g);
    } else if (size && data[0] == '{') {
        if (tokenizer_open_json(&t, (const char *)data, size, NULL, 0, &err)) t = NULL;
    } else if (tokenizer_open_model(&t, data, size, NULL, 0, &err)) t = NULL;
    if (t) use(t);
    tokenizer_close(t);
    return 0;
}
