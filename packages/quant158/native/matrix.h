// A ternary matrix and the int8 vectors that it multiplies, as every instruction set reads them.
//
// Codes are weight + 1, two bits each, in blocks of 16 rows by 16 columns that take 64 bytes. Byte 4 * i + j of a block
// holds row i: its columns j, 4 + j, 8 + j and 12 + j in the bits 0-1, 2-3, 4-5 and 6-7. So one 64-byte load has four
// neighbouring columns of each of 16 rows in each pair of bits, which is what a dot-product instruction takes. Rows and
// columns that only fill the last blocks have code 1, that is weight 0.
//
// Four row blocks are a band, and a band is one stretch of memory: for each column block its four blocks, one below the
// other. So a kernel that keeps the sums of a band in registers reads memory in order. The last band may have fewer.
//
// Files of one instruction set include nothing of the C++ library, and functions of headers are static: an inline one
// compiled with their flags could be the one copy that the linker keeps for all. A test looks for such includes.
#pragma once
#include <cstdint>

constexpr int64_t BLOCK = 16;         // rows, and columns, of a block
constexpr int64_t BLOCK_BYTES = 64;
constexpr int64_t BAND = 4;           // row blocks
constexpr int64_t QUAD = 4;           // blocks between two prefix sums: every group is a multiple of 64 columns
// A wider group is cut, its scale repeated: 2 * 32,512 * 32,768 is the most that fits int32.
constexpr int64_t WIDEST_GROUP = 32768;

static constexpr int64_t blocks_of(int64_t numbers) { return (numbers + BLOCK - 1) / BLOCK; }

struct Matrix {
    const uint8_t* codes;    // [bands, column_blocks, row blocks of the band, 64]
    const uint16_t* scales;  // fp16, normal, positive: [bands, groups, row blocks of the band, 16]
    int64_t rows, columns;
    int64_t row_blocks, column_blocks;
    int64_t groups, group_blocks;  // column blocks of a group; the last group may have fewer
};

// Where a row block's codes and scales begin, in blocks, and how many blocks on its next column block or group is.
struct Place {
    int64_t codes, scales, step;
};

static inline Place place_of(const Matrix& m, int64_t row_block) {
    const int64_t band = row_block / BAND * BAND, below = row_block - band;
    const int64_t height = m.row_blocks - band < BAND ? m.row_blocks - band : BAND;
    return {band * m.column_blocks + below, band * m.groups + below, height};
}

// Quantized inputs. In one plane, value = scale * q with |q| <= 127. In two, q = 256 * high + low, |q| <= 32,512.
struct Vectors {
    const int8_t* values;    // [count, planes, 16 * column_blocks]; what fills the last block is 0
    const int32_t* prefix;   // [count, quads_of(column_blocks) + 1]: sum of q over the columns before 64 * i
    const float* scales;     // [count]
    int64_t count, planes, column_blocks;
};

static constexpr int64_t quads_of(int64_t column_blocks) { return (column_blocks + QUAD - 1) / QUAD; }
