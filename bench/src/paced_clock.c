/* The clocks of the process that loads this first: they go right until the first eight bytes of the file that PACED_CLOCK
 * names are a number; from then on they stand still but for so many nanoseconds. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static _Atomic(_Atomic long long *) shared;
/* When the clocks began to stand still: the one of the wall, and the one that only goes forward. */
static _Atomic long long began[2];

/* By system calls alone: the process may not have begun yet when it first asks for the time. */
static _Atomic long long *pace(void) {
    _Atomic long long *known = shared;
    if (known) return known;
    const char *path = getenv("PACED_CLOCK");
    long file = path ? syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0) : -1;
    if (file < 0) return 0;
    long mapped = syscall(SYS_mmap, 0, 8, PROT_READ, MAP_SHARED, file, 0);
    syscall(SYS_close, file);
    if (mapped < 0 && mapped > -4096) return 0;
    return shared = (_Atomic long long *)mapped;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int which = clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE ? 0
        : clock == CLOCK_MONOTONIC || clock == CLOCK_MONOTONIC_COARSE || clock == CLOCK_BOOTTIME ? 1 : -1;
    _Atomic long long *pacing = which < 0 ? 0 : pace();
    long long passed = pacing ? *pacing : 0;
    long long since = passed ? began[which] : 0;
    if (!since) {
        int end = syscall(SYS_clock_gettime, clock, now);
        if (!passed || end) return end;
        long long none = 0, at = now->tv_sec * 1000000000LL + now->tv_nsec;
        since = atomic_compare_exchange_strong(&began[which], &none, at) ? at : none;
    }
    now->tv_sec = (since + passed) / 1000000000LL;
    now->tv_nsec = (since + passed) % 1000000000LL;
    return 0;
}
