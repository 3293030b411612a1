#include "sampling.h"

#include <algorithm>
#include <cstring>

namespace {

// A weight and its token in one number that is larger for the larger weight, and of equals for the smaller token.
uint64_t ranked(float weight, int64_t token) {
    uint32_t bits;  // of a float that is not negative: they compare as the floats do
    std::memcpy(&bits, &weight, sizeof bits);
    return uint64_t(bits) << 32 | (0xffffffffu - static_cast<uint32_t>(token));
}

int32_t token_of(uint64_t rank) { return static_cast<int32_t>(0xffffffffu - static_cast<uint32_t>(rank)); }

}  // namespace

bool largest_is_finite(const float* logits, int64_t n) {
    constexpr int32_t infinity = 0x7f800000;
    int32_t magnitude = 0, most = INT32_MIN;  // of floats as integers, which the compiler may take in any order
    for (int64_t i = 0; i < n; ++i) {
        int32_t bits;
        std::memcpy(&bits, logits + i, sizeof bits);
        const int32_t positive = bits & 0x7fffffff, ordered = bits < 0 ? -positive : bits;
        magnitude = positive > magnitude ? positive : magnitude;
        most = ordered > most ? ordered : most;
    }
    return magnitude <= infinity && most < infinity && most > -infinity;  // NaN lies beyond infinity
}

// As torch's generator on a CPU draws a double: the first number is the high word, and 53 bits are used.
double Sampler::uniform() {
    const uint64_t high = random_(), low = random_();
    return static_cast<double>((high << 32 | low) & ((uint64_t(1) << 53) - 1)) * 0x1p-53;
}

// The weight of the token of a rank, 0 for the likeliest. Tokens leave the heap as far as they are asked for, and lie
// behind it in rising order.
double Sampler::weight(int64_t rank, const float* weights) {
    while (ranked_ <= rank) std::pop_heap(heap_.begin(), heap_.end() - ranked_++);
    return weights[token(rank)];
}

int32_t Sampler::token(int64_t rank) const { return token_of(heap_[heap_.size() - 1 - rank]); }

// The first token, in falling order of weight, with which the sum exceeds a uniform share of the sum of those that
// top_k and top_p leave.
int32_t Sampler::next(const Decoding& decoding, float* logits, int64_t n, const Sampling& sampling) {
    if (sampling.temperature == 0) return decoding.likeliest(logits, n);
    decoding.weights(logits, n, static_cast<float>(sampling.temperature));
    heap_.resize(n);
    for (int64_t i = 0; i < n; ++i) heap_[i] = ranked(logits[i], i);
    std::make_heap(heap_.begin(), heap_.end());
    ranked_ = 0;

    int64_t count = sampling.top_k > 0 ? std::min(sampling.top_k, n) : n;
    double total = 0, kept = 0, sum = 0;
    if (count == n) for (int64_t i = 0; i < n; ++i) total += logits[i];
    else for (int64_t i = 0; i < count; ++i) total += weight(i, logits);
    if (sampling.top_p < 1) {
        int64_t i = 0;
        while (i < count && kept < sampling.top_p * total) kept += weight(i++, logits);
        count = i;
    } else {
        kept = total;
    }
    const double bound = uniform() * kept;
    for (int64_t i = 0; i < count; ++i) {
        sum += weight(i, logits);
        if (sum > bound) return token(i);
    }
    return token(count - 1);  // rounding left the sum at the bound
}
