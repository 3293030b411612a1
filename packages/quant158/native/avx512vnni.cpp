// AVX-512 VNNI: four products of a code with a value, and their sum, in one instruction.
#include <immintrin.h>

#include "kernel.h"

namespace {

constexpr int VECTORS = 8;
// Bytes between a load and what is fetched for later: longer than the line fill of DRAM takes, see the benchmark.
constexpr int64_t AHEAD = 8192;

using Sums = __m512i;
struct Totals { __m512 of = _mm512_setzero_ps(); };

inline __m512i four_values(const int8_t* v) {
    int32_t four;
    __builtin_memcpy(&four, v, sizeof four);
    return _mm512_set1_epi32(four);
}

inline __m512i load_codes(const uint8_t* block) {
    _mm_prefetch(reinterpret_cast<const char*>(block) + AHEAD, _MM_HINT_T0);
    return _mm512_loadu_si512(block);
}

// sum += four products a lane. Written as an instruction, because around the intrinsic gcc 12 copies each sum twice.
inline void add_dot(__m512i& sum, __m512i codes, __m512i values) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(codes), "v"(values));
}

// One vector: the codes stay where they are, so bits 2-3 count 4 times, bits 4-5 16 times and bits 6-7 64 times. Each
// has a sum of its own, which is shifted once at the end, exactly: all its products are multiples of that power.
template <int R>
inline void products_of_one(const uint8_t* codes, int64_t step, const int8_t* x, int64_t first, int64_t end,
                            Sums (&sums)[R][1]) {
    const __m512i mask[4] = {_mm512_set1_epi8(0x03), _mm512_set1_epi8(0x0c), _mm512_set1_epi8(0x30),
                             _mm512_set1_epi8(static_cast<char>(0xc0))};
    __m512i part[R][4];
    for (auto& row : part)
        for (auto& each : row) each = _mm512_setzero_si512();
    for (int64_t c = first; c < end; ++c) {
        const int8_t* v = x + c * BLOCK;
        const __m512i value[4] = {four_values(v), four_values(v + 4), four_values(v + 8), four_values(v + 12)};
        for (int r = 0; r < R; ++r) {
            const __m512i block = load_codes(codes + c * step + r * BLOCK_BYTES);
            for (int j = 0; j < 4; ++j) add_dot(part[r][j], _mm512_and_si512(block, mask[j]), value[j]);
        }
    }
    for (int r = 0; r < R; ++r) {
        const __m512i lower = _mm512_add_epi32(part[r][0], _mm512_srai_epi32(part[r][1], 2));
        const __m512i upper = _mm512_add_epi32(_mm512_srai_epi32(part[r][2], 4), _mm512_srai_epi32(part[r][3], 6));
        sums[r][0] = _mm512_add_epi32(lower, upper);
    }
}

template <int R, int N>
inline void products(const uint8_t* codes, int64_t step, const int8_t* const (&x)[N], int64_t first, int64_t end,
                     Sums (&sums)[R][N]) {
    if constexpr (N == 1) return products_of_one(codes, step, x[0], first, end, sums);
    const __m512i three = _mm512_set1_epi8(3);
    for (auto& row : sums)
        for (auto& sum : row) sum = _mm512_setzero_si512();
    for (int64_t c = first; c < end; ++c)
        for (int r = 0; r < R; ++r) {
            const __m512i block = load_codes(codes + c * step + r * BLOCK_BYTES);
            for (int j = 0; j < 4; ++j) {
                const __m512i code = _mm512_and_si512(_mm512_srli_epi16(block, 2 * j), three);
                for (int n = 0; n < N; ++n) add_dot(sums[r][n], code, four_values(x[n] + c * BLOCK + 4 * j));
            }
        }
}

inline Sums planes_as_one(Sums high, Sums low) { return _mm512_add_epi32(_mm512_slli_epi32(high, 8), low); }

inline void add_scaled(Totals& totals, const uint16_t* scales, Sums sums, int32_t less) {
    const __m512 scale = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(scales)));
    const __m512 sum = _mm512_cvtepi32_ps(_mm512_sub_epi32(sums, _mm512_set1_epi32(less)));
    totals.of = _mm512_add_ps(totals.of, _mm512_mul_ps(scale, sum));
}

inline void store(float* out, const Totals& totals, float by) {
    _mm512_storeu_ps(out, _mm512_mul_ps(totals.of, _mm512_set1_ps(by)));
}

}  // namespace

#include "multiply.inc"

const Kernel kernel_avx512vnni = {"avx512vnni", quantize, multiply};
