/* A wall clock that a scenario moves, for processes started with this library in LD_PRELOAD (machine.py: Clock).
 *
 * The file named by FAULTS_CLOCK holds one signed 64-bit number: the offset in ns, read at every look at the clock,
 * so a jump is seen by all threads at once. The monotonic clocks stay true. A wait until a moment of the wall clock is
 * turned back into the kernel's time; that moment is as wrong after a jump as it is with a real clock.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

#define S 1000000000LL
#define WALL_S 1000000000LL /* no machine has run for so long: later moments are of the wall clock */

static const volatile int64_t *offset;
static int (*real_gettime)(clockid_t, struct timespec *);
static int (*real_timedwait)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
static int (*real_cnd_timedwait)(cnd_t *, mtx_t *, const struct timespec *); /* librdkafka's */

__attribute__((constructor)) static void begin(void) {
    real_gettime = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    real_timedwait = (int (*)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *))dlsym(
        RTLD_NEXT, "pthread_cond_timedwait");
    real_cnd_timedwait = (int (*)(cnd_t *, mtx_t *, const struct timespec *))dlsym(RTLD_NEXT, "cnd_timedwait");
    const char *name = getenv("FAULTS_CLOCK");
    int file = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *seen = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (seen != MAP_FAILED) offset = seen;
}

static struct timespec moved(struct timespec t, int64_t by) {
    int64_t ns = t.tv_sec * S + t.tv_nsec + by;
    return (struct timespec){ns / S, ns % S};
}

int clock_gettime(clockid_t id, struct timespec *t) {
    if (!real_gettime) begin(); /* another library asks before this one's constructor */
    int status = real_gettime(id, t);
    if (!status && offset && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) *t = moved(*t, *offset);
    return status;
}

int gettimeofday(struct timeval *restrict t, void *restrict zone) {
    (void)zone;
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
    *t = (struct timeval){now.tv_sec, now.tv_nsec / 1000};
    return 0;
}

time_t time(time_t *t) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (t) *t = now.tv_sec;
    return now.tv_sec;
}

int timespec_get(struct timespec *t, int base) {
    return base == TIME_UTC && !clock_gettime(CLOCK_REALTIME, t) ? base : 0;
}

int pthread_cond_timedwait(pthread_cond_t *restrict c, pthread_mutex_t *restrict m, const struct timespec *restrict t) {
    if (!offset || t->tv_sec < WALL_S) return real_timedwait(c, m, t);
    struct timespec until = moved(*t, -*offset);
    return real_timedwait(c, m, &until);
}

int cnd_timedwait(cnd_t *restrict c, mtx_t *restrict m, const struct timespec *restrict t) {
    if (!offset) return real_cnd_timedwait(c, m, t);
    struct timespec until = moved(*t, -*offset);
    return real_cnd_timedwait(c, m, &until);
}
