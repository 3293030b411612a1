#include "memory.h"

#include <sys/mman.h>

#include <cstdint>

namespace {

constexpr size_t HUGE_PAGE = size_t(2) << 20;

void* mapped(size_t bytes) {
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return memory == MAP_FAILED ? nullptr : memory;
}

// Maps a huge page more than needed and gives back what lies before the first boundary and after the last.
unsigned char* mapped_on_huge_pages(size_t bytes) {
    auto* memory = static_cast<unsigned char*>(mapped(bytes + HUGE_PAGE));
    if (!memory) return nullptr;
    const size_t before = (HUGE_PAGE - reinterpret_cast<uintptr_t>(memory) % HUGE_PAGE) % HUGE_PAGE;
    if (before) munmap(memory, before);
    if (before < HUGE_PAGE) munmap(memory + before + bytes, HUGE_PAGE - before);
#ifdef MADV_HUGEPAGE
    madvise(memory + before, bytes, MADV_HUGEPAGE);  // advice: that it is refused is no error
#endif
    return memory + before;
}

}  // namespace

Memory::Memory(size_t bytes) {
    if (bytes == 0 || bytes > SIZE_MAX / 2) return;
    const size_t unit = bytes < HUGE_PAGE ? 4096 : HUGE_PAGE;
    bytes_ = (bytes + unit - 1) / unit * unit;
    data_ = bytes < HUGE_PAGE ? static_cast<unsigned char*>(mapped(bytes_)) : mapped_on_huge_pages(bytes_);
}

Memory::~Memory() {
    if (data_) munmap(data_, bytes_);
}
