// From the codes of a file, five base-3 digits a byte in one stream, to the blocks of matrix.h.
#pragma once
#include "matrix.h"

// A matrix in a file: rows * columns trits from number `first_trit` of the stream on, in C order.
struct StoredMatrix {
    const uint8_t* stream;
    int64_t first_trit;
    int64_t rows, columns;
    const uint16_t* scales;  // fp16: one, one a row, or [rows, ceil(columns / group)]
    int64_t group;           // columns of a group: 64, 128 or 256; 0 the whole row, -1 the whole matrix
};

// How many scales the file has for it.
int64_t stored_scales(const StoredMatrix&);

// Bytes of the codes and scales in memory, or -1 where a size is not positive, overflows, or the group is another.
int64_t repacked_bytes(const StoredMatrix&);

// Writes codes and scales to `memory`, aligned to 64 bytes, with up to `threads` threads. False: the stream has a byte
// above 242, or a scale is not a normal positive number.
bool repack(const StoredMatrix&, uint8_t* memory, int64_t threads, Matrix& result);
