/* The exit loop's data, shared by the C compiler and by cffi: no preprocessor lines in here.
 * docs/trace-format.md describes the record field by field. */

struct pykvm_record {
    uint64_t tsc;      /* host time-stamp counter at the exit */
    uint64_t rip;      /* as KVM left it: on the instruction, or past it (the reader settles which) */
    uint64_t address;  /* port or guest-physical address; other exits: a detail, see exit_detail() */
    uint64_t data;     /* value written, or value that the guest was given */
    uint32_t seq;      /* number of this slot, low 32 bits */
    uint32_t code;     /* slot of the code window that holds the bytes around rip; 2^32-1: none */
    uint16_t cs;       /* code segment selector */
    uint8_t kind;      /* KVM exit reason, or PYKVM_RECORD_CODE */
    uint8_t size;      /* bytes of one access */
    uint8_t flags;     /* RECORD_... */
    uint8_t mode;      /* 0 real, 1 virtual-8086, 2 16-bit, 3 32-bit, 4 64-bit */
    uint8_t vcpu;
    uint8_t reserved;
};

/* A code window takes two slots: this, and the bytes themselves. It ends like a record, so `kind` tells them apart. */
struct pykvm_code {
    uint64_t start;    /* linear address of the first byte */
    uint64_t rip, cs_base, cr3;
    uint32_t seq, code;
    uint16_t cs;
    uint8_t kind;      /* PYKVM_RECORD_CODE */
    uint8_t size;      /* bytes that are valid */
    uint8_t flags, mode, vcpu, reserved;
};

/* Guest-physical ranges and the host memory behind them, NULL where there is none now: where the loop may read code
 * bytes. Only `host` and `is_writable` change while a vCPU runs, so that one who reads them meanwhile stays inside;
 * `generation` is odd during a change. */
struct pykvm_ram {
    uint32_t count, generation;
    struct { uint64_t address, size; uint8_t *host; uint32_t is_writable; } range[32];
};
