// Memory in huge pages where the system has them: random access then misses the TLB less.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdlib>
#include <new>
#include <string>

namespace discl {

// An allocator for containers. Small memory is ordinary memory.
template <typename T>
struct HugePages {
    static constexpr size_t page = 1 << 21;
    using value_type = T;

    HugePages() = default;
    template <typename U>
    HugePages(const HugePages<U>&) {}

    T* allocate(size_t count) {
        const size_t bytes = (count * sizeof(T) + page - 1) / page * page;
        if (count * sizeof(T) < page) return static_cast<T*>(::operator new(count * sizeof(T)));
        void* const memory = std::aligned_alloc(page, bytes);
        if (!memory) throw std::bad_alloc();
        ::madvise(memory, bytes, MADV_HUGEPAGE);
        return static_cast<T*>(memory);
    }
    void deallocate(T* memory, size_t count) {
        if (count * sizeof(T) < page) ::operator delete(memory);
        else std::free(memory);
    }
    template <typename U>
    bool operator==(const HugePages<U>&) const {
        return true;
    }
    template <typename U>
    bool operator!=(const HugePages<U>&) const {
        return false;
    }
};

using HugeBytes = std::basic_string<char, std::char_traits<char>, HugePages<char>>;

}  // namespace discl
