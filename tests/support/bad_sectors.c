// A preloaded library: the files that a list names fail as those of a bad disk or a lost share do.
//
// The list is a file, named by BAD_SECTORS and read again at each call. A line is
//     OPERATION ERRNO FROM SKIP PATH
// OPERATION: read (of bytes at or after FROM), open, stat, list (of a folder). SKIP: how many calls
// that match pass first, in this process. PATH: a piece of the file's absolute path.
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LINES 64
static int passed[LINES];

static int fails(const char *operation, const char *path, off_t stop) {
    const char *list = getenv("BAD_SECTORS");
    if (!list || !path) return 0;
    int kept = errno, found = 0;
    static char text[8192];
    int file = syscall(SYS_open, list, O_RDONLY | O_CLOEXEC);
    if (file < 0) { errno = kept; return 0; }
    long size = syscall(SYS_read, file, text, sizeof text - 1);
    syscall(SYS_close, file);
    text[size > 0 ? size : 0] = 0;
    int number = 0;
    char *rest = text, *line;
    while (!found && (line = strsep(&rest, "\n")) && number < LINES) {
        char what[16], where[4096];
        int error, skip;
        long from;
        if (sscanf(line, "%15s %d %ld %d %4095[^\n]", what, &error, &from, &skip, where) == 5 &&
            !strcmp(what, operation) && stop > from && strstr(path, where) &&
            __sync_fetch_and_add(&passed[number], 1) >= skip)
            found = error;
        number++;
    }
    errno = found ? found : kept;
    return found;
}

static int fd_fails(const char *operation, int fd, off_t stop) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = syscall(SYS_readlink, link, path, sizeof path - 1);
    if (n <= 0 || path[0] != '/') return 0;
    path[n] = 0;
    return fails(operation, path, stop);
}

static int at_fails(const char *operation, int dir, const char *name) {
    char whole[8192] = "";
    if (name && name[0] != '/' && dir != AT_FDCWD) {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
        ssize_t n = syscall(SYS_readlink, link, whole, 4096);
        whole[n > 0 ? n : 0] = 0;
        strcat(whole, "/");
    }
    strncat(whole, name ? name : "", 4000);
    return fails(operation, whole, 1);
}

#define REAL(name) ((typeof(name) *)dlsym(RTLD_NEXT, #name))

ssize_t read(int fd, void *buffer, size_t count) {
    off_t at = syscall(SYS_lseek, fd, 0, SEEK_CUR);
    if (at >= 0 && fd_fails("read", fd, at + count)) return -1;
    return syscall(SYS_read, fd, buffer, count);
}

ssize_t pread64(int fd, void *buffer, size_t count, off64_t at) {
    if (fd_fails("read", fd, at + count)) return -1;
    return syscall(SYS_pread64, fd, buffer, count, at);
}

ssize_t pread(int fd, void *buffer, size_t count, off_t at) { return pread64(fd, buffer, count, at); }

static int opened(int dir, const char *path, int flags, mode_t mode) {
    if (at_fails("open", dir, path)) return -1;
    return syscall(SYS_openat, dir, path, flags, mode);
}

#define MODE va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, int); va_end(rest)
int open(const char *path, int flags, ...) { MODE; return opened(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE; return opened(AT_FDCWD, path, flags, mode); }
int openat(int dir, const char *path, int flags, ...) { MODE; return opened(dir, path, flags, mode); }
int openat64(int dir, const char *path, int flags, ...) { MODE; return opened(dir, path, flags, mode); }

int fstatat64(int dir, const char *path, struct stat64 *out, int flags) {
    if (at_fails("stat", dir, path)) return -1;
    return REAL(fstatat64)(dir, path, out, flags);
}
int fstatat(int dir, const char *path, struct stat *out, int flags) {
    return fstatat64(dir, path, (struct stat64 *)out, flags);
}
int stat64(const char *path, struct stat64 *out) { return fstatat64(AT_FDCWD, path, out, 0); }
int stat(const char *path, struct stat *out) { return fstatat64(AT_FDCWD, path, (struct stat64 *)out, 0); }
int lstat64(const char *path, struct stat64 *out) {
    return fstatat64(AT_FDCWD, path, out, AT_SYMLINK_NOFOLLOW);
}
int lstat(const char *path, struct stat *out) { return lstat64(path, (struct stat64 *)out); }

DIR *opendir(const char *path) {
    if (at_fails("list", AT_FDCWD, path)) return NULL;
    return REAL(opendir)(path);
}
struct dirent64 *readdir64(DIR *folder) {
    if (fd_fails("list", dirfd(folder), 1)) return NULL;
    return REAL(readdir64)(folder);
}
struct dirent *readdir(DIR *folder) { return (struct dirent *)readdir64(folder); }
