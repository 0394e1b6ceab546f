/* Getting a vCPU out of KVM_RUN.
 *
 * A signal that arrives just before KVM_RUN is entered would be lost: its handler has run, and the guest may
 * never exit. So every handler that can end a run also sets immediate_exit of the vCPU on its own thread, which
 * KVM looks at on entry. A handler that runs on another thread passes the signal on to the threads that are in
 * the loop. Only a thread's own handler touches its run page, so a vCPU can be destroyed at any time.
 */

#define RUNNING_MAX 1024

static struct { _Atomic int tid; struct kvm_run *run; } running[RUNNING_MAX];
static struct sigaction chained[32], first[32];   /* the handler that ours precedes, now and at first */
static volatile sig_atomic_t inside[32];
static _Atomic unsigned interruptions;      /* so that a loop notices a signal that came while it was in Python */
static const int guarded[] = { SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM, SIGTERM, SIGCHLD,
                               SIGCONT, SIGTSTP, SIGWINCH, SIGIO };

/* A pthread_t is used again as soon as its thread has ended, so it cannot stand for a thread id. */
static __thread int thread_id;
static void forget_thread_id(void) { thread_id = 0; }
static int this_thread(void) { return thread_id ? thread_id : (thread_id = gettid()); }

static int kick_signal(void) { return SIGRTMIN; }

static void leave_guest(int forward)
{
    int saved = errno, self = gettid();
    atomic_fetch_add(&interruptions, 1);
    for (int i = 0; i < RUNNING_MAX; i++) {
        int tid = atomic_load(&running[i].tid);
        if (tid == self) running[i].run->immediate_exit = 1;
        else if (tid && forward) syscall(SYS_tgkill, getpid(), tid, kick_signal());
    }
    errno = saved;
}

static void on_kick(int number) { (void)number; leave_guest(0); }

static void on_guarded(int number, siginfo_t *info, void *context)
{
    /* A handler that was put before ours, and that ours was then put before, calls ours as the one it replaced. */
    struct sigaction *next = inside[number] ? &first[number] : &chained[number];
    leave_guest(1);
    inside[number]++;
    if (next->sa_flags & SA_SIGINFO) next->sa_sigaction(number, info, context);
    else next->sa_handler(number);
    inside[number]--;
}

/* Put leave_guest() before every handler that the process has now. Python replaces ours when a program calls
 * signal.signal(); calling this again before a run puts it back. Returns 0, or -errno. */
static int pykvm_guard_signals(void)
{
    struct sigaction kick = { .sa_handler = on_kick }, now;
    static int forking;
    if (!forking++) pthread_atfork(NULL, NULL, forget_thread_id);
    if (sigaction(kick_signal(), &kick, NULL)) return -errno;
    sigset_t mine;
    sigemptyset(&mine); sigaddset(&mine, kick_signal());
    pthread_sigmask(SIG_UNBLOCK, &mine, NULL);
    for (size_t i = 0; i < sizeof guarded / sizeof *guarded; i++) {
        int number = guarded[i];
        if (sigaction(number, NULL, &now)) return -errno;
        if (!(now.sa_flags & SA_SIGINFO) && (now.sa_handler == SIG_DFL || now.sa_handler == SIG_IGN)) continue;
        if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_guarded) continue;
        chained[number] = now;
        if (!first[number].sa_handler) first[number] = now;
        now.sa_flags |= SA_SIGINFO;
        now.sa_sigaction = on_guarded;
        if (sigaction(number, &now, NULL)) return -errno;
    }
    return 0;
}

/* Announce that this thread is in the loop; returns its place, or -1 when all are taken. */
static int enter_running(struct kvm_run *run, int tid, int hint)
{
    for (int i = 0; i < RUNNING_MAX; i++) {
        int at = (hint + i) % RUNNING_MAX, none = 0;
        if (atomic_load(&running[at].tid)) continue;
        if (!atomic_compare_exchange_strong(&running[at].tid, &none, -1)) continue;
        running[at].run = run;
        atomic_store(&running[at].tid, tid);
        return at;
    }
    return -1;
}

static void leave_running(int at) { atomic_store(&running[at].tid, 0); }

static int set_timer(timer_t *timer, int *owner, int tid, uint64_t first_ns, uint64_t interval_ns)
{
    if (*owner != tid) {
        struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = kick_signal() };
        event._sigev_un._tid = tid;
        if (*owner) timer_delete(*timer);
        *owner = 0;
        if (timer_create(CLOCK_MONOTONIC, &event, timer)) return -errno;
        *owner = tid;
    }
    struct itimerspec when = {
        .it_value = { first_ns / 1000000000, first_ns % 1000000000 },
        .it_interval = { interval_ns / 1000000000, interval_ns % 1000000000 },
    };
    return timer_settime(*timer, 0, &when, NULL) ? -errno : 0;
}
