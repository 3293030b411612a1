// Prints a line for each kernel that this processor can run: its name and a hash of products of many shapes, and of what
// models decode, through the library's C interface. All lines have one hash, on every processor: `nox -s kernels`
// compares them.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include "../native/api.h"
#include "every_decoder.h"

namespace {

uint32_t state = 1;

}  // namespace

uint32_t random_number() { return (state = state * 1664525 + 1013904223) >> 16; }

namespace {

struct Case {
    int64_t rows, columns, group, vectors, planes;
};

struct Arrays {
    std::vector<uint8_t> stream;
    std::vector<uint16_t> scales;
    std::vector<float> x;
};

// The second half of the vectors is saturated, and the first row of the matrix is all ones.
Arrays arrays_of(const Case& c) {
    const int64_t groups = c.group > 0 ? (c.columns + c.group - 1) / c.group : 1;
    Arrays arrays{std::vector<uint8_t>((c.rows * c.columns + 4) / 5),
                  std::vector<uint16_t>(c.group < 0 ? 1 : c.rows * groups), std::vector<float>(c.vectors * c.columns)};
    for (auto& byte : arrays.stream) byte = random_number() % 243;
    std::memset(arrays.stream.data(), 242, c.columns / 5);
    for (auto& scale : arrays.scales) scale = 0x0400 + random_number() % 0x4000;
    for (auto& value : arrays.x) value = (float(random_number()) - 32768.0f) / 1000.0f;
    for (int64_t i = c.vectors / 2 * c.columns; i < c.vectors * c.columns; ++i) arrays.x[i] = i % 3 ? 32512 : -32512;
    return arrays;
}

uint64_t hashed(const std::vector<float>& values, uint64_t hash) {
    for (float value : values) {
        uint32_t bits;
        std::memcpy(&bits, &value, sizeof bits);
        hash = (hash ^ bits) * 1099511628211u;
    }
    return hash;
}

uint64_t hash_of(const Kernel* kernel) {
    const Case cases[] = {{1, 1, 0, 1, 1},      {16, 16, -1, 2, 2},    {100, 300, 64, 9, 1},    {130, 257, 128, 15, 2},
                          {65, 1000, 256, 1, 1}, {64, 4096, 0, 1, 2},   {20, 70000, -1, 3, 2},   {200, 512, 128, 1, 1}};
    uint64_t hash = 14695981039346656037u;
    state = 1;
    for (const Case& c : cases) {
        const Arrays arrays = arrays_of(c);
        std::vector<float> out(c.vectors * c.rows);
        int32_t why;
        PackedMatrix* matrix = penstock_matrix_new(arrays.stream.data(), 0, 1, c.rows, c.columns, arrays.scales.data(),
                                                   c.group, 2, &why);
        if (!matrix || penstock_multiply(kernel, matrix, &c.vectors, arrays.x.data(), c.planes, 3, out.data())) {
            std::printf("no memory\n");
            return 0;
        }
        penstock_matrix_free(matrix);
        hash = hashed(out, hash);
    }
    std::vector<float> values;
    if (!decoded(kernel, values)) {
        std::printf("the decoder failed\n");
        return 0;
    }
    return hashed(values, hash);
}

}  // namespace

int main() {
    for (int32_t number = 0; const char* name = penstock_kernel_name(number); ++number) {
        const Kernel* kernel = penstock_kernel(name);
        if (kernel && !penstock_self_test(kernel)) std::printf("%s fails its self-test\n", name);
        else if (kernel) std::printf("%s %016llx\n", name, static_cast<unsigned long long>(hash_of(kernel)));
    }
}
