/* Preloaded into a process: kills it at its n-th change of a file below a directory. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static char below[PATH_MAX];
static long fatal, counted;

/* Counts from now on; fatal_change 0 counts only. */
void kills_arm(const char *directory, long fatal_change) {
  strncpy(below, directory, sizeof below - 1);
  fatal = fatal_change;
  counted = 0;
}

long kills_counted(void) { return counted; }

static void change(const char *path) {
  if (!below[0] || !path || strncmp(path, below, strlen(below))) return;
  if (__sync_add_and_fetch(&counted, 1) == fatal) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
  }
}

static void change_fd(int fd) {
  char link[64], path[PATH_MAX];
  if (!below[0]) return;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return;
  path[length] = 0;
  change(path);
}

static void change_at(int fd, const char *path) {
  if (path && path[0] == '/') change(path);
  else if (fd != AT_FDCWD) change_fd(fd);
}

#define REAL(name) __typeof__(name) *real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)
#define BY_FD(type, name, arguments, names) \
  type name arguments { REAL(name); change_fd(fd); return real names; }
#define BY_PATH(type, name, arguments, names) \
  type name arguments { REAL(name); change(path); return real names; }

BY_FD(ssize_t, write, (int fd, const void *b, size_t n), (fd, b, n))
BY_FD(ssize_t, pwrite, (int fd, const void *b, size_t n, off_t o), (fd, b, n, o))
BY_FD(ssize_t, pwrite64, (int fd, const void *b, size_t n, off64_t o), (fd, b, n, o))
BY_FD(ssize_t, writev, (int fd, const struct iovec *v, int n), (fd, v, n))
BY_FD(int, ftruncate, (int fd, off_t n), (fd, n))
BY_FD(int, ftruncate64, (int fd, off64_t n), (fd, n))
BY_PATH(int, rename, (const char *path, const char *to), (path, to))
BY_PATH(int, unlink, (const char *path), (path))
BY_PATH(int, rmdir, (const char *path), (path))
BY_PATH(int, mkdir, (const char *path, mode_t m), (path, m))

size_t fwrite(const void *b, size_t s, size_t n, FILE *f) {
  REAL(fwrite);
  change_fd(fileno(f));
  return real(b, s, n, f);
}
int fflush(FILE *f) {
  REAL(fflush);
  if (f) change_fd(fileno(f));
  return real(f);
}
int fclose(FILE *f) {
  REAL(fclose);
  change_fd(fileno(f));
  return real(f);
}
int unlinkat(int fd, const char *path, int flags) {
  REAL(unlinkat);
  change_at(fd, path);
  return real(fd, path, flags);
}
int mkdirat(int fd, const char *path, mode_t m) {
  REAL(mkdirat);
  change_at(fd, path);
  return real(fd, path, m);
}
int renameat(int fd, const char *path, int to, const char *name) {
  REAL(renameat);
  change_at(fd, path);
  return real(fd, path, to, name);
}
