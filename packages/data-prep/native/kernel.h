// A kernel: the code of one instruction set. All give the same bits.
#pragma once
#include <cstdint>

struct Kernel {
    const char* name;
    // Takes into `low` [permutations] the least of each permutation's values over all hashes.
    void (*affine32)(const uint32_t* hashes, int64_t count, const uint32_t* factors, const uint32_t* offsets,
                     int64_t permutations, uint32_t* low);
    void (*affine64)(const uint64_t* hashes, int64_t count, const uint64_t* factors, const uint64_t* offsets,
                     int64_t permutations, uint64_t* low);
    void (*legacy)(const uint64_t* hashes, int64_t count, const uint64_t* factors, const uint64_t* offsets,
                   int64_t permutations, uint64_t* low);
    // Takes one block of 64 bytes into the state of SHA-1.
    void (*sha1_block)(uint32_t* state, const uint8_t* block);
};

extern const Kernel portable_permute;
extern const Kernel avx2_permute;
extern const Kernel avx512_permute;
void sha1_block_portable(uint32_t* state, const uint8_t* block);
void sha1_block_extensions(uint32_t* state, const uint8_t* block);
