/* nvidia-persistenced: holds its socket until it is told to end, and does nothing else. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

int main(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "/run/nvidia-persistenced/socket"};
    sigset_t ends;
    int which, server = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    mkdir("/run/nvidia-persistenced", 0755);
    unlink(address.sun_path);
    sigemptyset(&ends);
    sigaddset(&ends, SIGTERM);
    sigaddset(&ends, SIGINT);
    sigprocmask(SIG_BLOCK, &ends, NULL);
    if (server < 0 || bind(server, (struct sockaddr *)&address, sizeof address) != 0 || listen(server, 8) != 0) {
        perror(address.sun_path);
        return 1;
    }
    chmod(address.sun_path, 0666);
    if (fork() != 0) /* the parent leaves when the socket is there, as Type=forking wants it */
        return 0;
    sigwait(&ends, &which);
    unlink(address.sun_path);
    return 0;
}
