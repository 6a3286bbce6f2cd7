/* The servers of the test images, in one static program that goes by the name it is called:
 *
 *   pause          waits for a signal
 *   nginx          HTTP 200 on port 80; title "nginx: master process nginx", pid in /var/run/nginx.pid
 *   hostnet-nginx  the same on port 12003
 *   httpd          HTTP 200 on port 80; says "httpd" in its log
 *   nonewprivs     prints "Effective uid: N"
 *   flood          writes bytes to its output until killed: flood [COUNT]
 *
 * Runs as process 1, which has no default signal actions, so SIGTERM and its like are handled.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void leave(int signal) {
    (void)signal;
    _exit(0);
}

static void handle_signals(void) {
    struct sigaction action = {0};
    action.sa_handler = leave;
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGQUIT, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
}

static void write_all(int fd, const char *text) {
    size_t left = strlen(text);
    while (left > 0) {
        ssize_t done = write(fd, text, left);
        if (done <= 0) return;
        text += done;
        left -= (size_t)done;
    }
}

static void serve(int port) {
    struct sockaddr_in6 address = {0};
    int listener = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1, off = 0;
    address.sin6_family = AF_INET6;
    address.sin6_port = htons((unsigned short)port);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(listener, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) < 0) {
        struct sockaddr_in plain = {0};
        close(listener);
        listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        plain.sin_family = AF_INET;
        plain.sin_port = htons((unsigned short)port);
        setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        if (bind(listener, (struct sockaddr *)&plain, sizeof plain) < 0) {
            perror("bind");
            exit(1);
        }
    }
    if (listen(listener, 128) < 0) {
        perror("listen");
        exit(1);
    }
    for (;;) {
        char request[4096];
        int peer = accept(listener, NULL, NULL);
        if (peer < 0) continue;
        if (read(peer, request, sizeof request) > 0)
            write_all(peer, "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 13\r\n"
                            "Connection: close\r\n\r\n<p>It works.\n");
        shutdown(peer, SHUT_WR);
        close(peer);
    }
}

static void write_pid(const char *path) {
    FILE *file = fopen(path, "w");
    if (file != NULL) {
        fprintf(file, "%d\n", (int)getpid());
        fclose(file);
    }
}

static void flood(const char *count) {
    static char block[65536];
    unsigned long long left = count != NULL ? strtoull(count, NULL, 10) : ~0ULL;
    memset(block, 'x', sizeof block);
    while (left > 0) {
        size_t want = left < sizeof block ? (size_t)left : sizeof block;
        ssize_t done = write(1, block, want);
        if (done <= 0) exit(1);
        left -= (size_t)done;
    }
}

int main(int argc, char **argv) {
    const char *title = "nginx: master process nginx";
    const char *name = strrchr(argv[0], '/');
    name = name != NULL ? name + 1 : argv[0];
    handle_signals();
    if (strcmp(name, "nginx") == 0 || strcmp(name, "hostnet-nginx") == 0) {
        /* The title is argv[0]; the port goes along as argument. */
        char *port = strcmp(name, "nginx") == 0 ? "80" : "12003";
        char *again[] = {(char *)title, port, NULL};
        execv(argv[0], again);
        perror(argv[0]);
        return 1;
    }
    if (strcmp(argv[0], title) == 0 && argc == 2) {
        write_pid("/var/run/nginx.pid");
        serve(atoi(argv[1]));
    } else if (strcmp(name, "httpd") == 0) {
        write_all(2, "[mpm_event:notice] AH00489: httpd configured -- resuming normal operations\n");
        serve(80);
    } else if (strcmp(name, "nonewprivs") == 0) {
        printf("Effective uid: %d\n", (int)geteuid());
        return 0;
    } else if (strcmp(name, "flood") == 0) {
        flood(argc > 1 ? argv[1] : NULL);
        return 0;
    } else if (strcmp(name, "pause") == 0) {
        for (;;) pause();
    }
    fprintf(stderr, "%s: no such appliance\n", argv[0]);
    return 2;
}
