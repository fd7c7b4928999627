/* gzip and deflate (zlib wrapper) bodies, both ways (R7); the bare deflate of zip archives. Expansion is capped in bytes and in ratio before memory is taken. */
#ifndef BASE_COMPRESS_H
#define BASE_COMPRESS_H

#include "base/buf.h"
#include "base/err.h"

enum compress_kind { COMPRESS_GZIP, COMPRESS_DEFLATE, COMPRESS_BARE };

/* Appends the expanded bytes to *out. More than `bytes_max` or `ratio_max` times the input (checked once past 64 KiB) is ST_TOO_LARGE; bad data ST_BAD_INPUT. */
enum status compress_expand(struct buf *out, enum compress_kind kind, const void *data, size_t length, uint64_t bytes_max, unsigned ratio_max, struct err *err);
enum status compress_pack(struct buf *out, enum compress_kind kind, const void *data, size_t length, struct err *err);

#endif
