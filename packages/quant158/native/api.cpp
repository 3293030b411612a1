#include "api.h"

#include <algorithm>
#include <thread>
#include <vector>

#include "dispatch.h"
#include "packed.h"

namespace {

struct Quantized {
    std::vector<int8_t> values;
    std::vector<int32_t> prefix;
    std::vector<float> scales;
    Vectors vectors;

    Quantized(const Kernel& kernel, const Matrix& m, const float* x, int64_t count, int64_t planes) {
        const int64_t width = planes * m.column_blocks * BLOCK, sums = quads_of(m.column_blocks) + 1;
        values.resize(count * width);
        prefix.resize(count * sums);
        scales.resize(count);
        for (int64_t v = 0; v < count; ++v)
            kernel.quantize(x + v * m.columns, m.columns, planes, &values[v * width], &prefix[v * sums], &scales[v]);
        vectors = {values.data(), prefix.data(), scales.data(), count, planes, m.column_blocks};
    }
};

void multiply(const Kernel& kernel, const Matrix& m, const Vectors& x, int64_t threads, float* out) {
    const int64_t bands = (m.row_blocks + BAND - 1) / BAND;
    threads = std::max<int64_t>(1, std::min(threads, bands));
    auto part = [&](int64_t number) {
        const int64_t first = bands * number / threads * BAND, end = bands * (number + 1) / threads * BAND;
        kernel.multiply(m, x, out, m.rows, first, std::min(end, m.row_blocks));
    };
    std::vector<std::thread> others;
    for (int64_t number = 1; number < threads; ++number) others.emplace_back(part, number);
    part(0);
    for (auto& other : others) other.join();
}

}  // namespace

int32_t penstock_abi() { return PENSTOCK_ABI; }

const char* penstock_kernel_name(int32_t number) {
    return number >= 0 && number < KERNELS ? KERNEL_NAMES[number] : nullptr;
}

const Kernel* penstock_kernel(const char* name) { return supported_kernel(name); }

int32_t penstock_self_test(const Kernel* kernel) { return passes_self_test(*kernel); }

PackedMatrix* penstock_matrix_new(const uint8_t* stream, int64_t first_trit, int64_t count, int64_t rows,
                                  int64_t columns, const uint16_t* scales, int64_t group, int64_t threads,
                                  int32_t* why) try {
    Packing result;
    auto packed = pack({stream, first_trit, rows, columns, scales, group}, count, threads, result);
    *why = static_cast<int32_t>(result);
    return packed.release();
} catch (...) {
    *why = static_cast<int32_t>(Packing::NO_MEMORY);
    return nullptr;
}

void penstock_matrix_free(PackedMatrix* matrix) { delete matrix; }

int64_t penstock_matrix_bytes(const PackedMatrix* matrix) { return matrix->bytes; }

int32_t penstock_multiply(const Kernel* kernel, const PackedMatrix* packed, const int64_t* vectors, const float* x,
                          int64_t planes, int64_t threads, float* out) try {
    for (const Matrix& matrix : packed->matrices) {
        const int64_t count = *vectors++;
        if (count == 0) continue;
        const Quantized quantized(*kernel, matrix, x, count, planes);
        multiply(*kernel, matrix, quantized.vectors, threads, out);
        x += count * matrix.columns;
        out += count * matrix.rows;
    }
    return 0;
} catch (...) {
    return static_cast<int32_t>(Packing::NO_MEMORY);
}
