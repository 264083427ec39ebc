/* Fails one call of this process below a folder: the n-th of those that change or read a file.

   Preloaded. What is to fail is said by fail_at(); until then all calls pass uncounted. A thread's
   calls are counted with those of all others. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char below[4096];
static size_t below_length;
static atomic_long point;
static atomic_long passed;
static atomic_int number;
static atomic_int armed;
static char named[8192];

void fail_at(const char *folder, long at, int error) {
  armed = 0;
  strncpy(below, folder, sizeof below - 1);
  below_length = strlen(below);
  passed = 0;
  point = at;
  number = error;
  named[0] = 0;
  armed = 1;
}

long calls_passed(void) { return passed; }

const char *call_failed(void) { return named; }

void fail_no_more(void) { armed = 0; }

static int due(const char *call, const char *path) {
  if (strncmp(path, below, below_length) != 0) return 0;
  if (atomic_fetch_add(&passed, 1) + 1 != point) return 0;
  snprintf(named, sizeof named, "%s %s", call, path + below_length);
  errno = number;
  return 1;
}

static int link_of(int descriptor, char *place, size_t size) {
  char name[64];
  snprintf(name, sizeof name, "/proc/self/fd/%d", descriptor);
  ssize_t length = syscall(SYS_readlink, name, place, size - 1);
  if (length < 0) return 0;
  place[length] = 0;
  return 1;
}

static int due_of(const char *call, int descriptor) {
  char place[4096];
  if (!armed) return 0;
  int before = errno;
  int found = link_of(descriptor, place, sizeof place);
  errno = before;
  return found && due(call, place);
}

static int due_at(const char *call, int folder, const char *path) {
  char place[8192];
  if (!armed || path == NULL) return 0;
  if (path[0] == '/') return due(call, path);
  int before = errno;
  if (folder == AT_FDCWD ? getcwd(place, 4096) == NULL : !link_of(folder, place, 4096)) return 0;
  errno = before;
  size_t length = strlen(place);
  snprintf(place + length, sizeof place - length, "/%s", path);
  return due(call, place);
}

#define REAL(name) \
  static __typeof__(&name) real; \
  if (real == NULL) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define MODE \
  mode_t mode = 0; \
  if (flags & (O_CREAT | O_TMPFILE)) { \
    va_list rest; \
    va_start(rest, flags); \
    mode = va_arg(rest, mode_t); \
    va_end(rest); \
  }

int open(const char *path, int flags, ...) {
  MODE
  REAL(open);
  return due_at("open", AT_FDCWD, path) ? -1 : real(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
  MODE
  REAL(open64);
  return due_at("open", AT_FDCWD, path) ? -1 : real(path, flags, mode);
}

int openat(int folder, const char *path, int flags, ...) {
  MODE
  REAL(openat);
  return due_at("open", folder, path) ? -1 : real(folder, path, flags, mode);
}

int openat64(int folder, const char *path, int flags, ...) {
  MODE
  REAL(openat64);
  return due_at("open", folder, path) ? -1 : real(folder, path, flags, mode);
}

#define OF_DESCRIPTOR(type, name, call, given, passing) \
  type name given { \
    REAL(name); \
    return due_of(call, descriptor) ? -1 : real passing; \
  }

OF_DESCRIPTOR(ssize_t, read, "read", (int descriptor, void *to, size_t n), (descriptor, to, n))
OF_DESCRIPTOR(ssize_t, pread, "read", (int descriptor, void *to, size_t n, off_t at),
              (descriptor, to, n, at))
OF_DESCRIPTOR(ssize_t, pread64, "read", (int descriptor, void *to, size_t n, off64_t at),
              (descriptor, to, n, at))
OF_DESCRIPTOR(ssize_t, write, "write", (int descriptor, const void *of, size_t n),
              (descriptor, of, n))
OF_DESCRIPTOR(ssize_t, pwrite, "write", (int descriptor, const void *of, size_t n, off_t at),
              (descriptor, of, n, at))
OF_DESCRIPTOR(ssize_t, pwrite64, "write", (int descriptor, const void *of, size_t n, off64_t at),
              (descriptor, of, n, at))
OF_DESCRIPTOR(ssize_t, writev, "write", (int descriptor, const struct iovec *of, int n),
              (descriptor, of, n))
OF_DESCRIPTOR(int, fsync, "fsync", (int descriptor), (descriptor))
OF_DESCRIPTOR(int, fdatasync, "fsync", (int descriptor), (descriptor))

int link(const char *from, const char *to) {
  REAL(link);
  return due_at("link", AT_FDCWD, to) ? -1 : real(from, to);
}

int linkat(int a, const char *from, int b, const char *to, int flags) {
  REAL(linkat);
  return due_at("link", b, to) ? -1 : real(a, from, b, to, flags);
}

int rename(const char *from, const char *to) {
  REAL(rename);
  return due_at("rename", AT_FDCWD, to) ? -1 : real(from, to);
}

int renameat(int a, const char *from, int b, const char *to) {
  REAL(renameat);
  return due_at("rename", b, to) ? -1 : real(a, from, b, to);
}

int renameat2(int a, const char *from, int b, const char *to, unsigned int flags) {
  REAL(renameat2);
  return due_at("rename", b, to) ? -1 : real(a, from, b, to, flags);
}

int unlink(const char *path) {
  REAL(unlink);
  return due_at("unlink", AT_FDCWD, path) ? -1 : real(path);
}

int unlinkat(int folder, const char *path, int flags) {
  REAL(unlinkat);
  return due_at("unlink", folder, path) ? -1 : real(folder, path, flags);
}
