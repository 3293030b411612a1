// A text, piece by piece, to its normalised bytes and the places where its words or characters start.
#pragma once
#include <array>
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
    const uint32_t* characters_;
    std::array<uint8_t, 128> ascii_;  // the image of each
    size_t size_, gap_;               // `gap_`: the space between two words
    bool words_, joined_;
    std::vector<uint8_t> bytes_;
    std::vector<size_t> starts_;  // of each unit; after `finish` also where one after the last would start
    size_t used_ = 0, units_ = 0;
    bool dropped_ = false;
    uint8_t before_ = 0;  // the last byte; at the start a space where spaces are joined, so that none is kept there
};
