/* A runtime for small kernels: port I/O, a serial line, interrupts and the timer. For 32- and 64-bit code. */

#ifndef PC_H
#define PC_H

#include <stdint.h>

static inline void outb(uint16_t port, uint8_t value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }

static inline uint8_t inb(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

/* COM1: 115200 baud, 8 bits. */
void serial_init(void);
void print(const char *text);
void print_number(uintptr_t number);

/* What the processor pushes for an interrupt; handlers are functions with the attribute `interrupt`. */
struct interrupt_frame;
typedef void handler(struct interrupt_frame *);

/* Gates of the vectors that the kernel handles; all others are not present. */
void set_gate(uint8_t vector, handler *function);
void load_gates(void);

/* Lets the timer interrupt `hz` times a second, with vector 0x20; all other lines are masked. */
#define TIMER_VECTOR 0x20
void start_timer(unsigned hz);

/* Halts until the timer has interrupted `ticks` times in all; returns how often it has. */
unsigned wait_for_ticks(unsigned ticks);

/* Maps the first 4 GiB to themselves, in pages of 4 MiB or 2 MiB, by tables of the kernel's own. */
void map_memory(void);

/* Ends the machine with an exit status from 0 to 63. */
void quit(uint8_t status) __attribute__((noreturn));

/* The kernel: what the boot loader left in EAX and EBX. */
int kernel(uint32_t magic, uintptr_t information);

#endif
