#include "cutter.h"

#include <cstring>

namespace {

// The character at `text`, which moves behind it.
uint32_t decoded(const uint8_t*& text) {
    const uint32_t lead = *text++;
    const int following = lead < 0xe0 ? 1 : lead < 0xf0 ? 2 : 3;
    uint32_t character = lead & (0x3f >> following);
    for (int i = 0; i < following; ++i) character = character << 6 | (*text++ & 0x3f);
    return character;
}

}  // namespace

Cutter::Cutter(const Signing& signing)
    : characters_(signing.characters),
      size_(signing.size),
      gap_(signing.words ? 1 : 0),
      words_(signing.words),
      joined_(signing.joined) {}

void Cutter::begin() {
    used_ = units_ = 0;
    dropped_ = false;
    after_space_ = joined_;
}

bool Cutter::read(const uint8_t* text, const uint8_t* end) {
    // No image is more than twice as long, and no unit is empty.
    const size_t most = 2 * (end - text);
    if (bytes_.size() < used_ + most + 8) bytes_.resize(used_ + most + 8);
    if (starts_.size() < units_ + most + 2) starts_.resize(units_ + most + 2);
    if (!characters_) return read_normalised(text, end);
    if (words_) return read_as<true, true>(text, end);
    return joined_ ? read_as<false, true>(text, end) : read_as<false, false>(text, end);
}

// Without branches on what a character is: an image is written, and kept or written over; so is where it starts.
template <bool WORDS, bool JOINED>
bool Cutter::read_as(const uint8_t* text, const uint8_t* end) {
    const uint32_t* const characters = characters_;
    uint8_t *const first = bytes_.data(), *out = first + used_;
    size_t* start = starts_.data() + units_;
    bool after_space = after_space_;
    const auto put = [&](uint32_t image, size_t length) {
        const bool space = image == SPACE, kept = !(JOINED & space & after_space);
        std::memcpy(out, &image, 4);
        *start = out - first;
        start += WORDS ? after_space & !space : kept;
        out += kept ? length : 0;
        after_space = space;
    };
    while (text < end) {
        uint64_t eight = ~uint64_t{0};
        if (end - text >= 8) std::memcpy(&eight, text, 8);
        if ((eight & 0x8080808080808080) == 0) {
            for (int i = 0; i < 8; ++i) put(characters[text[i]], 1);
            text += 8;
        } else if (*text < 0x80) {
            put(characters[*text++], 1);
        } else {
            const uint8_t* const here = text;
            const uint32_t character = decoded(text);
            uint32_t image = character < CHARACTERS ? characters[character] : REFUSED;
            if (image == REFUSED) return false;
            if (image == VANISHED) continue;
            const size_t length = image >> 24;
            if (length == 4) std::memcpy(&image, here, 4);  // an image of four bytes is the character itself
            put(image, length);
        }
    }
    used_ = out - first;
    units_ = start - starts_.data();
    after_space_ = after_space;
    return true;
}

bool Cutter::read_normalised(const uint8_t* text, const uint8_t* end) {
    for (; text < end; ++text) {
        const bool space = *text == ' ', first_byte = (*text & 0xc0) != 0x80;
        starts_[units_] = used_;
        units_ += words_ ? after_space_ & !space : first_byte;
        bytes_[used_++] = *text;
        after_space_ = space;
    }
    return true;
}

void Cutter::finish() {
    if (starts_.size() < units_ + 1) starts_.resize(units_ + 1);
    if (joined_ && after_space_ && used_ > 0) {
        --used_;
        if (!words_) --units_;  // the space was a character
    }
    starts_[units_++] = used_ + gap_;
}

size_t Cutter::short_length() const {
    return shingles() > 0 || dropped_ || units_ < 2 ? 0 : starts_[units_ - 1] - gap_ - starts_[0];
}

void Cutter::drop_taken() {
    const size_t taken = shingles();
    if (taken == 0) return;
    const size_t first = starts_[taken];
    std::memmove(bytes_.data(), bytes_.data() + first, used_ - first);
    used_ -= first;
    dropped_ = true;
    units_ -= taken;
    for (size_t i = 0; i < units_; ++i) starts_[i] = starts_[i + taken] - first;
}
