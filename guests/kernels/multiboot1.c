/* A Multiboot kernel: prints its command line, maps its memory, and counts ten ticks of the timer. */

#include "../lib/pc.h"

struct information { uint32_t flags, lower, upper, boot_device, command_line; };

int kernel(uint32_t magic, uintptr_t address)
{
    const struct information *information = (const void *)address;
    serial_init();
    if (magic != 0x2BADB002) {
        print("not started by a Multiboot loader\n");
        return 1;
    }
    print("multiboot1: ");
    print((const char *)(uintptr_t)information->command_line);
    print(", ");
    print_number(information->upper / 1024 + 1);
    print(" MiB\n");
    map_memory();
    load_gates();
    start_timer(100);
    print_number(wait_for_ticks(10));
    print(" ticks\n");
    return 0;
}
