/* The process that holds a pod's namespaces: as their init it reaps orphans, and it ends when it is told to. */
#include <signal.h>
#include <unistd.h>

static void quit(int signal_number)
{
    _exit(signal_number == SIGTERM ? 0 : 1);
}

int main(void)
{
    signal(SIGTERM, quit);
    signal(SIGINT, quit);
    signal(SIGCHLD, SIG_IGN); /* the kernel reaps */
    for (;;)
        pause();
}
