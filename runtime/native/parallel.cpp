#include "parallel.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#if !defined(_WIN32)
#include <pthread.h>
#endif
#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace rsr {
namespace {

constexpr size_t kBytesPerThread = 64 << 10;  // with less, waking a thread costs more
constexpr size_t kChunksPerThread = 4;
constexpr auto kSpin = std::chrono::microseconds(200);  // then a thread sleeps

inline void pause() {
#if defined(__x86_64__) || defined(_M_X64)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

// Waits until done() is true: spins for kSpin, then sleeps.
template <class Done>
void await(std::mutex& mutex, std::condition_variable& wake, Done done) {
  const auto start = std::chrono::steady_clock::now();
  do {
    for (int i = 0; i < 64; i++) {
      if (done()) return;
      pause();
    }
  } while (std::chrono::steady_clock::now() - start < kSpin);
  std::unique_lock<std::mutex> lock(mutex);
  wake.wait(lock, done);
}

// Every thread has a share of the work, the same one in each call, so that an index that fits the
// caches stays in those of the processor that reads it. A share is taken in chunks, and a thread
// that has finished takes chunks of the others: if something else occupies a worker's processor,
// the caller does that work instead of waiting.
class Pool {
 public:
  // Returns false if another thread is using the pool.
  bool run(size_t parts, size_t count, const std::function<void(size_t, size_t)>& body) {
    std::unique_lock<std::mutex> use(use_, std::try_to_lock);
    if (!use) return false;
    while (workers_ < parts - 1 && start_worker()) {
    }
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (shares_.size() < parts) shares_ = std::vector<Share>(parts);  // may throw, so first
      body_ = &body;
      parts_ = parts;
      chunk_ = std::max<size_t>(1, count / (kChunksPerThread * parts));
      for (size_t i = 0; i < parts_; i++) {
        shares_[i].next.store(count * i / parts_, std::memory_order_relaxed);
        shares_[i].end = count * (i + 1) / parts_;
      }
      round_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    take_chunks(0, parts);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      parts_ = 0;  // no work is left: workers that have not joined stay out
    }
    await(mutex_, finished_, [&] { return active_.load(std::memory_order_acquire) == 0; });
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
    return true;
  }

 private:
  struct alignas(64) Share {
    std::atomic<size_t> next{0};  // the first item not taken
    size_t end = 0;
  };

  // Returns false if the system refuses another thread; fewer then do the work.
  bool start_worker() {
    try {
      // Detached, and the pool is never destroyed: the process may end while workers sleep.
      const size_t number = workers_ + 1;
      std::thread([this, number, seen = round_.load()] { work(number, seen); }).detach();
    } catch (const std::system_error&) {
      return false;
    }
    workers_++;
    return true;
  }

  void work(size_t number, uint64_t seen) {
    for (;;) {
      await(mutex_, wake_, [&] { return round_.load(std::memory_order_acquire) != seen; });
      size_t shares;
      {
        std::lock_guard<std::mutex> lock(mutex_);
        seen = round_.load(std::memory_order_relaxed);
        shares = parts_;
        if (number >= shares) continue;
        active_.fetch_add(1, std::memory_order_relaxed);
      }
      take_chunks(number, shares);
      if (active_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        std::lock_guard<std::mutex> lock(mutex_);
        finished_.notify_one();
      }
    }
  }

  // Keeps an exception (bad_alloc, say) in error_ until all threads are done.
  void take_chunks(size_t number, size_t shares) {
    try {
      for (size_t i = 0; i < shares; i++) {
        Share& share = shares_[(number + i) % shares];
        for (;;) {
          const size_t begin = share.next.fetch_add(chunk_, std::memory_order_relaxed);
          if (begin >= share.end) break;
          (*body_)(begin, std::min(begin + chunk_, share.end));
        }
      }
    } catch (...) {
      std::lock_guard<std::mutex> lock(mutex_);
      error_ = std::current_exception();
    }
  }

  std::mutex use_;    // held by the caller that the pool serves
  std::mutex mutex_;  // guards the state of a call, below, that is not atomic
  std::condition_variable wake_, finished_;
  std::atomic<uint64_t> round_{0};
  std::atomic<int> active_{0};  // workers that joined the call and are not done
  size_t parts_ = 0;            // shares: 0 is the caller's, 1, 2, ... those of workers
  std::vector<Share> shares_;
  const std::function<void(size_t, size_t)>* body_ = nullptr;
  size_t chunk_ = 1;
  size_t workers_ = 0;
  std::exception_ptr error_;
};

std::atomic<Pool*> pool{nullptr};
std::atomic<int> threads{0};

#if !defined(_WIN32)
// A forked child has no threads, and perhaps locked mutexes, of its parent: it starts a new pool.
[[maybe_unused]] const int kAtFork = pthread_atfork(nullptr, nullptr, [] { pool.store(nullptr); });
#endif

Pool& the_pool() {
  Pool* existing = pool.load(std::memory_order_acquire);
  if (existing) return *existing;
  Pool* fresh = new Pool;
  if (pool.compare_exchange_strong(existing, fresh)) return *fresh;
  delete fresh;
  return *existing;
}

// The processors that this process may use, which affinity (taskset) may limit.
int usable_processors() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  return static_cast<int>(std::thread::hardware_concurrency());
}

}  // namespace

int num_threads() {
  int n = threads.load(std::memory_order_relaxed);
  if (n == 0) {
    n = std::max(1, usable_processors());
    threads.store(n, std::memory_order_relaxed);
  }
  return n;
}

void set_num_threads(int n) {
  if (n < 1 || n > 1024)
    throw std::invalid_argument("found " + std::to_string(n) + " threads, expected 1 to 1024");
  threads.store(n, std::memory_order_relaxed);
}

void parallel_for(size_t count, size_t cost, const std::function<void(size_t, size_t)>& body) {
  const size_t most =
      std::min<size_t>({static_cast<size_t>(num_threads()), count, cost / kBytesPerThread});
  if (most > 1 && the_pool().run(most, count, body)) return;
  if (count > 0) body(0, count);
}

}  // namespace rsr
