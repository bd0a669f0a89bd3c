// Computing in a process that was forked after its parent had computed.
//
// OpenMP's threads do not survive a fork, and its first parallel region in the
// child would wait for them forever. So a child computes on one thread, which
// gives bitwise the same results.

#pragma once

#include <ATen/Parallel.h>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

#include <atomic>

namespace vit_adapter {
namespace cpu {

inline std::atomic<bool> in_forked_process{false};

#if defined(__unix__) || defined(__APPLE__)
// Registered when the extension is loaded.
inline const int fork_handler_status =
    pthread_atfork(nullptr, nullptr, [] { in_forked_process = true; });
#endif

// In a forked process, limits computation in its scope to one thread.
class ForkedProcessGuard {
 public:
  ForkedProcessGuard()
      : threads_(in_forked_process ? at::get_num_threads() : 1) {
    if (threads_ > 1) {
      at::set_num_threads(1);
    }
  }
  ~ForkedProcessGuard() {
    if (threads_ > 1) {
      at::set_num_threads(threads_);
    }
  }
  ForkedProcessGuard(const ForkedProcessGuard&) = delete;
  ForkedProcessGuard& operator=(const ForkedProcessGuard&) = delete;

 private:
  const int threads_; // before
};

} // namespace cpu
} // namespace vit_adapter
