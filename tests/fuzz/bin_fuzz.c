/* llama2.c's files: any bytes are a model, a tokenizer, or refused; a model's tensors lie inside the file; a tokenizer's keys are read back with as many tokens. */
#include <stdlib.h>
#include <string.h>

#include "engine/llm/convert_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_model(const uint8_t *data, size_t size)
{
    struct convert_bin b;
    struct err err;
    if (convert_bin_open(&b, data, size, &err)) return;
    for (int i = 0; i < b.count; i++) {
        const struct weight_tensor *t = &b.tensors[i];
        if (t->data < data || t->bytes > size || (size_t)(t->data - data) > size - t->bytes || strlen(t->name) >= sizeof b.names[0]) abort();
    }
    convert_bin_close(&b);
}

static void check_tokenizer(const uint8_t *data, size_t size, int vocabulary)
{
    struct llm_config c = { .vocabulary = vocabulary };
    struct gguf_writer *w;
    struct gguf *g = NULL;
    struct gguf_array tokens;
    struct buf bytes = { 0 };
    struct err err;
    if (gguf_writer_open(&w, 0, &err)) return;
    if (!convert_bin_tokenizer(w, data, size, vocabulary, &err)) {
        if (convert_reopen(w, &c, &g, &bytes, &err) || !gguf_array(g, "tokenizer.ggml.tokens", &tokens) || tokens.count != (uint64_t)vocabulary) abort();
    }
    gguf_close(g);
    buf_free(&bytes);
    gguf_writer_close(w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    check_model(data, size);
    for (int vocabulary = 3; vocabulary <= 5; vocabulary++) check_tokenizer(data, size, vocabulary);
    return 0;
}
