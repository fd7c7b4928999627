/* How each family of byte-level models splits a text into words: the patterns of its published tokenizer, by the name GGUF gives the family
 * (tokenizer.ggml.pre). Several patterns are applied one after the other, each to what the one before left between and in its matches. */
#include <string.h>

#include "engine/text/tokenizer_internal.h"

static const char *const LLAMA3[] = {
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    NULL,
};
static const char *const QWEN2[] = {
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    NULL,
};
static const char *const QWEN35[] = {
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    NULL,
};
static const char *const GPT2[] = {
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)",
    NULL,
};
static const char *const STARCODER[] = {
    "\\p{N}",
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)",
    NULL,
};
static const char *const FALCON[] = {
    "[\\p{P}\\$\\+<=>\\^~\\|`]+",
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)",
    "[0-9][0-9][0-9]",
    NULL,
};
static const char *const DEFAULT[] = {
    "[\\p{P}\\$\\+<=>\\^~\\|]+",
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)",
    "\\p{N}+",
    "[0-9][0-9][0-9]",
    NULL,
};
static const char *const DEEPSEEK_LLM[] = {
    "[\\r\\n]",
    "\\s?(?:(?![\\x{10d0}-\\x{10ff}\\x{1d400}-\\x{1d7ff}])[\\p{Lu}\\p{Ll}\\p{Lt}])+",
    "\\s?[!-/:-~！-／：-～‘-‟　-。]+",
    "\\s+$",
    "[一-龥ࠀ-一가-힣\\x{d7a4}-\\x{d7ff}]+",
    "\\p{N}+",
    NULL,
};
static const char *const DEEPSEEK_CODER[] = {
    "[\\r\\n]",
    "\\s?\\p{L}+",
    "\\s?\\p{P}+",
    "[一-龥ࠀ-一가-힣\\x{d7a4}-\\x{d7ff}]+",
    "\\p{N}",
    NULL,
};
static const char *const DEEPSEEK_V3[] = {
    "\\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    NULL,
};
static const char *const GPT4O[] = {
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    NULL,
};
static const char *const TEKKEN[] = {
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    NULL,
};
static const char *const TINY_AYA[] = {
    "\\d{1,3}(?=(?:\\d{3})*\\b)",
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    NULL,
};
static const char *const KIMI_K2[] = {
    "[\\p{Han}]+|[^\\r\\n\\p{L}\\p{N}]?(?:(?!\\p{Han})[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}])*(?:(?!\\p{Han})[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}])+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\\r\\n\\p{L}\\p{N}]?(?:(?!\\p{Han})[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}])+(?:(?!\\p{Han})[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}])*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    NULL,
};
static const char *const BLOOM[] = {
    " ?[^(\\s|.,!?…。，、।۔،)]+",
    NULL,
};
static const char *const VIKING[] = {
    " ?[^(\\s|.,!?…。，、।۔،)]+",
    "\\p{N}",
    NULL,
};
static const char *const BAILING[] = {
    "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+",
    NULL,
};
static const char *const SEED[] = {
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1}| ?[^\\s\\p{L}\\p{N}\\r\\n]+|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    NULL,
};
static const char *const EXAONE_MOE[] = {
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?(?:\\p{L}\\p{M}*(?: \\p{L}\\p{M}*)*)+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]?|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+",
    NULL,
};
static const char *const CHAMELEON[] = {
    "<sentinel:[0-9]+>",
    "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
    "([\\t\\n]|    |  )",
    "\\p{N}",
    "[\\p{P}!-/:-@\\[-`{-~]",
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)",
    NULL,
};
static const char *const JAIS2[] = {
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s{512}(?!\\S)|\\s{256}(?!\\S)|\\s{128}(?!\\S)|\\s{64}(?!\\S)|\\s{32}(?!\\S)|\\s{16}(?!\\S)|\\s{8}(?!\\S)|\\s{4}(?!\\S)|\\s{1,2}(?!\\S)|\\s{1}",
    NULL,
};
static const char *const GEMMA4[] = {
    "[^\\n]+|[\\n]+",
    NULL,
};

static const struct { const char *name; const char *const *patterns; } families[] = {
    { "llama3", LLAMA3 }, { "llama-v3", LLAMA3 }, { "llama-bpe", LLAMA3 }, { "falcon3", LLAMA3 }, { "falcon-h1", LLAMA3 }, { "pixtral", LLAMA3 },
    { "midm-2.0", LLAMA3 }, { "lfm2", LLAMA3 }, { "jina-v5-nano", LLAMA3 }, { "dbrx", LLAMA3 }, { "smaug-bpe", LLAMA3 }, { "glm4", LLAMA3 },
    { "chatglm-bpe", LLAMA3 }, { "qwen2", QWEN2 }, { "deepseek-r1-qwen", QWEN2 }, { "kormo", QWEN2 }, { "f2llmv2", QWEN2 }, { "stablelm2", QWEN2 },
    { "megrez", QWEN2 }, { "hunyuan", QWEN2 }, { "solar-open", QWEN2 }, { "grok-2", QWEN2 }, { "qwen35", QWEN35 }, { "gpt-2", GPT2 },
    { "phi-2", GPT2 }, { "jina-es", GPT2 }, { "jina-de", GPT2 }, { "gigachat", GPT2 }, { "jina-v2-es", GPT2 }, { "jina-v2-de", GPT2 },
    { "a.x-4.0", GPT2 }, { "mellum", GPT2 }, { "modern-bert", GPT2 }, { "jina-v1-en", GPT2 }, { "jina-v2-code", GPT2 }, { "roberta-bpe", GPT2 },
    { "mpt", GPT2 }, { "olmo", GPT2 }, { "jais", GPT2 }, { "trillion", GPT2 }, { "granite-docling", GPT2 }, { "exaone4", GPT2 },
    { "starcoder", STARCODER }, { "refact", STARCODER }, { "command-r", STARCODER }, { "smollm", STARCODER }, { "codeshell", STARCODER },
    { "exaone", STARCODER }, { "minerva-7b", STARCODER }, { "falcon", FALCON }, { "default", DEFAULT }, { "deepseek-llm", DEEPSEEK_LLM },
    { "deepseek-coder", DEEPSEEK_CODER }, { "deepseek-v3", DEEPSEEK_V3 }, { "hunyuan-dense", DEEPSEEK_V3 }, { "joyai-llm", DEEPSEEK_V3 },
    { "gpt-4o", GPT4O }, { "llama4", GPT4O }, { "kanana2", GPT4O }, { "minimax-m2", GPT4O }, { "tekken", TEKKEN }, { "tiny_aya", TINY_AYA },
    { "kimi-k2", KIMI_K2 }, { "bloom", BLOOM }, { "poro-chat", BLOOM }, { "gpt3-finnish", BLOOM }, { "viking", VIKING }, { "bailingmoe", BAILING },
    { "bailingmoe2", BAILING }, { "llada-moe", BAILING }, { "seed-coder", SEED }, { "exaone-moe", EXAONE_MOE }, { "chameleon", CHAMELEON },
    { "jais-2", JAIS2 }, { "gemma4", GEMMA4 },
};

const char *const *pattern_list(const char *name, size_t length)
{
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        if (strlen(families[i].name) == length && !memcmp(families[i].name, name, length)) return families[i].patterns;
    return NULL;
}
