// What `ternary_matvec.py` times: the package's kernel, a peer, and a plain read of memory; compiled by that script.
//
// The peer is a product by rows with `maddubs`, as llama.cpp has for TQ2_0: 128 weights in 32 bytes, one scale a row,
// the sum of the activations taken off at the end. Written for this comparison, it shares no code with the kernel.
#include <immintrin.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>
#include <vector>

#include "kernel.h"
#include "packed.h"

namespace {

constexpr int64_t GROUP = 128, GROUP_BYTES = 32;
constexpr int64_t BLOCKS = 32;  // of at least a few microseconds each

inline __m256i load(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }

int32_t sum_of(__m256i lanes) {
    const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1));
    const __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
    return _mm_cvtsi128_si32(two) + _mm_extract_epi32(two, 1);
}

// 128 products as 16 int16, each of at most 8 * 2 * 127; two groups fit.
inline __m256i group_products(const uint8_t* codes, const int8_t* x) {
    const __m256i three = _mm256_set1_epi8(3), four_each = load(codes);
    const __m256i a = _mm256_maddubs_epi16(_mm256_and_si256(four_each, three), load(x));
    const __m256i b = _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(four_each, 2), three), load(x + 32));
    const __m256i c = _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(four_each, 4), three), load(x + 64));
    const __m256i d = _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(four_each, 6), three), load(x + 96));
    return _mm256_add_epi16(_mm256_add_epi16(a, b), _mm256_add_epi16(c, d));
}

// Puts this thread on the processor of that number among the allowed ones.
void pin(const cpu_set_t& allowed, int64_t number) {
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
        if (!CPU_ISSET(cpu, &allowed) || number-- > 0) continue;
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        sched_setaffinity(0, sizeof one, &one);
        return;
    }
}

// The time of `repeats` products, each of which is `part(thread, thread count)` on every thread, all of which wait for
// one another after it: the median of blocks of products, times their number. Threads that wait for one another lose a
// mean: the system, or the host of a virtual machine, takes a processor away for milliseconds, a product lasts
// microseconds. Time begins when all have met once, because to start a thread takes longer than most products. Each has
// a processor of its own, because the system may leave new threads on that of their parent for longer than all of this
// takes.
template <class Part>
double seconds(int64_t threads, int64_t repeats, Part part) {
    using Clock = std::chrono::steady_clock;
    const int64_t blocks = std::min<int64_t>(repeats, BLOCKS);
    std::vector<double> taken(blocks);
    std::atomic<int64_t> arrived{0};
    auto meet = [&](int64_t meeting) {
        if (threads == 1) return;
        ++arrived;
        for (int64_t spins = 0; arrived.load(std::memory_order_acquire) < threads * meeting; ++spins)
            spins < 1000 ? _mm_pause() : std::this_thread::yield();  // others may need the core
    };
    auto run = [&](int64_t thread) {
        int64_t done = 0;
        for (int64_t block = 0; block < blocks; ++block) {
            const int64_t end = repeats * (block + 1) / blocks, size = end - done;
            const auto begun = Clock::now();
            for (; done < end; ++done) {
                part(thread, threads);
                meet(done + 2);
            }
            if (thread == 0) taken[block] = std::chrono::duration<double>(Clock::now() - begun).count() / size;
        }
    };
    cpu_set_t allowed;
    sched_getaffinity(0, sizeof allowed, &allowed);
    if (threads > 1) pin(allowed, 0);
    std::vector<std::thread> others;
    for (int64_t thread = 1; thread < threads; ++thread)
        others.emplace_back([&, thread] {
            pin(allowed, thread);
            meet(1);
            run(thread);
        });
    meet(1);
    run(0);
    for (auto& other : others) other.join();
    sched_setaffinity(0, sizeof allowed, &allowed);
    std::nth_element(taken.begin(), taken.begin() + blocks / 2, taken.end());
    return taken[blocks / 2] * repeats;
}

}  // namespace

// Two bits a weight from five trits a byte.
extern "C" void peer_pack(const uint8_t* trits, int64_t rows, int64_t columns, uint8_t* codes) {
    constexpr int power[] = {1, 3, 9, 27, 81};
    for (int64_t i = 0; i < rows * columns; ++i) {
        const int64_t within = i % GROUP, byte = i / GROUP * GROUP_BYTES + within % 32;
        const int code = trits[i / 5] / power[i % 5] % 3 << within / 32 * 2;
        codes[byte] = static_cast<uint8_t>(within < 32 ? code : codes[byte] | code);
    }
}

struct Peer {
    const uint8_t* codes;
    const float* scales;
    int64_t rows, columns;
};

static void peer_rows(const Peer& m, const int8_t* x, int32_t x_sum, float x_scale, float* out, int64_t first,
                      int64_t last) {
    const __m256i ones = _mm256_set1_epi16(1);
    for (int64_t row = first; row < last; ++row) {
        const uint8_t* codes = m.codes + row * m.columns / GROUP * GROUP_BYTES;
        __m256i sums = _mm256_setzero_si256();
        for (int64_t c = 0; c < m.columns; c += 2 * GROUP, codes += 2 * GROUP_BYTES) {
            const __m256i pairs = _mm256_add_epi16(group_products(codes, x + c),
                                                   group_products(codes + GROUP_BYTES, x + c + GROUP));
            sums = _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, ones));
        }
        out[row] = m.scales[row] * static_cast<float>(sum_of(sums) - x_sum) * x_scale;
    }
}

extern "C" double time_peer(const Peer* m, const int8_t* x, int32_t x_sum, float x_scale, float* out, int64_t threads,
                            int64_t repeats) {
    return seconds(threads, repeats, [=](int64_t number, int64_t of) {
        peer_rows(*m, x, x_sum, x_scale, out, m->rows * number / of, m->rows * (number + 1) / of);
    });
}

extern "C" double time_kernel(const Kernel* kernel, const PackedMatrix* packed, const int8_t* x, const int32_t* prefix,
                              float x_scale, float* out, int64_t threads, int64_t repeats) {
    const Matrix& m = packed->matrices[0];
    const Vectors vector{x, prefix, &x_scale, 1, 1, m.column_blocks};
    const int64_t bands = m.row_blocks / BAND;
    return seconds(threads, repeats, [&](int64_t number, int64_t of) {
        kernel->multiply(m, vector, out, m.rows, bands * number / of * BAND, bands * (number + 1) / of * BAND);
    });
}

// Reads the matrix and adds it up, fetching `ahead` bytes ahead, or as the processor likes where that is 0.
extern "C" double time_read(const PackedMatrix* packed, int64_t ahead, int64_t threads, int64_t repeats) {
    static std::atomic<int32_t> sink;
    const int64_t lines = packed->bytes / 64;
    return seconds(threads, repeats, [&](int64_t number, int64_t of) {
        const uint8_t* at = packed->memory.data() + lines * number / of * 64;
        const uint8_t* end = packed->memory.data() + lines * (number + 1) / of * 64;
        __m256i a = _mm256_setzero_si256(), b = a;
        for (; at < end; at += 64) {
            if (ahead) _mm_prefetch(reinterpret_cast<const char*>(at) + ahead, _MM_HINT_T0);
            a = _mm256_add_epi32(a, load(at));
            b = _mm256_add_epi32(b, load(at + 32));
        }
        sink += sum_of(_mm256_add_epi32(a, b));
    });
}
