// The next token from logits, as penstock.moe_core.layers.generation draws it.
#pragma once
#include <cstdint>
#include <random>
#include <vector>

#include "decoder.h"

struct Sampling {  // mirrored in decoder.py
    double temperature;  // 0: the likeliest token
    double top_p;        // 1: all
    int64_t top_k;       // 0: all
};

// Without one, no token follows from the logits.
bool largest_is_finite(const float* logits, int64_t n);

class Sampler {
public:
    void seed(uint64_t seed) { random_.seed(static_cast<uint32_t>(seed)); }

    // Overwrites the logits, whose largest must be finite.
    int32_t next(const Decoding&, float* logits, int64_t n, const Sampling&);

private:
    double uniform();
    double weight(int64_t rank, const float* weights);
    int32_t token(int64_t rank) const;

    std::mt19937 random_;
    std::vector<uint64_t> heap_;
    int64_t ranked_ = 0;
};
