#include "pc.h"

enum { COM1 = 0x3F8, LSR_THRE = 0x20 };
enum { PIC1 = 0x20, PIC2 = 0xA0, PIT = 0x40, EXIT = 0xF4 };

void serial_init(void)
{
    outb(COM1 + 1, 0);          /* no interrupts */
    outb(COM1 + 3, 0x80);       /* DLAB: the divisor */
    outb(COM1 + 0, 1);
    outb(COM1 + 1, 0);
    outb(COM1 + 3, 0x03);       /* 8 bits, no parity, 1 stop bit */
    outb(COM1 + 2, 0x07);       /* FIFOs on and empty */
}

void print(const char *text)
{
    for (; *text; text++) {
        while (!(inb(COM1 + 5) & LSR_THRE)) { }
        outb(COM1, *text);
    }
}

void print_number(uintptr_t number)
{
    char digits[24], *at = digits + sizeof digits;
    for (*--at = 0; number || !at[0]; number /= 10) {
        *--at = '0' + number % 10;
        if (number < 10) break;
    }
    print(at);
}

#ifdef __x86_64__
struct gate { uint16_t low, selector; uint8_t stack, type; uint16_t middle; uint32_t high, reserved; };
#else
struct gate { uint16_t low, selector; uint8_t stack, type; uint16_t high; };
#endif

static struct gate gates[256];

void set_gate(uint8_t vector, handler *function)
{
    uintptr_t address = (uintptr_t)function;
    uint16_t code;
    __asm__("mov %%cs, %0" : "=r"(code));
    gates[vector].low = address;
    gates[vector].selector = code;
    gates[vector].type = 0x8E;  /* present, an interrupt gate */
#ifdef __x86_64__
    gates[vector].middle = address >> 16;
    gates[vector].high = address >> 32;
#else
    gates[vector].high = address >> 16;
#endif
}

void load_gates(void)
{
    struct __attribute__((packed)) { uint16_t limit; uintptr_t base; } table = { sizeof gates - 1, (uintptr_t)gates };
    __asm__ volatile("lidt %0" : : "m"(table));
}

static volatile unsigned ticks_seen;

__attribute__((interrupt)) static void on_tick(struct interrupt_frame *frame)
{
    (void)frame;
    ticks_seen++;
    outb(PIC1, 0x20);           /* end of interrupt */
}

void start_timer(unsigned hz)
{
    unsigned divisor = 1193182 / hz;
    set_gate(TIMER_VECTOR, on_tick);
    outb(PIC1, 0x11), outb(PIC2, 0x11);                     /* ICW1: with ICW4 */
    outb(PIC1 + 1, TIMER_VECTOR), outb(PIC2 + 1, TIMER_VECTOR + 8);
    outb(PIC1 + 1, 4), outb(PIC2 + 1, 2);                   /* the second one is at line 2 */
    outb(PIC1 + 1, 1), outb(PIC2 + 1, 1);                   /* 8086 mode */
    outb(PIC1 + 1, 0xFE), outb(PIC2 + 1, 0xFF);             /* the timer only */
    outb(PIT + 3, 0x34);                                    /* counter 0, rate generator */
    outb(PIT, divisor & 0xFF), outb(PIT, divisor >> 8);
}

unsigned wait_for_ticks(unsigned ticks)
{
    while (ticks_seen < ticks) __asm__ volatile("sti; hlt; cli");
    return ticks_seen;
}

enum { PRESENT_WRITABLE = 3, LARGE = 0x80 };

#ifdef __x86_64__
static uint64_t pml4[512] __attribute__((aligned(4096))), pdpt[512] __attribute__((aligned(4096)));
static uint64_t directories[4][512] __attribute__((aligned(4096)));

void map_memory(void)
{
    for (uint64_t page = 0; page < 2048; page++) directories[page / 512][page % 512] = page << 21 | LARGE | PRESENT_WRITABLE;
    for (int n = 0; n < 4; n++) pdpt[n] = (uintptr_t)directories[n] | PRESENT_WRITABLE;
    pml4[0] = (uintptr_t)pdpt | PRESENT_WRITABLE;
    __asm__ volatile("mov %0, %%cr3" : : "r"(pml4) : "memory");
}
#else
static uint32_t directory[1024] __attribute__((aligned(4096)));

void map_memory(void)
{
    uint32_t control;
    for (uint32_t page = 0; page < 1024; page++) directory[page] = page << 22 | LARGE | PRESENT_WRITABLE;
    __asm__ volatile("mov %%cr4, %0; or $0x10, %0; mov %0, %%cr4" : "=r"(control));          /* PSE */
    __asm__ volatile("mov %0, %%cr3" : : "r"(directory) : "memory");
    __asm__ volatile("mov %%cr0, %0; or $0x80000000, %0; mov %0, %%cr0" : "=r"(control) : : "memory");
}
#endif

void quit(uint8_t status)
{
    outb(EXIT, status);
    for (;;) __asm__ volatile("cli; hlt");
}
