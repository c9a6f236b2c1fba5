// A team of threads that works on one piece of work together, and sleeps as soon as it has to wait.
//
// OpenMP's threads spin for milliseconds at every barrier: alone on a machine that costs nothing, but beside other
// programs it burns the time they, and the thread that is waited for, would have used. A thread here looks for SPIN and
// then sleeps until it is woken (Mellor-Crummey & Scott 1991 for the barrier; spin-then-block: Karlin et al. 1991). No
// OpenMP is needed, which Apple's clang does not have.
//
// A library that runs between PyTorch's own operations, as training does, is compiled with OpenMP where there is one: it
// then works with PyTorch's threads, which `runtime/waiting.py` has told to sleep. Two teams that take turns every few
// milliseconds get in each other's way: one is woken while the other, done, still looks for work on the same core.
//
// Every thread that calls in_parallel has a team of its own, so that callers never wait for each other. A child of fork
// has none of its parent's threads and gets a new team.
#pragma once
#include <pthread.h>
#include <signal.h>
#if defined(_OPENMP)
#include <omp.h>
#endif

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace {  // a library's teams are its own, whatever version of this file another library was built from

constexpr std::chrono::microseconds SPIN{20};  // about what it costs to put a thread to sleep and to wake it

inline void pause_briefly() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

// Whether looking for a while pays: not beside busy programs, where the thread waited for is often not running at all.
class Patience {
    int failures = 0, waits = 0;

   public:
    bool looks() { return failures < 3 || waits++ % 16 == 0; }
    void found(bool in_time) { failures = in_time ? 0 : failures + 1; }
};

// A count that some threads advance and others wait for.
class Turn {
    std::atomic<uint32_t> count{0};
    std::atomic<int> sleepers{0};
    std::mutex mutex;
    std::condition_variable advanced;

    bool seen_beyond(uint32_t seen) {
        auto end = std::chrono::steady_clock::now() + SPIN;
        do {
            for (int i = 0; i < 16; i++, pause_briefly())
                if (count.load(std::memory_order_acquire) != seen) return true;
        } while (std::chrono::steady_clock::now() < end);
        return false;
    }

   public:
    uint32_t now() const { return count.load(); }

    void advance() {
        count.fetch_add(1);
        if (sleepers.load() == 0) return;  // whoever goes to sleep from here on sees the new count
        std::lock_guard<std::mutex> lock(mutex);
        advanced.notify_all();
    }

    void wait_beyond(uint32_t seen, Patience& patience) {
        if (count.load(std::memory_order_acquire) != seen) return;
        if (patience.looks()) {
            bool in_time = seen_beyond(seen);
            patience.found(in_time);
            if (in_time) return;
        }
        sleep_beyond(seen);
    }

    void sleep_beyond(uint32_t seen) {
        std::unique_lock<std::mutex> lock(mutex);
        sleepers++;
        advanced.wait(lock, [&] { return count.load() != seen; });
        sleepers--;
    }
};

class Team;

// One thread of a team at work.
struct Member {
    Team* team;  // null for a thread alone
    int64_t index, members;
    Patience* patience;

    // Returns when every member has called it.
    void barrier();
    // work(i) for this member's contiguous part of 0 .. count - 1.
    template <class Work> void each(int64_t count, const Work& work) const {
        for (int64_t i = count * index / members; i < count * (index + 1) / members; i++) work(i);
    }
    // work(i) for every i that no other member has taken; a barrier must lie between two of these loops.
    template <class Work> void take(int64_t count, const Work& work);
};

class Team {
    std::vector<std::thread> threads;
    Turn start, meeting;
    std::atomic<int64_t> arrived{0}, next{0};
    void (*call)(const void* work, Member& member) = nullptr;  // null: the threads leave
    const void* work = nullptr;
    Patience callers;

    void serve(int64_t index) {
        Patience patience;
        for (uint32_t seen = 0;; seen++) {
            start.sleep_beyond(seen);  // at once: another library's threads may need the core, which a look would keep
            if (!call) return;
            take_part(index, patience);
        }
    }
    void take_part(int64_t index, Patience& patience) {
        Member member{this, index, size(), &patience};
        call(work, member);
        meet(patience);
    }

   public:
    const int64_t wanted;

    // A team of `wanted` with the calling thread, or as many as the system grants.
    explicit Team(int64_t wanted) : wanted(wanted) {
        sigset_t all, before;  // signals are for the threads of the program
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        threads.reserve(wanted - 1);
        try {
            for (int64_t index = 1; index < wanted; index++) threads.emplace_back([this, index] { serve(index); });
        } catch (const std::system_error&) {
        }
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
    }
    ~Team() {
        call = nullptr;
        start.advance();
        for (std::thread& thread : threads) thread.join();
    }
    int64_t size() const { return (int64_t)threads.size() + 1; }
    int64_t take_next() { return next.fetch_add(1, std::memory_order_relaxed); }

    void meet(Patience& patience) {
        uint32_t seen = meeting.now();
        if (arrived.fetch_add(1) + 1 < size()) return meeting.wait_beyond(seen, patience);
        arrived = 0;
        next = 0;
        meeting.advance();
    }

    template <class Work> void run(const Work& piece) {
        work = &piece;
        call = [](const void* work, Member& member) { (*(const Work*)work)(member); };
        start.advance();
        take_part(0, callers);
    }
};

inline void Member::barrier() {
#if defined(_OPENMP)
#pragma omp barrier
#else
    if (team) team->meet(*patience);
#endif
}

template <class Work> void Member::take(int64_t count, const Work& work) {
    if (!team) return each(count, work);
    for (int64_t i = team->take_next(); i < count; i = team->take_next()) work(i);
}

inline std::atomic<int> forks{0};

// The calling thread's team; its threads end with that thread.
inline Team& own_team(int64_t size) {
    static const int watching = pthread_atfork(nullptr, nullptr, [] { forks++; });
    static thread_local struct Owner {
        std::unique_ptr<Team> team;
        int born = 0;
        ~Owner() { forget_if_forked(); }
        void forget_if_forked() {
            if (born != forks) (void)team.release();  // its threads and locks are the parent's
        }
    } owner;
    (void)watching;
    owner.forget_if_forked();
    if (!owner.team || owner.team->wanted != size) {
        owner.team = nullptr;
        owner.team = std::make_unique<Team>(size);
        owner.born = forks;
    }
    return *owner.team;
}

// work(member) on `threads` threads, the calling one among them. Returns when all are done.
template <class Work> void in_parallel(int64_t threads, const Work& work) {
#if defined(_OPENMP)
#pragma omp parallel num_threads((int)threads)
    {
        Member member{nullptr, omp_get_thread_num(), omp_get_num_threads(), nullptr};
        work(member);
    }
#else
    if (threads > 1) return own_team(threads).run(work);
    Member alone{nullptr, 0, 1, nullptr};
    work(alone);
#endif
}

}  // namespace
