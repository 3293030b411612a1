// ARM NEON with the dot-product instructions of ARMv8.2: four products and their sum in each of four lanes.
#include <arm_neon.h>

#include "kernel.h"

namespace {

constexpr int VECTORS = 4;

struct Sums { int32x4_t of[4]; };  // rows 0 to 3, 4 to 7, 8 to 11, 12 to 15
struct Totals { float32x4_t of[4] = {vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0)}; };

template <int R, int N>
inline void products(const uint8_t* codes, int64_t step, const int8_t* const (&x)[N], int64_t first, int64_t end,
                     Sums (&sums)[R][N]) {
    const uint8x16_t three = vdupq_n_u8(3);
    for (auto& row : sums)
        for (auto& sum : row)
            for (auto& lanes : sum.of) lanes = vdupq_n_s32(0);
    for (int64_t c = first; c < end; ++c)
        for (int r = 0; r < R; ++r)
            for (int i = 0; i < 4; ++i) {
                const uint8x16_t four_rows = vld1q_u8(codes + c * step + r * BLOCK_BYTES + 16 * i);
                const int8x16_t code0 = vreinterpretq_s8_u8(vandq_u8(four_rows, three));
                const int8x16_t code1 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(four_rows, 2), three));
                const int8x16_t code2 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(four_rows, 4), three));
                const int8x16_t code3 = vreinterpretq_s8_u8(vshrq_n_u8(four_rows, 6));
                for (int n = 0; n < N; ++n) {
                    const int8x16_t value = vld1q_s8(x[n] + c * BLOCK);
                    int32x4_t& sum = sums[r][n].of[i];
                    sum = vdotq_laneq_s32(sum, code0, value, 0);
                    sum = vdotq_laneq_s32(sum, code1, value, 1);
                    sum = vdotq_laneq_s32(sum, code2, value, 2);
                    sum = vdotq_laneq_s32(sum, code3, value, 3);
                }
            }
}

inline Sums planes_as_one(const Sums& high, const Sums& low) {
    Sums result;
    for (int i = 0; i < 4; ++i) result.of[i] = vaddq_s32(vshlq_n_s32(high.of[i], 8), low.of[i]);
    return result;
}

inline void add_scaled(Totals& totals, const uint16_t* scales, const Sums& sums, int32_t less) {
    for (int i = 0; i < 4; ++i) {
        const float32x4_t scale = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(scales + 4 * i)));
        const float32x4_t sum = vcvtq_f32_s32(vsubq_s32(sums.of[i], vdupq_n_s32(less)));
        totals.of[i] = vaddq_f32(totals.of[i], vmulq_f32(scale, sum));
    }
}

inline void store(float* out, const Totals& totals, float by) {
    for (int i = 0; i < 4; ++i) vst1q_f32(out + 4 * i, vmulq_f32(totals.of[i], vdupq_n_f32(by)));
}

}  // namespace

#include "multiply.inc"

const Kernel kernel_neon = {"neon", quantize, multiply};
