/* A 64-bit kernel, started in long mode: page tables of its own, an IDT, and ten ticks of the timer. */

#include "../lib/pc.h"

int kernel(uint32_t magic, uintptr_t address)
{
    (void)magic, (void)address;
    serial_init();
    print("elf64: hello\n");
    map_memory();
    load_gates();
    start_timer(100);
    print_number(wait_for_ticks(10));
    print(" ticks\n");
    return 0;
}
