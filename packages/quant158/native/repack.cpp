#include "repack.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

namespace {

constexpr int64_t TRITS = 5;  // a byte
constexpr int CODES = 243;
constexpr int64_t LARGEST = int64_t(1) << 40;  // of rows and columns: their product's bytes fit int64 after the check

// The five digits of a byte as five bytes of a word, the first trit lowest; a byte above 242 sets the top bit.
constexpr std::array<uint64_t, 256> digit_table() {
    std::array<uint64_t, 256> table{};
    for (int code = 0; code < 256; ++code) {
        int left = code;
        for (int i = 0; i < TRITS; ++i, left /= 3) table[code] |= uint64_t(left % 3) << (8 * i);
        if (code >= CODES) table[code] = uint64_t(1) << 63;
    }
    return table;
}
constexpr auto DIGITS = digit_table();

// Writes `count` codes from trit `first` of the stream on. Up to 8 bytes before and after them are written too.
bool decode(const uint8_t* stream, int64_t first, int64_t count, uint8_t* codes) {
    const uint8_t* from = stream + first / TRITS;
    const uint8_t* end = stream + (first + count + TRITS - 1) / TRITS;
    uint64_t seen = 0;
    for (uint8_t* to = codes - first % TRITS; from < end; ++from, to += TRITS) {
        const uint64_t digits = DIGITS[*from];
        seen |= digits;
        std::memcpy(to, &digits, sizeof digits);
    }
    return !(seen >> 63);
}

uint32_t four(const uint8_t* codes) {
    uint32_t word;
    std::memcpy(&word, codes, sizeof word);
    return word;
}

// One row's codes go to a word of each of its blocks.
void interleave(const uint8_t* codes, int64_t column_blocks, uint8_t* row, int64_t step) {
    for (int64_t c = 0; c < column_blocks; ++c, codes += BLOCK, row += step) {
        const uint32_t word = four(codes) | four(codes + 4) << 2 | four(codes + 8) << 4 | four(codes + 12) << 6;
        std::memcpy(row, &word, sizeof word);
    }
}

constexpr int64_t WORTH_A_THREAD = 1 << 16;  // code bytes: 70 us of work, three times what a thread's start takes
constexpr int64_t SLACK = 16;  // of a row's buffer, before and after: see decode

bool repack_rows(const StoredMatrix& stored, const Matrix& m, uint8_t* codes, int64_t first, int64_t last) {
    std::vector<uint8_t> buffer(m.column_blocks * BLOCK + 2 * SLACK);
    uint8_t* row_codes = buffer.data() + SLACK;
    bool good = true;
    for (int64_t row = first * BLOCK; row < last * BLOCK; ++row) {
        int64_t filled = 0;
        if (row < m.rows) {
            good &= decode(stored.stream, stored.first_trit + row * m.columns, m.columns, row_codes);
            filled = m.columns;
        }
        std::memset(row_codes + filled, 1, m.column_blocks * BLOCK - filled);
        const Place place = place_of(m, row / BLOCK);
        uint8_t* to = codes + place.codes * BLOCK_BYTES + 4 * (row % BLOCK);
        interleave(row_codes, m.column_blocks, to, place.step * BLOCK_BYTES);
    }
    return good;
}

constexpr uint16_t ONE = 0x3c00;

bool is_normal(uint16_t half) { return half >= 0x0400 && half < 0x7c00; }

bool repack_scales(const StoredMatrix& stored, const Matrix& m, uint16_t* scales) {
    const int64_t a_row = stored_scales(stored) / m.rows;
    bool good = true;
    for (int64_t row = 0; row < m.row_blocks * BLOCK; ++row) {
        const Place place = place_of(m, row / BLOCK);
        for (int64_t group = 0; group < m.groups; ++group) {
            uint16_t scale = ONE;
            if (row < m.rows) {
                const int64_t at = stored.group > 0 ? group * m.group_blocks * BLOCK / stored.group : 0;
                scale = stored.scales[stored.group < 0 ? 0 : row * a_row + at];
            }
            good &= is_normal(scale);
            scales[(place.scales + group * place.step) * BLOCK + row % BLOCK] = scale;
        }
    }
    return good;
}

Matrix sizes(const StoredMatrix& stored) {
    Matrix m{};
    m.rows = stored.rows;
    m.columns = stored.columns;
    m.row_blocks = blocks_of(m.rows);
    m.column_blocks = blocks_of(m.columns);
    const int64_t group = stored.group > 0 ? std::min(stored.group, WIDEST_GROUP) : WIDEST_GROUP;
    m.group_blocks = group / BLOCK;
    m.groups = (m.column_blocks + m.group_blocks - 1) / m.group_blocks;
    return m;
}

int64_t code_bytes(const Matrix& m) { return m.row_blocks * m.column_blocks * BLOCK_BYTES; }

}  // namespace

int64_t stored_scales(const StoredMatrix& stored) {
    if (stored.group < 0) return 1;
    return stored.rows * (stored.group > 0 ? (stored.columns + stored.group - 1) / stored.group : 1);
}

int64_t repacked_bytes(const StoredMatrix& stored) {
    const bool positive = stored.rows > 0 && stored.columns > 0 && stored.first_trit >= 0;
    if (!positive || stored.rows > LARGEST || stored.columns > LARGEST / stored.rows) return -1;
    const bool dividing = stored.group == 64 || stored.group == 128 || stored.group == 256;
    if (stored.group != 0 && stored.group != -1 && !dividing) return -1;
    const Matrix m = sizes(stored);
    return code_bytes(m) + m.row_blocks * m.groups * BLOCK * int64_t(sizeof(uint16_t));
}

bool repack(const StoredMatrix& stored, uint8_t* memory, int64_t threads, Matrix& result) {
    Matrix m = sizes(stored);
    uint16_t* scales = reinterpret_cast<uint16_t*>(memory + code_bytes(m));
    m.codes = memory;
    m.scales = scales;
    threads = std::max<int64_t>(1, std::min(threads, code_bytes(m) / WORTH_A_THREAD));
    std::atomic<bool> good{repack_scales(stored, m, scales)};
    auto part = [&](int64_t number) {
        const int64_t first = m.row_blocks * number / threads, last = m.row_blocks * (number + 1) / threads;
        if (!repack_rows(stored, m, memory, first, last)) good = false;
    };
    std::vector<std::thread> others;
    for (int64_t number = 1; number < threads; ++number) others.emplace_back(part, number);
    part(0);
    for (auto& other : others) other.join();
    result = m;
    return good;
}
