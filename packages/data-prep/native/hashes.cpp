#include "hashes.h"

#include <cstring>

#include "kernel.h"

namespace {

uint32_t left(uint32_t value, int bits) { return value << bits | value >> (32 - bits); }

uint32_t little(const uint8_t* bytes) {
    uint32_t value;
    std::memcpy(&value, bytes, 4);
    return value;  // both processors that the kernel is built for are little-endian
}

constexpr uint32_t P1 = 0x9e3779b1, P2 = 0x85ebca77, P3 = 0xc2b2ae3d, P4 = 0x27d4eb2f, P5 = 0x165667b1;

uint32_t lane(uint32_t sum, const uint8_t* bytes) { return left(sum + little(bytes) * P2, 13) * P1; }

}  // namespace

uint32_t xxh32(const uint8_t* data, size_t length) {
    const uint8_t* const end = data + length;
    uint32_t hash = P5;
    if (length >= 16) {
        uint32_t a = P1 + P2, b = P2, c = 0, d = 0 - P1;
        for (; end - data >= 16; data += 16) {
            a = lane(a, data);
            b = lane(b, data + 4);
            c = lane(c, data + 8);
            d = lane(d, data + 12);
        }
        hash = left(a, 1) + left(b, 7) + left(c, 12) + left(d, 18);
    }
    hash += static_cast<uint32_t>(length);
    for (; end - data >= 4; data += 4) hash = left(hash + little(data) * P3, 17) * P4;
    for (; data < end; ++data) hash = left(hash + *data * P5, 11) * P1;
    hash = (hash ^ hash >> 15) * P2;
    hash = (hash ^ hash >> 13) * P3;
    return hash ^ hash >> 16;
}

uint64_t sha1(const uint8_t* data, size_t length, void (*block)(uint32_t*, const uint8_t*)) {
    uint32_t state[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    const uint64_t bits = __builtin_bswap64(uint64_t{length} * 8);
    for (; length >= 64; data += 64, length -= 64) block(state, data);
    uint8_t last[128] = {};
    const size_t padded = length < 56 ? 64 : 128;
    std::memcpy(last, data, length);
    last[length] = 0x80;
    std::memcpy(last + padded - 8, &bits, 8);
    block(state, last);
    if (padded == 128) block(state, last + 64);
    return __builtin_bswap32(state[0]) | uint64_t{__builtin_bswap32(state[1])} << 32;
}

void sha1_block_portable(uint32_t* state, const uint8_t* block) {
    uint32_t w[80];
    for (int i = 0; i < 16; ++i) w[i] = __builtin_bswap32(little(block + 4 * i));
    for (int i = 16; i < 80; ++i) w[i] = left(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3], e = state[4];
    auto round = [&](uint32_t chosen, uint32_t word) {
        const uint32_t next = left(a, 5) + chosen + e + word;
        e = d;
        d = c;
        c = left(b, 30);
        b = a;
        a = next;
    };
    for (int i = 0; i < 20; ++i) round((d ^ (b & (c ^ d))) + 0x5a827999, w[i]);
    for (int i = 20; i < 40; ++i) round((b ^ c ^ d) + 0x6ed9eba1, w[i]);
    for (int i = 40; i < 60; ++i) round(((b & c) | (d & (b | c))) + 0x8f1bbcdc, w[i]);
    for (int i = 60; i < 80; ++i) round((b ^ c ^ d) + 0xca62c1d6, w[i]);
    state[0] += a;
    state[1] += b;
    state[2] += c;
    state[3] += d;
    state[4] += e;
}
