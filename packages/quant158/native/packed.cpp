#include "packed.h"

#include <limits>

namespace {

StoredMatrix number(const StoredMatrix& first, int64_t index) {
    StoredMatrix stored = first;
    stored.first_trit += index * first.rows * first.columns;
    stored.scales += index * stored_scales(first);
    return stored;
}

}  // namespace

std::unique_ptr<PackedMatrix> pack(const StoredMatrix& first, int64_t count, int64_t threads, Packing& result) {
    result = Packing::BAD_SIZES;
    const int64_t each = (repacked_bytes(first) + BLOCK_BYTES - 1) / BLOCK_BYTES * BLOCK_BYTES;
    if (each <= 0 || count <= 0 || count > std::numeric_limits<int64_t>::max() / 8 / each) return nullptr;
    result = Packing::NO_MEMORY;
    auto packed = std::make_unique<PackedMatrix>(PackedMatrix{Memory(size_t(count * each)), {}, count * each});
    if (!packed->memory.data()) return nullptr;
    packed->matrices.resize(count);
    result = Packing::BAD_CODES;
    for (int64_t i = 0; i < count; ++i)
        if (!repack(number(first, i), packed->memory.data() + i * each, threads, packed->matrices[i])) return nullptr;
    result = Packing::GOOD;
    return packed;
}
