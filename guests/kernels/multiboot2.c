/* A Multiboot2 kernel: walks the tags that it is given, maps its memory, and counts ten ticks of the timer. */

#include "../lib/pc.h"

struct tag { uint32_t type, size; };
struct range { uint64_t address, size; uint32_t type, reserved; };
enum { END = 0, COMMAND_LINE = 1, MEMORY_MAP = 6, AVAILABLE = 1 };

static unsigned mebibytes(const struct tag *map)
{
    uint64_t bytes = 0;
    const struct range *range = (const void *)(map + 2);
    for (; (const char *)range < (const char *)map + map->size; range++)
        if (range->type == AVAILABLE) bytes += range->size;
    return (bytes + (1 << 20) - 1) >> 20;
}

int kernel(uint32_t magic, uintptr_t address)
{
    serial_init();
    if (magic != 0x36D76289) {
        print("not started by a Multiboot2 loader\n");
        return 1;
    }
    print("multiboot2: ");
    for (const struct tag *tag = (const void *)(address + 8); tag->type != END;
         tag = (const void *)((uintptr_t)tag + ((tag->size + 7) & ~7u))) {
        if (tag->type == COMMAND_LINE) print((const char *)(tag + 1));
        if (tag->type == MEMORY_MAP) {
            print(", ");
            print_number(mebibytes(tag));
            print(" MiB");
        }
    }
    print("\n");
    map_memory();
    load_gates();
    start_timer(100);
    print_number(wait_for_ticks(10));
    print(" ticks\n");
    return 0;
}
