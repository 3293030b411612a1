#include "pool.h"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace {

constexpr int SPINS = 1 << 13;  // of 10 to 50 nanoseconds each: a token's work outside the phases is shorter

void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

}  // namespace

class Pool {
public:
    explicit Pool(int threads) {
        try {
            for (int i = 1; i < threads; ++i) helpers_.emplace_back([this] { help(); });
        } catch (...) {
            end();
            throw;
        }
    }
    ~Pool() { end(); }
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int64_t threads() const { return static_cast<int64_t>(helpers_.size()) + 1; }

    void wake() {
        if (sleeping_.load(std::memory_order_relaxed) == 0) return;
        {
            const std::lock_guard<std::mutex> lock(sleep_);
            ++calls_;
        }
        wake_.notify_all();
    }

    void run(int64_t parts, Call call, const void* work) {
        call_.store(call, std::memory_order_relaxed);
        work_.store(work, std::memory_order_relaxed);
        done_.store(0, std::memory_order_relaxed);
        ticket_.store(++phase_ << 32 | static_cast<uint64_t>(parts) << 16, std::memory_order_release);
        while (take()) {}
        while (done_.load(std::memory_order_acquire) != parts) pause();
    }

private:
    // Takes one part of the current phase and computes it; false if none is left. A ticket holds the phase's number,
    // its parts and the next part. The caller writes the next phase only when all parts of this one have ended, so what
    // a thread has read belongs to its part if the ticket is still the same when it takes it.
    bool take() {
        uint64_t ticket = ticket_.load(std::memory_order_acquire);
        const Call call = call_.load(std::memory_order_relaxed);
        const void* work = work_.load(std::memory_order_relaxed);
        const uint64_t part = ticket & 0xffff, parts = ticket >> 16 & 0xffff;
        if (part >= parts) return false;
        if (ticket_.compare_exchange_strong(ticket, ticket + 1, std::memory_order_acq_rel)) {
            call(work, static_cast<int64_t>(part));
            done_.fetch_add(1, std::memory_order_release);
        }
        return true;
    }

    void help() {
        uint64_t seen = 0;
        for (int idle = 0;;) {
            if (take()) {
                idle = 0;
            } else if (++idle < SPINS) {
                pause();
            } else {
                if (!sleep(seen)) return;
                idle = 0;
            }
        }
    }

    // Until the next wake(); false if the pool ends.
    bool sleep(uint64_t& seen) {
        std::unique_lock<std::mutex> lock(sleep_);
        sleeping_.fetch_add(1, std::memory_order_relaxed);
        wake_.wait(lock, [&] { return ending_ || calls_ != seen; });
        sleeping_.fetch_sub(1, std::memory_order_relaxed);
        seen = calls_;
        return !ending_;
    }

    void end() {
        {
            const std::lock_guard<std::mutex> lock(sleep_);
            ending_ = true;
        }
        wake_.notify_all();
        for (auto& helper : helpers_) helper.join();
        helpers_.clear();
    }

    alignas(64) std::atomic<uint64_t> ticket_{0};
    std::atomic<Call> call_{nullptr};
    std::atomic<const void*> work_{nullptr};
    alignas(64) std::atomic<int64_t> done_{0};
    alignas(64) std::atomic<int> sleeping_{0};
    std::mutex sleep_;
    std::condition_variable wake_;
    uint64_t calls_ = 0;
    uint64_t phase_ = 0;
    bool ending_ = false;
    std::vector<std::thread> helpers_;
};

Pool* pool_new(int threads) { return new Pool(threads); }
void pool_free(Pool* pool) { delete pool; }
int64_t pool_threads(const Pool* pool) { return pool->threads(); }
void pool_wake(Pool* pool) { pool->wake(); }
void pool_run(Pool* pool, int64_t parts, Call call, const void* work) { pool->run(parts, call, work); }
