// Zeroed memory for weights, in huge pages where the system has them: with pages of 4 KiB the translation of addresses
// costs a tenth of the read bandwidth at 256 MiB.
#pragma once
#include <cstddef>
#include <utility>

class Memory {
public:
    Memory() = default;
    explicit Memory(size_t bytes);  // data() is null where the system has no more
    Memory(Memory&& other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}
    Memory& operator=(Memory&& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(bytes_, other.bytes_);
        return *this;
    }
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;
    ~Memory();

    unsigned char* data() const { return data_; }  // starts on a page; on a huge page from 2 MiB on

private:
    unsigned char* data_ = nullptr;
    size_t bytes_ = 0;
};
