// What the decoder of each kernel computes; every_kernel.cpp prints it.
#include "every_decoder.h"

#include <cmath>
#include <vector>

#include "../native/decoder_api.h"

namespace {

constexpr int64_t WIDTH = 40, HEADS = 4, PAIRS = 2, HEAD_WIDTH = 10, VOCABULARY = 101, POSITIONS = 64;
constexpr int64_t HIDDEN = 72, EXPERTS = 5, EXPERT_HIDDEN = 24, GROUP = 64;

class RandomModel {
public:
    RandomModel(int64_t planes, int64_t softmax, int64_t norms) {
        const ModelSizes sizes = {WIDTH,  HEADS,  PAIRS,  HEAD_WIDTH, 6,     VOCABULARY, POSITIONS, 2,    planes,
                                  planes, planes, norms,  norms,      norms, 0,          1e-5,      10000};
        layers_ = {{HIDDEN, 0, 0, 0, 0, 0, 1, 1}, {HIDDEN, EXPERTS, 2, EXPERT_HIDDEN, softmax, 1, 1.5, 0.8}};
        for (const LayerSizes& layer : layers_) fill(layer, norms);
        floats(WIDTH, 1);
        floats(VOCABULARY * WIDTH, 0);  // the embedding, which is no vector of the model
        const FloatArray embedding = floats_.back();
        floats_.pop_back();
        codes_.resize(VOCABULARY * WIDTH);
        for (auto& code : codes_) code = static_cast<int8_t>(random_number() % 255 - 127);
        scales_.push_back(std::vector<uint16_t>(VOCABULARY, 0x2000));
        rows_ = {{embedding.values, nullptr, nullptr}, {nullptr, codes_.data(), scales_.back().data()}};
        model = {sizes, layers_.data(), matrices_.data(), floats_.data(), rows_.data(),
                 int64_t(matrices_.size()), int64_t(floats_.size()), int64_t(rows_.size())};
    }

    StoredModel model;

private:
    void fill(const LayerSizes& layer, int64_t norms) {
        const int64_t heads = HEADS * HEAD_WIDTH, pairs = PAIRS * HEAD_WIDTH;
        matrix(heads, WIDTH), matrix(pairs, WIDTH), matrix(pairs, WIDTH), matrix(WIDTH, heads);
        mlp(layer.hidden);
        for (int64_t e = 0; e < layer.experts; ++e) mlp(layer.expert_hidden);
        floats(WIDTH, 1);
        if (norms) floats(heads, 0), floats(pairs, 0), floats(pairs, 0), floats(HEAD_WIDTH, 1), floats(HEAD_WIDTH, 1);
        if (norms) floats(heads, 1);
        floats(WIDTH, 1);
        if (norms) floats(layer.hidden, 1);
        if (layer.experts) floats(layer.experts * WIDTH, 0), floats(layer.experts, 0);
        if (layer.experts && norms) floats(layer.experts * layer.expert_hidden, 1);
    }

    void mlp(int64_t hidden) { matrix(hidden, WIDTH), matrix(hidden, WIDTH), matrix(WIDTH, hidden); }

    void matrix(int64_t rows, int64_t columns) {
        streams_.emplace_back((rows * columns + 4) / 5);
        for (auto& byte : streams_.back()) byte = static_cast<uint8_t>(random_number() % 243);
        scales_.emplace_back(rows * ((columns + GROUP - 1) / GROUP));
        for (auto& scale : scales_.back()) scale = static_cast<uint16_t>(0x3000 + random_number() % 0x400);  // 1/8 to 1/4
        matrices_.push_back({streams_.back().data(), 0, rows, columns, scales_.back().data(), GROUP});
    }

    void floats(int64_t count, float middle) {
        values_.emplace_back(count);
        for (auto& value : values_.back()) value = middle + (float(random_number()) - 32768.0f) / 65536.0f;
        floats_.push_back({values_.back().data(), count});
    }

    // The vectors within keep their place when the outer ones grow.
    std::vector<std::vector<uint8_t>> streams_;
    std::vector<std::vector<uint16_t>> scales_;
    std::vector<std::vector<float>> values_;
    std::vector<int8_t> codes_;
    std::vector<LayerSizes> layers_;
    std::vector<StoredMatrix> matrices_;
    std::vector<FloatArray> floats_;
    std::vector<StoredRows> rows_;
};

// The logits of a prompt of more than one chunk, and those after each drawn token.
bool read(Decoder* decoder, std::vector<float>& logits) {
    const Sampling sampling = {0.8, 0.9, 0};
    Text* text = penstock_text_new(decoder, POSITIONS);
    if (!text) return false;
    penstock_text_seed(text, 7);
    std::vector<int32_t> prompt(40);
    for (auto& token : prompt) token = static_cast<int32_t>(random_number() % VOCABULARY);
    logits.resize(prompt.size() * VOCABULARY);
    bool good = !penstock_text_read(text, prompt.data(), int64_t(prompt.size()), logits.data());
    int32_t token = prompt[0];
    for (int drawn = 0; good && drawn < 12; ++drawn) {
        good = !penstock_text_next(text, &token, 1, &sampling, &token);
        logits.push_back(static_cast<float>(token));
    }
    penstock_text_free(text);
    return good;
}

}  // namespace

bool decoded(const Kernel* kernel, std::vector<float>& values) {
    for (int64_t variant = 0; variant < 4; ++variant) {
        const RandomModel random(1 + variant % 2, variant / 2, variant % 2);
        int32_t why;
        int64_t which;
        Decoder* decoder = penstock_decoder_new(kernel, &random.model, 2, &why, &which);
        std::vector<float> logits;
        if (!decoder || !read(decoder, logits)) return false;
        penstock_decoder_free(decoder);
        for (float each : logits)
            if (!std::isfinite(each)) return false;
        values.insert(values.end(), logits.begin(), logits.end());
    }
    return true;
}
