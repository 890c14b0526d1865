// A barrier for the threads of one parallel region.
#pragma once
#include <sched.h>

#include <atomic>

// OpenMP's own spins for milliseconds. On a machine with other work the thread that is waited for may not be running, and
// the spinning keeps it from it: there a token, with 150 barriers, took ten times as long.
class Barrier {
  static constexpr int SPINS = 1 << 12;  // some 50 us
  std::atomic<int> arrived{0};
  std::atomic<unsigned> passed{0};

 public:
  void wait(int threads) {
    const unsigned before = passed.load(std::memory_order_acquire);
    if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) {
      arrived.store(0, std::memory_order_relaxed);
      passed.store(before + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; passed.load(std::memory_order_acquire) == before; spins++)
      if (spins > SPINS) sched_yield();
  }
};
