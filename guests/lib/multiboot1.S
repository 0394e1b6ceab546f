# The header by which a Multiboot loader knows a kernel, version 1: modules on pages, memory information.
        .section .multiboot, "a"
        .balign 4
        .long   0x1BADB002, 3, -(0x1BADB002 + 3)
        .section .note.GNU-stack, ""
