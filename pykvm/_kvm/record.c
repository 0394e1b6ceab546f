/* The flight recorder: one record per access, and once per instruction the code bytes around it, so that a trace
 * can be read without the guest. */

/* Record into `window`, whose first slot has the number `base`; slot `number` is its entry (number - base) & mask.
 * Stop before slot `limit`. Code windows before slot `code_since` are written again when needed. The number of
 * slots written is published at `head`. */
static void pykvm_record_into(struct pykvm_stream *stream, void *window, uint64_t base, uint64_t mask, uint64_t *head,
                              uint64_t limit, uint64_t code_since)
{
    stream->window = window; stream->base = base; stream->mask = mask; stream->published = head;
    stream->limit = limit; stream->code_since = code_since;
    if (!++stream->generation) stream->generation = 1;
}

static void pykvm_lock(struct pykvm_stream *stream)
{
    if (stream->shared)
        while (atomic_exchange(&stream->lock, 1)) sched_yield();
}

static void pykvm_unlock(struct pykvm_stream *stream)
{
    if (stream->shared) atomic_store(&stream->lock, 0);
}

static struct pykvm_record *slot(struct pykvm_loop *loop, uint64_t number)
{
    return &loop->stream->window[(number - loop->stream->base) & loop->stream->mask];
}

static void publish(struct pykvm_loop *loop, uint64_t slots)
{
    loop->stream->head += slots;
    __atomic_store_n(loop->stream->published, loop->stream->head, __ATOMIC_RELEASE);
}

/* Host address of guest-physical `address`, and in *valid how many bytes of its page and range follow it; NULL for no
 * memory, or for one that is not writable and is to be. */
static uint8_t *in_memory(struct pykvm_loop *loop, uint64_t address, int writable, uint64_t *valid)
{
    for (uint32_t i = 0; i < loop->ram->count; i++) {
        uint64_t offset = address - loop->ram->range[i].address;
        if (offset >= loop->ram->range[i].size) continue;
        uint8_t *host = __atomic_load_n(&loop->ram->range[i].host, __ATOMIC_RELAXED);
        if (!host || (writable && !loop->ram->range[i].is_writable)) return NULL;
        uint64_t page = 4096 - (address & 4095), rest = loop->ram->range[i].size - offset;
        *valid = page < rest ? page : rest;
        return host + offset;
    }
    return NULL;
}

static uint32_t memory_generation(struct pykvm_loop *loop)
{
    return __atomic_load_n(&loop->ram->generation, __ATOMIC_ACQUIRE);
}

/* Whether the processor takes `linear` for an address at all, with 57 or 48 bits (Intel SDM vol. 1, 3.3.7.1). */
static int is_canonical(const struct kvm_sregs *sregs, uint64_t linear)
{
    int unused = sregs->cr4 & 0x1000 ? 7 : 16;
    return (int64_t)(linear << unused) >> unused == (int64_t)linear;
}

static const uint8_t *in_guest(struct pykvm_loop *loop, uint64_t linear, uint64_t *valid)
{
    if (loop->run->s.regs.sregs.cr0 & 0x80000000) {
        struct kvm_translation walk = { .linear_address = linear };
        if (!is_canonical(&loop->run->s.regs.sregs, linear)) return NULL;   /* for some KVMs it is address 0 */
        if (ioctl(loop->fd, KVM_TRANSLATE, &walk) || !walk.valid) return NULL;
        linear = walk.physical_address;
    }
    return in_memory(loop, linear, 0, valid);
}

static uint64_t linear_rip(struct pykvm_loop *loop)
{
    if (loop->mode == 4) return loop->rip;
    return (uint32_t)(loop->run->s.regs.sregs.cs.base + loop->rip);
}

/* Where the bytes from `start` to `end` are, a page at a time: up to two pieces. Bytes of a page that is not mapped
 * are left out, and so is what lies before it if the hole is before rip. Returns how many bytes were skipped. */
static uint32_t find_bytes(struct pykvm_loop *loop, uint64_t start, uint64_t rip, uint64_t end,
                           const uint8_t *at[2], uint8_t length[2])
{
    uint64_t valid, next;
    uint32_t skipped = 0, pieces = 0;
    length[0] = length[1] = 0;
    for (uint64_t linear = start; linear < end && pieces < 2; linear = next) {
        const uint8_t *host = in_guest(loop, linear, &valid);
        next = (linear | 4095) + 1;
        if (next > end || !next) next = end;
        if (!host) {
            if (linear >= rip) break;
            pieces = length[0] = 0;
            skipped = next - start;
            continue;
        }
        at[pieces] = host;
        length[pieces++] = valid < next - linear ? valid : next - linear;
    }
    return skipped;
}

/* Write a code window: up to 32 bytes before rip and 16 from it, as far as the guest has them mapped. */
static uint32_t write_code(struct pykvm_loop *loop, uint64_t rip)
{
    uint64_t number = loop->stream->head, before = rip < PYKVM_CODE_BEFORE ? rip : PYKVM_CODE_BEFORE;
    uint64_t start = rip - before, end = rip + PYKVM_CODE_BYTES - PYKVM_CODE_BEFORE;
    const uint8_t *at[2];
    uint8_t length[2], *bytes = (uint8_t *)slot(loop, number + 1);

    start += find_bytes(loop, start, rip, end, at, length);
    if (!length[0] || start > rip) return NO_CODE;
    *(struct pykvm_code *)slot(loop, number) = (struct pykvm_code){
        .start = start, .rip = loop->rip, .cs_base = loop->run->s.regs.sregs.cs.base,
        .cr3 = loop->run->s.regs.sregs.cr3, .seq = number, .code = number, .cs = loop->cs,
        .kind = PYKVM_RECORD_CODE, .size = length[0] + length[1], .mode = loop->mode, .vcpu = loop->vcpu };
    memset(bytes, 0, PYKVM_CODE_BYTES);
    memcpy(bytes, at[0], length[0]);
    if (length[1]) memcpy(bytes + length[0], at[1], length[1]);
    publish(loop, 2);
    return number;
}

/* Whether the window still holds what the guest has around rip now. Only the bytes that one instruction can have,
 * so that data next to the code does not fill the trace with copies of it. */
static int unchanged(struct pykvm_loop *loop, const struct seen_code *seen)
{
    const uint8_t *bytes = (const uint8_t *)slot(loop, seen->slot + 1) + seen->skip;
    if (seen->length[0] == 2 * WATCHED_BYTES)   /* the usual case, with a length that the compiler knows */
        return !memcmp(bytes, seen->at[0], 2 * WATCHED_BYTES);
    return !memcmp(bytes, seen->at[0], seen->length[0])
        && (!seen->length[1] || !memcmp(bytes + seen->length[0], seen->at[1], seen->length[1]));
}

/* The slot of the window with the code around rip; written where it is new or changed. */
static uint32_t find_code(struct pykvm_loop *loop)
{
    uint64_t rip = linear_rip(loop), cr3 = loop->run->s.regs.sregs.cr3;
    uint32_t generation = memory_generation(loop);
    if (loop->ram_generation != generation) {   /* other memory may be at the same addresses now */
        for (int i = 0; i < SEEN_MAX; i++) loop->seen[i].length[0] = 0;
        loop->ram_generation = generation;
    }
    struct seen_code *seen = &loop->seen[(rip * 0x9e3779b97f4a7c15u) >> 54];
    if (seen->length[0] && seen->rip == rip && seen->cr3 == cr3 && seen->cs == loop->cs && seen->mode == loop->mode
        && seen->slot >= loop->stream->code_since && unchanged(loop, seen))
        return seen->slot;
    seen->length[0] = 0;
    uint32_t code = write_code(loop, rip);
    if (code == NO_CODE) return code;
    uint64_t start = rip < WATCHED_BYTES ? 0 : rip - WATCHED_BYTES;
    start += find_bytes(loop, start, rip, rip + WATCHED_BYTES, seen->at, seen->length);
    seen->rip = rip; seen->cr3 = cr3; seen->cs = loop->cs; seen->mode = loop->mode; seen->slot = code;
    seen->skip = start - ((struct pykvm_code *)slot(loop, code))->start;
    return code;
}

static void note_cpu(struct pykvm_loop *loop)
{
    struct kvm_sync_regs *sync = &loop->run->s.regs;
    loop->rip = sync->regs.rip;
    loop->cs = sync->sregs.cs.selector;
    loop->mode = !(sync->sregs.cr0 & 1) ? 0 : sync->regs.rflags & 0x20000 ? 1
        : sync->sregs.efer & 0x400 && sync->sregs.cs.l ? 4 : sync->sregs.cs.db ? 3 : 2;
}

/* The linear address of the next instruction, once the last one is complete. */
static uint64_t pykvm_linear_rip(struct pykvm_loop *loop)
{
    note_cpu(loop);
    return linear_rip(loop);
}

/* The instruction at RIP: up to 15 bytes, as far as the guest has them mapped. Returns how many. The registers in the
 * shared page must be the vCPU's. */
static uint32_t pykvm_fetch(struct pykvm_loop *loop, uint8_t *bytes)
{
    const uint8_t *at[2];
    uint8_t length[2];
    uint64_t rip = pykvm_linear_rip(loop);
    find_bytes(loop, rip, rip, rip + PYKVM_INSTRUCTION_BYTES, at, length);
    if (length[0]) memcpy(bytes, at[0], length[0]);
    if (length[1]) memcpy(bytes + length[0], at[1], length[1]);
    return length[0] + length[1];
}

static struct pykvm_record *record(struct pykvm_loop *loop, uint8_t kind, uint64_t address, uint64_t data,
                                   uint8_t size, uint8_t flags)
{
    uint64_t number = loop->stream->head;
    struct pykvm_record *entry = slot(loop, number);
    *entry = (struct pykvm_record){
        .tsc = __rdtsc(), .rip = loop->rip, .address = address, .data = data, .seq = number,
        .code = loop->code, .cs = loop->cs, .kind = kind, .size = size, .flags = flags, .mode = loop->mode,
        .vcpu = loop->vcpu };
    loop->counts[kind]++;
    loop->stream->records++;
    publish(loop, 1);
    return entry;
}

/* Slots that must be free before a vCPU goes on: each may write one record before it looks again. */
static uint64_t room_for_all(const struct pykvm_stream *stream)
{
    return SLOTS_PER_ACCESS * (stream->shared ? stream->shared : 1);
}

/* Record what is no exit of the guest's. Returns 0, or -1 if the window is full. */
static int pykvm_record_event(struct pykvm_loop *loop, uint8_t kind, uint64_t address, uint64_t data, uint8_t size)
{
    struct pykvm_stream *stream = loop->stream;
    int result = -1;
    pykvm_lock(stream);
    if (stream->head + room_for_all(stream) < stream->limit) {
        loop->code = NO_CODE;
        loop->code_generation = 0;
        record(loop, kind, address, data, size, 0);
        result = 0;
    }
    pykvm_unlock(stream);
    return result;
}
