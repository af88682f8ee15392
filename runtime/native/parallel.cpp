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

constexpr size_t kBytesPerThread = 64 << 10;  // below this, waking a thread costs more
constexpr size_t kChunksPerThread = 4;
constexpr auto kSpin = std::chrono::microseconds(50);  // then sleep: idle threads use no processor

inline void pause() {
#if defined(__x86_64__) || defined(_M_X64)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

// Waits, spinning for a moment and asleep after that, until done() is true.
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

// Work is handed out in chunks, and the caller takes them too: where a worker gets no processor in
// time, because something else runs there, the caller does its share and does not wait for it.
class Pool {
 public:
  // False if another thread is using the pool.
  bool run(int parts, size_t count, const std::function<void(size_t, size_t)>& body) {
    std::unique_lock<std::mutex> use(use_, std::try_to_lock);
    if (!use) return false;
    while (workers_ < parts - 1 && start_worker()) {
    }
    {
      std::lock_guard<std::mutex> lock(mutex_);
      body_ = &body;
      count_ = count;
      chunk_ = std::max<size_t>(1, count / (kChunksPerThread * parts));
      next_.store(0, std::memory_order_relaxed);
      places_ = parts - 1;
      round_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    take_chunks();
    {
      std::lock_guard<std::mutex> lock(mutex_);
      places_ = 0;  // nothing is left: who has not joined by now stays out
    }
    await(mutex_, finished_, [&] { return active_.load(std::memory_order_acquire) == 0; });
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
    return true;
  }

 private:
  // False if the system grants no further thread: fewer do the work then.
  bool start_worker() {
    try {
      // Detached, and the pool is never destroyed: a process may end with its workers asleep.
      std::thread([this, seen = round_.load()] { work(seen); }).detach();
    } catch (const std::system_error&) {
      return false;
    }
    workers_++;
    return true;
  }

  void work(uint64_t seen) {
    for (;;) {
      await(mutex_, wake_, [&] { return round_.load(std::memory_order_acquire) != seen; });
      {
        std::lock_guard<std::mutex> lock(mutex_);
        seen = round_.load(std::memory_order_relaxed);
        if (places_ == 0) continue;
        places_--;
        active_.fetch_add(1, std::memory_order_relaxed);
      }
      take_chunks();
      if (active_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        std::lock_guard<std::mutex> lock(mutex_);
        finished_.notify_one();
      }
    }
  }

  // An exception waits in error_ until no thread works any more (there was no memory, say).
  void take_chunks() {
    try {
      for (;;) {
        const size_t begin = next_.fetch_add(chunk_, std::memory_order_relaxed);
        if (begin >= count_) return;
        (*body_)(begin, std::min(begin + chunk_, count_));
      }
    } catch (...) {
      std::lock_guard<std::mutex> lock(mutex_);
      error_ = std::current_exception();
    }
  }

  std::mutex use_;    // held by the caller that the pool serves
  std::mutex mutex_;  // guards a round: all that is below and not atomic
  std::condition_variable wake_, finished_;
  std::atomic<uint64_t> round_{0};
  std::atomic<size_t> next_{0};  // the first item nobody has taken
  std::atomic<int> active_{0};   // workers that joined the round and are not done
  int places_ = 0;               // workers that may still join
  const std::function<void(size_t, size_t)>* body_ = nullptr;
  size_t count_ = 0, chunk_ = 1;
  int workers_ = 0;
  std::exception_ptr error_;
};

std::atomic<Pool*> pool{nullptr};
std::atomic<int> threads{0};

#if !defined(_WIN32)
// A forked child has none of the parent's threads, and perhaps its locks: it starts afresh.
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

}  // namespace

namespace {

// The processors this process may use: fewer than there are where it is tied to some (taskset).
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
  if (most > 1 && the_pool().run(static_cast<int>(most), count, body)) return;
  if (count > 0) body(0, count);
}

}  // namespace rsr
