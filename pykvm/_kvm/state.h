/* What the loop keeps about a vCPU; Python sees the part that loop.cdef declares. */

#define RECORD_WRITE 1       /* the guest wrote; else it read */
#define RECORD_FAST 2        /* served by the port tables, Python not asked */
#define RECORD_STRING 4      /* an element of a string instruction that KVM reported as one exit */
#define RECORD_REFUSED 8     /* an access to an MSR that gave the guest #GP */
#define PYKVM_RECORD_CODE 255
#define PYKVM_RECORD_INTERRUPT 254  /* an interrupt that the guest takes: address its vector, size its line */
#define PYKVM_RECORD_LINE 253       /* a line of the kernel's interrupt controllers goes up: address its number */
#define NO_CODE UINT32_MAX        /* the bytes around rip are not in guest RAM */

#define PYKVM_REPLAY (-1)       /* posted writes wait: take them, then run again */
#define PYKVM_FULL (-2)         /* the window is full: give another one, then run again */
#define PYKVM_INTERRUPTED (-3)  /* a signal, a kick or a deadline */
#define PYKVM_BUDGET (-4)       /* as many records as were allowed */
#define PYKVM_ERROR (-5)        /* KVM_RUN failed: see error */
#define PYKVM_EXIT (-6)         /* an exit that is no access: see run->exit_reason */
#define PYKVM_INTERRUPT (-7)    /* the guest can take the interrupt that waits: call pykvm_interrupt() */

#define PYKVM_CODE_BEFORE 32    /* bytes of a code window before rip */
#define PYKVM_CODE_BYTES 48     /* and in all: the rest holds one instruction of 15 bytes */
#define PYKVM_INSTRUCTION_BYTES 15  /* the longest there is */
#define SLOTS_PER_ACCESS 3      /* a record and the two slots of a code window */
#define WINDOWS_KEPT 64         /* windows that stay mapped for answers that come late, of several vCPUs */
#define FLUSH_NS 20000000       /* how long a posted write may wait while the guest does not exit */

/* An instruction whose code window is in the trace, and where the bytes around rip are: on one page or two. */
struct seen_code { uint64_t rip, cr3, slot; const uint8_t *at[2]; uint16_t cs; uint8_t mode, length[2], skip; };
#define SEEN_MAX 1024
#define WATCHED_BYTES 16        /* before rip, and as many from it: what a change of is noticed */

/* The trace of a VM: its vCPUs write their records into one window. */
struct pykvm_stream {
    uint64_t head, records, stop_at, limit;
    int shared;                     /* number of vCPUs if there are several: writing takes the lock */
    /* ---- not seen by Python */
    _Atomic int lock;
    struct pykvm_record *window;
    uint64_t base, mask, code_since, *published;
    uint32_t generation;            /* number of the window */
};

struct pykvm_loop {
    uint64_t data;
    int error, stepping, interrupt;
    uint64_t counts[256], replay_key;
    struct pykvm_stream *stream;
    struct kvm_run *run;
    uint8_t *post, *latch;
    uint32_t *latched;
    /* ---- not seen by Python */
    uint64_t replayed, taken, posted;   /* slots: first not replayed, after those being replayed, after the last */
    int64_t held;                   /* key to return once the posted writes are taken */
    int64_t outstanding;            /* key of the access that Python has not served yet */
    uint64_t written;               /* its value, if it is a write */
    uint8_t *element, *answer;      /* next element of the access; where the read's answer goes */
    struct pykvm_record *answer_entry;
    uint64_t element_address;
    uint32_t answer_seq, answer_generation;
    uint32_t remaining, size;
    uint32_t code, code_generation; /* slot of the code window of this exit, and the window that it is in; 0: none */
    int64_t element_key;
    uint64_t rip;
    uint16_t cs;
    uint8_t mode, vcpu, flags;
    int fd, place, flush_armed;
    int unsettled;                  /* KVM has yet to complete the last access */
    size_t mapped_bytes;
    struct pykvm_ram *ram;
    uint32_t ram_generation;        /* that of the memory in which `seen` was found */
    _Atomic int tid, kicked;        /* thread in the loop now, 0 none; kick not yet reported */
    unsigned interruptions;         /* signals seen so far */
    int settled_exit;               /* settling has met the next exit, which step() has yet to serve */
    timer_t deadline, flush, alarm;
    int deadline_owner, flush_owner, alarm_owner;
    struct seen_code seen[SEEN_MAX];
};
