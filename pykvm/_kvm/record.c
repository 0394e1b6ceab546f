/* The flight recorder: one record per access, and once per instruction the code bytes around it, so that a trace
 * can be read without the guest. */

/* Record into `window`, whose first slot has the number `base`; slot `number` is its entry (number - base) & mask.
 * Stop before slot `limit`. Code windows before slot `code_since` are written again when needed. The number of
 * slots written is published at `head`. */
static void pykvm_record_into(struct pykvm_loop *loop, void *window, uint64_t base, uint64_t mask, uint64_t *head,
                              uint64_t limit, uint64_t code_since)
{
    loop->window = window; loop->base = base; loop->mask = mask; loop->published = head; loop->limit = limit;
    loop->code_since = code_since;
}

static struct pykvm_record *slot(struct pykvm_loop *loop, uint64_t number)
{
    return &loop->window[(number - loop->base) & loop->mask];
}

static void publish(struct pykvm_loop *loop, uint64_t slots)
{
    loop->head += slots;
    __atomic_store_n(loop->published, loop->head, __ATOMIC_RELEASE);
}

/* Host address of guest-physical `address`, and in *valid how many bytes of its page and range follow it. */
static const uint8_t *in_ram(struct pykvm_loop *loop, uint64_t address, uint64_t *valid)
{
    for (uint32_t i = 0; i < loop->ram->count; i++) {
        uint64_t offset = address - loop->ram->range[i].address;
        if (offset >= loop->ram->range[i].size) continue;
        uint64_t page = 4096 - (address & 4095), rest = loop->ram->range[i].size - offset;
        *valid = page < rest ? page : rest;
        return loop->ram->range[i].host + offset;
    }
    return NULL;
}

static const uint8_t *in_guest(struct pykvm_loop *loop, uint64_t linear, uint64_t *valid)
{
    if (loop->run->s.regs.sregs.cr0 & 0x80000000) {
        struct kvm_translation walk = { .linear_address = linear };
        if (ioctl(loop->fd, KVM_TRANSLATE, &walk) || !walk.valid) return NULL;
        linear = walk.physical_address;
    }
    return in_ram(loop, linear, valid);
}

static uint64_t linear_rip(struct pykvm_loop *loop)
{
    if (loop->mode == 4) return loop->rip;
    return (uint32_t)(loop->run->s.regs.sregs.cs.base + loop->rip);
}

/* Write a code window: up to 32 bytes before rip and 16 from it, as far as the guest has them mapped. */
static uint32_t write_code(struct pykvm_loop *loop, struct seen_code *seen, uint64_t rip)
{
    uint64_t valid, before = PYKVM_CODE_BEFORE, number = loop->head;
    struct pykvm_code *header = (struct pykvm_code *)slot(loop, number);
    uint8_t *bytes = (uint8_t *)slot(loop, number + 1), start[PYKVM_CODE_BYTES];
    uint32_t length = 0;

    if (before > rip) before = rip;
    for (uint64_t at = rip - before, end = rip + PYKVM_CODE_BYTES - PYKVM_CODE_BEFORE; at < end;) {
        const uint8_t *host = in_guest(loop, at, &valid);
        if (!host) {                            /* what lies before a hole is of no use */
            if (at >= rip) break;
            at = (at | 4095) + 1; before = rip - at; length = 0;
            if (at > rip) return NO_CODE;
            continue;
        }
        if (valid > end - at) valid = end - at;
        memcpy(start + length, host, valid);
        length += valid; at += valid;
    }
    if (!length) return NO_CODE;
    *header = (struct pykvm_code){
        .start = rip - before, .rip = loop->rip, .cs_base = loop->run->s.regs.sregs.cs.base,
        .cr3 = loop->run->s.regs.sregs.cr3, .seq = number, .code = number, .cs = loop->cs,
        .kind = PYKVM_RECORD_CODE, .size = length, .mode = loop->mode, .vcpu = loop->vcpu };
    memset(bytes, 0, PYKVM_CODE_BYTES);
    memcpy(bytes, start, length);
    publish(loop, 2);
    seen->slot = number;
    return number;
}

/* The slot of the window with the code around rip; written where it is new, changed or long ago. */
static uint32_t find_code(struct pykvm_loop *loop)
{
    uint64_t rip = linear_rip(loop), cr3 = loop->run->s.regs.sregs.cr3, valid;
    struct seen_code *seen = &loop->seen[(rip * 0x9e3779b97f4a7c15u) >> 54];
    if (seen->at && seen->rip == rip && seen->cr3 == cr3 && seen->cs == loop->cs && seen->mode == loop->mode
        && seen->slot >= loop->code_since && !memcmp(seen->bytes, seen->at, sizeof seen->bytes))
        return seen->slot;
    seen->at = NULL;
    uint32_t code = write_code(loop, seen, rip);
    const uint8_t *at = in_guest(loop, rip >= 4 ? rip - 4 : rip, &valid);
    if (code == NO_CODE || !at || valid < sizeof seen->bytes) return code;
    seen->rip = rip; seen->cr3 = cr3; seen->cs = loop->cs; seen->mode = loop->mode; seen->at = at;
    memcpy(seen->bytes, at, sizeof seen->bytes);
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

static struct pykvm_record *record(struct pykvm_loop *loop, uint8_t kind, uint64_t address, uint64_t data,
                                   uint8_t size, uint8_t flags)
{
    uint64_t number = loop->head;
    struct pykvm_record *entry = slot(loop, number);
    *entry = (struct pykvm_record){
        .tsc = __rdtsc(), .rip = loop->rip, .address = address, .data = data, .seq = number,
        .code = loop->code, .cs = loop->cs, .kind = kind, .size = size, .flags = flags, .mode = loop->mode,
        .vcpu = loop->vcpu };
    loop->counts[kind & 63]++;
    loop->budget--;
    publish(loop, 1);
    return entry;
}
