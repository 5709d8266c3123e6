/* Preloaded into a replica of the gate, this moves its wall clock by CLOCK_OFFSET seconds. Other
   clocks are as they are: a machine whose time is wrong still measures durations correctly. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *time) {
  long result = syscall(SYS_clock_gettime, clock, time);
  if (result == 0 && clock == CLOCK_REALTIME) {
    const char *offset = getenv("CLOCK_OFFSET");
    time->tv_sec += offset ? atol(offset) : 0;
  }
  return (int)result;
}
