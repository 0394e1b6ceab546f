# 32-bit protected mode, flat segments, paging off: says hello on the serial port.

        .intel_syntax noprefix
        .code32
        .global start
start:
        call    com1_init
        mov     esi, offset message
        call    com1_puts
        cli
halt:   hlt
        jmp     halt

        .include "com1.inc"

        .section .rodata
message:
        .asciz  "Hello from 32-bit protected mode!\n"
