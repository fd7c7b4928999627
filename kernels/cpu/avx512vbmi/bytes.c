/* Products of bytes at this level. */
#include "kernels/cpu/bytes_elements_body.h"

const struct bytes_level bytes_level_avx512vbmi = { "vnni", 1, nothing_begin, nothing_end, multiply, finish, DEPTH_COLUMNS, depthwise, BYTES_ELEMENTS };
