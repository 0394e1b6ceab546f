# 64-bit long mode: says hello on the serial port.

        .intel_syntax noprefix
        .code64
        .global start
start:
        call    com1_init
        lea     rsi, [rip + message]
        call    com1_puts
        cli
halt:   hlt
        jmp     halt

        .include "com1.inc"

        .section .rodata
message:
        .asciz  "Hello from 64-bit long mode!\n"
