// The child of fork() only computes and writes to memory that it has: between fork and _exit nothing else is safe in a
// program with threads.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <initializer_list>

#include "dispatch.h"

namespace {

// An odd shape with a short last group, and as many vectors as leave every size of tile.
constexpr int64_t ROWS = 37, COLUMNS = 150, GROUP = 64, VECTORS = 15, PLANES = 2;
constexpr int64_t ROW_BLOCKS = blocks_of(ROWS), COLUMN_BLOCKS = blocks_of(COLUMNS), PADDED = COLUMN_BLOCKS * BLOCK;
constexpr int64_t GROUPS = (COLUMNS + GROUP - 1) / GROUP, SUMS = quads_of(COLUMN_BLOCKS) + 1;

struct Work {
    uint8_t codes[ROW_BLOCKS * COLUMN_BLOCKS * BLOCK_BYTES];
    uint16_t half_scales[ROW_BLOCKS * GROUPS * BLOCK];
    float x[VECTORS][COLUMNS];
    int8_t values[VECTORS * PLANES * PADDED];
    int32_t prefix[VECTORS * SUMS];
    float scales[VECTORS];
    float out[VECTORS][ROWS];
};

void fill(Work& work) {
    uint32_t state = 1;
    auto random = [&] { return (state = state * 1664525 + 1013904223) >> 16; };
    for (auto& code : work.codes) code = random() % 3 | random() % 3 << 2 | random() % 3 << 4 | random() % 3 << 6;
    for (auto& scale : work.half_scales) scale = 0x2000 + random() % 0x1000;
    for (auto& vector : work.x)
        for (auto& value : vector) value = float(int(random())) - 32768.0f;
    for (int64_t c = 0; c < COLUMNS; ++c) work.x[0][c] = 1;  // saturated
}

void compute(const Kernel& kernel, Work& work, int64_t planes) {
    for (int64_t v = 0; v < VECTORS; ++v)
        kernel.quantize(work.x[v], COLUMNS, planes, work.values + v * planes * PADDED, work.prefix + v * SUMS,
                        work.scales + v);
    const Matrix matrix{work.codes, work.half_scales, ROWS, COLUMNS, ROW_BLOCKS, COLUMN_BLOCKS, GROUPS, GROUP / BLOCK};
    const Vectors all{work.values, work.prefix, work.scales, VECTORS, planes, COLUMN_BLOCKS};
    kernel.multiply(matrix, all, work.out[0], ROWS, 0, ROW_BLOCKS);
    const Vectors one{work.values, work.prefix, work.scales, 1, planes, COLUMN_BLOCKS};
    kernel.multiply(matrix, one, work.out[0], ROWS, 0, ROW_BLOCKS);
}

bool equals_portable(const Kernel& kernel) {
    static Work expected, found;  // in a child process: nobody shares it
    fill(expected);
    fill(found);
    for (int64_t planes = 1; planes <= PLANES; ++planes) {
        compute(kernel_portable, expected, planes);
        compute(kernel, found, planes);
        if (std::memcmp(&expected, &found, sizeof expected)) return false;
    }
    return true;
}

[[noreturn]] void in_child(const Kernel& kernel, int to) {
    for (int number : {SIGILL, SIGSEGV, SIGBUS, SIGFPE, SIGTRAP}) signal(number, SIG_DFL);  // no handler's report
    const char answer = equals_portable(kernel) ? 'y' : 'n';
    const bool told = write(to, &answer, 1) == 1;
    _exit(told ? 0 : 1);
}

// A signal's handler may interrupt either call.
char answer_from(int end) {
    char answer = 'n';
    while (read(end, &answer, 1) < 0 && errno == EINTR) {}
    return answer;
}

void wait_for(pid_t child) {
    while (waitpid(child, nullptr, 0) < 0 && errno == EINTR) {}
}

}  // namespace

bool passes_self_test(const Kernel& kernel) {
    if (&kernel == &kernel_portable) return true;
    int ends[2];
    if (pipe(ends)) return false;
    const pid_t child = fork();
    if (child == 0) in_child(kernel, ends[1]);
    close(ends[1]);
    const char answer = answer_from(ends[0]);  // nobody writes where no child was started
    close(ends[0]);
    if (child > 0) wait_for(child);
    return answer == 'y';
}
