/* zlib is named here only. */
#include "base/compress.h"

#include <string.h>
#include <zlib.h>

enum { PIECE = 64 << 10, RATIO_FREE = 64 << 10 /* small bodies may expand by more than the ratio */ };

static const char *kind_name(enum compress_kind kind) { return kind == COMPRESS_GZIP ? "gzip" : "deflate"; }
static int window_bits(enum compress_kind kind) { return kind == COMPRESS_GZIP ? 15 + 16 : kind == COMPRESS_DEFLATE ? 15 : -15; }

enum status compress_expand(struct buf *out, enum compress_kind kind, const void *data, size_t length, uint64_t bytes_max, unsigned ratio_max, struct err *err)
{
    z_stream z = { .next_in = (Bytef *)data };
    size_t start = out->length, left = length;
    if (inflateInit2(&z, window_bits(kind)) != Z_OK) return err_set(err, ST_NO_MEMORY, "no memory to expand the body");
    enum status st = ST_OK;
    for (int r = Z_OK; r != Z_STREAM_END && !st;) {
        uInt piece = left < PIECE ? (uInt)left : PIECE;
        if (z.avail_in == 0) z.avail_in = piece, left -= piece;
        size_t want = length * 4 < PIECE ? length * 4 + 256 : PIECE;
        if (!buf_reserve(out, want)) {
            st = err_set(err, ST_TOO_LARGE, "the expanded body does not fit into its limit of %llu bytes", (unsigned long long)bytes_max);
            break;
        }
        z.next_out = (Bytef *)out->data + out->length;
        z.avail_out = (uInt)want;
        r = inflate(&z, Z_NO_FLUSH);
        out->length += want - z.avail_out;
        uint64_t made = out->length - start;
        if (r == Z_MEM_ERROR) st = err_set(err, ST_NO_MEMORY, "no memory to expand the body");
        else if (r != Z_OK && r != Z_STREAM_END && r != Z_BUF_ERROR) st = err_set(err, ST_BAD_INPUT, "the body is not valid %s", kind_name(kind));
        else if (made > bytes_max) st = err_set(err, ST_TOO_LARGE, "the expanded body is larger than %llu bytes", (unsigned long long)bytes_max);
        else if (made > RATIO_FREE && made / (length ? length : 1) > ratio_max)
            st = err_set(err, ST_TOO_LARGE, "the body expands by more than %u to 1", ratio_max);
        else if (r != Z_STREAM_END && z.avail_in == 0 && left == 0 && z.avail_out) st = err_set(err, ST_BAD_INPUT, "the %s body is cut off", kind_name(kind));
    }
    if (!st && (z.avail_in || left)) st = err_set(err, ST_BAD_INPUT, "the %s body is followed by other bytes", kind_name(kind));
    inflateEnd(&z);
    return st;
}

enum status compress_pack(struct buf *out, enum compress_kind kind, const void *data, size_t length, struct err *err)
{
    z_stream z = { .next_in = (Bytef *)data };
    if (deflateInit2(&z, Z_BEST_SPEED, Z_DEFLATED, window_bits(kind), 8, Z_DEFAULT_STRATEGY) != Z_OK)
        return err_set(err, ST_NO_MEMORY, "no memory to compress the answer");
    size_t left = length;
    int r = Z_OK;
    while (r != Z_STREAM_END) {
        if (!z.avail_in && left) {
            z.avail_in = left < (1u << 30) ? (uInt)left : 1u << 30;
            left -= z.avail_in;
        }
        if (!buf_reserve(out, PIECE)) break;
        z.next_out = (Bytef *)out->data + out->length;
        z.avail_out = PIECE;
        r = deflate(&z, left ? Z_NO_FLUSH : Z_FINISH);
        out->length += PIECE - z.avail_out;
    }
    deflateEnd(&z);
    return r == Z_STREAM_END ? ST_OK : err_set(err, ST_NO_MEMORY, "no memory to compress the answer");
}
