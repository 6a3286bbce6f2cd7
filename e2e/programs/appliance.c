/* The servers of the test images, in one static program that goes by the name it is called:
 *
 *   pause          waits for a signal
 *   nginx          HTTP 200 on port 80; title "nginx: master process nginx", pid in /var/run/nginx.pid
 *   hostnet-nginx  the same on port 12003
 *   httpd          HTTP 200 on port 80; says "httpd" in its log
 *   nonewprivs     prints "Effective uid: N"
 *   flood          writes bytes to its output until killed: flood [COUNT]
 *   probe          prints what the sandbox lets it do, one NAME=RESULT per line
 *
 * Runs as process 1, which has no default signal actions, so SIGTERM and its like are handled.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
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

static void report(const char *name, long result) {
    printf("%s=%s\n", name, result >= 0 ? "ok" : strerrorname_np(errno));
}

#ifdef __x86_64__
/* socket() by the 32-bit socketcall, whose arguments a filter cannot see. */
static long socketcall32(int family) {
    unsigned *arguments = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    long result;
    if (arguments == MAP_FAILED) return -1;
    arguments[0] = (unsigned)family;
    arguments[1] = SOCK_SEQPACKET;
    arguments[2] = 0;
    __asm__ volatile("int $0x80"
                     : "=a"(result)
                     : "a"(102L), "b"(1L), "c"(arguments)
                     : "memory", "r8", "r9", "r10", "r11");
    if ((int)result >= 0) return (int)result;
    errno = -(int)result;
    return -1;
}
#endif

static void probe(void) {
    report("af_alg", socket(38, SOCK_SEQPACKET, 0));
    report("af_vsock", socket(40, SOCK_STREAM, 0));
    report("af_inet", socket(AF_INET, SOCK_STREAM, 0));
#ifdef __x86_64__
    report("af_alg_32", socketcall32(38));
#endif
    report("mount", mount("none", "/tmp", "tmpfs", 0, NULL));
    report("unshare_user", unshare(CLONE_NEWUSER));
    report("keyctl", syscall(SYS_keyctl, 0, -3, 1));
    report("bpf", syscall(SYS_bpf, 0, NULL, 0));
    report("open_by_handle_at", syscall(SYS_open_by_handle_at, -1, NULL, 0));
    report("mknod_disk", mknod("/tmp/disk", S_IFBLK | 0600, makedev(8, 0)));
    report("open_disk", open("/tmp/disk", O_RDONLY));
    report("mknod_kmsg", mknod("/tmp/kmsg", S_IFCHR | 0600, makedev(1, 11)));
    report("open_kmsg", open("/tmp/kmsg", O_RDONLY));
    report("write_core_pattern", open("/proc/sys/kernel/core_pattern", O_WRONLY));
    report("write_sysrq", open("/proc/sysrq-trigger", O_WRONLY));
    report("write_cgroup", mkdir("/sys/fs/cgroup/escape", 0755));
    report("write_self_exe", open("/proc/1/exe", O_WRONLY));
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
    } else if (strcmp(name, "probe") == 0) {
        probe();
        return 0;
    } else if (strcmp(name, "pause") == 0) {
        for (;;) pause();
    }
    fprintf(stderr, "%s: no such appliance\n", argv[0]);
    return 2;
}
