# The header by which a Multiboot2 loader knows a kernel. It asks for the command line and the memory map.
        .section .multiboot, "a"
        .balign 8
header: .long   0xE85250D6, 0, end - header, -(0xE85250D6 + end - header)
        .word   1, 0                    # information request
        .long   16, 1, 6
        .word   0, 0                    # the end
        .long   8
end:
        .section .note.GNU-stack, ""
