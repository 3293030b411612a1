// AVX2 and F16C: products of unsigned codes with signed values in pairs, as int16.
#include <immintrin.h>

#include "kernel.h"

namespace {

constexpr int VECTORS = 4;
// A block adds four pairs of at most 2 * (2 * 128) = 512 to each int16: 16 blocks end at -32,768 and at 32,512.
constexpr int64_t BLOCKS_IN_INT16 = 16;
constexpr int64_t AHEAD = 8192;  // bytes between a load and what is fetched for later

struct Sums { __m256i low, high; };  // rows 0 to 7, and 8 to 15
struct Totals { __m256 low = _mm256_setzero_ps(), high = _mm256_setzero_ps(); };

inline __m256i four_values(const int8_t* v) {
    int32_t four;
    __builtin_memcpy(&four, v, sizeof four);
    return _mm256_set1_epi32(four);
}

// The products of 8 rows of a block with 16 values, as pairs in int16.
inline __m256i block_products(__m256i codes, const int8_t* v) {
    const __m256i three = _mm256_set1_epi8(3);
    auto part = [&](__m256i shifted, int j) {
        return _mm256_maddubs_epi16(_mm256_and_si256(shifted, three), four_values(v + 4 * j));
    };
    const __m256i first = _mm256_add_epi16(part(codes, 0), part(_mm256_srli_epi16(codes, 2), 1));
    return _mm256_add_epi16(first, _mm256_add_epi16(part(_mm256_srli_epi16(codes, 4), 2),
                                                    part(_mm256_srli_epi16(codes, 6), 3)));
}

inline __m256i widened(__m256i pairs) { return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)); }

// One row block, over at most BLOCKS_IN_INT16 column blocks.
template <int N>
inline void add_products(const uint8_t* codes, int64_t step, const int8_t* const (&x)[N], int64_t first, int64_t end,
                         Sums (&sums)[N]) {
    __m256i low[N], high[N];
    for (int n = 0; n < N; ++n) low[n] = high[n] = _mm256_setzero_si256();
    for (int64_t c = first; c < end; ++c) {
        const uint8_t* block = codes + c * step;
        _mm_prefetch(reinterpret_cast<const char*>(block) + AHEAD, _MM_HINT_T0);
        const __m256i upper = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block));
        const __m256i lower = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block + 32));
        for (int n = 0; n < N; ++n) {
            low[n] = _mm256_add_epi16(low[n], block_products(upper, x[n] + c * BLOCK));
            high[n] = _mm256_add_epi16(high[n], block_products(lower, x[n] + c * BLOCK));
        }
    }
    for (int n = 0; n < N; ++n) {
        sums[n].low = _mm256_add_epi32(sums[n].low, widened(low[n]));
        sums[n].high = _mm256_add_epi32(sums[n].high, widened(high[n]));
    }
}

template <int R, int N>
void products(const uint8_t* codes, int64_t step, const int8_t* const (&x)[N], int64_t first, int64_t end,
              Sums (&sums)[R][N]) {
    for (auto& row : sums)
        for (auto& sum : row) sum = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    for (int64_t c = first; c < end; c += BLOCKS_IN_INT16) {
        const int64_t stop = c + BLOCKS_IN_INT16 < end ? c + BLOCKS_IN_INT16 : end;
        for (int r = 0; r < R; ++r) add_products(codes + r * BLOCK_BYTES, step, x, c, stop, sums[r]);
    }
}

inline Sums planes_as_one(Sums high, Sums low) {
    return {_mm256_add_epi32(_mm256_slli_epi32(high.low, 8), low.low),
            _mm256_add_epi32(_mm256_slli_epi32(high.high, 8), low.high)};
}

inline __m256 scaled(const uint16_t* scales, __m256i sums, __m256i less) {
    const __m256 scale = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(scales)));
    return _mm256_mul_ps(scale, _mm256_cvtepi32_ps(_mm256_sub_epi32(sums, less)));
}

inline void add_scaled(Totals& totals, const uint16_t* scales, Sums sums, int32_t less) {
    totals.low = _mm256_add_ps(totals.low, scaled(scales, sums.low, _mm256_set1_epi32(less)));
    totals.high = _mm256_add_ps(totals.high, scaled(scales + 8, sums.high, _mm256_set1_epi32(less)));
}

inline void store(float* out, const Totals& totals, float by) {
    _mm256_storeu_ps(out, _mm256_mul_ps(totals.low, _mm256_set1_ps(by)));
    _mm256_storeu_ps(out + 8, _mm256_mul_ps(totals.high, _mm256_set1_ps(by)));
}

}  // namespace

#include "multiply.inc"

const Kernel kernel_avx2 = {"avx2", quantize, multiply};
