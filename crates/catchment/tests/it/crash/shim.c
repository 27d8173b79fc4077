/* A disk that forgets: loaded below a process, it notes what each fsync made durable.
 *
 * Files and folders are known by inode and time of birth, since inodes are used again. fsync of a
 * file keeps a copy of its content, fsync of a folder the names in it. What was written and not
 * synced, or named in a folder that was not synced, is not there after the "power cut": the
 * test then builds the folder again from what was kept.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static int key_of(int folder, const char *name, int flags, char *key, size_t size, int *is_folder) {
  struct statx s;
  if (statx(folder, name, flags | AT_SYMLINK_NOFOLLOW, STATX_INO | STATX_TYPE | STATX_BTIME, &s) != 0) return -1;
  long long sec = 0;
  unsigned nsec = 0;
  if (s.stx_mask & STATX_BTIME) { sec = s.stx_btime.tv_sec; nsec = s.stx_btime.tv_nsec; }
  snprintf(key, size, "%llu-%lld.%09u", (unsigned long long)s.stx_ino, sec, nsec);
  *is_folder = S_ISDIR(s.stx_mode);
  return 0;
}

static void keep_file(int fd, const char *state, const char *key) {
  char path[PATH_MAX], temporary[PATH_MAX], source[64], buffer[65536];
  snprintf(path, sizeof path, "%s/files/%s", state, key);
  snprintf(temporary, sizeof temporary, "%s.%ld", path, (long)syscall(SYS_gettid));
  snprintf(source, sizeof source, "/proc/self/fd/%d", fd);
  int from = open(source, O_RDONLY), to = open(temporary, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  ssize_t n;
  if (from >= 0 && to >= 0) while ((n = read(from, buffer, sizeof buffer)) > 0) if (write(to, buffer, n) != n) abort();
  if (from >= 0) close(from);
  if (to >= 0) close(to);
  rename(temporary, path);
}

static void keep_folder(int fd, const char *state, const char *key) {
  char path[PATH_MAX], temporary[PATH_MAX], child[96], source[64];
  snprintf(path, sizeof path, "%s/folders/%s", state, key);
  snprintf(temporary, sizeof temporary, "%s.%ld", path, (long)syscall(SYS_gettid));
  snprintf(source, sizeof source, "/proc/self/fd/%d", fd);
  DIR *folder = opendir(source);
  FILE *to = fopen(temporary, "w");
  struct dirent *entry;
  if (folder && to) while ((entry = readdir(folder))) {
    int is_folder;
    if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
    if (key_of(dirfd(folder), entry->d_name, 0, child, sizeof child, &is_folder) == 0)
      fprintf(to, "%c %s %s\n", is_folder ? 'd' : 'f', child, entry->d_name);
  }
  if (folder) closedir(folder);
  if (to) fclose(to);
  rename(temporary, path);
}

/* One at a time: of two listings of one folder, the older must not replace the newer. */
static pthread_mutex_t keeping = PTHREAD_MUTEX_INITIALIZER;

static int is_ours(int fd) {
  const char *root = getenv("SHIM_ROOT");
  char link[64], path[PATH_MAX];
  if (!root) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, path, sizeof path - 1);
  if (n < 0) return 0;
  path[n] = 0;
  return strncmp(path, root, strlen(root)) == 0;
}

static void synced(int fd) {
  const char *state = getenv("SHIM_STATE");
  char key[96];
  int is_folder;
  if (!state || !is_ours(fd)) return;
  if (key_of(fd, "", AT_EMPTY_PATH, key, sizeof key, &is_folder) != 0) return;
  pthread_mutex_lock(&keeping);
  if (is_folder) keep_folder(fd, state, key); else keep_file(fd, state, key);
  pthread_mutex_unlock(&keeping);
}

int fsync(int fd) {
  static int (*real)(int);
  if (!real) real = dlsym(RTLD_NEXT, "fsync");
  int result = real(fd);
  if (result == 0) synced(fd);
  return result;
}

int fdatasync(int fd) {
  static int (*real)(int);
  if (!real) real = dlsym(RTLD_NEXT, "fdatasync");
  int result = real(fd);
  if (result == 0) synced(fd);
  return result;
}

static int is_full(int fd) {
  const char *state = getenv("SHIM_STATE");
  char path[PATH_MAX];
  if (!state) return 0;
  snprintf(path, sizeof path, "%s/full", state);
  return access(path, F_OK) == 0 && is_ours(fd);
}

/* How much of a write there is room for, -1 for nothing. */
static ssize_t room(int fd, size_t size) {
  if (!is_full(fd)) return size;
  if (size > 64) return size / 2;
  errno = ENOSPC;
  return -1;
}

ssize_t write(int fd, const void *bytes, size_t size) {
  static ssize_t (*real)(int, const void *, size_t);
  if (!real) real = dlsym(RTLD_NEXT, "write");
  ssize_t taken = room(fd, size);
  return taken < 0 ? -1 : real(fd, bytes, taken);
}

ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t at) {
  static ssize_t (*real)(int, const void *, size_t, off64_t);
  if (!real) real = dlsym(RTLD_NEXT, "pwrite64");
  ssize_t taken = room(fd, size);
  return taken < 0 ? -1 : real(fd, bytes, taken, at);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
  static ssize_t (*real)(int, const struct iovec *, int);
  if (!real) real = dlsym(RTLD_NEXT, "writev");
  if (is_full(fd)) { errno = ENOSPC; return -1; }
  return real(fd, parts, count);
}

int clock_gettime(clockid_t clock, struct timespec *time) {
  static int (*real)(clockid_t, struct timespec *);
  if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
  const char *state = getenv("SHIM_STATE");
  int result = real(clock, time);
  if (result != 0 || clock != CLOCK_REALTIME || !state) return result;
  char path[PATH_MAX], text[32];
  snprintf(path, sizeof path, "%s/clock", state);
  int file = open(path, O_RDONLY);
  if (file < 0) return result;
  ssize_t n = read(file, text, sizeof text - 1);
  close(file);
  if (n > 0) { text[n] = 0; time->tv_sec += atoll(text); }
  return result;
}
