/* What containers run while the benchmark measures, in one static program:
 *
 *   bench idle                          waits for a signal
 *   bench true                          ends at once
 *   bench lines LENGTH BYTES RESULT     writes lines of LENGTH bytes to its output, 64 KiB at a time, and
 *                                       "BYTES START" to the file RESULT, START in nanoseconds since 1970
 *   bench stamp MILLISECONDS RESULT     waits, writes the time (nanoseconds since 1970) to RESULT, ends
 *   bench serve PORT                    a connection that starts with S is drained, one with E is echoed
 *   bench send HOST PORT SECONDS        prints bytes per second sent to a server
 *   bench ping HOST PORT COUNT          prints p50 and p99 of a byte's round trip, in nanoseconds
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static void leave(int signal) {
    (void)signal;
    _exit(0);
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static uint64_t now(clockid_t clock) {
    struct timespec at;
    clock_gettime(clock, &at);
    return (uint64_t)at.tv_sec * 1000000000u + (uint64_t)at.tv_nsec;
}

static void lines(size_t length, uint64_t total, const char *result) {
    static char block[65536 + 1024];
    size_t whole = 65536 / length * length;
    uint64_t done = 0, start;
    FILE *file;
    if (length < 1 || length > 1024) exit(2);
    memset(block, 'x', sizeof block);
    for (size_t at = length - 1; at < whole; at += length) block[at] = '\n';
    start = now(CLOCK_REALTIME);
    while (done < total) {
        size_t at = 0;
        while (at < whole) {
            ssize_t wrote = write(1, block + at, whole - at);
            if (wrote <= 0) fail("write");
            at += (size_t)wrote;
        }
        done += whole;
    }
    file = fopen(result, "w");
    if (file == NULL) fail(result);
    fprintf(file, "%llu %llu\n", (unsigned long long)done, (unsigned long long)start);
    fclose(file);
}

static void stamp(unsigned milliseconds, const char *result) {
    FILE *file = fopen(result, "w");
    if (file == NULL) fail(result);
    usleep(milliseconds * 1000);
    fprintf(file, "%llu\n", (unsigned long long)now(CLOCK_REALTIME));
    fflush(file);
    _exit(0);
}

static void *answer(void *argument) {
    static _Thread_local char block[1 << 18];
    int peer = (int)(intptr_t)argument, on = 1;
    ssize_t got = read(peer, block, 1);
    char kind = block[0];
    setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    while (got > 0) {
        got = read(peer, block, sizeof block);
        if (got > 0 && kind == 'E' && write(peer, block, (size_t)got) < 0) break;
    }
    close(peer);
    return NULL;
}

static void serve(int port) {
    struct sockaddr_in address = {0};
    int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    address.sin_family = AF_INET;
    address.sin_port = htons((unsigned short)port);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0) fail("bind");
    if (listen(listener, 16) < 0) fail("listen");
    for (;;) {
        pthread_t thread;
        int peer = accept(listener, NULL, NULL);
        if (peer >= 0 && pthread_create(&thread, NULL, answer, (void *)(intptr_t)peer) == 0)
            pthread_detach(thread);
    }
}

static int dial(const char *host, int port, char kind) {
    struct sockaddr_in address = {0};
    int peer = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    address.sin_family = AF_INET;
    address.sin_port = htons((unsigned short)port);
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1) exit(2);
    if (connect(peer, (struct sockaddr *)&address, sizeof address) < 0) fail("connect");
    setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (write(peer, &kind, 1) != 1) fail("write");
    return peer;
}

static void send_all(const char *host, int port, unsigned seconds) {
    static char block[1 << 17];
    int peer = dial(host, port, 'S');
    uint64_t sent = 0, start = now(CLOCK_MONOTONIC), took;
    do {
        ssize_t wrote = write(peer, block, sizeof block);
        if (wrote <= 0) fail("write");
        sent += (uint64_t)wrote;
        took = now(CLOCK_MONOTONIC) - start;
    } while (took < seconds * 1000000000ull);
    printf("%.0f\n", (double)sent * 1e9 / (double)took);
}

static int by_value(const void *a, const void *b) {
    uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;
    return left < right ? -1 : left > right;
}

static void ping(const char *host, int port, size_t count) {
    int peer = dial(host, port, 'E');
    uint64_t *took = calloc(count, sizeof *took);
    char byte = 'x';
    if (took == NULL || count == 0) exit(2);
    for (size_t at = 0; at < count; at++) {
        uint64_t start = now(CLOCK_MONOTONIC);
        if (write(peer, &byte, 1) != 1 || read(peer, &byte, 1) != 1) fail("ping");
        took[at] = now(CLOCK_MONOTONIC) - start;
    }
    qsort(took, count, sizeof *took, by_value);
    printf("%llu %llu\n", (unsigned long long)took[count / 2], (unsigned long long)took[count * 99 / 100]);
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    if (strcmp(what, "true") == 0) return 0;
    signal(SIGTERM, leave);
    signal(SIGINT, leave);
    if (strcmp(what, "idle") == 0) {
        for (;;) pause();
    } else if (strcmp(what, "lines") == 0 && argc == 5) {
        lines(strtoul(argv[2], NULL, 10), strtoull(argv[3], NULL, 10), argv[4]);
    } else if (strcmp(what, "stamp") == 0 && argc == 4) {
        stamp((unsigned)atoi(argv[2]), argv[3]);
    } else if (strcmp(what, "serve") == 0 && argc == 3) {
        serve(atoi(argv[2]));
    } else if (strcmp(what, "send") == 0 && argc == 5) {
        send_all(argv[2], atoi(argv[3]), (unsigned)atoi(argv[4]));
    } else if (strcmp(what, "ping") == 0 && argc == 5) {
        ping(argv[2], atoi(argv[3]), strtoul(argv[4], NULL, 10));
    } else {
        fprintf(stderr, "bench: unknown arguments\n");
        return 2;
    }
    return 0;
}
