// The C interface of the library, which Python calls through ctypes. Nothing here throws; the caller checks sizes.
#pragma once
#include <cstdint>

#define PENSTOCK_API extern "C" __attribute__((visibility("default")))

struct Kernel;

enum Scheme : int32_t { AFFINE32 = 0, AFFINE64 = 1, LEGACY = 2 };
enum Hash : int32_t { SHA1 = 0, XXH32 = 1 };

// Permutations are computed in blocks: factors and offsets are padded to a multiple of this.
constexpr int64_t BLOCK = 64;
// The table of characters holds the UTF-8 of each one's image, the first byte lowest, and its length in the highest
// byte. A length of 4 stands for the character itself, VANISHED for one of which nothing is left, REFUSED for one whose
// image depends on its neighbours.
constexpr uint32_t REFUSED = 0, VANISHED = 5u << 24, SPACE = 1u << 24 | ' ';
constexpr uint32_t CHARACTERS = 0x20000;  // length of the table; later characters are refused

// How texts are signed.
struct Signing {
    const uint32_t* characters;  // the table; null where texts come normalised
    const void* factors;         // of 32 bits for AFFINE32, else of 64
    const void* offsets;
    int64_t permutations;
    int64_t size;    // of a shingle, in units
    int32_t scheme;
    int32_t hash;
    int32_t words;   // the unit: words, which stand between spaces, or else characters
    int32_t joined;  // whether runs of spaces become one, and vanish at both ends; always with words
};

// The number of the interface; the loader refuses a library of another.
constexpr int32_t PENSTOCK_ABI = 2;
PENSTOCK_API int32_t penstock_abi();

// The kernels that this processor can run, the fastest first, and null after the last.
PENSTOCK_API const Kernel* penstock_kernel(int32_t number);
PENSTOCK_API const char* penstock_kernel_name(const Kernel*);

// Signatures [count, permutations] of UTF-8 texts, in which surrogates may stand. `refused` says which texts have a
// refused character; their signatures are undefined. 0, or 2: no memory.
PENSTOCK_API int32_t penstock_sign(const Kernel*, const Signing*, const uint8_t* const* texts, const int64_t* lengths,
                                   int64_t count, void* signatures, uint8_t* refused);
