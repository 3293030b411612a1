#include "pool.h"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace {

// How long a thread waits before it lets another have the processor, and a helper before it sleeps: about 50 and 500
// microseconds. Work between two phases, and between two tokens, is shorter.
constexpr int SPINS = 1 << 11, YIELDS = 1 << 10;

void spin() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

void wait(int turn) {
    if (turn < SPINS) spin();
    else std::this_thread::yield();
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

    void run(int64_t parts, Call call, const void* work) {
        call_.store(call, std::memory_order_relaxed);
        work_.store(work, std::memory_order_relaxed);
        done_.store(0, std::memory_order_relaxed);
        ticket_.store(++phase_ << 32 | static_cast<uint64_t>(parts) << 16, std::memory_order_release);
        wake();
        while (take()) {}
        for (int turn = 0; done_.load(std::memory_order_acquire) != parts; ++turn) wait(turn);
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
        for (int turn = 0;; ++turn) {
            if (take()) {
                turn = 0;
            } else if (turn < SPINS + YIELDS) {
                wait(turn);
            } else {
                if (!sleep(seen)) return;
                turn = 0;
            }
        }
    }

    // Until the next phase; false if the pool ends.
    bool sleep(uint64_t& seen) {
        std::unique_lock<std::mutex> lock(sleep_);
        sleeping_.store(true, std::memory_order_relaxed);
        wake_.wait(lock, [&] { return ending_ || calls_ != seen; });
        seen = calls_;
        return !ending_;
    }

    // Calls those that sleep, once: until they run, every phase would pay for a call of the system.
    void wake() {
        if (!sleeping_.load(std::memory_order_relaxed)) return;
        sleeping_.store(false, std::memory_order_relaxed);
        {
            const std::lock_guard<std::mutex> lock(sleep_);
            ++calls_;
        }
        wake_.notify_all();
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
    alignas(64) std::atomic<bool> sleeping_{false};
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
void pool_run(Pool* pool, int64_t parts, Call call, const void* work) { pool->run(parts, call, work); }
