// What one instruction set offers. Each is a source file compiled with its own flags, and all give the same bits.
#pragma once
#include "matrix.h"

struct Kernel {
    const char* name;

    // Quantizes one vector: its values in `planes` planes, its prefix sums, its scale. A vector with NaN or infinity
    // gets the scale NaN, and so do all products with it.
    void (*quantize)(const float* x, int64_t columns, int64_t planes, int8_t* values, int32_t* prefix, float* scale);

    // out[v * stride + row] = sum over groups of scale[row, group] * (integer product of the group), times the scale of
    // vector v; for the rows of the row blocks [first, last). Each vector's result is what it is alone.
    void (*multiply)(const Matrix&, const Vectors&, float* out, int64_t stride, int64_t first, int64_t last);
};

extern const Kernel kernel_portable;
#if defined(__x86_64__)
extern const Kernel kernel_avx2;
extern const Kernel kernel_avx512vnni;
#elif defined(__aarch64__)
extern const Kernel kernel_neon;
#endif
