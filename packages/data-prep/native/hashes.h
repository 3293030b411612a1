// The two hashes of a shingle.
#pragma once
#include <cstddef>
#include <cstdint>

// xxHash of 32 bits, seed 0.
uint32_t xxh32(const uint8_t* data, size_t length);

// The first eight bytes of SHA-1, read as little-endian. `block` takes 64 bytes into the state.
uint64_t sha1(const uint8_t* data, size_t length, void (*block)(uint32_t*, const uint8_t*));
