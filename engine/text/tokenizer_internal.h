/* What the tokenizer's files share. The parts of the pipeline are lists of steps, filled by the loaders (tokenizer_gguf.c, tokenizer_json.c,
 * tokenizer_spm.c) and run by tokenizer_normalise.c, tokenizer_split.c and tokenizer_model.c. */
#ifndef ENGINE_TEXT_TOKENIZER_INTERNAL_H
#define ENGINE_TEXT_TOKENIZER_INTERNAL_H

#include "base/arena.h"
#include "engine/formats/weights.h"
#include "engine/text/tokenizer.h"

enum { TOKENS_MAX = 1 << 21, TOKEN_TEXT_MAX = 1 << 16, STEPS_MAX = 32, WRAP_MAX = 8, TEMPLATES_MAX = 8, PATTERN_MAX = 1 << 14 };

/* GGUF's and SentencePiece's numbers. */
enum token_kind { TOKEN_NORMAL = 1, TOKEN_UNKNOWN = 2, TOKEN_CONTROL = 3, TOKEN_USER = 4, TOKEN_UNUSED = 5, TOKEN_BYTE = 6 };

struct token {
    const char *text;            /* as in the file */
    const char *piece;           /* the bytes it stands for */
    uint32_t    length, piece_length;
    float       score;
    uint8_t     kind;            /* enum token_kind */
    bool        eog;
    bool        lstrip, rstrip, single_word, normalized;   /* added tokens: HF's flags */
    bool        added;           /* cut out of the text before the model sees it */
    bool        outside;         /* not in the model's own vocabulary: the model cannot make it */
};

/* A map from 64-bit keys (never 0) to pairs of ints: merges, and the edges of tries. */
struct pair_map {
    struct pair_slot { uint64_t key; int32_t a, b; } *slots;
    uint64_t mask, count, seed;
};
bool                    pair_map_init(struct pair_map *m, uint64_t expected);
bool                    pair_map_put(struct pair_map *m, uint64_t key, int32_t a, int32_t b);    /* keeps an equal key's first value; false: no memory */
const struct pair_slot *pair_map_get(const struct pair_map *m, uint64_t key);                    /* NULL: absent */
void                    pair_map_free(struct pair_map *m);

/* A trie of byte strings: an edge is the key (node << 8 | byte) + 1, value a is the next node, b the id that ends there or -1. Node 0 is the root. */
struct trie { struct pair_map edges; int32_t nodes; };
bool trie_add(struct trie *t, const char *text, size_t length, int32_t id);                       /* false: no memory */

enum normalise_kind { NORMALISE_NFC, NORMALISE_NFD, NORMALISE_NFKC, NORMALISE_NFKD, NORMALISE_LOWER, NORMALISE_STRIP_ACCENTS, NORMALISE_STRIP, NORMALISE_REPLACE,
                      NORMALISE_PREPEND, NORMALISE_BERT, NORMALISE_CHARSMAP, NORMALISE_NMT, NORMALISE_BYTES, NORMALISE_COLLAPSE };
struct normalise_step {
    enum normalise_kind kind;
    const char *from, *to;                   /* REPLACE (from is NULL when `pattern` is set), PREPEND: to */
    size_t      from_length, to_length;
    void       *pattern;                     /* compiled, owned */
    bool        clean, chinese, accents, lower;     /* BERT; STRIP: clean = left, accents = right */
    bool        graphemes;                   /* CHARSMAP: whole grapheme clusters first (tokenizer.json), else longest prefix (SentencePiece) */
    const uint8_t *map;                      /* CHARSMAP: u32 units of a double-array trie, then NUL-terminated texts */
    uint32_t    map_units;
    const char *map_texts;
    size_t      map_texts_length;
};

enum split_kind { SPLIT_PATTERN, SPLIT_BYTES, SPLIT_DIGITS, SPLIT_PUNCTUATION, SPLIT_METASPACE, SPLIT_BERT, SPLIT_SPACE, SPLIT_CHAR };
enum split_behaviour { SPLIT_REMOVED, SPLIT_ISOLATED, SPLIT_WITH_PREVIOUS, SPLIT_WITH_NEXT, SPLIT_CONTIGUOUS };
struct split_step {
    enum split_kind      kind;
    enum split_behaviour behaviour;
    bool        invert;
    void       *pattern;                     /* PATTERN: compiled, owned */
    bool        prefix_space;                /* BYTES */
    int         scheme;                      /* METASPACE: 0 never, 1 first, 2 always */
    bool        split;                       /* METASPACE */
    const char *mark;                        /* METASPACE: the replacement; CHAR: the delimiter */
    size_t      mark_length;
};

/* How a token's text becomes the bytes it stands for: as it is; from GPT-2's alphabet; U+2581 is a space; "##" or U+2581 tell continuing pieces from
 * beginnings; the end of a word is marked. */
enum piece_style { PIECE_RAW, PIECE_BYTES, PIECE_MARK, PIECE_WORDPIECE, PIECE_SUFFIX };

enum model_kind { MODEL_BPE, MODEL_SCORES, MODEL_UNIGRAM, MODEL_WORDPIECE, MODEL_WORDS };

struct tokenizer {
    struct token        *tokens;
    int                  count;
    struct weights_map   names;              /* every token's text */
    struct weights_map   words;              /* the texts that plain text may become: neither control, unknown nor byte tokens */
    struct trie          added[2];           /* added tokens, looked for in the raw text [0] or in normalised text [1] */
    enum model_kind      model;
    struct pair_map      merges;             /* BPE: (left << 32 | right) + 1 -> rank, merged id */
    struct trie          pieces;             /* UNIGRAM */
    int32_t              byte_ids[256];      /* byte tokens; -1 */
    int32_t              char_ids[512];      /* BPE: ids of the first code points; -1 */
    bool                 byte_fallback, fuse_unk, ignore_merges, strip_first_space;
    bool                 prefix_each_text;   /* U+2581 before each text between added tokens */
    bool                 prefix_first_text;  /* U+2581 before the first text only */
    const char          *continuing, *beginning, *suffix;      /* WORDPIECE: "##" or "", "" or U+2581; BPE: continuing_subword_prefix, end_of_word_suffix */
    int                  word_chars_max;     /* WORDPIECE */
    uint32_t             longest;            /* bytes of the longest text in `words` */
    double               unk_score;          /* UNIGRAM */
    struct normalise_step normalise[STEPS_MAX];
    int                  normalise_count;
    struct split_step    split[STEPS_MAX];
    int                  split_count;
    int32_t              before[WRAP_MAX], after[WRAP_MAX];
    int                  before_count, after_count;
    struct tokenizer_ids ids;
    struct { const char *name, *text; } templates[TEMPLATES_MAX];
    int                  template_count;
    struct arena         arena;              /* texts */
};

/* ---- loading, shared (tokenizer_load.c, tokenizer_folder.c) ---- */
struct json;
struct tokenizer *tokenizer_new(int count);                                             /* NULL: no memory; ids are -1 */
enum status tokenizer_set(struct tokenizer *t, int id, const char *text, size_t length, float score, enum token_kind kind, struct err *err);
enum status tokenizer_add_merge(struct tokenizer *t, const char *left, size_t left_length, const char *right, size_t right_length, int rank, bool strict, struct err *err);
/* After the tokens and the other fields: maps, tries, byte ids, pieces, ends of generation; checks that ids are in range. */
enum status tokenizer_finish(struct tokenizer *t, enum piece_style style, struct err *err);
/* Does a token that its file calls user-defined look like a mark of structure: <|...|> or one of the usual names? Those count as control tokens. */
bool        tokenizer_looks_control(const char *text, size_t length);
void        tokenizer_mark_eog(struct tokenizer *t, int32_t id);                        /* ignores ids out of range */
enum status tokenizer_add_template(struct tokenizer *t, const char *name, const char *text, size_t length, struct err *err);
enum status tokenizer_read_config(struct tokenizer *t, const struct json *config, struct err *err);                   /* tokenizer_config.json: templates, names */
/* What stands around each text, from a tokenizer_config.json's add_bos_token and add_eos_token. */
void        tokenizer_read_wraps(struct tokenizer *t, const struct json *config, bool add_bos, bool add_eos);
/* The steps of a tokenizer.json (tokenizer_json_steps.c): its members normalizer, pre_tokenizer, post_processor, decoder. */
enum status steps_read_normaliser(struct tokenizer *t, const struct json *j, int depth, struct err *err);
enum status steps_read_splitter(struct tokenizer *t, const struct json *j, int depth, struct err *err);
enum status steps_read_wraps(struct tokenizer *t, const struct json *j, int depth, struct err *err);
enum status steps_read_decoder(struct tokenizer *t, const struct json *j, int depth, enum piece_style *style, struct err *err);
/* vocab.json and merges.txt of the older folders (tokenizer_merges.c). */
enum status tokenizer_open_merges(struct tokenizer **out, const char *vocab, size_t vocab_length, const char *merges, size_t merges_length, const char *config, size_t config_length, struct err *err);
const char *json_text_or(const struct json *object, const char *key, const char *otherwise);
bool        json_bool_or(const struct json *object, const char *key, bool otherwise);
/* Sets ids.bos and so on by name ("bos_token", "eos_token", "pad_token", ...) from a member that is a text or an object with a text `content`. */
void        tokenizer_read_names(struct tokenizer *t, const struct json *object);
enum status tokenizer_set_charsmap(struct tokenizer *t, struct normalise_step *s, const void *data, size_t length, struct err *err);
void       *tokenizer_keep(struct tokenizer *t, const void *bytes, size_t length);      /* NUL-terminated copy in the arena; NULL: no memory */

/* ---- patterns (tokenizer_pattern.c): PCRE2 stays there ---- */
enum status pattern_compile(void **out, const char *text, size_t length, struct err *err);
void        pattern_free(void *pattern);
struct matcher;
enum status matcher_open(struct matcher **out, struct err *err);
void        matcher_close(struct matcher *m);
/* The next match at or after `from`: 1 found, 0 none, -1 a limit was hit. */
int         matcher_find(struct matcher *m, const void *pattern, const char *text, size_t length, size_t from, size_t *begin, size_t *end);
const char *const *pattern_list(const char *name, size_t length);     /* the patterns of a tokenizer.ggml.pre name, NULL-terminated; NULL: unknown name */

/* ---- running ---- */
struct span { size_t offset, length; };
struct pieces { struct buf text; struct span *spans; size_t count, capacity; bool failed; };
bool        pieces_add(struct pieces *p, size_t offset, size_t length);                  /* empty ones are dropped; false: no memory */

/* The memory of one call, reused from word to word. */
struct merge_node { int32_t previous, next, id; uint32_t offset, length; };              /* length 0: merged away */
struct merge_entry { double key; int32_t left, merged; uint32_t bytes; };                 /* the pair at node `left`, together `bytes` long */
struct lattice_node { double score; int32_t from, id; };
struct work {
    struct matcher      *matcher;
    struct buf           normal, a, b;
    struct pieces        words, next;
    struct merge_node   *nodes;
    struct merge_entry  *heap;
    struct lattice_node *lattice;
    size_t               node_capacity, heap_count, heap_capacity, lattice_capacity;
};
void tokenizer_work_free(struct work *w);      /* what it points to, not *w */
enum status tokenizer_run_normalise(const struct tokenizer *t, struct work *w, const char *text, size_t length, struct buf *out, struct err *err);
/* Splits `text` into w->words. first: the text begins the whole input. */
enum status tokenizer_run_split(const struct tokenizer *t, struct work *w, const char *text, size_t length, bool first, struct err *err);
enum status tokenizer_run_model(const struct tokenizer *t, struct work *w, const char *word, size_t length, struct token_list *out, struct err *err);
bool        token_list_add(struct token_list *l, int32_t id);

/* ---- characters (tokenizer_char.c) ---- */
size_t  char_read(const char *text, size_t left, int32_t *c);      /* bytes of the character at text (valid UTF-8, left > 0) */
void    char_put(struct buf *b, int32_t c);
bool    char_is_space(int32_t c);                                  /* Unicode White_Space */
bool    char_is_punctuation(int32_t c);                            /* ASCII punctuation or category P */
bool    char_is_number(int32_t c);
bool    char_is_mark(int32_t c, bool nonspacing_only);
bool    char_is_control(int32_t c);                                /* category C but for tab, line ends and what is unassigned */
bool    char_is_word(int32_t c);                                   /* letter, mark, number, connector */
bool    char_is_chinese(int32_t c);
int32_t char_lower(int32_t c);
int32_t char_of_byte(unsigned char b);                             /* GPT-2's printable alphabet of bytes */
int     byte_of_char(int32_t c);                                   /* -1: not in it */
void    bytes_to_chars(struct buf *out, const char *text, size_t length);

#endif
