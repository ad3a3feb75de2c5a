/* The wall clock of the process that loads this first, off by as many seconds as the file says that FAKE_CLOCK names. The
 * clock that only goes forward is left alone, as it is by whoever sets a clock. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* By system calls alone: the process may not have begun yet when it first asks for the time. */
static long long seconds_off(void) {
    const char *path = getenv("FAKE_CLOCK");
    char text[32] = {0};
    long file = path ? syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0) : -1;
    if (file < 0) return 0;
    long size = syscall(SYS_read, file, text, sizeof text - 1);
    syscall(SYS_close, file);
    return size > 0 ? strtoll(text, 0, 10) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int end = syscall(SYS_clock_gettime, clock, now);
    if (end == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += seconds_off();
    return end;
}
