// Matrices of one stored tensor in memory: one matrix, or a stack of experts.
#pragma once
#include <memory>
#include <vector>

#include "memory.h"
#include "repack.h"

struct PackedMatrix {
    Memory memory;
    std::vector<Matrix> matrices;
    int64_t bytes;
};

enum class Packing : int32_t { GOOD = 0, BAD_SIZES = 1, NO_MEMORY = 2, BAD_CODES = 3 };

// Packs `count` matrices that follow one another in the stream and in the scales. Null unless `result` is GOOD.
std::unique_ptr<PackedMatrix> pack(const StoredMatrix& first, int64_t count, int64_t threads, Packing& result);
