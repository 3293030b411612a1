#include "cutter.h"

#include <algorithm>
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

// Writes a character above 127; returns the end.
uint8_t* encoded(uint32_t character, uint8_t* out) {
    if (character < 0x800) {
        *out++ = 0xc0 | character >> 6;
    } else if (character < 0x10000) {
        *out++ = 0xe0 | character >> 12;
        *out++ = 0x80 | (character >> 6 & 0x3f);
    } else {
        *out++ = 0xf0 | character >> 18;
        *out++ = 0x80 | (character >> 12 & 0x3f);
        *out++ = 0x80 | (character >> 6 & 0x3f);
    }
    *out++ = 0x80 | (character & 0x3f);
    return out;
}

}  // namespace

Cutter::Cutter(const Signing& signing)
    : characters_(signing.characters),
      size_(signing.size),
      gap_(signing.words ? 1 : 0),
      words_(signing.words),
      joined_(signing.joined) {
    for (uint32_t c = 0; c < 128; ++c) ascii_[c] = static_cast<uint8_t>(characters_ ? characters_[c] : c);
}

void Cutter::begin() {
    used_ = units_ = 0;
    dropped_ = false;
    before_ = joined_ ? ' ' : 0;
}

bool Cutter::read(const uint8_t* text, const uint8_t* end) {
    // No image is more than twice as long in UTF-8, and no unit is empty.
    const size_t most = 2 * (end - text);
    if (bytes_.size() < used_ + most) bytes_.resize(used_ + most);
    if (starts_.size() < units_ + most + 2) starts_.resize(units_ + most + 2);  // two more for `finish`

    const uint32_t* const characters = characters_;
    uint8_t* const first = bytes_.data();
    uint8_t* out = first + used_;
    size_t* start = starts_.data() + units_;
    uint8_t before = before_;
    const bool words = words_, joined = joined_;
    // Without branches on the text: a byte is written, then kept or not.
    const auto put = [&](uint8_t c) {
        const bool kept = !(joined & (c == ' ') & (before == ' '));
        *out = c;
        *start = out - first;
        start += words ? (before == ' ') & (c != ' ') : kept;
        out += kept;
        before = c;
    };
    while (text < end) {
        if (*text < 0x80) {
            put(ascii_[*text++]);
            continue;
        }
        const uint32_t character = decoded(text);
        uint32_t image = character;
        if (characters) image = character < CHARACTERS ? characters[character] : REFUSED;
        if (image == REFUSED) return false;
        if (image < 0x80) {
            put(static_cast<uint8_t>(image));
            continue;
        }
        *start = out - first;
        start += words ? before == ' ' : 1;
        out = encoded(image, out);
        before = 0x80;  // any but a space
    }
    used_ = out - first;
    units_ = start - starts_.data();
    before_ = before;
    return true;
}

void Cutter::finish() {
    if (starts_.size() < units_ + 1) starts_.resize(units_ + 1);
    if (joined_ && used_ > 0 && before_ == ' ') {
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
