// Scratch memory of a kernel.

#pragma once

#include <cstdint>
#include <new>

namespace vit_adapter {
namespace cpu {
namespace VIT_ADAPTER_ISA {
namespace {

// `count` elements that start on a cache line, uninitialized.
template <typename T>
class Buffer {
 public:
  explicit Buffer(int64_t count)
      : data_(static_cast<T*>(::operator new(count * sizeof(T), kAlignment))) {}
  ~Buffer() {
    ::operator delete(data_, kAlignment);
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  T* data() {
    return data_;
  }
  const T* data() const {
    return data_;
  }

 private:
  static constexpr std::align_val_t kAlignment{64};
  T* data_;
};

} // namespace
} // namespace VIT_ADAPTER_ISA
} // namespace cpu
} // namespace vit_adapter
