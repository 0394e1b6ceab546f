# 64-bit long mode: a triple fault.  Without an IDT the #UD cannot be delivered, nor the #GP
# that follows from that, nor the double fault, and the processor shuts down.

        .intel_syntax noprefix
        .code64

        .equ    POST_PORT, 0x80         # shows how far a boot came

        .global start
start:
        mov     al, 1
        out     POST_PORT, al
        lidt    [rip + no_idt]
        mov     al, 2
        out     POST_PORT, al
fault:  ud2

        .section .rodata
no_idt:
        .word   0                       # limit
        .quad   0                       # base
