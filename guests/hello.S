# Real mode: a boot sector that says hello on the serial port.

        .intel_syntax noprefix
        .code16
        .global start
start:
        xor     ax, ax                  # a BIOS promises nothing about DS, SS and DF
        mov     ds, ax
        mov     ss, ax
        mov     sp, offset start        # the stack grows down from the boot sector
        cld
        call    com1_init
        mov     si, offset message
        call    com1_puts
        cli
halt:   hlt
        jmp     halt                    # an NMI ends even this hlt

        .include "com1.inc"

        .section .rodata
message:
        .asciz  "Hello from pykvm!\n"
