/* The exit loop: KVM_RUN, one trace record per access, and back to Python only where Python must act. */

static uint64_t pykvm_tsc(void) { return __rdtsc(); }

static long pykvm_ioctl(int fd, unsigned long request, void *argument)
{
    long result = ioctl(fd, request, argument);
    return result < 0 ? -errno : result;
}

static struct pykvm_loop *pykvm_loop_create(int fd, size_t mapped_bytes, uint8_t vcpu, struct pykvm_ram *ram,
                                            struct pykvm_stream *stream)
{
    struct kvm_run *run = mmap(NULL, mapped_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (run == MAP_FAILED) return NULL;
    struct pykvm_loop *loop = calloc(1, sizeof *loop);
    uint8_t *tables = calloc(65536, 6);
    if (!loop || !tables) {
        free(loop); free(tables); munmap(run, mapped_bytes);
        errno = ENOMEM;
        return NULL;
    }
    loop->fd = fd; loop->run = run; loop->mapped_bytes = mapped_bytes; loop->vcpu = vcpu; loop->ram = ram;
    loop->stream = stream;
    loop->latched = (uint32_t *)tables; loop->post = tables + 65536 * 4; loop->latch = tables + 65536 * 5;
    loop->interruptions = atomic_load(&interruptions);
    run->kvm_valid_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS;
    return loop;
}

static void pykvm_loop_destroy(struct pykvm_loop *loop)
{
    if (loop->deadline_owner) timer_delete(loop->deadline);
    if (loop->flush_owner) timer_delete(loop->flush);
    if (loop->alarm_owner) timer_delete(loop->alarm);
    munmap(loop->run, loop->mapped_bytes);
    free(loop->latched);
    free(loop);
}

static void arm_flush(struct pykvm_loop *loop)
{
    if (loop->flush_armed) return;
    loop->flush_armed = !set_timer(&loop->flush, &loop->flush_owner, loop->tid, FLUSH_NS, FLUSH_NS);
}

/* `entry` is completed by record_answer(). */
static void expect_answer(struct pykvm_loop *loop, struct pykvm_record *entry)
{
    loop->answer_entry = entry;
    loop->answer_seq = entry->seq;
    loop->answer_generation = loop->stream->generation;
}

/* Serve the next element of an access. Returns its key when Python must act, else -1. */
static int64_t serve(struct pykvm_loop *loop)
{
    uint32_t size = loop->size, port = loop->element_address;
    int write = loop->element_key & 1, memory = loop->element_key & 2;
    uint8_t *at = loop->element, flags = loop->flags;
    struct pykvm_record *entry;

    loop->data = 0;
    if (write) memcpy(&loop->data, at, size);
    loop->element += size;
    loop->remaining--;
    entry = record(loop, memory ? KVM_EXIT_MMIO : KVM_EXIT_IO, loop->element_address, loop->data, size, flags);
    if (memory) {
        if (!write) loop->answer = at;
    } else if (write) {
        if (loop->post[port] == size && !loop->stepping) {
            entry->flags |= RECORD_FAST;
            if (loop->posted <= loop->replayed) loop->replayed = loop->stream->head - 1;
            loop->posted = loop->stream->head;
            arm_flush(loop);
            return -1;
        }
    } else if (loop->latch[port] == size && !loop->stepping) {
        entry->flags |= RECORD_FAST;
        entry->data = loop->latched[port];
        memcpy(at, &loop->latched[port], size);
        return -1;
    } else {
        loop->answer = at;
    }
    expect_answer(loop, entry);
    loop->outstanding = loop->element_key;
    loop->written = loop->data;
    return loop->element_key;
}

/* Complete the record of what has just been answered; other vCPUs may have filled windows in the meantime. */
static void record_answer(struct pykvm_loop *loop, uint64_t data, uint8_t flags)
{
    if (loop->stream->generation - loop->answer_generation >= WINDOWS_KEPT) return;
    if (loop->answer_entry->seq != loop->answer_seq) return;
    loop->answer_entry->data = data;
    loop->answer_entry->flags |= flags;
}

/* Take it that Python has served the access that the loop returned last: a read's answer, in `data`, goes to KVM
 * and to the trace. */
static void pykvm_served(struct pykvm_loop *loop)
{
    loop->outstanding = 0;
    if (!loop->answer) return;
    if (loop->size < 8) loop->data &= (1ull << 8 * loop->size) - 1;
    memcpy(loop->answer, &loop->data, loop->size);
    loop->answer = NULL;
    record_answer(loop, loop->data, 0);
}

static void begin(struct pykvm_loop *loop, uint8_t *first, uint64_t address, uint32_t size, uint32_t count,
                  int write, int memory)
{
    loop->element = first; loop->element_address = address; loop->size = size; loop->remaining = count;
    loop->flags = (write ? RECORD_WRITE : 0) | (count > 1 ? RECORD_STRING : 0);
    loop->element_key = (int64_t)(address << 8 | size << 4 | (memory ? 2 : 0) | (write ? 1 : 0));
    loop->unsettled = 1;
}

/* Whether KVM has reset the CPU at its triple fault. A guest cannot have had one in that very state: its IDT has all
 * vectors. */
static int pykvm_was_reset(const struct kvm_run *run)
{
    const struct kvm_regs *regs = &run->s.regs.regs;
    const struct kvm_sregs *sregs = &run->s.regs.sregs;
    return run->exit_reason == KVM_EXIT_SHUTDOWN && !(sregs->cr0 & 1) && sregs->cs.selector == 0xf000
        && regs->rip == 0xfff0 && !regs->rsp && !sregs->idt.base && sregs->idt.limit == 0xffff;
}

/* What a record of an exit that is no access says in `address` and `data`. */
static void exit_detail(const struct kvm_run *run, uint64_t *address, uint64_t *data)
{
    *address = *data = 0;
    switch (run->exit_reason) {
    case KVM_EXIT_INTERNAL_ERROR: *address = run->internal.suberror; *data = run->internal.ndata; break;
    case KVM_EXIT_SHUTDOWN: *data = pykvm_was_reset(run); break;
    case KVM_EXIT_FAIL_ENTRY: *address = run->fail_entry.hardware_entry_failure_reason; break;
    case KVM_EXIT_DEBUG: *address = run->debug.arch.exception; *data = run->debug.arch.dr6; break;
    case KVM_EXIT_X86_RDMSR: case KVM_EXIT_X86_WRMSR: *address = run->msr.index; *data = run->msr.data; break;
    case KVM_EXIT_HYPERCALL: *address = run->hypercall.nr; break;
    case KVM_EXIT_IOAPIC_EOI: *address = run->eoi.vector; break;
    case KVM_EXIT_SYSTEM_EVENT: *address = run->system_event.type; break;
    case KVM_EXIT_UNKNOWN: *address = run->hw.hardware_exit_reason; break;
    }
}

/* Record an exit that is no access. The end of a single step is none of the guest's. */
static void pykvm_record_exit(struct pykvm_loop *loop)
{
    struct kvm_run *run = loop->run;
    uint64_t address, data;
    if (loop->stepping && run->exit_reason == KVM_EXIT_DEBUG) return;
    exit_detail(run, &address, &data);
    pykvm_lock(loop->stream);
    if (pykvm_was_reset(run)) {
        loop->rip = loop->cs = loop->mode = 0;
        loop->code = NO_CODE;
    } else {
        loop->code = find_code(loop);
    }
    expect_answer(loop, record(loop, run->exit_reason, address, data, 0, 0));
    pykvm_unlock(loop->stream);
}

static int64_t hold(struct pykvm_loop *loop, int64_t key)
{
    if (loop->posted <= loop->replayed) return key;
    if (key != PYKVM_INTERRUPT) loop->held = key;   /* a replayed write may take back what it asks for */
    return PYKVM_REPLAY;
}

static int64_t failed(struct pykvm_loop *loop)
{
    if (errno != EINTR && errno != EAGAIN) {
        loop->error = errno;
        return PYKVM_ERROR;
    }
    atomic_store(&loop->kicked, 0);
    loop->interruptions = atomic_load(&interruptions);   /* those up to now are reported by this */
    loop->run->immediate_exit = 0;
    if (loop->flush_armed && loop->posted <= loop->replayed) {
        loop->flush_armed = 0;
        set_timer(&loop->flush, &loop->flush_owner, loop->tid, 0, 0);
    }
    return PYKVM_INTERRUPTED;
}

/* RAM that the host took away comes as -EFAULT, or as a memory access that no device can answer: one error, which
 * running again meets again. */
static int64_t lost_memory(struct pykvm_loop *loop)
{
    loop->settled_exit = 1;
    loop->error = EFAULT;
    return PYKVM_ERROR;
}

/* Whether what the guest finds at its addresses has changed since, or is changing. */
static int is_switched(struct pykvm_loop *loop, uint32_t since)
{
    return memory_generation(loop) != since || since & 1;
}

/* Serve an access that KVM has found no memory for, where there is some now: its window was being switched. */
static int64_t memory_access(struct pykvm_loop *loop, uint8_t *host, uint64_t valid, uint32_t generation)
{
    struct kvm_run *run = loop->run;
    if (!is_switched(loop, generation) || run->mmio.len > valid) return lost_memory(loop);
    if (run->mmio.is_write) memcpy(host, run->mmio.data, run->mmio.len);
    else memcpy(run->mmio.data, host, run->mmio.len);
    return 0;
}

/* Whether the guest can take the interrupt that waits; if not yet, KVM is asked to exit as soon as it can. What KVM
 * says of that is of the last exit, and stays true while the access there is completed. */
static int takes_interrupt(struct pykvm_loop *loop)
{
    struct kvm_run *run = loop->run;
    int now = loop->interrupt && run->ready_for_interrupt_injection && run->if_flag;
    run->request_interrupt_window = loop->interrupt && !now;
    return now;
}

static int64_t serve_next(struct pykvm_loop *loop)
{
    struct pykvm_stream *stream = loop->stream;
    pykvm_lock(stream);
    if (loop->code_generation != stream->generation) {
        loop->code = find_code(loop);
        loop->code_generation = stream->generation;
    }
    int64_t key = serve(loop);
    pykvm_unlock(stream);
    return key;
}

static int64_t run_guest(struct pykvm_loop *loop)
{
    struct kvm_run *run = loop->run;
    struct pykvm_stream *stream = loop->stream;
    uint64_t valid, room = room_for_all(stream);
    for (;;) {
        if (stream->head + room > stream->limit) return PYKVM_FULL;
        if (stream->records >= stream->stop_at) return PYKVM_BUDGET;
        if (loop->remaining) {
            int64_t key = serve_next(loop);
            if (key >= 0) return key;
            continue;
        }
        unsigned seen = atomic_load(&interruptions);
        if (loop->interruptions != seen) {
            loop->interruptions = seen;
            errno = EINTR;
            return failed(loop);
        }
        if (takes_interrupt(loop)) return PYKVM_INTERRUPT;
        loop->unsettled = 0;
        uint32_t generation = memory_generation(loop);
        if (loop->settled_exit) loop->settled_exit = 0;
        else if (ioctl(loop->fd, KVM_RUN, 0) < 0) {
            if (errno == EFAULT && is_switched(loop, generation)) continue;
            return failed(loop);
        }
        note_cpu(loop);
        loop->code_generation = 0;
        if (run->exit_reason == KVM_EXIT_IO) {
            begin(loop, (uint8_t *)run + run->io.data_offset, run->io.port, run->io.size, run->io.count,
                  run->io.direction == KVM_EXIT_IO_OUT, 0);
        } else if (run->exit_reason == KVM_EXIT_MMIO) {
            uint8_t *host = in_memory(loop, run->mmio.phys_addr, run->mmio.is_write, &valid);
            if (host) {
                int64_t lost = memory_access(loop, host, valid, generation);
                if (lost) return lost;
                continue;
            }
            begin(loop, run->mmio.data, run->mmio.phys_addr, run->mmio.len, 1, run->mmio.is_write, 1);
        } else if (run->exit_reason != KVM_EXIT_IRQ_WINDOW_OPEN) {
            if (run->exit_reason == KVM_EXIT_HYPERCALL) run->hypercall.ret = -KVM_ENOSYS;   /* unless answered */
            loop->unsettled = run->exit_reason == KVM_EXIT_X86_RDMSR || run->exit_reason == KVM_EXIT_X86_WRMSR;
            pykvm_record_exit(loop);
            return PYKVM_EXIT;
        }
    }
}

/* Run the guest until Python must act. Returns the key of an access,
 *     address << 8 | size << 4 | memory << 1 | write
 * or one of the negative numbers above. A read is answered by setting `data` before the next call. `served` is the
 * key that has been served since the last call; an access that has not been is returned again. */
static int64_t pykvm_run(struct pykvm_loop *loop, int64_t served)
{
    int64_t key = loop->held;
    if (key) {
        if (loop->posted > loop->replayed) return PYKVM_REPLAY;
        loop->held = 0;
        return key;
    }
    if (loop->outstanding) {
        if (loop->outstanding != served) {
            loop->data = loop->written;
            return loop->outstanding;
        }
        pykvm_served(loop);
    }
    int tid = this_thread(), place = enter_running(loop->run, tid, loop->place);
    if (place < 0) { loop->error = EAGAIN; return PYKVM_ERROR; }
    loop->place = place;
    atomic_store(&loop->tid, tid);
    key = run_guest(loop);
    atomic_store(&loop->tid, 0);
    leave_running(place);
    return hold(loop, key);
}

/* The next run of posted writes that have one key: their values go to `values`, as bytes if that is their size, the key
 * to replay_key. Returns how many; 0 when none are left. They stay posted until pykvm_posted_taken(). */
static uint32_t pykvm_take_posted(struct pykvm_loop *loop, uint32_t *values, uint32_t most)
{
    uint32_t count = 0;
    uint64_t number = loop->replayed;
    for (; number < loop->posted && count < most; number++) {
        struct pykvm_record *entry = slot(loop, number);
        if (entry->kind == PYKVM_RECORD_CODE) { number++; continue; }
        if (entry->kind != KVM_EXIT_IO || (entry->flags & (RECORD_FAST | RECORD_WRITE)) != (RECORD_FAST | RECORD_WRITE))
            continue;
        uint64_t key = entry->address << 8 | entry->size << 4 | 1;
        if (count && key != loop->replay_key) break;
        loop->replay_key = key;
        if (entry->size == 1) ((uint8_t *)values)[count++] = entry->data;
        else values[count++] = entry->data;
    }
    loop->taken = number;
    return count;
}

/* Take it that the run of posted writes last returned has reached its device. */
static void pykvm_posted_taken(struct pykvm_loop *loop) { loop->replayed = loop->taken; }

/* Complete the access in KVM without running guest code, so that the registers are those after it. Returns 0,
 * 1 when KVM reported another exit of that instruction instead, or -errno (EBUSY: the access is not served yet, or is
 * one element of a string instruction that has more). */
static int pykvm_settle(struct pykvm_loop *loop)
{
    if (loop->remaining || loop->outstanding) return -EBUSY;
    if (!loop->unsettled) return loop->settled_exit;
    loop->unsettled = 0;
    loop->run->immediate_exit = 1;
    loop->run->request_interrupt_window = 0;
    int result = ioctl(loop->fd, KVM_RUN, 0);
    int error = errno;
    loop->run->immediate_exit = 0;
    if (atomic_load(&loop->kicked)) loop->run->immediate_exit = 1;
    if (result < 0) return error == EINTR ? 0 : -error;
    /* The instruction's next access, which run_guest() begins with; or the end of a single step. */
    return loop->settled_exit = !(loop->stepping && loop->run->exit_reason == KVM_EXIT_DEBUG);
}

/* Make pykvm_run() return PYKVM_INTERRUPTED soon, from any thread. */
static void pykvm_kick(struct pykvm_loop *loop)
{
    atomic_store(&loop->kicked, 1);
    loop->run->immediate_exit = 1;
    int tid = atomic_load(&loop->tid);
    if (tid) syscall(SYS_tgkill, getpid(), tid, kick_signal());
}

/* Interrupt the calling thread's runs from `nanoseconds` on, again and again; 0 ends that. 0 or -errno. */
static int pykvm_deadline(struct pykvm_loop *loop, uint64_t nanoseconds)
{
    if (!nanoseconds && !loop->deadline_owner) return 0;
    return set_timer(&loop->deadline, &loop->deadline_owner, nanoseconds ? gettid() : loop->deadline_owner,
                     nanoseconds, FLUSH_NS);
}

/* Interrupt the calling thread's runs once, `nanoseconds` from now; 0: not at all. 0 or -errno. */
static int pykvm_alarm(struct pykvm_loop *loop, uint64_t nanoseconds)
{
    if (!nanoseconds && !loop->alarm_owner) return 0;
    return set_timer(&loop->alarm, &loop->alarm_owner, nanoseconds ? gettid() : loop->alarm_owner, nanoseconds, 0);
}

/* After PYKVM_INTERRUPT: have the guest take the interrupt `vector` next. 0 or -errno. */
static int pykvm_interrupt(struct pykvm_loop *loop, uint32_t vector)
{
    struct kvm_interrupt request = { .irq = vector };
    if (ioctl(loop->fd, KVM_INTERRUPT, &request)) return -errno;
    loop->run->ready_for_interrupt_injection = 0;
    return 0;
}

/* After an exit for an MSR: what RDMSR gives, or that the guest gets #GP. */
static void pykvm_answer_msr(struct pykvm_loop *loop, int refuse, uint64_t value)
{
    struct kvm_run *run = loop->run;
    run->msr.error = refuse;
    if (run->exit_reason == KVM_EXIT_X86_RDMSR && !refuse) run->msr.data = value;
    record_answer(loop, run->msr.data, refuse ? RECORD_REFUSED : 0);
}
