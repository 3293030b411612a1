// Plain C++: the reference that the other paths are compared with, and the path of any other processor.
#include "kernel.h"

namespace {

constexpr int VECTORS = 4;

struct Sums { int32_t of[BLOCK]; };
struct Totals { float of[BLOCK]; };

template <int R, int N>
void products(const uint8_t* codes, int64_t step, const int8_t* const (&x)[N], int64_t first, int64_t end,
              Sums (&sums)[R][N]) {
    for (auto& row : sums)
        for (auto& sum : row) sum = {};
    for (int r = 0; r < R; ++r)
        for (int64_t c = first; c < end; ++c) {
            const uint8_t* block = codes + c * step + r * BLOCK_BYTES;
            for (int n = 0; n < N; ++n) {
                const int8_t* v = x[n] + c * BLOCK;
                for (int i = 0; i < BLOCK; ++i)
                    for (int j = 0; j < 4; ++j) {
                        const int32_t b = block[4 * i + j];
                        const int32_t low = (b & 3) * v[j] + (b >> 2 & 3) * v[4 + j];
                        sums[r][n].of[i] += low + (b >> 4 & 3) * v[8 + j] + (b >> 6) * v[12 + j];
                    }
            }
        }
}

Sums planes_as_one(const Sums& high, const Sums& low) {
    Sums result;
    for (int i = 0; i < BLOCK; ++i) result.of[i] = 256 * high.of[i] + low.of[i];
    return result;
}

inline float from_half(uint16_t half) {  // a normal positive number: the exponent's bias goes from 15 to 127
    const uint32_t bits = (static_cast<uint32_t>(half) << 13) + (112u << 23);
    float result;
    __builtin_memcpy(&result, &bits, sizeof result);
    return result;
}

void add_scaled(Totals& totals, const uint16_t* scales, const Sums& sums, int32_t less) {
    for (int i = 0; i < BLOCK; ++i) totals.of[i] += from_half(scales[i]) * static_cast<float>(sums.of[i] - less);
}

void store(float* out, const Totals& totals, float by) {
    for (int i = 0; i < BLOCK; ++i) out[i] = totals.of[i] * by;
}

}  // namespace

#include "multiply.inc"

const Kernel kernel_portable = {"portable", quantize, multiply};
