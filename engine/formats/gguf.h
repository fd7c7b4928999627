/* GGUF files, versions 2 and 3, little endian: typed keys, then tensors. Reading is bounded (R12): at most 65,536 keys and tensors, keys up to
 * 65,535 bytes, tensor names up to 64, ranks 1 to 4, alignment a power of two up to 1 MiB; everything declared must lie inside the file
 * before anything is allocated for it; repeated names, overlapping tensors and nested arrays are refused. Values and tensors are
 * views into the mapped file; keys and names are copied. A file split into NAME-00001-of-0000N.gguf is read as one.
 *
 * Layout: "GGUF", u32 version, u64 tensors, u64 keys; per key: string, u32 type, value; per tensor: string, u32 rank, u64 dims (innermost first),
 * u32 type, u64 offset; padding to `general.alignment` (32); data. A string is u64 length and bytes; an array u32 type, u64 count, values. */
#ifndef ENGINE_FORMATS_GGUF_H
#define ENGINE_FORMATS_GGUF_H

#include "engine/formats/weights.h"

enum gguf_type { GGUF_U8, GGUF_I8, GGUF_U16, GGUF_I16, GGUF_U32, GGUF_I32, GGUF_F32, GGUF_BOOL, GGUF_STRING, GGUF_ARRAY, GGUF_U64, GGUF_I64, GGUF_F64, GGUF_TYPES };

struct gguf;

/* An array value: `bytes` bytes at `data`, not aligned. */
struct gguf_array { enum gguf_type type; uint64_t count; const uint8_t *data; uint64_t bytes; };

struct gguf_key {
    const char    *name;           /* NUL-terminated */
    enum gguf_type type;
    const uint8_t *value;          /* a scalar's bytes, or a string's (without its length) */
    uint64_t       length;         /* bytes at `value` */
    struct gguf_array array;       /* GGUF_ARRAY only */
};

/* Opens a file of the operator's own; with `dirfd` >= 0, `path` is relative to it and no link is followed (file_open_below). The other parts of
 * a split file are looked for beside the first. */
enum status gguf_open(struct gguf **out, int dirfd, const char *path, struct err *err);
/* One whole file in memory, borrowed until gguf_close. */
enum status gguf_open_bytes(struct gguf **out, const void *data, uint64_t size, struct err *err);
void        gguf_close(struct gguf *g);

const struct weights  *gguf_weights(const struct gguf *g);
int                    gguf_key_count(const struct gguf *g);
const struct gguf_key *gguf_key_at(const struct gguf *g, int index);
const struct gguf_key *gguf_find(const struct gguf *g, const char *key);      /* NULL: absent */

/* Typed look-ups: false when the key is absent or of another kind; *out is untouched then. Integers of any width are taken where the value fits. */
bool        gguf_u32(const struct gguf *g, const char *key, uint32_t *out);
bool        gguf_i64(const struct gguf *g, const char *key, int64_t *out);
bool        gguf_f32(const struct gguf *g, const char *key, float *out);       /* also f64 and integers */
bool        gguf_bool(const struct gguf *g, const char *key, bool *out);
/* The bytes of a string, not NUL-terminated; NULL when absent. */
const char *gguf_text(const struct gguf *g, const char *key, size_t *length);
bool        gguf_text_is(const struct gguf *g, const char *key, const char *text);
bool        gguf_array(const struct gguf *g, const char *key, struct gguf_array *out);

/* Elements of an array of numbers; index < count. */
int64_t gguf_array_int(const struct gguf_array *a, uint64_t index);            /* integers and bools; 0 for other types */
double  gguf_array_real(const struct gguf_array *a, uint64_t index);           /* any number */
/* Strings lie one behind the other: walk with an offset that starts at 0. False at the end. */
bool    gguf_array_text(const struct gguf_array *a, uint64_t *offset, const char **text, size_t *length);

/* Writing, version 3. Keys and tensors are declared, then gguf_writer_start puts out everything before the data; then the tensors' bytes follow in the
 * order declared, in pieces of any size; gguf_writer_finish checks that all came. A failure sticks and is told by start, data or finish. */
struct gguf_writer;
enum status gguf_writer_open(struct gguf_writer **out, uint32_t alignment, struct err *err);   /* alignment 0: 32 */
void        gguf_writer_close(struct gguf_writer *w);
void        gguf_writer_u32(struct gguf_writer *w, const char *key, uint32_t v);
void        gguf_writer_f32(struct gguf_writer *w, const char *key, float v);
void        gguf_writer_bool(struct gguf_writer *w, const char *key, bool v);
void        gguf_writer_text(struct gguf_writer *w, const char *key, const char *text, size_t length);
/* Arrays: of numbers, `count` little-endian values at `data`; of strings, see below. Also copies any gguf_key's array. */
void        gguf_writer_array(struct gguf_writer *w, const char *key, enum gguf_type type, const void *data, uint64_t count);
void        gguf_writer_texts(struct gguf_writer *w, const char *key, const char *const *texts, const size_t *lengths, uint64_t count);
/* A key of another file, of any type, as it is. */
void        gguf_writer_copy(struct gguf_writer *w, const struct gguf_key *k);
/* `dims` outermost first. */
void        gguf_writer_tensor(struct gguf_writer *w, const char *name, int type, const int64_t *dims, int rank);
enum status gguf_writer_start(struct gguf_writer *w, struct weights_sink sink, struct err *err);
enum status gguf_writer_data(struct gguf_writer *w, const void *bytes, uint64_t n, struct err *err);
enum status gguf_writer_finish(struct gguf_writer *w, struct err *err);

#endif
