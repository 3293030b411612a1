#include "api.h"

#include <algorithm>
#include <vector>

#include "cutter.h"
#include "hashes.h"
#include "kernel.h"

namespace {

// Bytes read at once. What they become stays in the nearest caches, and a text of any length takes little memory.
constexpr int64_t PIECE = 1 << 14;

// The finalizers of MurmurHash3.
uint32_t mixed(uint32_t h) {
    h = (h ^ h >> 16) * 0x85ebca6b;
    h = (h ^ h >> 13) * 0xc2b2ae35;
    return h ^ h >> 16;
}

uint64_t mixed(uint64_t h) {
    h = (h ^ h >> 33) * 0xff51afd7ed558ccd;
    h = (h ^ h >> 33) * 0xc4ceb9fe1a85ec53;
    return h ^ h >> 33;
}

// The end of the piece that starts at `text`, between two characters.
const uint8_t* piece_end(const uint8_t* text, const uint8_t* end) {
    if (end - text <= PIECE) return end;
    const uint8_t* last = text + PIECE;
    while ((*last & 0xc0) == 0x80) --last;
    return last;
}

template <class Lane>
using Permute = void (*)(const Lane*, int64_t, const Lane*, const Lane*, int64_t, Lane*);

// Signs one text after another, with what it keeps between them.
template <class Lane>
class Signer {
public:
    Signer(const Kernel& kernel, const Signing& signing, Permute<Lane> permute, Lane empty)
        : kernel_(kernel),
          signing_(signing),
          permute_(permute),
          empty_(empty),
          cutter_(signing),
          low_((signing.permutations + BLOCK - 1) / BLOCK * BLOCK) {}

    // False where a character is refused.
    bool sign(const uint8_t* text, const uint8_t* end, Lane* signature) {
        std::fill(low_.begin(), low_.end(), empty_);
        cutter_.begin();
        while (text < end) {
            const uint8_t* const next = piece_end(text, end);
            if (!cutter_.read(text, next)) return false;
            take_shingles();
            cutter_.drop_taken();
            text = next;
        }
        cutter_.finish();
        take_shingles();
        if (const size_t length = cutter_.short_length()) {
            hashes_.assign(1, hashed(cutter_.shingle(0), length));
            permute();
        }
        std::copy_n(low_.begin(), signing_.permutations, signature);
        return true;
    }

private:
    void take_shingles() {
        const size_t count = cutter_.shingles();
        hashes_.resize(count);
        for (size_t i = 0; i < count; ++i) hashes_[i] = hashed(cutter_.shingle(i), cutter_.length(i));
        permute();
    }

    Lane hashed(const uint8_t* bytes, size_t length) const {
        const uint64_t whole = signing_.hash == XXH32 ? xxh32(bytes, length) : sha1(bytes, length, kernel_.sha1_block);
        const Lane hash = signing_.scheme == AFFINE64 ? whole : static_cast<uint32_t>(whole);
        return signing_.scheme == LEGACY ? hash : mixed(hash);
    }

    void permute() {
        permute_(hashes_.data(), hashes_.size(), static_cast<const Lane*>(signing_.factors),
                 static_cast<const Lane*>(signing_.offsets), low_.size(), low_.data());
    }

    const Kernel& kernel_;
    const Signing& signing_;
    const Permute<Lane> permute_;
    const Lane empty_;
    Cutter cutter_;
    std::vector<Lane> hashes_, low_;
};

template <class Lane>
void sign_all(Signer<Lane> signer, int64_t permutations, const uint8_t* const* texts, const int64_t* lengths,
              int64_t count, void* signatures, uint8_t* refused) {
    Lane* signature = static_cast<Lane*>(signatures);
    for (int64_t i = 0; i < count; ++i, signature += permutations)
        refused[i] = !signer.sign(texts[i], texts[i] + lengths[i], signature);
}

}  // namespace

int32_t penstock_abi() { return PENSTOCK_ABI; }

int32_t penstock_sign(const Kernel* kernel, const Signing* signing, const uint8_t* const* texts, const int64_t* lengths,
                      int64_t count, void* signatures, uint8_t* refused) try {
    const auto sign = [&](auto signer) {
        sign_all(std::move(signer), signing->permutations, texts, lengths, count, signatures, refused);
    };
    constexpr uint64_t LEAST32 = 0xffffffff, LEAST64 = ~uint64_t{0};  // of no hash
    if (signing->scheme == AFFINE32) sign(Signer<uint32_t>(*kernel, *signing, kernel->affine32, LEAST32));
    if (signing->scheme == AFFINE64) sign(Signer<uint64_t>(*kernel, *signing, kernel->affine64, LEAST64));
    if (signing->scheme == LEGACY) sign(Signer<uint64_t>(*kernel, *signing, kernel->legacy, LEAST32));
    return 0;
} catch (...) {
    return 2;
}
