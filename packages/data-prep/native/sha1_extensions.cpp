// SHA-1 by the instructions of x86 for it: four rounds each, the state in two registers.
#include <immintrin.h>

#include "kernel.h"

namespace {

struct State {
    __m128i abcd, before;  // before the last four rounds; they made e of its a
    __m128i w[4];
};

// Twenty rounds, of one function and constant.
template <int FUNCTION>
inline void rounds(State& s) {
#pragma GCC unroll 5
    for (int group = 5 * FUNCTION; group < 5 * FUNCTION + 5; ++group) {
        __m128i& w = s.w[group % 4];
        if (group >= 4) {
            w = _mm_xor_si128(_mm_sha1msg1_epu32(w, s.w[(group + 1) % 4]), s.w[(group + 2) % 4]);
            w = _mm_sha1msg2_epu32(w, s.w[(group + 3) % 4]);
        }
        const __m128i e = group == 0 ? _mm_add_epi32(s.before, w) : _mm_sha1nexte_epu32(s.before, w);
        s.before = s.abcd;
        s.abcd = _mm_sha1rnds4_epu32(s.abcd, e, FUNCTION);
    }
}

}  // namespace

void sha1_block_extensions(uint32_t* state, const uint8_t* block) {
    const __m128i big_endian = _mm_set_epi64x(0x0001020304050607, 0x08090a0b0c0d0e0f);
    const __m128i abcd = _mm_shuffle_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(state)), 0x1b);
    const __m128i e = _mm_set_epi32(static_cast<int>(state[4]), 0, 0, 0);
    State s{abcd, e, {}};
    for (int i = 0; i < 4; ++i)
        s.w[i] = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(block) + i), big_endian);
    rounds<0>(s);
    rounds<1>(s);
    rounds<2>(s);
    rounds<3>(s);
    s.abcd = _mm_shuffle_epi32(_mm_add_epi32(s.abcd, abcd), 0x1b);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(state), s.abcd);
    state[4] = static_cast<uint32_t>(_mm_extract_epi32(_mm_sha1nexte_epu32(s.before, e), 3));
}
