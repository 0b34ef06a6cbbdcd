/* Stands before the C library (LD_PRELOAD) and counts what a process does to the files below one folder. At the n-th
 * call while it does one thing (its label says which) it kills the process with SIGKILL (before the call, after it, or with half of the bytes written), or lets that
 * call fail. So SQLite's own writes are reached as well as Python's. What goes through a mapping (SQLite's -shm file)
 * is no call and is not counted: kills at random moments meet it. Not armed, it only passes on. tests/hw_sim/shim.py */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

enum how { COUNT, KILL_BEFORE, KILL_AFTER, KILL_HALF, FAIL, HALF_THEN_FAIL };
enum { PASS = 0, FAILS = 1, HALF = 2, DIES_AFTER = 4 };

static char folder[PATH_MAX];
static size_t folder_size;
static char label[64] = "-", during[64];
static int log_fd = -1, how = COUNT, error = EIO, sticky, broken;
static long at;
static atomic_long count, count_during;

void shim_arm(const char *below, int log_to, const char *while_, long nth, int what, int errno_, int for_ever) {
    folder_size = 0;
    strncpy(folder, below, sizeof folder - 1);
    strncpy(during, while_, sizeof during - 1);
    log_fd = log_to, at = nth, how = what, error = errno_, sticky = for_ever, broken = 0;
    count = count_during = 0;
    folder_size = strlen(folder);
}

void shim_disarm(void) { folder_size = 0; }

void shim_label(const char *text) { strncpy(label, text, sizeof label - 1); }

int shim_broken(void) { return broken; }

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

static int takes_room(const char *call) { return strchr("pwom", call[0]) != NULL; }

/* What is to become of this call. Every one is told in the log before it is done: number, call, label, file, bytes. */
static int judge(const char *call, const char *path, size_t size) {
    if (!folder_size || !path || strncmp(path, folder, folder_size) != 0 || path[folder_size] != '/')
        return PASS;
    long n = atomic_fetch_add(&count, 1) + 1;
    char line[PATH_MAX + 160];
    int length = snprintf(line, sizeof line, "%ld\t%s\t%s\t%s\t%zu\n", n, call, label, path + folder_size + 1, size);
    if (log_fd >= 0)
        syscall(SYS_write, log_fd, line, length);
    long nth = strcmp(label, during) == 0 ? atomic_fetch_add(&count_during, 1) + 1 : 0;
    if (how >= FAIL) {
        if (error == ENOSPC && !takes_room(call))
            return PASS;
        if (broken ? !sticky : nth < at)
            return PASS;
        int first = !broken;
        broken = 1;
        return how == HALF_THEN_FAIL && first && size > 1 ? HALF : FAILS;
    }
    if (how == COUNT || nth != at)
        return PASS;
    if (how == KILL_BEFORE)
        die();
    return how == KILL_HALF && size > 1 ? HALF | DIES_AFTER : DIES_AFTER;
}

static int judge_fd(const char *call, int fd, size_t size) {
    if (!folder_size)
        return PASS;
    char link[40], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return PASS;
    path[length] = 0;
    return judge(call, path, size);
}

#define NEXT(type, name, ...) \
    static type (*next)(__VA_ARGS__); \
    if (!next) \
    next = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

#define DO(expression) \
    do { \
        if (verdict & FAILS) { \
            errno = error; \
            return -1; \
        } \
        __typeof__(expression) result = (expression); \
        if (verdict & DIES_AFTER) \
            die(); \
        return result; \
    } while (0)

#define SIZE (verdict & HALF ? size / 2 : size)

ssize_t write(int fd, const void *data, size_t size) {
    NEXT(ssize_t, write, int, const void *, size_t);
    int verdict = judge_fd("write", fd, size);
    DO(next(fd, data, SIZE));
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t where) {
    NEXT(ssize_t, pwrite, int, const void *, size_t, off_t);
    int verdict = judge_fd("pwrite", fd, size);
    DO(next(fd, data, SIZE, where));
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t where) {
    NEXT(ssize_t, pwrite64, int, const void *, size_t, off64_t);
    int verdict = judge_fd("pwrite", fd, size);
    DO(next(fd, data, SIZE, where));
}

int fsync(int fd) {
    NEXT(int, fsync, int);
    int verdict = judge_fd("fsync", fd, 0);
    DO(next(fd));
}

int fdatasync(int fd) {
    NEXT(int, fdatasync, int);
    int verdict = judge_fd("fsync", fd, 0);
    DO(next(fd));
}

int ftruncate(int fd, off_t length) {
    NEXT(int, ftruncate, int, off_t);
    int verdict = judge_fd("truncate", fd, 0);
    DO(next(fd, length));
}

int ftruncate64(int fd, off64_t length) {
    NEXT(int, ftruncate64, int, off64_t);
    int verdict = judge_fd("truncate", fd, 0);
    DO(next(fd, length));
}

int rename(const char *from, const char *to) {
    NEXT(int, rename, const char *, const char *);
    int verdict = judge("rename", to, 0);
    DO(next(from, to));
}

int renameat(int from_fd, const char *from, int to_fd, const char *to) {
    NEXT(int, renameat, int, const char *, int, const char *);
    int verdict = to_fd == AT_FDCWD || to[0] == '/' ? judge("rename", to, 0) : judge_fd("rename", to_fd, 0);
    DO(next(from_fd, from, to_fd, to));
}

int unlink(const char *path) {
    NEXT(int, unlink, const char *);
    int verdict = judge("unlink", path, 0);
    DO(next(path));
}

int unlinkat(int fd, const char *path, int flags) {
    NEXT(int, unlinkat, int, const char *, int);
    int verdict = fd == AT_FDCWD || path[0] == '/' ? judge("unlink", path, 0) : judge_fd("unlink", fd, 0);
    DO(next(fd, path, flags));
}

int rmdir(const char *path) {
    NEXT(int, rmdir, const char *);
    int verdict = judge("unlink", path, 0);
    DO(next(path));
}

int mkdir(const char *path, mode_t mode) {
    NEXT(int, mkdir, const char *, mode_t);
    int verdict = judge("mkdir", path, 0);
    DO(next(path, mode));
}

/* Only where a file may be made: to open what is there changes nothing. */
#define OPENED(name) \
    mode_t mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { \
        va_list more; \
        va_start(more, flags); \
        mode = va_arg(more, mode_t); \
        va_end(more); \
    } \
    int verdict = folder_size && (flags & O_CREAT) && access(path, F_OK) != 0 ? judge("open", path, 0) : PASS

int open(const char *path, int flags, ...) {
    NEXT(int, open, const char *, int, ...);
    OPENED(open);
    DO(next(path, flags, mode));
}

int open64(const char *path, int flags, ...) {
    NEXT(int, open64, const char *, int, ...);
    OPENED(open64);
    DO(next(path, flags, mode));
}
