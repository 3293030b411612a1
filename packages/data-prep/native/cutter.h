// A text, piece by piece, to its normalised bytes and the places where its words or characters start.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "api.h"

class Cutter {
public:
    explicit Cutter(const Signing& signing);

    void begin();
    // Reads a piece that ends with a whole character; false where a character is refused.
    bool read(const uint8_t* text, const uint8_t* end);
    void finish();

    // The shingles that are complete and not dropped.
    size_t shingles() const { return units_ > size_ ? units_ - size_ : 0; }
    const uint8_t* shingle(size_t number) const { return bytes_.data() + starts_[number]; }
    size_t length(size_t number) const { return starts_[number + size_] - gap_ - starts_[number]; }
    void drop_taken();  // all of them; before `finish`

    // After `finish`: the length of a text that is shorter than a shingle; 0 if it is not, or has no unit.
    size_t short_length() const;

private:
    template <bool WORDS, bool JOINED>
    bool read_as(const uint8_t* text, const uint8_t* end);
    bool read_normalised(const uint8_t* text, const uint8_t* end);

    const uint32_t* characters_;
    size_t size_, gap_;               // `gap_`: the space between two words
    bool words_, joined_;
    std::vector<uint8_t> bytes_;
    std::vector<size_t> starts_;  // of each unit; after `finish` also where one after the last would start
    size_t used_ = 0, units_ = 0;
    bool dropped_ = false;
    bool after_space_ = false;  // at the start too where spaces are joined, so that none is kept there
};
