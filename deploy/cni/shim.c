/* CNI plugin of routed: puts each call to the agent, and keeps a DEL that the agent cannot take. CNI 1.1.0, no JSON.
 * Request:   every CNI_* variable as NAME=VALUE\0, then \0, then standard input, then end of file.
 * Answer:    "STATUS LENGTH\n" and LENGTH bytes for standard output; anything else counts as no answer.
 * No answer: DEL goes into the queue, as the request's own bytes, and succeeds; the agent makes it good later. The
 *            others fail with an error after which runtimes try again. Its cniVersion is fixed: errors have the same
 *            form in every version, and libcni does not read that key.
 * Labs move what is compiled in by ROUTED_CNI_SOCKET, _QUEUE and _DEADLINE_MS: runtimes pass their environment on. */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define VERSIONS "{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]}"
enum { SIZE_LIMIT = 1 << 20, QUEUE_LIMIT = 1024, ID_LIMIT = 128, IFNAME_LIMIT = 15 };
enum { BAD_ENVIRONMENT = 4, IO_FAILURE = 5, BAD_CONTENT = 6, TRY_AGAIN = 11, UNAVAILABLE = 50 }; /* CNI error codes */

static char request[SIZE_LIMIT + 1], answer[SIZE_LIMIT + 1]; /* the extra byte tells "full" from "too long" */
static long deadline;

static long now_ms(void) {
    struct timespec now = {0};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static const char *setting(const char *name, const char *fallback) {
    const char *value = getenv(name);
    return value && *value ? value : fallback;
}

static bool ready(int fd, short events) {
    struct pollfd watched = {.fd = fd, .events = events};
    int count;
    do {
        long left = deadline - now_ms();
        count = poll(&watched, 1, left > 0 ? (int)left : 0);
    } while (count < 0 && errno == EINTR);
    if (count == 0) errno = ETIMEDOUT;
    return count > 0;
}

/* Reads until end of file; -1 when that fails, lasts too long or does not leave one byte of room. */
static ssize_t take(int fd, char *into, size_t room) {
    for (size_t used = 0; used < room;) {
        if (!ready(fd, POLLIN)) return -1;
        ssize_t count = read(fd, into + used, room - used);
        if (count == 0) return (ssize_t)used;
        if (count > 0) used += (size_t)count;
        else if (errno != EINTR && errno != EAGAIN) return -1;
    }
    return errno = EMSGSIZE, -1;
}

static bool put(int fd, const char *from, size_t length) {
    while (length > 0) {
        if (!ready(fd, POLLOUT)) return false;
        ssize_t count = write(fd, from, length);
        if (count < 0 && errno != EINTR && errno != EAGAIN) return false;
        if (count > 0) from += count, length -= (size_t)count;
    }
    return true;
}

static _Noreturn void fail(int code, const char *what, int error) {
    const char *reason = error ? strerror(error) : "";
    printf("{\"cniVersion\":\"1.1.0\",\"code\":%d,\"msg\":\"routed: %s\",\"details\":\"%s\"}\n", code, what, reason);
    exit(EXIT_FAILURE);
}

/* Puts the request to the agent; the body of its answer, or NULL and errno. */
static const char *ask(size_t length, size_t *size, int *status) {
    const char *path = setting("ROUTED_CNI_SOCKET", "/run/routed/cni.sock");
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof to.sun_path) return errno = ENAMETOOLONG, NULL;
    memcpy(to.sun_path, path, strlen(path));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0); /* a full backlog counts as no answer */
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) != 0) return NULL;
    if (!put(fd, request, length) || shutdown(fd, SHUT_WR) != 0) return NULL;
    ssize_t got = take(fd, answer, sizeof answer); /* at most all but the last byte */
    if (got < 0) return NULL;
    answer[got] = '\0';
    char *space, *end;
    *status = (int)strtoul(answer, &space, 10);
    *size = strtoul(space, &end, 10);
    bool header = space > answer && *space == ' ' && end > space && *end == '\n';
    return header && *size == (size_t)(answer + got - end - 1) ? end + 1 : (errno = ECONNABORTED, NULL);
}

/* Stores the request under its attachment, so that a repeated DEL takes no second place; durable on return. */
static void enqueue(char *directory, size_t length) {
    const char *id = setting("CNI_CONTAINERID", ""), *ifname = setting("CNI_IFNAME", "");
    bool good = isalnum((unsigned char)*id) && strlen(id) <= ID_LIMIT && *ifname && strlen(ifname) <= IFNAME_LIMIT;
    for (const char *at = id; *at; at++) good = good && (isalnum((unsigned char)*at) || strchr("_.-", *at));
    for (const char *at = ifname; *at; at++) good = good && isgraph((unsigned char)*at) && !strchr("/:%", *at);
    if (!good) fail(BAD_ENVIRONMENT, "CNI_CONTAINERID or CNI_IFNAME is missing or invalid", 0);
    char name[ID_LIMIT + IFNAME_LIMIT + 2], draft[sizeof name + 16];
    snprintf(name, sizeof name, "%s:%s", id, ifname);
    snprintf(draft, sizeof draft, ".%s.%d", name, (int)getpid());
    for (char *at = directory; (at = strchr(at + 1, '/'));) *at = '\0', mkdir(directory, 0700), *at = '/';
    if (mkdir(directory, 0700) == 0) sync(); /* its entry in its parent must last, too */
    DIR *stream = opendir(directory);
    if (!stream) fail(TRY_AGAIN, "cannot open the queue of deletions", errno);
    int folder = dirfd(stream), entries = 0;
    for (struct dirent *entry; (entry = readdir(stream));) entries += entry->d_name[0] != '.';
    if (entries >= QUEUE_LIMIT && faccessat(folder, name, F_OK, 0)) fail(TRY_AGAIN, "the queue is full", 0);
    int file = openat(folder, draft, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0600);
    if (file >= 0 && put(file, request, length) && fsync(file) == 0 && renameat(folder, draft, folder, name) == 0 &&
        fsync(folder) == 0)
        return;
    int error = errno;
    unlinkat(folder, draft, 0);
    fail(TRY_AGAIN, "cannot store the deletion for later", error);
}

int main(void) {
    signal(SIGPIPE, SIG_IGN);
    umask(077);
    deadline = now_ms() + strtol(setting("ROUTED_CNI_DEADLINE_MS", "40000"), NULL, 10); /* kubelet waits 120 s */
    const char *command = setting("CNI_COMMAND", "");
    if (!*command) fail(BAD_ENVIRONMENT, "CNI_COMMAND is missing", 0);
    if (strcmp(command, "VERSION") == 0) return puts(VERSIONS) < 0 || fflush(stdout) ? EXIT_FAILURE : EXIT_SUCCESS;
    size_t length = 0, size;
    for (char **entry = environ; *entry; entry++) {
        size_t bytes = strncmp(*entry, "CNI_", 4) == 0 ? strlen(*entry) + 1 : 0;
        if (bytes >= SIZE_LIMIT - length) fail(BAD_ENVIRONMENT, "the CNI_* variables are too long", 0);
        memcpy(request + length, *entry, bytes), length += bytes;
    }
    request[length++] = '\0';
    ssize_t config = take(STDIN_FILENO, request + length, sizeof request - length);
    if (config < 0) fail(errno == EMSGSIZE ? BAD_CONTENT : IO_FAILURE, "cannot read the configuration", errno);
    int status;
    const char *body = ask(length += (size_t)config, &size, &status);
    if (body) return put(STDOUT_FILENO, body, size) ? status : EXIT_FAILURE;
    if (strcmp(command, "DEL") != 0)
        fail(strcmp(command, "STATUS") == 0 ? UNAVAILABLE : TRY_AGAIN, "the agent does not answer", errno);
    enqueue(strdupa(setting("ROUTED_CNI_QUEUE", "/var/lib/routed/queue")), length);
    return EXIT_SUCCESS;
}
