// Small UDP datagrams through a tunnel, in batches, so that the generator costs little beside what is measured.
//
//   udp send ADDRESS PORT BYTES PER_SECOND SECONDS    paced in batches of up to 32; prints how many and in how many seconds
//   udp receive PORT SECONDS                          prints "ready", then how many came
//
// Built and run by scripts/bench/tunnel.py.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 32, MOST = 2048 };

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static int opened(void) {
    int fd = socket(AF_INET, SOCK_DGRAM, 0), room = 4 << 20;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room);
    return fd;
}

static int sending(struct sockaddr_in to, int bytes, double rate, double seconds) {
    static char data[MOST];
    struct iovec piece = {data, bytes};
    struct mmsghdr batch[BATCH];
    memset(batch, 0, sizeof batch);
    for (int n = 0; n < BATCH; n++)
        batch[n].msg_hdr = (struct msghdr){.msg_name = &to, .msg_namelen = sizeof to, .msg_iov = &piece, .msg_iovlen = 1};
    int fd = opened();
    double begun = now(), elapsed;
    long sent = 0;
    while ((elapsed = now() - begun) < seconds) {
        long due = (long)(rate * elapsed) - sent;
        if (due < 1) {
            usleep(50);
            continue;
        }
        int done = sendmmsg(fd, batch, due < BATCH ? due : BATCH, 0);
        sent += done > 0 ? done : 0;
    }
    printf("%ld %f\n", sent, elapsed);
    return 0;
}

static int receiving(int port, double seconds) {
    static char data[BATCH][MOST];
    struct iovec pieces[BATCH];
    struct mmsghdr batch[BATCH];
    memset(batch, 0, sizeof batch);
    for (int n = 0; n < BATCH; n++) {
        pieces[n] = (struct iovec){data[n], MOST};
        batch[n].msg_hdr = (struct msghdr){.msg_iov = &pieces[n], .msg_iovlen = 1};
    }
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = opened();
    if (bind(fd, (struct sockaddr *)&any, sizeof any))
        return perror("bind"), 1;
    puts("ready");
    fflush(stdout);
    long came = 0;
    for (double begun = now(); now() - begun < seconds;) {
        struct pollfd wait = {fd, POLLIN, 0};
        if (poll(&wait, 1, 50) > 0) {
            int more = recvmmsg(fd, batch, BATCH, MSG_DONTWAIT, NULL);
            came += more > 0 ? more : 0;
        }
    }
    printf("%ld\n", came);
    return 0;
}

int main(int count, char **words) {
    if (count == 7 && !strcmp(words[1], "send")) {
        struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(words[3]))};
        int bytes = atoi(words[4]);
        if (inet_pton(AF_INET, words[2], &to.sin_addr) == 1 && bytes > 0 && bytes <= MOST)
            return sending(to, bytes, atof(words[5]), atof(words[6]));
    }
    if (count == 4 && !strcmp(words[1], "receive"))
        return receiving(atoi(words[2]), atof(words[3]));
    fputs("usage: udp send ADDRESS PORT BYTES PER_SECOND SECONDS | udp receive PORT SECONDS\n", stderr);
    return 2;
}
