/* A disk that is full after so many bytes, for one directory: loaded before the C library with LD_PRELOAD.

   FULL_DISK_UNDER   the directory, absolute
   FULL_DISK_AFTER   bytes that fit
   FULL_DISK_TELLS   if set, statvfs tells how much is left; otherwise the writer finds out by writing
   FULL_DISK_COUNT   a file of 16 bytes that all processes map: bytes written, and writes refused

   What makes a file longer is counted and, once the bytes are used up, ends in ENOSPC; the write that crosses the limit
   writes what fits, as a real disk does. Writing over what is there takes no room, as on most file systems. Making files
   shorter or removing them gives none back. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

typedef struct {
    _Atomic long long used, refused;
} Count;

static Count *count;
static long long limit;
static const char *under;
static size_t under_length;

__attribute__((constructor)) static void begin(void) {
    const char *file = getenv("FULL_DISK_COUNT"), *after = getenv("FULL_DISK_AFTER");
    under = getenv("FULL_DISK_UNDER");
    if (!file || !after || !under) return;
    int descriptor = open(file, O_RDWR);
    if (descriptor < 0) return;
    void *mapped = mmap(NULL, sizeof(Count), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    close(descriptor);
    if (mapped == MAP_FAILED) return;
    under_length = strlen(under);
    limit = atoll(after);
    count = mapped;
}

static int concerns(int descriptor) {
    char link[64], path[PATH_MAX];
    if (!count) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < (ssize_t)under_length) return 0;
    path[length] = 0;
    return strncmp(path, under, under_length) == 0 && (path[under_length] == '/' || path[under_length] == 0);
}

/* How many of so many bytes can be written at a place; -1 if none. */
static ssize_t room(int descriptor, off64_t place, size_t wanted) {
    struct stat status;
    if (fstat(descriptor, &status) != 0) return -1;
    long long size = status.st_size, start = place > size ? place : size;
    long long beyond = place + (long long)wanted - start;
    if (beyond <= 0) return (ssize_t)wanted;
    long long used = atomic_fetch_add(&count->used, beyond);
    if (used + beyond <= limit) return (ssize_t)wanted;
    atomic_fetch_add(&count->refused, 1);
    long long fits = (long long)wanted - beyond + (used < limit ? limit - used : 0);
    if (fits > 0) return (ssize_t)fits;
    errno = ENOSPC;
    return -1;
}

/* Where the next write goes. */
static off64_t place_of(int descriptor) {
    struct stat status;
    if ((fcntl(descriptor, F_GETFL) & O_APPEND) && fstat(descriptor, &status) == 0) return status.st_size;
    off64_t place = lseek64(descriptor, 0, SEEK_CUR);
    return place < 0 ? 0 : place;
}

/* The C library's own function; the cast between kinds of pointers is POSIX's. */
#define FIND(name) \
    if (!real_##name) *(void **)&real_##name = dlsym(RTLD_NEXT, #name)

static ssize_t (*real_write)(int, const void *, size_t);
ssize_t write(int descriptor, const void *bytes, size_t length) {
    FIND(write);
    if (concerns(descriptor)) {
        ssize_t fits = room(descriptor, place_of(descriptor), length);
        if (fits < 0) return -1;
        length = (size_t)fits;
    }
    return real_write(descriptor, bytes, length);
}

#define PWRITE(name, type)                                                                  \
    static ssize_t (*real_##name)(int, const void *, size_t, type);                         \
    ssize_t name(int descriptor, const void *bytes, size_t length, type place) {            \
        FIND(name);                                                                         \
        if (concerns(descriptor)) {                                                         \
            ssize_t fits = room(descriptor, place, length);                                 \
            if (fits < 0) return -1;                                                        \
            length = (size_t)fits;                                                          \
        }                                                                                   \
        return real_##name(descriptor, bytes, length, place);                               \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

static ssize_t (*real_writev)(int, const struct iovec *, int);
ssize_t writev(int descriptor, const struct iovec *parts, int number) {
    FIND(writev);
    if (concerns(descriptor)) {
        size_t length = 0;
        for (int i = 0; i < number; i++) length += parts[i].iov_len;
        ssize_t fits = room(descriptor, place_of(descriptor), length);
        if (fits < 0) return -1;
        if ((size_t)fits < length) { /* the first part alone, or what of it fits */
            size_t first = number ? parts[0].iov_len : 0;
            FIND(write);
            return real_write(descriptor, number ? parts[0].iov_base : NULL, first < (size_t)fits ? first : (size_t)fits);
        }
    }
    return real_writev(descriptor, parts, number);
}

#define SENDFILE(name, type)                                                                \
    static ssize_t (*real_##name)(int, int, type *, size_t);                                \
    ssize_t name(int target, int source, type *place, size_t length) {                      \
        FIND(name);                                                                         \
        if (concerns(target)) {                                                             \
            struct stat status;                                                             \
            size_t most = length;                                                           \
            if (fstat(source, &status) == 0 && (size_t)status.st_size < most) most = (size_t)status.st_size; \
            ssize_t fits = room(target, place_of(target), most);                            \
            if (fits < 0) return -1;                                                        \
            length = (size_t)fits;                                                          \
        }                                                                                   \
        return real_##name(target, source, place, length);                                  \
    }
SENDFILE(sendfile, off_t)
SENDFILE(sendfile64, off64_t)

static ssize_t (*real_copy_file_range)(int, off64_t *, int, off64_t *, size_t, unsigned);
ssize_t copy_file_range(int source, off64_t *from, int target, off64_t *to, size_t length, unsigned flags) {
    FIND(copy_file_range);
    if (concerns(target)) {
        ssize_t fits = room(target, to ? *to : place_of(target), length);
        if (fits < 0) return -1;
        length = (size_t)fits;
    }
    return real_copy_file_range(source, from, target, to, length, flags);
}

/* A longer file takes room only where it is written, so that it is refused only when nothing fits any more. */
static int full(int descriptor, off64_t length) {
    struct stat status;
    if (!concerns(descriptor) || fstat(descriptor, &status) != 0 || length <= status.st_size) return 0;
    if (atomic_load(&count->used) < limit) return 0;
    atomic_fetch_add(&count->refused, 1);
    errno = ENOSPC;
    return 1;
}

#define TRUNCATE(name, type)                                                                \
    static int (*real_##name)(int, type);                                                   \
    int name(int descriptor, type length) {                                                 \
        FIND(name);                                                                         \
        return full(descriptor, length) ? -1 : real_##name(descriptor, length);             \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

static int (*real_fsync)(int);
int fsync(int descriptor) {
    FIND(fsync);
    if (concerns(descriptor) && atomic_load(&count->refused)) { /* it did not all reach the disk */
        errno = ENOSPC;
        return -1;
    }
    return real_fsync(descriptor);
}

#define STATVFS(name, type)                                                                 \
    static int (*real_##name)(const char *, type *);                                        \
    int name(const char *path, type *told) {                                                \
        char absolute[PATH_MAX];                                                            \
        FIND(name);                                                                         \
        int code = real_##name(path, told);                                                 \
        if (code == 0 && count && getenv("FULL_DISK_TELLS") && realpath(path, absolute)     \
            && strncmp(absolute, under, under_length) == 0) {                               \
            long long left = limit - atomic_load(&count->used);                             \
            told->f_bavail = told->f_bfree = left > 0 ? (unsigned long)left / told->f_frsize : 0; \
        }                                                                                   \
        return code;                                                                        \
    }
STATVFS(statvfs, struct statvfs)
STATVFS(statvfs64, struct statvfs64)
